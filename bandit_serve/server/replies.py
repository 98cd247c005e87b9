"""Replies of this worker to others that wait: acknowledgements of changes, and digests for a census."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from bandit_serve.errors import StoreUnavailable, in_full
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Census
from bandit_serve.log.offset import Offset
from bandit_serve.log.owner import name_of
from bandit_serve.replication.acknowledgements import acknowledge
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)


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
        self._send(acknowledge(self._store, owner, offset, self._incarnation))

    def _answer_census(self, owner: str, census: Census) -> None:
        live = self._replica.experiments.get(name_of(owner))
        digest = b"set aside" if live is None else live.digest().encode()
        self._send(self._store.write_answer(census.key, self._incarnation, digest))

    def _send(self, reply: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(_sent(reply))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def _sent(reply: Coroutine[None, None, None]) -> None:
    try:
        await reply
    except StoreUnavailable as error:
        log.warning("an answer to the other workers was not sent: %s", in_full(error))
