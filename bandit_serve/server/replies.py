"""Replies of this worker to others that wait: acknowledgements of changes, and digests for a census."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from bandit_serve.errors import StoreUnavailable, in_full
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Census
from bandit_serve.log.offset import Offset
from bandit_serve.log.owner import name_of
from bandit_serve.replication.acknowledgements import acknowledge
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

Reply = Callable[[], Awaitable[None]]
"""Writes a reply: the same one, however often."""
PATIENCE_S = 20.0
"""How long a reply is sent again while the store is away: those who asked wait as long."""
PAUSE_S = 0.2


class Replies:
    """Listeners of the replica that send the replies, in tasks of their own so that the fold goes on."""

    def __init__(self, store: Store, replica: Replica, incarnation: int) -> None:
        self._store = store
        self._replica = replica
        self._incarnation = incarnation
        self._sending: set[asyncio.Task[None]] = set()

    def listen(self) -> None:
        self._replica.on_census(self._answer_census)
        self._replica.on_configured(self._acknowledge)

    def _acknowledge(self, owner: str, offset: Offset) -> None:
        self._send(lambda: acknowledge(self._store, owner, offset, self._incarnation))

    def _answer_census(self, owner: str, census: Census) -> None:
        live = self._replica.experiments.get(name_of(owner))
        digest = b"set aside" if live is None else live.digest().encode()
        self._send(lambda: self._store.write_answer(census.key, self._incarnation, digest))

    def _send(self, reply: Reply) -> None:
        task = asyncio.create_task(send(reply))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def send(reply: Reply) -> None:
    """Sends a reply, again while the store is away. Gives up after `PATIENCE_S`, with a warning."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await reply()
        except StoreUnavailable as error:
            if time.monotonic() >= until_s:
                return log.warning("an answer to the other workers was not sent: %s", in_full(error))
        await asyncio.sleep(PAUSE_S)
