"""Requirements that pyproject.toml declares, and what they bring through others."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def project(folder: Path = ROOT) -> dict[str, Any]:
    """Table `project` of a folder's pyproject.toml."""
    described: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return described


def metadata_lines(described: dict[str, Any]) -> list[str]:
    """Requirements of a project as its metadata has them, each of an extra with its marker."""
    lines: list[str] = list(described["dependencies"])
    for extra, wanted in described.get("optional-dependencies", {}).items():
        for line in wanted:
            name, _, marker = line.partition(";")
            lines.append(
                f'{name}; ({marker}) and extra == "{extra}"' if marker else f'{name}; extra == "{extra}"'
            )
    return lines


def needed(described: dict[str, Any], *extras: str) -> dict[str, list[Requirement]]:
    """Distributions that a project and those of its extras need on this system, with what is asked of each."""
    own = canonicalize_name(described["name"])
    found: dict[str, list[Requirement]] = {}
    seen: set[str] = set()
    waiting: list[tuple[str, tuple[str, ...]]] = [(own, extras)]
    while waiting:
        name, wanted = waiting.pop()
        lines = metadata_lines(described) if name == own else metadata.requires(name) or []
        for requirement in _holding(lines, wanted):
            asked = canonicalize_name(requirement.name)
            if asked != own:
                found.setdefault(asked, []).append(requirement)
            if str((asked, requirement.extras)) not in seen:
                seen.add(str((asked, requirement.extras)))
                waiting.append((asked, tuple(requirement.extras)))
    return found


def _holding(lines: Iterable[str], extras: tuple[str, ...]) -> Iterator[Requirement]:
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement
