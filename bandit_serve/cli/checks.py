"""Checks of `doctor` that need no store: the installation and the settings."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

import bandit_serve
from bandit_serve.base.requirements import Requirement, installed, requirements
from bandit_serve.errors import UsageError
from bandit_serve.server.libraries import EXTRA
from bandit_serve.server.listening import is_reachable_by_others
from bandit_serve.settings import Settings

OLDEST_PYTHON = (3, 11)

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
    yield _server()
    yield _kernels()


def check_settings(settings: Settings, keys: int | None) -> Check:
    """Checks who can reach the service. `keys` is the number of valid ones, None where nobody knows."""
    where = f"{settings.host}:{settings.port}"
    try:
        by_others = is_reachable_by_others(settings.host)
    except UsageError as error:
        return Check("settings", "problem", str(error), "give the name or address of this machine")
    if keys:
        with_one = f"callers need one of {keys} keys" if keys > 1 else "callers need the one key"
        return Check("settings", "ok", f"{where}; {with_one}")
    if not by_others:
        return Check("settings", "ok", f"{where}, which only this machine can reach")
    if settings.insecure:
        advice = "leave --insecure out unless the network is closed: no keys are configured"
        return Check("settings", "warning", f"{where}, open to anyone who can reach it", advice)
    if keys is None:
        return Check("settings", "warning", f"{where}, which others can reach", "see whether there are keys")
    advice = "make a key: bandit-serve keys create --scope admin; or give --host 127.0.0.1"
    return Check(
        "settings", "problem", f"{where} can be reached by others, and no keys are configured", advice
    )


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("python", "problem", f"Python {version}", "install Python 3.11 or later")
    return Check("python", "ok", f"Python {version} on {platform.system()} {platform.machine()}")


def _packages() -> Check:
    needed = list(requirements())
    wrong = [fault for each in needed if (fault := each.fault) is not None]
    if wrong:
        return Check("packages", "problem", "; ".join(wrong), "run pip install --upgrade bandit-serve")
    return Check("packages", "ok", f"bandit-serve {bandit_serve.__version__} with {_versions(needed)}")


def _server() -> Check:
    needed = list(requirements(EXTRA))
    wrong = [fault for each in needed if (fault := each.fault) is not None]
    if wrong:
        return Check("server", "warning", "; ".join(wrong), f"to serve: pip install 'bandit-serve[{EXTRA}]'")
    return Check("server", "ok", _versions(needed))


def _versions(needed: list[Requirement]) -> str:
    return ", ".join(f"{each.name} {installed(each.name)}" for each in needed)


def _kernels() -> Check:
    advice = "install bandit-serve anew: pip install --force-reinstall --no-deps bandit-serve"
    root = Path(bandit_serve.__path__[0]).parent
    stubs = sorted(path.relative_to(root).with_suffix("") for path in root.glob("bandit_serve/**/_*.pyi"))
    names = [".".join(stub.parts) for stub in stubs if not stub.name.startswith("__")]
    try:
        for name in names:
            importlib.import_module(name)
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
