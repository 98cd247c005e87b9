"""Looks at the exposures of experiments: rewards that arrive during one look share the next."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.unit_exposures import InForce
from bandit_serve.replication.exposures_log import ExposuresLog


class _Asked(NamedTuple):
    live: LiveExperiment
    units: NDArray[np.uint64]
    at_ms: NDArray[np.int64]
    answer: asyncio.Future[InForce]


class Looks:
    """Looks at the folds of `exposures`, one at a time for each experiment."""

    def __init__(self, exposures: ExposuresLog) -> None:
        self._exposures = exposures
        self._asked: dict[int, list[_Asked]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def in_force(
        self, live: LiveExperiment, units: NDArray[np.uint64], at_ms: NDArray[np.int64]
    ) -> InForce:
        """Decisions in force for n units, as `UnitExposures.in_force`, by the log up to the offset of `live`.

        Raises as `SecondFolds.read`.
        """
        loop, uid = asyncio.get_running_loop(), live.record.uid
        asked = _Asked(live, units, at_ms, loop.create_future())
        if uid in self._asked:
            self._asked[uid].append(asked)
        else:
            self._asked[uid] = [asked]
            task = loop.create_task(self._run(uid), name=f"looks at the exposures of {live.owner}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await asked.answer

    async def _run(self, uid: int) -> None:
        group: list[_Asked] = []
        try:
            while self._asked[uid]:
                # Requests that have arrived are included: a turn of the loop reads them.
                await asyncio.sleep(0)
                group, self._asked[uid] = self._asked[uid], []
                try:
                    _answer(group, await self._look(group))
                except Exception as error:
                    for asked in group:
                        if not asked.answer.done():
                            asked.answer.set_exception(error)
        finally:
            for asked in (*group, *self._asked.pop(uid)):
                asked.answer.cancel()

    async def _look(self, group: list[_Asked]) -> InForce:
        # The newest: another object, if the experiment was repaired meanwhile.
        live = group[-1].live
        units = np.concatenate([asked.units for asked in group])
        at_ms = np.concatenate([asked.at_ms for asked in group])
        return await self._exposures.read(live, live.offset, lambda fold: fold.in_force(units, at_ms))


def _answer(group: list[_Asked], joined: InForce) -> None:
    start = 0
    for asked in group:
        some = slice(start, start + len(asked.units))
        if not asked.answer.done():
            asked.answer.set_result(InForce._make(column[some] for column in joined))
        start = some.stop
