"""Looks at the exposures of experiments: rewards that arrive during one look share the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.shared_calls import SharedCalls
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.unit_exposures import InForce
from bandit_serve.replication.exposures_log import ExposuresLog


class _Sought(NamedTuple):
    live: LiveExperiment
    units: NDArray[np.uint64]
    at_ms: NDArray[np.int64]


class Looks:
    """Looks at the folds of `exposures`, one at a time for each experiment."""

    def __init__(self, exposures: ExposuresLog) -> None:
        self._exposures = exposures
        self._shared: SharedCalls[_Sought, InForce] = SharedCalls(self._look, "looks at exposures")

    async def in_force(
        self, live: LiveExperiment, units: NDArray[np.uint64], at_ms: NDArray[np.int64]
    ) -> InForce:
        """Decisions in force for n units, as `UnitExposures.in_force`, by the log up to the offset of `live`.

        Raises as `SecondFolds.read`.
        """
        return await self._shared.ask(live.record.uid, _Sought(live, units, at_ms))

    async def _look(self, group: Sequence[_Sought]) -> list[InForce]:
        # The newest: another object, if the experiment was repaired meanwhile.
        live = group[-1].live
        units = np.concatenate([sought.units for sought in group])
        at_ms = np.concatenate([sought.at_ms for sought in group])
        joined = await self._exposures.read(live, live.offset, lambda fold: fold.in_force(units, at_ms))
        ends = np.cumsum([len(sought.units) for sought in group])[:-1]
        return [
            InForce._make(some) for some in zip(*(np.split(column, ends) for column in joined), strict=True)
        ]
