"""Cooperation on the event loop: long work is cut into turns, between which other tasks run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

TURN_S = 0.001
"""Longest time that work holds the event loop before it gives way."""


class Turn:
    """Time since the work began or last gave way. Call `if turn.over: await turn.give_way()` after each piece of it."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the turn has lasted for `TURN_S`."""
        return time.monotonic() - self._began_s >= TURN_S

    async def give_way(self) -> None:
        """Lets other tasks run, and begins the next turn."""
        await asyncio.sleep(0)
        self._began_s = time.monotonic()


async def all_ended(works: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """Results of works that run together.

    Each begins in an iteration of the loop of its own, as each may hold that for a turn. Each runs to its end before a
    failure is raised: that of one loses nothing of the others.
    """
    if len(works) == 1:
        return [await works[0]]
    tasks: list[asyncio.Task[T]] = []
    try:
        for work in works:
            tasks.append(asyncio.create_task(work))
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        for work in works[len(tasks) :]:
            work.close()
        raise
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast(list[T], results)


class HeavyWork(Generic[T]):
    """Work that can not be cut into turns: call `do`, in a thread if possible, and then read `result`."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: Exception | None = None

    def do(self) -> None:
        """Does the work, once; its error is raised by `result`."""
        try:
            self._results.append(self._work())
        except Exception as error:
            self._error = error

    @property
    def result(self) -> T:
        """What the work returned; raises what it raised. Only after `do`."""
        if self._error is not None:
            raise self._error
        return self._results[0]


# Work in pieces yields after each piece: None to give way, or work for a thread.
Step = HeavyWork[Any] | None
