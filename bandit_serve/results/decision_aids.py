"""Probability that an arm is best, and expected loss of choosing it: aids for a decision, not significance.

While the shares are the same, independent posteriors from the sample: for values 0 and 1
Beta(1 + successes, 1 + failures), for others Student-t about the mean with n - 1 degrees of freedom (the flat prior),
which needs 3 observations and some variance. Once they have moved, the samples' means compare arms at the times when
each had traffic, which are not the same; then Student-t about the weighted differences to control, for all metrics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.policies import _best_arm
from bandit_serve.results.estimates import MIN_VARIANCE, Estimates, Sums
from bandit_serve.results.sequence import Floats

MIN_STUDENT_OBSERVATIONS = 3

MAX_MAGNITUDE = 1e100
"""Magnitude up to which means are compared. Their standard errors must lie between 1/MAX_MAGNITUDE and this."""

Arms = NDArray[np.bool_]
Beta = Callable[[Floats, Floats], Floats]
Student = Callable[[Floats, Floats, Floats], Floats]


def probability_best(sums: Sums, metric: Metric, there: Arms) -> Floats:
    """P(the arm is best of those that are `there`, bool (K,), by the metric's goal), (K,); NaN for the others, and for
    an arm of which too little is known.
    """
    if metric.traits.two_valued:
        return _of_those(there, _best_arm.beta_best, sums, metric)
    return _known_only(sums, _best_arm.student_best, metric, there)


def expected_loss(sums: Sums, metric: Metric, there: Arms) -> Floats:
    """Expected lead of the best arm over this one, (K,), in units of the metric; NaN as in `probability_best`."""
    if metric.traits.two_valued:
        return _of_those(there, _best_arm.beta_expected_loss, sums, metric)
    return _known_only(sums, _best_arm.student_expected_loss, metric, there)


def _of_those(there: Arms, of: Beta, sums: Sums, metric: Metric) -> Floats:
    successes, failures = 1.0 + sums.successes[there], 1.0 + (sums.n - sums.successes)[there]
    result = np.full(len(there), np.nan)
    pair = (successes, failures) if metric.goal == "maximize" else (failures, successes)
    result[there] = of(*pair)
    return result


def _known_only(sums: Sums, of: Student, metric: Metric, there: Arms) -> Floats:
    known = there & (sums.n >= MIN_STUDENT_OBSERVATIONS) & (sums.sample_variance > MIN_VARIANCE)
    variance = np.where(known, sums.sample_variance, 1.0) / np.maximum(sums.n, 1)
    return _of_known(of, sums.mean, variance, sums.n, known, metric, there)


def weighted_probability_best(
    estimates: Estimates, n: NDArray[np.int64], metric: Metric, control: int, there: Arms
) -> Floats:
    """Probability that each arm is best where shares moved: from the differences to control and their variances."""
    return _of_known(_best_arm.student_best, *_weighted(estimates, n, control, there), metric, there)


def weighted_expected_loss(
    estimates: Estimates, n: NDArray[np.int64], metric: Metric, control: int, there: Arms
) -> Floats:
    """Expected loss of each arm where shares moved."""
    return _of_known(_best_arm.student_expected_loss, *_weighted(estimates, n, control, there), metric, there)


def _weighted(
    estimates: Estimates, n: NDArray[np.int64], control: int, there: Arms
) -> tuple[Floats, Floats, NDArray[np.int64], Arms]:
    """Arms' means less control's, their own variances, their n, and bool whether these are known, (K,) each.

    The mean of a sample is no estimate of what the arm is worth where it got more traffic at one time than at another.
    Control's part in the variances of the differences, which is weighted a little differently in each, is averaged.
    """
    compared = estimates.comparable
    known = compared.copy()
    known[control] = estimates.usable[control]
    difference = np.where(compared, estimates.differences.mean, 0.0)
    control_variance = estimates.controls.variance_of_mean
    variance = np.where(compared, estimates.differences.variance_of_mean - control_variance, 1.0)
    if compared.any():
        variance[control] = control_variance[compared].mean()
    else:
        variance[control] = estimates.arms.variance_of_mean[control]
    return difference, variance, n, known & there


def _of_known(
    of: Student,
    mean: Floats,
    variance: Floats,
    n: NDArray[np.int64],
    known: Arms,
    metric: Metric,
    there: Arms,
) -> Floats:
    error = np.sqrt(variance)
    known = (
        known & (np.abs(mean) <= MAX_MAGNITUDE) & (error >= 1.0 / MAX_MAGNITUDE) & (error <= MAX_MAGNITUDE)
    )
    result = np.full(len(known), np.nan)
    if known.sum() >= min(2, there.sum()) and known.any():
        loc = mean[known] if metric.goal == "maximize" else -mean[known]
        result[known] = of(loc, error[known], n[known].astype(np.float64) - 1.0)
    return result
