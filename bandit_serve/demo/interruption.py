"""Ctrl-C, SIGTERM and a closed terminal: each ends the demo in order, once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import uvloop

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """`number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruptible:
    """In the `with` block the first signal raises `Interrupted`; later ones are ignored."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._former = {each: signal.signal(each, self._interrupt) for each in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._former.items():
            signal.signal(each, handler)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs it in an event loop of its own; a signal cancels it, then `Interrupted` comes out.

        Raised in the middle of a callback, it could be taken for a failure of the connection.
        """

        async def main() -> Result:
            self._task = asyncio.current_task()
            try:
                return await coroutine
            finally:
                self._task = None

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                result = runner.run(main())
            except asyncio.CancelledError:
                if self._number is None:
                    raise
        if self._number is not None:
            raise Interrupted(self._number)
        return result

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            return
        self._number = number
        if self._task is None:
            raise Interrupted(number)
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)
