"""Acknowledgements of changes. A caller gets its answer when every live worker has applied its change, so the next
request sees it wherever it lands.
"""

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


async def acknowledge(store: Store, owner: str, offset: Offset, incarnation: int) -> None:
    """Writes to the store that this worker has applied the change at `offset`."""
    await store.write_answer(store.keys.acknowledgements(owner, str(offset)), incarnation, b"")


async def wait_for_acknowledgements(store: Store, owner: str, offset: Offset) -> None:
    """Returns when all live workers have acknowledged the change, or after `PATIENCE_S`; it holds either way."""
    until_s = time.monotonic() + PATIENCE_S
    key = store.keys.acknowledgements(owner, str(offset))
    try:
        waiting = {worker.incarnation for worker in await living(store)}
        while waiting - (await store.answers(key)).keys() and time.monotonic() < until_s:
            await asyncio.sleep(POLL_S)
    except Unavailable:
        return
