"""Acknowledgements: a change is answered when every worker that lives has applied it, so the next request sees it."""

from __future__ import annotations

import asyncio
import time

from bandit_serve.errors import Unavailable
from bandit_serve.log.offset import Offset
from bandit_serve.replication.census import living
from bandit_serve.store.store import Store

# A worker that was killed or stopped a moment ago still counts as alive: it holds up a change no longer than this.
PATIENCE_S = 1.0
POLL_S = 0.002


async def say_heard(store: Store, owner: str, offset: Offset, incarnation: int) -> None:
    """Says that this worker has applied the change at `offset`."""
    await store.write_answer(store.keys.acknowledgements(owner, str(offset)), incarnation, b"")


async def heard_everywhere(store: Store, owner: str, offset: Offset) -> None:
    """Returns when all workers have said so, or after `PATIENCE_S`; the change holds either way."""
    until_s = time.monotonic() + PATIENCE_S
    key = store.keys.acknowledgements(owner, str(offset))
    try:
        waiting = {worker.incarnation for worker in await living(store)}
        while waiting - (await store.answers(key)).keys() and time.monotonic() < until_s:
            await asyncio.sleep(POLL_S)
    except Unavailable:
        return
