"""Upper bound of the regret so far: by how much the decisions were worse than if the best arm had made all of them.

An arm's gap is at most the largest difference to it that the sequences leave possible. Each difference to control has
its interval at level alpha/(K - 1), so that all hold together, at every time, with probability 1 - alpha (union bound).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.sequence import Floats


def regret_bound(table: MetricTable, exposures: NDArray[np.int64]) -> float:
    """Bound in units of the metric's total, from the exposures int64 (K,), with `unit: user` from the analysed units.

    NaN without valid intervals, for a metric without bounds also before every arm that was exposed has one; and under
    contextual policies, where what an arm brings over all is not what it brings to the decisions that it got.
    """
    if not table.valid or table.sums.contextual:
        return math.nan
    counted = table.sums.n if table.experiment.unit == "user" else exposures
    low, high = _gains(table)
    n_arms = len(low)
    bound = 0.0
    for arm in np.flatnonzero(counted):
        rivals = table.there & (np.arange(n_arms) != arm)
        gap = float(np.max(high[rivals] - low[arm], initial=0.0))
        bound += int(counted[arm]) * min(gap, _most(table))
    return bound if math.isfinite(bound) else math.nan


def _gains(table: MetricTable) -> tuple[Floats, Floats]:
    """Ends of the arms' gains over control, (K,) each; control's are 0."""
    differences = table.estimates.differences
    known = table.estimates.comparable
    most = _most(table)
    alpha = table.alpha / max(len(known) - 1, 1)
    half = differences.half_width(max(alpha, math.ulp(0.0)))
    sign = 1.0 if table.metric.goal == "maximize" else -1.0
    middle = sign * differences.mean
    low = np.where(known, np.maximum(middle - half, -most), -most)
    high = np.where(known, np.minimum(middle + half, most), most)
    low[table.control] = high[table.control] = 0.0
    return low, high


def _most(table: MetricTable) -> float:
    """Largest difference that two means can have."""
    low, high = table.mean_limits
    return high - low
