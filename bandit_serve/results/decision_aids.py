"""How probable it is that an arm is best, and what choosing it may cost: aids for a decision, not
significance.

Independent posteriors from the sample: for binary metrics Beta(1 + successes, 1 + failures), for others
Student-t about the mean with n - 1 degrees of freedom (the flat prior), which needs 3 observations and some
variance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bandit_serve import _best_arm
from bandit_serve.experiment import Metric
from bandit_serve.results.estimates import Sums
from bandit_serve.results.sequence import Floats

FEWEST = 3

Student = Callable[[Floats, Floats, Floats], Floats]


def probability_best(sums: Sums, metric: Metric) -> Floats:
    """P(the arm is best, by the metric's goal), [K]; NaN for an arm of which too little is known."""
    if metric.kind == "binary":
        return _best_arm.beta_best(*_beta(sums, metric))
    return _known_only(sums, _best_arm.student_best, metric)


def expected_loss(sums: Sums, metric: Metric) -> Floats:
    """By how much the best arm is expected to beat this one, [K], in units of the metric; NaN as above."""
    if metric.kind == "binary":
        return _best_arm.beta_expected_loss(*_beta(sums, metric))
    return _known_only(sums, _best_arm.student_expected_loss, metric)


def _beta(sums: Sums, metric: Metric) -> tuple[Floats, Floats]:
    successes, failures = 1.0 + sums.total, 1.0 + (sums.n - sums.total)
    return (successes, failures) if metric.goal == "maximize" else (failures, successes)


def _known_only(sums: Sums, of: Student, metric: Metric) -> Floats:
    known = (sums.n >= FEWEST) & (sums.m2 > 0)
    result = np.full(len(known), np.nan)
    if known.sum() >= min(2, len(known)) and known.any():
        n = sums.n[known].astype(np.float64)
        loc = sums.mean[known] if metric.goal == "maximize" else -sums.mean[known]
        result[known] = of(loc, np.sqrt(sums.sample_variance[known] / n), n - 1.0)
    return result
