"""Checks of `doctor` that need no store: the installation and the settings."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from msgspec import Struct

import bandit_serve
from bandit_serve.errors import BanditServeError
from bandit_serve.server.listening import require_keys_or_loopback
from bandit_serve.settings import Settings

OLDEST_PYTHON = (3, 11)
_requirement = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:>=(?P<least>[0-9.]+))?")

Verdict = Literal["ok", "warning", "problem"]


class Check(Struct, frozen=True):
    """Outcome of a check: `detail` is the observation, `advice` the remedy if there is a problem."""

    name: str
    verdict: Verdict
    detail: str
    advice: str | None = None


def check_installation() -> Iterator[Check]:
    yield _python()
    yield _packages()
    yield _kernels()


def check_settings(settings: Settings) -> Iterator[Check]:
    where = f"{settings.host}:{settings.port}"
    try:
        require_keys_or_loopback(settings)
    except BanditServeError as error:
        yield Check(
            "settings", "problem", str(error), "give --host 127.0.0.1, or --insecure on a closed network"
        )
        return
    if settings.insecure:
        advice = "leave --insecure out unless the network is closed: no keys are configured"
        yield Check("settings", "warning", f"{where}, open to anyone who can reach it", advice)
        return
    yield Check("settings", "ok", f"{where}, which only this machine can reach")


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("python", "problem", f"Python {version}", "install Python 3.11 or later")
    return Check("python", "ok", f"Python {version} on {platform.system()} {platform.machine()}")


def _packages() -> Check:
    wrong, installed = [], []
    for requirement in metadata.requires("bandit-serve") or ():
        needed = _requirement.match(requirement)
        if needed is None or "extra ==" in requirement:
            continue
        name, least = needed["name"], needed["least"]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not _for_another_system(requirement):
                wrong.append(f"{name} is missing")
            continue
        installed.append(f"{name} {version}")
        if least is not None and _numbers(version) < _numbers(least):
            wrong.append(f"{name} is {version}, and {least} or later is needed")
    if wrong:
        return Check("packages", "problem", "; ".join(wrong), "run pip install --upgrade bandit-serve")
    return Check("packages", "ok", f"bandit-serve {bandit_serve.__version__} with {', '.join(installed)}")


def _for_another_system(requirement: str) -> bool:
    return "sys_platform" in requirement and sys.platform == "win32"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _kernels() -> Check:
    advice = "install bandit-serve anew: pip install --force-reinstall --no-deps bandit-serve"
    names = sorted(path.stem for path in Path(bandit_serve.__path__[0]).glob("_*.pyi"))
    try:
        for name in names:
            importlib.import_module(f"bandit_serve.{name}")
        from bandit_serve.policies import Thompson

        policy = Thompson(n_arms=2, seed=0)
        policy.update(0, 1.0)
        share = float(policy.shares()[0])
    except Exception as error:  # a kernel that does not load may raise anything
        return Check("extension", "problem", f"a kernel does not load: {error}", advice)
    # P(Beta(2, 1) > Beta(1, 1)), the mean of a Beta(2, 1).
    if abs(share - 2 / 3) > 1e-6:
        return Check("extension", "problem", f"a share is {share!r} and not 2/3", advice)
    return Check("extension", "ok", f"{len(names)} kernels, and a share that is known comes out right")
