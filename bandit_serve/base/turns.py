"""Turns of the event loop: work that takes long lets others have theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

TURN_S = 0.001


class Turn:
    """The time since work began, or last gave way: `if turn.over: await turn.give_way()` after each piece of it."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self._began_s >= TURN_S

    async def give_way(self) -> None:
        await asyncio.sleep(0)
        self._began_s = time.monotonic()


class HeavyWork(Generic[T]):
    """Work that is done in one piece: `do` it, in a thread where it may, and then take its `result`."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: Exception | None = None

    def do(self) -> None:
        try:
            self._results.append(self._work())
        except Exception as error:
            self._error = error

    @property
    def result(self) -> T:
        """Raises what the work raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


# What is done in pieces gives, between them, None or what takes long.
Step = HeavyWork[Any] | None
