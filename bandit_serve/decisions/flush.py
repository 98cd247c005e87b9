"""Background flush of exposures into the logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from bandit_serve.decisions.exposures import ExposureBuffer, WaitingBatch
from bandit_serve.errors import StoreUnavailable
from bandit_serve.log import events
from bandit_serve.log.events import Exposed
from bandit_serve.log.times import FLUSH_MS
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)


class Flusher:
    """Flushes `exposures`, the buffer of each experiment by the owner of its log.

    begun: the owners of buffers in which a batch was begun, to which the buffers' makers add them; by default all are
    looked at each time.
    """

    def __init__(
        self,
        store: Store,
        exposures: Mapping[str, ExposureBuffer],
        incarnation: int,
        begun: set[str] | None = None,
    ) -> None:
        self._store = store
        self._exposures = exposures
        self._begun = begun
        self._incarnation = incarnation
        self._flushing = asyncio.Lock()
        self._late: set[str] = set()
        self._reported: set[str] = set()
        # By owner, the batch whose append failed, and the log time of its first try.
        self._tried: dict[str, tuple[Exposed, int]] = {}

    async def run(self) -> None:
        """Flushes every `FLUSH_MS` until cancelled. During an outage exposures stay in their buffers."""
        while True:
            await asyncio.sleep(FLUSH_MS / 1000)
            try:
                await self.flush()
            except StoreUnavailable:
                continue

    async def flush(self) -> None:
        """Returns when all earlier decisions are in the logs; raises `StoreUnavailable` if that fails."""
        async with self._flushing:
            if self._begun is None:
                await self._flush_all(set(self._exposures))
                return
            left = set(self._begun)
            self._begun.clear()
            try:
                await self._flush_all(left)
            finally:
                self._begun |= left

    async def _flush_all(self, left: set[str]) -> None:
        """Flushes the buffers of these owners, and takes out of `left` those that were flushed."""
        # An experiment whose flush failed comes last the next time, so that it does not delay the others.
        for name in sorted(left, key=lambda name: name in self._late):
            buffer = self._exposures.get(name)
            if buffer is None:
                left.discard(name)
                continue
            self._late.add(name)
            try:
                await self._flush_one(name, buffer)
            except StoreUnavailable:
                raise
            except Exception:
                if name not in self._reported:
                    self._reported.add(name)
                    log.exception("the exposures of %s can not be logged", name)
            else:
                self._late.discard(name)
                left.discard(name)

    async def _flush_one(self, name: str, buffer: ExposureBuffer) -> None:
        # Later decisions wait for the next flush: a busy experiment would never let the others have their turn.
        end = buffer.next
        while (waiting := buffer.first_waiting(end)) is not None:
            if not await self._append(name, waiting):
                buffer.lost += waiting.n_rows
            buffer.done(waiting.exposed)

    async def _append(self, name: str, waiting: WaitingBatch) -> bool:
        """Appends a batch. False if it is lost: it is too late to know whether an earlier try has appended it."""
        batch = waiting.exposed
        tried, tried_ms = self._tried.pop(name, (None, 0))
        since_ms = tried_ms if tried is batch else None
        if not self._store.clock.known:
            await self._store.time_ms()
        now_ms = self._store.clock.now_ms()
        try:
            appended = await self._store.append_exposures(
                name,
                self._incarnation,
                batch.first,
                waiting.n_rows,
                events.encode(batch),
                since_ms,
                waiting.served,
            )
        except BaseException:
            self._tried[name] = batch, now_ms if since_ms is None else since_ms
            raise
        return appended is not None
