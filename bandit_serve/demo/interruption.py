"""Ctrl-C, SIGTERM and a closed terminal: each ends the demo in order, once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """`number` is the signal's. A KeyboardInterrupt, as event loops let no other of its kind through."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first signal raises `Interrupted`; later ones are ignored, so that cleaning up is not cut short."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    former = {each: signal.signal(each, interrupt) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def run_interruptible(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in the loop. A signal cancels it, and is raised as `Interrupted` when it has ended.

    Raised where the signal comes, in the midst of whatever the loop is doing, it would leave tasks without their end.
    """
    interrupted: list[int] = []

    async def cancellable() -> T | None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def cancel(number: int) -> None:
            if not interrupted:
                interrupted.append(number)
                task.cancel()

        for each in SIGNALS:
            loop.add_signal_handler(each, cancel, each)
        try:
            return await task
        except asyncio.CancelledError:
            return None
        finally:
            for each in SIGNALS:
                loop.remove_signal_handler(each)

    former = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        found = runner.run(cancellable())
    finally:
        for each, handler in former.items():
            signal.signal(each, signal.SIG_IGN if interrupted else handler)
    if interrupted:
        raise Interrupted(interrupted[0])
    assert found is not None
    return found
