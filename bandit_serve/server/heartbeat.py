"""Heartbeat of a worker. It announces that the worker lives and which models it has, and tests that the store takes
writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec

from bandit_serve.errors import StoreUnavailable
from bandit_serve.node import Node
from bandit_serve.replication.census import WorkerCard
from bandit_serve.server.metrics import Counters
from bandit_serve.store.store import LOADED_MS

# Each is a write, too: whether the store takes any is known by it when no caller writes.
EVERY_S = 1.0
AGAIN_S = 0.25
LIFETIME_MS = 10_000
STARTED_WITHOUT_STORE = "started_without_store"
MAX_CLOCK_OFFSET_MS = 1_000.0


class Heartbeat:
    """Regular announcement of this worker in the store.

    `publish` is called before each beat and brings the shared counters up to date, as any worker may answer a scrape.
    """

    def __init__(self, node: Node, card: WorkerCard, counters: Counters, publish: Callable[[], None]) -> None:
        self._node = node
        self._card = card
        self._counters = counters
        self._publish = publish
        self._clock_off = False

    async def run(self) -> None:
        store, card = self._node.store, msgspec.msgpack.encode(self._card)
        while True:
            self._publish()
            try:
                await store.announce(card, LIFETIME_MS)
                if self._node.tail.available:
                    self._node.troubles.end(STARTED_WITHOUT_STORE)
                loaded = msgspec.msgpack.encode(self._node.models.contents())
                await store.report_loaded(self._card.incarnation, loaded)
                self._compare_clocks()
                await asyncio.sleep(EVERY_S)
            except StoreUnavailable:
                await asyncio.sleep(AGAIN_S)

    async def run_beside(self) -> None:
        """Does for a tenant what the heartbeat of its worker does not: reports the models, where there are others.

        While writes of the tenant fail, they are reported each time: nobody else may write there when that is over.
        """
        store = self._node.store
        reported: bytes | None = None
        reported_s = 0.0
        while True:
            self._publish()
            if self._node.tail.available:
                self._node.troubles.end(STARTED_WITHOUT_STORE)
            loaded = msgspec.msgpack.encode(self._node.models.contents())
            now_s = time.monotonic()
            is_due = len(self._node.models) and now_s - reported_s > LOADED_MS / 4000
            if loaded != reported or is_due or store.outages.writes_fail:
                with contextlib.suppress(StoreUnavailable):
                    await store.report_loaded(self._card.incarnation, loaded)
                    reported, reported_s = loaded, now_s
            await asyncio.sleep(EVERY_S)

    def _compare_clocks(self) -> None:
        """Begins or ends the trouble `clock_off`. Log time does not depend on this machine's clock."""
        clock = self._node.store.clock
        self._counters.set("clock_offset_s", clock.offset_ms / 1000)
        apart = clocks_apart(clock.offset_ms, clock.shift_ms, already=self._clock_off)
        self._clock_off = apart is not None
        if apart is None:
            self._node.troubles.end("clock_off")
        else:
            self._node.troubles.begin("clock_off", apart)


def clocks_apart(offset_ms: float, shift_ms: int, *, already: bool) -> str | None:
    """Sentence on clocks that differ; None if they agree.

    `already` says that they differed before: then half the bound counts, so that the trouble does not flicker.
    """
    sentences = []
    if abs(offset_ms) > (MAX_CLOCK_OFFSET_MS / 2 if already else MAX_CLOCK_OFFSET_MS):
        where = "ahead of" if offset_ms > 0 else "behind"
        sentences.append(f"This machine's clock is {abs(offset_ms) / 1000:.1f} s {where} the store's.")
    if shift_ms:
        jumped = "ahead" if shift_ms < 0 else "back"
        sentences.append(
            f"The store's clock has jumped {jumped}, and the logs go on without that, {abs(shift_ms) / 1000:.1f} s "
            f"{'ahead of' if shift_ms > 0 else 'behind'} it."
        )
    return " ".join(sentences) or None
