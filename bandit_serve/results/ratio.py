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
from bandit_serve.results.paired import MetricPair
from bandit_serve.results.sequence import Floats, Sequence, mean_sequence

MIN_ERRORS = 10.0
"""Standard errors that the mean denominator of an arm has to be from 0: nearer, a ratio is not linear in it."""
UPPER = np.triu_indices(5)


def variances(pair: MetricPair) -> Floats:
    """n times the variance of each arm's ratio, (K,), with n - 1; meaningless where the denominators sum to 0."""
    sums = pair.without(_divided(pair.y.total, pair.z.total), Continuous)
    return sums.sample_variance / np.square(_one_for_none(pair.z.mean))


def estimates(
    pair: MetricPair, control: int, peers: NDArray[np.int64], tuned_for: float, *, moving: bool
) -> Estimates:
    """Estimates of the arms' ratios and their differences to control, as those of a metric's means."""
    return _moving(pair, control, peers, tuned_for) if moving else _fixed(pair, control, tuned_for)


def _fixed(pair: MetricPair, control: int, tuned_for: float) -> Estimates:
    ratio, mean = _divided(pair.y.total, pair.z.total), _one_for_none(pair.z.mean)
    sums = pair.without(ratio, Continuous)
    n = np.maximum(sums.n, 1)
    variance = sums.cautious_variance(Continuous) / np.square(mean)
    error = np.sqrt(pair.z.sample_variance / n)
    usable = _usable(sums.n, variance, pair.z.mean, error)
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
        _with(pair.z.total != 0.0, control),
        usable,
        _with(usable, control),
        gamma,
        skewness.tame(gamma),
    )


def _moving(pair: MetricPair, control: int, peers: NDArray[np.int64], tuned_for: float) -> Estimates:
    y, z = pair.y, pair.z
    t = np.maximum(y.eligible, 1).astype(np.float64)
    mean = z.score / t + z.origin
    ratio = _divided(y.score / t + y.origin, mean)
    mean = _one_for_none(mean)
    sums = pair.without(ratio, Continuous)
    own = moving_shares(sums, Continuous, control, peers, tuned_for)
    scale = np.square(mean)
    error = np.sqrt(z.variation) / t
    usable = own.usable & _usable(sums.n, own.arms.variance / t / scale, mean, error)
    arms = Sequence(t, t * ratio, own.arms.variance / scale, own.arms.tightest_at / scale)

    # Weighted: by arm the ratio over the decisions for which control had a share, too.
    w = np.where(y.pair_weight > MIN_WEIGHT, y.pair_weight, 1.0)
    arm_z, control_z = z.pair_score + z.pair_control_score + z.origin * w, z.pair_control_score + z.origin * w
    arm_ratio = _divided(y.pair_score + y.pair_control_score + y.origin * w, arm_z)
    control_ratio = _divided(y.pair_control_score + y.origin * w, control_z)
    arm_z, control_z = _one_for_none(arm_z / w), _one_for_none(control_z / w)
    compared = _with(z.total != 0.0, control) & (y.pair_weight > MIN_WEIGHT)
    comparable = _with(usable, control) & compared
    v = sums.residual_variance(Continuous)
    arm_part = v / np.square(arm_z) * y.pair_inverse
    control_part = v[control] / np.square(control_z) * y.pair_control_inverse
    # Of each score's deviation from its ratio, in units of the ratio: coefficients of 1 and of the four scores.
    ones = np.ones_like(w)
    coefficients = np.stack(
        [
            (y.origin - arm_ratio * z.origin) / arm_z - (y.origin - control_ratio * z.origin) / control_z,
            ones / arm_z,
            -arm_ratio / arm_z,
            -ones / control_z,
            control_ratio / control_z,
        ],
        axis=1,
    )
    spread = np.where(comparable, arm_part + control_part, 1.0)
    seen = np.where(comparable, np.maximum(spread, _quadratic(pair.products.joint, coefficients)), 1.0)
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


def _quadratic(joint: Floats, coefficients: Floats) -> Floats:
    """Sum over i and j of c_i c_j times the products, (K,), from their upper triangle, (K, 15)."""
    i, j = UPPER
    twice = np.where(i == j, 1.0, 2.0)
    sums: Floats = (joint * twice * coefficients[:, i] * coefficients[:, j]).sum(axis=1)
    return np.maximum(sums, 0.0)


def _usable(n: NDArray[np.int64], variance: Floats, mean: Floats, error: Floats) -> NDArray[np.bool_]:
    usable: NDArray[np.bool_] = (n >= MIN_OBSERVATIONS) & (variance > MIN_VARIANCE)
    return usable & (np.abs(mean) > MIN_ERRORS * error)


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    return np.where(denominator != 0.0, numerator / _one_for_none(denominator), 0.0)


def _one_for_none(denominator: Floats) -> Floats:
    return np.where(denominator != 0.0, denominator, 1.0)


def _with(has: NDArray[np.bool_], control: int) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = has & has[control]
    both[control] = False
    return both
