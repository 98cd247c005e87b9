"""Process that runs a function of this one: it shares the memory of what was imported, and imports nothing anew."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise

WAIT_POLL_S = 0.01
N_STANDARD_FDS = 3


class ForkedProcess:
    """Child of this process. It has `run` to do, and of the open files the standard ones and those of `fds`.

    The signals of `handled` have their default actions in it, unless this process ignores them. It ends with the status
    of a `SystemExit` that `run` raises, with 1 for any other error, which is logged, and else with 0. Raises `OSError`
    where the system allows no more processes.
    """

    def __init__(
        self, run: Callable[[], None], *, fds: Collection[int], handled: Collection[signal.Signals]
    ) -> None:
        self._status: int | None = None
        # A handler of this process must not run in the child, where it could write to what the two share.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_the_child(run, fds, handled, former)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def poll(self) -> int | None:
        """Exit status, or minus the signal that ended it; None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout_s: float) -> int:
        """Waits for its end; returns as `poll`. Raises `TimeoutError` if it runs longer."""
        until_s = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            if time.monotonic() >= until_s:
                raise TimeoutError
            time.sleep(WAIT_POLL_S)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _be_the_child(
    run: Callable[[], None],
    fds: Collection[int],
    handled: Collection[signal.Signals],
    mask: Collection[signal.Signals | int],
) -> None:
    """Never returns: what is to be done at the end of the parent is not done here."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in handled:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for first, end in _others(fds):
            os.closerange(first, end)
        run()
        status = 0
    except SystemExit as left:
        status = _status_of(left)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        logging.shutdown()
        os._exit(status)


def _others(fds: Collection[int]) -> Iterator[tuple[int, int]]:
    """Ranges of the descriptors that are neither standard ones nor in `fds`."""
    kept = [N_STANDARD_FDS - 1, *sorted(fd for fd in fds if fd >= N_STANDARD_FDS), os.sysconf("SC_OPEN_MAX")]
    return ((before + 1, after) for before, after in pairwise(kept) if before + 1 < after)


def _status_of(left: SystemExit) -> int:
    if left.code is None or isinstance(left.code, int):
        return left.code or 0
    print(left.code, file=sys.stderr)
    return 1
