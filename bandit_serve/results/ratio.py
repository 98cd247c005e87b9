"""Ratio of two metrics by unit, such as clicks a session: the sum of one over the sum of the other.

Sessions of one unit are not independent, so the unit is what is counted. Delta method (Deng, Knoblich, Lu 2018): the
ratio of the means of m and d varies as the mean of (m - R d) / mean d does, n var = (s_m^2 - 2 R s_md + R^2 s_d^2) /
mean(d)^2. Where shares have moved, m and d are AIPW scores, with the same weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.metrics import Continuous
from bandit_serve.results import skewness
from bandit_serve.results.estimates import (
    MIN_OBSERVATIONS,
    MIN_VARIANCE,
    MIN_WEIGHT,
    Estimates,
    moving_shares,
)
from bandit_serve.results.paired import LINEAR, AdjustedSums, MetricPair
from bandit_serve.results.sequence import Floats, Sequence, mean_sequence

MIN_ERRORS = 10.0
"""Standard errors that the mean denominator of an arm has to be from 0: nearer, a ratio is not linear in it."""
MIN_DENOMINATOR = 1e-60
MAX_RATIO = 1e100
"""Bounds of mean denominators and of ratios: beyond them squares leave the numbers, and there is no ratio."""
MAX_SUM = 1e140
"""Bound of sums of y - ratio · z, whose squares are taken."""
UPPER = np.triu_indices(5)


def ratios(pair: MetricPair) -> tuple[Floats, Floats]:
    """Ratio of each arm's sums and n times its variance, with n - 1, (K,); NaN where there is none."""
    ratio, there = _quotient(pair.y.total, pair.z.total)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        sums = pair.without(np.where(there, ratio, 0.0), Continuous)
        variance = sums.sample_variance / np.square(pair.z.mean)
    return np.where(there, ratio, np.nan), np.where(there & np.isfinite(variance), variance, np.nan)


def estimates(
    pair: MetricPair, control: int, peers: NDArray[np.int64], tuned_for: float, *, moving: bool
) -> Estimates:
    """Estimates of the arms' ratios and their differences to control, as those of a metric's means."""
    return _moving(pair, control, peers, tuned_for) if moving else _fixed(pair, control, tuned_for)


def _fixed(pair: MetricPair, control: int, tuned_for: float) -> Estimates:
    n = np.maximum(pair.y.n, 1)
    ratio, there = _quotient(pair.y.total, pair.z.total)
    sure = there & _is_sure(pair.z.mean, np.sqrt(pair.z.sample_variance / n))
    sums, sure = _without(pair, ratio, sure)
    mean = np.where(sure, pair.z.mean, 1.0)
    variance = sums.cautious_variance(Continuous) / np.square(mean)
    usable = sure & (sums.n >= MIN_OBSERVATIONS) & (variance > MIN_VARIANCE)
    own = np.where(usable, variance, 1.0) / n
    gamma = np.sign(mean) * sums.skewness / np.sqrt(n)
    control_part = np.broadcast_to(own[control], own.shape)
    both = n + n[control]
    return Estimates(
        mean_sequence(n, ratio, own, tuned_for),
        mean_sequence(both, ratio - ratio[control], own + control_part, tuned_for),
        mean_sequence(both, np.broadcast_to(ratio[control], own.shape), control_part, tuned_for),
        control_part,
        -control_part,
        _with(there, control),
        usable,
        _with(usable, control),
        gamma,
        skewness.tame(gamma),
    )


