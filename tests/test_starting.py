"""Mark `server`: set on tests that name a helper which starts processes, and enforced when one is missed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
from starting import STARTERS


class Starter:
    def start(self) -> int:
        return subprocess.run([sys.executable, "-c", ""], check=False).returncode


def start() -> int:
    return Starter().start()


@pytest.fixture
def started() -> int:
    return start()


@pytest.mark.parametrize("module", sorted(STARTERS))
def test_the_starters_are_modules(module: str) -> None:
    assert find_spec(module) is not None


def test_what_names_no_starter_is_not_marked(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("server") is None


def test_a_process_that_starts_all_the_same_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"os\.system in a test that names no starter"):
        os.system("true")


def test_what_calls_what_names_a_starter_is_marked(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("server") is not None
    calls: list[Callable[[], int]] = [lambda: start()]
    assert calls[0]() == 0


def test_what_takes_a_fixture_that_starts_something_is_marked(
    request: pytest.FixtureRequest, started: int
) -> None:
    assert (request.node.get_closest_marker("server") is not None, started) == (True, 0)
