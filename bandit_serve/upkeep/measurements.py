"""Measurements of what only the store knows: sizes and ages of logs, its memory, and how far learners are behind.

The worker with the lease measures, a few logs a round, and writes what it found into the store, where all workers read
it. So no scrape asks the store for anything, and 10,000 experiments cost it as much a second as 64.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import msgspec
from msgspec import Struct

from bandit_serve.errors import StoreUnavailable
from bandit_serve.folds.replica import Replica
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.owner import name_of
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import LearnerReport, Store

log = logging.getLogger(__name__)

EVERY_S = 5.0
MAX_MEASURED = 320
"""Logs that are measured in a round: 64 a second."""
LIFETIME_MS = 60_000
LEARNERS_KEPT_MS = 86_400_000


class LogMeasurement(Struct, frozen=True, array_like=True):
    """Size of a log, and the log times of its first entry and of the first that no snapshot has; None for no entry."""

    nbytes: int
    oldest_ms: int | None
    uncovered_ms: int | None


class Measurements(Struct, frozen=True, array_like=True):
    """Findings: the store's memory and its bound in bytes (0: none), logs by experiment, and learners by model."""

    used_bytes: int = 0
    max_bytes: int = 0
    logs: dict[str, LogMeasurement] = {}
    learners: dict[str, LearnerReport] = {}


class Measurer:
    """Runs in every worker. `found` are the newest; None before there are any, and while the store is away."""

    def __init__(self, store: Store, replica: Replica, *, leads: Callable[[], bool]) -> None:
        self._store = store
        self._replica = replica
        self._leads = leads
        self._logs: dict[str, LogMeasurement] = {}
        self._to_measure: deque[str] = deque()
        self.found: Measurements | None = None

    async def run(self) -> None:
        """Measures or reads regularly, until cancelled."""
        while True:
            try:
                if self._leads():
                    await self.measure()
                else:
                    self._logs.clear()
                    await self._read()
            except StoreUnavailable:
                self.found = None
            await asyncio.sleep(EVERY_S)

    async def measure(self) -> None:
        """Measures the store, the learners and the next logs in turn, and writes what was found."""
        fullest = (await self._store.facts()).fullest.facts
        await self._measure_logs()
        self.found = Measurements(
            fullest.used_memory, fullest.maxmemory, dict(self._logs), await self._learners()
        )
        await self._store.write_measurements(msgspec.msgpack.encode(self.found), LIFETIME_MS)

    async def _measure_logs(self) -> None:
        present = self._replica.positions
        if not self._to_measure:
            self._to_measure.extend(owner for owner in present if owner != COMMON)
            self._logs = {
                name: each for name, each in self._logs.items() if name in self._replica.experiments
            }
        for _ in range(min(MAX_MEASURED, len(self._to_measure))):
            owner = self._to_measure.popleft()
            if owner in present:
                nbytes, oldest, uncovered = await self._store.measure_log(owner, POLICY_FOLD)
                self._logs[name_of(owner)] = LogMeasurement(
                    nbytes,
                    None if oldest is None else oldest.time_ms,
                    None if uncovered is None else uncovered.time_ms,
                )

    async def _learners(self) -> dict[str, LearnerReport]:
        since_ms = await self._store.time_ms() - LEARNERS_KEPT_MS
        reports = await self._store.learner_reports()
        return {model: each for model, each in reports.items() if each.at_ms >= since_ms}

    async def _read(self) -> None:
        written = await self._store.measurements()
        self.found = None if written is None else msgspec.msgpack.decode(written, type=Measurements)
