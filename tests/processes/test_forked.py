"""Forked processes: their files, signals and statuses, and what they do not share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from stores import wait_until

from bandit_serve.policies._draw import choose_one
from bandit_serve.processes.forked import ForkedProcess

LONG_S = 60.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def status_of(run: Callable[[], None], *fds: int) -> int:
    return ForkedProcess(run, fds=fds, handled=()).wait(LONG_S)


def told(run: Callable[[], object], pipe: tuple[int, int]) -> bytes:
    """What `run` returns in a child, as text."""
    assert status_of(lambda: os.write(pipe[1], repr(run()).encode()) and None, pipe[1]) == 0
    return os.read(pipe[0], 65_536)


def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(), 0),
        (SystemExit(7), 7),
        (SystemExit("why"), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_status_is_that_of_what_ended_it(error: BaseException, status: int) -> None:
    assert status_of(lambda: raise_it(error)) == status


def test_an_unexpected_error_is_said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: os.write(2, repr(error).encode()))
    assert status_of(lambda: raise_it(ValueError("a bug"))) == 1
    assert capfd.readouterr().err == "ValueError('a bug')"


def test_it_has_only_the_files_that_it_is_given(pipe: tuple[int, int]) -> None:
    def open_ones() -> list[int]:
        return [fd for fd in range(1_000) if os.path.exists(f"/proc/self/fd/{fd}")]

    with open(os.devnull) as other:
        assert other.fileno() in open_ones()
        assert told(open_ones, pipe) == repr([0, 1, 2, pipe[1]]).encode()


def test_signals_have_their_default_actions_except_ignored_ones(pipe: tuple[int, int]) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        child = ForkedProcess(lambda: time.sleep(LONG_S), fds=(), handled=(signal.SIGHUP, signal.SIGTERM))
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        assert child.wait(LONG_S) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, former[0])
        signal.signal(signal.SIGTERM, former[1])


def test_a_signal_to_the_child_does_not_reach_the_parent(pipe: tuple[int, int]) -> None:
    """The pipe that wakes the parent is shared for a moment."""
    os.set_blocking(pipe[0], False)
    os.set_blocking(pipe[1], False)
    former = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(pipe[1])
    try:
        for _ in range(50):
            child = ForkedProcess(lambda: time.sleep(LONG_S), fds=(), handled=(signal.SIGTERM,))
            child.send_signal(signal.SIGTERM)
            assert child.wait(LONG_S) == -signal.SIGTERM
        with pytest.raises(BlockingIOError):
            os.read(pipe[0], 1)
    finally:
        signal.set_wakeup_fd(former[1])
        signal.signal(signal.SIGTERM, former[0])


def test_waiting_ends_in_time() -> None:
    child = ForkedProcess(lambda: time.sleep(LONG_S), fds=(), handled=())
    with pytest.raises(TimeoutError):
        child.wait(0.05)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    wait_until(lambda: child.poll() == -signal.SIGKILL)
    child.send_signal(signal.SIGTERM)  # to nobody else


def test_two_processes_do_not_draw_the_same_arms(pipe: tuple[int, int]) -> None:
    shares = np.full(1_000, 1e-3)
    drawn = [told(lambda: [choose_one(shares) for _ in range(20)], pipe) for _ in range(3)]
    assert len(set(drawn)) == 3
