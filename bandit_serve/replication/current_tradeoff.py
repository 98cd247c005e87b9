"""Trade-off of an experiment as its policy sees it now, for reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import UNSET, UnsetType

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.results.tradeoff_result import TradeoffResult, tradeoff_result


def current_tradeoff(live: LiveExperiment, shares: Mapping[str, float]) -> TradeoffResult | UnsetType:
    """What `shares`, by arm, come to; UNSET where the policy goes by the objective alone."""
    known = live.traded_means()
    if known is None:
        return UNSET
    current = np.array([shares.get(name, 0.0) for name in live.experiment.arm_names])
    return tradeoff_result(live.experiment, current, live.active, *known)
