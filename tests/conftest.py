"""Fixtures that several test modules share: real stores and real services."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Iterator

import hypothesis
import pytest
from services import ThrowawayService
from starting import Guard, starts_processes
from stores import ThrowawayStore

# A busy machine is slow, and that is not what is tried.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Hundreds of processes are started, and each would compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell ignores both for what it runs in the background, and every process that a test starts would inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in several processes; what is named on the command line in one, for `--pdb` and `-s`."""
    whole = config.args_source is config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    if whole and config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        # Tests of services wait as often as they compute.
        config.option.numprocesses = (os.cpu_count() or 1) + 1
        config.option.dist = "worksteal"


guard = Guard()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and starts_processes(item):
            item.add_marker("server")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long bytes have the name of their parameter: processes of a run compare names, and packed files hold the time."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with contextlib.nullcontext() if item.get_closest_marker("server") else guard.refusing():
        return (yield)


@pytest.fixture
def store() -> Iterator[ThrowawayStore]:
    """A real store of one test."""
    with ThrowawayStore() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    """A service with one worker on its private store, shared by the tests of a module: use names of your own."""
    with ThrowawayService(tmp_path_factory.mktemp("data")) as running:
        yield running
