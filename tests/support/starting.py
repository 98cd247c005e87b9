"""Tests that start processes, which are marked `server`: `pytest -m 'not server'` is the fast rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

# Modules of which nothing is named by a test that starts no process.
STARTERS = frozenset(
    {
        "bandit_serve.pictures.picture",
        "bandit_serve.processes.forked",
        "bandit_serve.store.binary",
        "bandit_serve.store.private_server",
        "bandit_serve.training.pipeline",
        "clusters",
        "commands",
        "plain_installs",
        "sentinel_sets",
        "services",
        "store_kinds",
        "stores",
        "subprocess",
    }
)
STARTS = frozenset({"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})


def starts_processes(item: pytest.Function) -> bool:
    """Whether the code of a test, of its fixtures or of what they call in their modules names a starter."""
    fixtures = [each.func for defined in item._fixtureinfo.name2fixturedefs.values() for each in defined]
    return any(_names_a_starter(each) for each in (item.function, *fixtures))


@cache
def _names_a_starter(function: Any) -> bool:
    return _leads_to_a_starter(function, set())


def _leads_to_a_starter(function: Any, seen: set[FunctionType]) -> bool:
    function = getattr(function, "__wrapped__", function)
    function = getattr(function, "__func__", function)
    # Tests of hypothesis are behind a function of its own.
    function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if not isinstance(function, FunctionType) or function in seen:
        return False
    seen.add(function)
    values = list(_named(function.__code__, function.__globals__))
    return any(_module(value) in STARTERS for value in values) or any(
        _leads_to_a_starter(value, seen)
        for each in values
        for value in (vars(each).values() if isinstance(each, type) else (each,))
        if _module(value) == function.__module__
    )


def _named(code: CodeType, names: Mapping[str, Any]) -> Iterator[Any]:
    yield from (names[name] for name in code.co_names if name in names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, names)


def _module(value: Any) -> str | None:
    return value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)


class Guard:
    """Refuses to start a process while a test runs that is not marked."""

    def __init__(self) -> None:
        self._refuses = False
        sys.addaudithook(self._heed)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        self._refuses = True
        try:
            yield
        finally:
            self._refuses = False

    def _heed(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._refuses and event in STARTS:
            pytest.fail(f"{event} in a test that names no starter: mark it, or add to STARTERS")
