"""Turns of the event loop: work that takes long lets others have theirs."""

from __future__ import annotations

import asyncio
import time

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