def _moving(pair: MetricPair, control: int, peers: NDArray[np.int64], tuned_for: float) -> Estimates:
    y, z = pair.y, pair.z
    t = np.maximum(y.eligible, 1).astype(np.float64)
    mean = z.score / t + z.origin
    ratio, sure = _quotient(y.score / t + y.origin, mean)
    sums, sure = _without(pair, ratio, sure & _is_sure(mean, np.sqrt(z.variation) / t))
    mean = np.where(sure, mean, 1.0)
    own = moving_shares(sums, Continuous, control, peers, tuned_for)
    scale = np.square(mean)
    usable = own.usable & sure & (sums.n >= MIN_OBSERVATIONS) & (own.arms.variance / t / scale > MIN_VARIANCE)
    arms = Sequence(t, t * ratio, own.arms.variance / scale, own.arms.tightest_at / scale)

    # Weighted: by arm the ratio over the decisions for which control had a share, too.
    w = np.where(y.pair_weight > MIN_WEIGHT, y.pair_weight, 1.0)
    arm_z, control_z = z.pair_score + z.pair_control_score + z.origin * w, z.pair_control_score + z.origin * w
    arm_ratio, arm_there = _quotient(y.pair_score + y.pair_control_score + y.origin * w, arm_z)
    control_ratio, control_there = _quotient(y.pair_control_score + y.origin * w, control_z)
    weighed = arm_there & control_there & (y.pair_weight > MIN_WEIGHT)
    compared = _with(z.total != 0.0, control) & weighed
    comparable = _with(usable, control) & compared
    arm_z, control_z = (np.where(comparable, each / w, 1.0) for each in (arm_z, control_z))
    v = sums.residual_variance(Continuous)
    with np.errstate(over="ignore", invalid="ignore"):
        arm_part = v / np.square(arm_z) * y.pair_inverse
        control_part = v[control] / np.square(control_z) * y.pair_control_inverse
        coefficients = _coefficients(pair, arm_ratio, arm_z, control_ratio, control_z)
        seen = _quadratic(pair.products.joint, np.where(comparable[:, None], coefficients, 0.0))
    comparable &= np.isfinite(arm_part + control_part + seen)
    spread = np.where(comparable, arm_part + control_part, 1.0)
    seen = np.where(comparable, np.maximum(spread, seen), 1.0)
    variance_of_one = 0.125 * (v / np.square(arm_z) + v[control] / np.square(control_z))
    tightest_at = np.where(comparable, tuned_for * variance_of_one, 1.0)
    differences = Sequence(w, w * (arm_ratio - control_ratio), seen, tightest_at)
    share = np.where(comparable, control_part / spread, 0.5)
    controls = Sequence(w, w * control_ratio, seen * share, tightest_at)
    control_variance = controls.variance_of_mean
    return Estimates(
        arms,
        differences,
        controls,
        control_variance,
        -control_variance,
        compared,
        usable,
        comparable,
        np.sign(mean) * own.skewness,
        skewness.tame(own.skewness),
    )


def _without(
    pair: MetricPair, ratio: Floats, sure: NDArray[np.bool_]
) -> tuple[AdjustedSums, NDArray[np.bool_]]:
    """Sums of y - ratio · z, and for which of the sure arms they are that; of the others they are those of y."""
    sums = pair.without(np.where(sure, ratio, 0.0), Continuous)
    kept = sure & np.logical_and.reduce([np.abs(getattr(sums, name)) <= MAX_SUM for name in LINEAR])
    if not (kept == sure).all():
        sums = pair.without(np.where(kept, ratio, 0.0), Continuous)
    return sums, kept


def _coefficients(
    pair: MetricPair, arm_ratio: Floats, arm_z: Floats, control_ratio: Floats, control_z: Floats
) -> Floats:
    """Coefficients, (K, 5), of 1 and of the four scores in a difference of ratios."""
    y, z = pair.y, pair.z
    ones = np.ones_like(arm_z)
    return np.stack(
        [
            (y.origin - arm_ratio * z.origin) / arm_z - (y.origin - control_ratio * z.origin) / control_z,
            ones / arm_z,
            -arm_ratio / arm_z,
            -ones / control_z,
            control_ratio / control_z,
        ],
        axis=1,
    )


def _quadratic(joint: Floats, coefficients: Floats) -> Floats:
    """Sum over i and j of c_i c_j times the products, (K,), from their upper triangle, (K, 15)."""
    i, j = UPPER
    twice = np.where(i == j, 1.0, 2.0)
    sums: Floats = (joint * twice * coefficients[:, i] * coefficients[:, j]).sum(axis=1)
    return np.maximum(sums, 0.0)


def _is_sure(mean: Floats, error: Floats) -> NDArray[np.bool_]:
    """True, bool (K,), for mean denominators that are far from 0."""
    sure: NDArray[np.bool_] = (np.abs(mean) > MIN_ERRORS * error) & (np.abs(mean) > MIN_DENOMINATOR)
    return sure


def _quotient(numerator: Floats, denominator: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Quotients, and where there are such, (K,) each; 0 elsewhere."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quotient = numerator / denominator
        there: NDArray[np.bool_] = (denominator != 0.0) & (np.abs(quotient) <= MAX_RATIO)
    return np.where(there, quotient, 0.0), there


def _with(has: NDArray[np.bool_], control: int) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = has & has[control]
    both[control] = False
    return both
