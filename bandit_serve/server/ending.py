"""End of tasks that run in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.1


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks, again and again until all have ended; their exceptions are dropped.

    Once is not enough before Python 3.12: `asyncio.wait_for`, with which redis-py sends, loses a cancellation
    that comes as it is done, and a task that loops over its errors would go on for ever.
    """
    ending = list(tasks)
    left = set(ending)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*ending, return_exceptions=True)
