"""Reader of a worker's surroundings for pages, at most every few seconds, however many look."""

from __future__ import annotations

import asyncio
import time
from heapq import nlargest

from bandit_serve.dashboard.surroundings import LearnerLook, LogLook, Surroundings
from bandit_serve.errors import StoreUnavailable
from bandit_serve.replication.census import living
from bandit_serve.server.service import Service
from bandit_serve.upkeep.measurements import Measurements

READ_EVERY_S = 5.0
PATIENCE_S = 0.3
LARGEST = 10
"""Logs that are named."""


class SurroundingsReader:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._found: Surroundings | None = None
        self._read_s = 0.0
        self._reading: asyncio.Task[Surroundings] | None = None

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self._read_s >= READ_EVERY_S

    async def read(self) -> Surroundings:
        """Surroundings as they were a few seconds ago; without what the store knows while that is away.

        Nobody waits long: a store that is slow is read while the former ones are shown.
        """
        if self._reading is None and self.is_old:
            self._read_s = time.monotonic()
            self._reading = asyncio.create_task(self._look(), name="surroundings")
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=PATIENCE_S)
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            self._found = reading.result()
        return self._found or self._without_store()

    async def _look(self) -> Surroundings:
        service = self._service
        try:
            facts = await service.node.store.facts()
            workers = await living(service.root.node.store)
            loaded = await service.node.model_changes.loaded()
        except StoreUnavailable:
            return self._without_store()
        return self._without_store()._replace(
            workers=len(workers),
            store=f"{facts.name} {'.'.join(map(str, facts.version))}",
            durability=facts.durability,
            used_bytes=facts.used_memory if service.tenant is None else None,
            loaded=loaded,
        )

    def _without_store(self) -> Surroundings:
        service = self._service
        found = None if service.measurer is None else service.measurer.found
        measured = found or Measurements()
        return Surroundings(
            service.node.store.clock.now_ms(),
            workers=0,
            store="",
            durability="",
            used_bytes=None,
            logs=_logs(measured),
            learners={name: LearnerLook(*each) for name, each in sorted(measured.learners.items())},
            loaded={},
        )


def _logs(measured: Measurements) -> LogLook | None:
    logs = measured.logs.values()
    if not logs:
        return None
    largest = nlargest(LARGEST, measured.logs.items(), key=lambda item: item[1].nbytes)
    return LogLook(
        sum(each.nbytes for each in logs),
        min((each.oldest_ms for each in logs if each.oldest_ms is not None), default=None),
        min((each.uncovered_ms for each in logs if each.uncovered_ms is not None), default=None),
        [(name, each.nbytes) for name, each in largest],
    )
