"""Requirements of this distribution on others, as its metadata has them, and whether the installed ones meet them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple, Self

DISTRIBUTION = "bandit-serve"
_name = re.compile(r"[A-Za-z0-9._-]+")
_least = re.compile(r">=([0-9.]+)")
_below = re.compile(r"<([0-9.]+)")
_extra = re.compile(r"""extra == ["']([\w-]+)["']""")


class Requirement(NamedTuple):
    """Requirement of a distribution: versions from `least` on and older than `below`, for `extra` or for all."""

    name: str
    least: str | None
    below: str | None
    extra: str | None

    @classmethod
    def parse(cls, line: str) -> Self:
        """Reads a requirement as metadata has it: `aiohttp<3.15,>=3.14.5; extra == "server"`."""
        wanted, _, marker = line.partition(";")
        name = _name.match(wanted)
        assert name is not None
        least, below, extra = _least.search(wanted), _below.search(wanted), _extra.search(marker)
        return cls(name[0], least and least[1], below and below[1], extra and extra[1])

    @property
    def fault(self) -> str | None:
        """What is wrong with the installed version; None if nothing is."""
        version = installed(self.name)
        if version is None:
            return f"{self.name} is missing"
        if self.least is not None and _numbers(version) < _numbers(self.least):
            return f"{self.name} is {version}, and {self.least} or later is needed"
        if self.below is not None and _numbers(version) >= _numbers(self.below):
            return f"{self.name} is {version}, and one before {self.below} is needed"
        return None


def requirements(extra: str | None = None) -> Iterator[Requirement]:
    """Requirements of the library, or those that an extra adds; without those of other systems."""
    for line in metadata.requires(DISTRIBUTION) or ():
        read = Requirement.parse(line)
        if read.extra == extra and read.name != DISTRIBUTION and not _for_another_system(line):
            yield read


def installed(name: str) -> str | None:
    """Version of an installed distribution; None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _for_another_system(line: str) -> bool:
    return "sys_platform" in line and sys.platform == "win32"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
