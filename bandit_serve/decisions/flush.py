"""Flushing exposures into the log, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bandit_serve import events
from bandit_serve.decisions.exposures import ExposureBuffer
from bandit_serve.errors import StoreUnavailable
from bandit_serve.store.store import Store

FLUSH_S = 0.1


class Flusher:
    """Flushes the `exposures` of each experiment, by its name."""

    def __init__(self, store: Store, exposures: Mapping[str, ExposureBuffer], incarnation: int) -> None:
        self._store = store
        self._exposures = exposures
        self._incarnation = incarnation
        self._flushing = asyncio.Lock()

    async def run(self) -> None:
        """Flushes every `FLUSH_S` until cancelled; what a store that is away does not take stays."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreUnavailable:
                continue

    async def flush(self) -> None:
        """Returns when everything that was decided before is in the log; `StoreUnavailable` when that fails."""
        async with self._flushing:
            for name, buffer in list(self._exposures.items()):
                # Not what is decided meanwhile: a busy experiment would never let the others have their turn.
                end = buffer.next
                while (waiting := buffer.first_waiting(end)) is not None:
                    batch, n_rows = waiting
                    await self._store.append_exposures(
                        name, self._incarnation, batch.first, n_rows, events.encode(batch)
                    )
                    buffer.done(batch)
