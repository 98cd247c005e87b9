"""Exposures that rewards by unit are joined to, from the log of each experiment with `unit: user`."""

from __future__ import annotations

import logging

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log.fold import EXPOSURES_FOLD
from bandit_serve.log.offset import Offset
from bandit_serve.replication.second_folds import SecondFolds
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)


class ExposuresLog(SecondFolds[UnitExposures]):
    """Folds of exposures by unit."""

    def __init__(self, store: Store, replica: Replica) -> None:
        super().__init__(store, replica, "exposures", EXPOSURES_FOLD, UnitExposures, UnitExposures.from_state)

    def _behind(self, live: LiveExperiment, gap: Offset, former: UnitExposures | None) -> UnitExposures:
        """Goes on behind the gap: builds that do not know this fold trim logs without it.

        Of what they trimmed the exposures are missing, so rewards by unit for them are unmatched.
        """
        log.warning("exposures of %s are missing for rewards by unit, through %s", live.experiment.id, gap)
        fold = UnitExposures(live.record) if former is None else former
        fold.go_on_from(gap, live.record, self._replica.registry.repairs.omitted_before(live.owner, gap))
        return fold
