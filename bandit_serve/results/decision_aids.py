"""How probable it is that an arm is best, and what choosing it may cost: aids for a decision, not
significance.

Independent posteriors from the sample: for binary metrics Beta(1 + successes, 1 + failures), for others
Student-t about the mean with n - 1 degrees of freedom (the flat prior), which needs 3 observations and some
variance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bandit_serve import _best_arm
from bandit_serve.experiment import Metric
from bandit_serve.results.estimates import LEAST_VARIANCE, Sums
from bandit_serve.results.sequence import Floats

FEWEST = 3

Arms = NDArray[np.bool_]
Beta = Callable[[Floats, Floats], Floats]
Student = Callable[[Floats, Floats, Floats], Floats]


def probability_best(sums: Sums, metric: Metric, there: Arms) -> Floats:
    """P(the arm is best of those that are `there`, bool [K], by the metric's goal), [K]; NaN for the others, and for
    an arm of which too little is known.
    """
    if metric.kind == "binary":
        return _of_those(there, _best_arm.beta_best, sums, metric)
    return _known_only(sums, _best_arm.student_best, metric, there)


def expected_loss(sums: Sums, metric: Metric, there: Arms) -> Floats:
    """By how much the best arm is expected to beat this one, [K], in units of the metric; NaN as above."""
    if metric.kind == "binary":
        return _of_those(there, _best_arm.beta_expected_loss, sums, metric)
    return _known_only(sums, _best_arm.student_expected_loss, metric, there)


def _of_those(there: Arms, of: Beta, sums: Sums, metric: Metric) -> Floats:
    successes, failures = 1.0 + sums.total[there], 1.0 + (sums.n - sums.total)[there]
    result = np.full(len(there), np.nan)
    pair = (successes, failures) if metric.goal == "maximize" else (failures, successes)
    result[there] = of(*pair)
    return result


def _known_only(sums: Sums, of: Student, metric: Metric, there: Arms) -> Floats:
    known = there & (sums.n >= FEWEST) & (sums.sample_variance > LEAST_VARIANCE)
    result = np.full(len(known), np.nan)
    if known.sum() >= min(2, there.sum()) and known.any():
        n = sums.n[known].astype(np.float64)
        loc = sums.mean[known] if metric.goal == "maximize" else -sums.mean[known]
        result[known] = of(loc, np.sqrt(sums.sample_variance[known] / n), n - 1.0)
    return result
