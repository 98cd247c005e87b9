"""Point of the history as its fold stands: what a report would say now, arm by arm and metric by metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bandit_serve.results.history import BY_METRIC, Drawn, Point
from bandit_serve.results.regret_bound import regret_bound
from bandit_serve.results.tables import table_of

if TYPE_CHECKING:
    from bandit_serve.results.fold import ResultsFold


def point_of(fold: ResultsFold) -> Point:
    record = fold.record
    experiment, n_arms = record.experiment, len(record.experiment.arms)
    tables = [table_of(fold, record, index) for index in range(len(experiment.metrics))]
    n = np.zeros((len(tables), n_arms), np.int64)
    numbers = {name: np.full(n.shape, np.nan) for name in BY_METRIC}
    for metric, table in enumerate(tables):
        for arm in range(n_arms):
            row = table.brief(arm)
            n[metric, arm] = row.n
            low, high = row.interval or (None, None)
            difference_low, difference_high = row.difference_interval or (None, None)
            known = {
                "mean": row.mean,
                "low": low,
                "high": high,
                "difference": row.difference,
                "difference_low": difference_low,
                "difference_high": difference_high,
                "p_value": row.p_value,
            }
            for name, value in known.items():
                if value is not None:
                    numbers[name][metric, arm] = value
        comparable = table.estimates.comparable & table.valid
        numbers["log_e"][metric] = np.where(comparable, np.maximum(*table.evidence), np.nan)
    objective = tables[experiment.metrics.index(experiment.objective)]
    return Point(
        fold.now_ms,
        fold.exposures.copy(),
        Drawn(fold.history.so_far.shares.copy(), fold.history.so_far.decisions),
        n,
        numbers,
        regret_bound(objective, fold.exposures),
    )
