"""Cooperation on the event loop: long work is cut into turns, between which other tasks run."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

TURN_S = 0.001
"""Longest time that work holds the event loop before it gives way."""
HANDOVER_S = 0.0001
"""Longest time that the event loop of a worker waits for the interpreter while a thread computes in Python.

Python's own is 5 ms. It is shorter than a turn, so that a turn in which somebody waited can be told from one alone.
"""
ALONE = 0.9
"""Part of its time that a thread computes at least, if nobody else wants to."""
REST = 4.0
"""How many times as long as its turn a thread sleeps after it, for `MAX_REST_S` at most."""
MAX_REST_S = 0.02


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


class ThreadTurn:
    """As `Turn`, for work in a thread that holds the interpreter: call `give_way` after each piece of it.

    The event loop waits for the interpreter at each of its events, not once a turn: a thread that computes without rest
    leaves it a fifth of its throughput. So the thread sleeps after a turn, if others wanted the interpreter or the
    processor meanwhile. If nobody did, it goes on.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._began_s, self._used_s = time.monotonic(), time.thread_time()

    def give_way(self) -> None:
        took_s = time.monotonic() - self._began_s
        if 0.0 <= took_s < TURN_S:
            return
        # Clocks that somebody sets, as a test does, may say anything.
        used_s = min(max(time.thread_time() - self._used_s, 0.0), took_s)
        if 0.0 < used_s < ALONE * took_s:
            # Not `time.sleep`, which has a deadline by a clock, and fails where that is set meanwhile.
            select.select((), (), (), min(REST * used_s, MAX_REST_S))
        self._begin()


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
