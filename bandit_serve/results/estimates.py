"""What the sums of a fold say about one metric: every arm's mean, its difference to control, its lift.

Two methods. *Fixed split*, while everything analysed was drawn from one share vector: sample means and their
Welch-type variance. *Moving shares*: the mean of the AIPW scores, with the variance computed from the logged
shares, V(a, b) = v_a sum 1/e(a) + v_b sum 1/e(b): the running sample variance of the scores has not yet seen
a starved arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve._analysis import Accumulators
from bandit_serve.experiment import MetricKind
from bandit_serve.results.sequence import TUNED_FOR, Floats, Sequence, of_mean, relative_lift

FEWEST = 50
"""Observations of its own from which an arm has intervals and p-values: the sequences are asymptotic."""

PRIOR = 1_000.0

LEAST_VARIANCE, LARGEST_VARIANCE = 1e-190, 1e190
"""Between which variances, also that of a lift, is reckoned with: products of others have no digits or no end."""


@dataclass(frozen=True)
class Sums:
    """One metric's rows of the `Accumulators`, arrays [K]."""

    n: NDArray[np.int64]
    total: Floats
    m2: Floats
    eligible: NDArray[np.int64]
    score: Floats
    inverse: Floats
    pair_eligible: NDArray[np.int64]
    pair_score: Floats
    pair_inverse: Floats
    pair_control_inverse: Floats
    balance: Floats
    spread: Floats
    split: Floats
    analysed: int
    unfloored: int
    moved: bool

    @classmethod
    def of(cls, sums: Accumulators, metric: int) -> Sums:
        rows = sums.of_metric(metric)
        return cls(
            **{name: rows[name] for name in (*sums.COUNTS, *sums.SUMS)},
            analysed=int(rows["analysed"]),
            unfloored=int(rows["unfloored"]),
            moved=bool(rows["moved"]),
        )

    @property
    def mean(self) -> Floats:
        return self.total / np.maximum(self.n, 1)

    @property
    def sample_variance(self) -> Floats:
        return self.m2 / np.maximum(self.n - 1, 1)

    def cautious_variance(self, kind: MetricKind) -> Floats:
        """Each arm's variance, moved up towards that of all arms by the weight of `PRIOR` observations.

        A starved arm's own variance is too small when poor first outcomes are what starved it: alone it
        rejects 6 % (Bernoulli), 9 % (lognormal) or 38 % (sparse counts) of true nulls at level .05, moved up
        at most 2 %. For values 0 and 1 it is m(1 - m), with m = (successes + 1)/(n + 2) for an arm and the
        plain mean over all; for others the sample variance and that within the arms.
        """
        if kind == "binary":
            m = (self.total + 1.0) / (self.n + 2.0)
            own = m * (1.0 - m)
            mean = float(self.total.sum()) / max(self.analysed, 1)
            pooled = mean * (1.0 - mean)
        else:
            own = self.sample_variance
            pooled = float(self.m2.sum()) / max(self.analysed - int(np.count_nonzero(self.n)), 1)
        return own + np.maximum(pooled - own, 0.0) * PRIOR / (self.n + PRIOR)


@dataclass(frozen=True)
class Estimates:
    """Arrays [K]. `compared`: the difference to control has a mean, `liftable`: so has the lift; `usable`:
    the arm has an interval, `comparable`: so have its difference and its lift. What is not so holds numbers
    without a meaning.
    """

    arms: Sequence
    differences: Sequence
    lifts: Sequence
    compared: NDArray[np.bool_]
    liftable: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    comparable: NDArray[np.bool_]


def fixed_split(sums: Sums, kind: MetricKind, control: int, tuned_for: float = TUNED_FOR) -> Estimates:
    """The two-sample sequences on sample means (arXiv 2103.06476v7, eq. 9, N = n_a + n_b).

    They are tightest at `tuned_for` observations of their arms.
    """
    own = sums.sample_variance
    variance = np.where(own > 0, own, sums.cautious_variance(kind))
    usable = (sums.n >= FEWEST) & (variance > LEAST_VARIANCE)
    compared = _with_control(sums.n > 0, control)
    n = np.maximum(sums.n, 1)
    of_mean_k = np.where(usable, variance, 1.0) / n
    pair = n + n[control]
    divisor, liftable = _divisor(sums.mean[control], compared)
    lift, lift_variance, liftable = _lift(sums.mean, of_mean_k, divisor, of_mean_k[control], liftable)
    return Estimates(
        of_mean(n, sums.mean, of_mean_k, tuned_for),
        of_mean(pair, sums.mean - sums.mean[control], of_mean_k + of_mean_k[control], tuned_for),
        of_mean(pair, lift, lift_variance, tuned_for),
        compared,
        liftable,
        usable,
        _with_control(usable, control),
    )


def moving_shares(
    sums: Sums, kind: MetricKind, control: int, peers: NDArray[np.int64], tuned_for: float = TUNED_FOR
) -> Estimates:
    """AIPW: the sequences over the decisions for which the arm (for a pair: both) had a share.

    A sequence is tightest where, under even shares, `tuned_for` observations of its arms would be in: a point
    that depends on the outcomes through the arms' variances only. `peers` i8[K] is the number of arms that are to
    be thought of for each.
    """
    k = peers.astype(np.float64)
    variance = sums.cautious_variance(kind)
    usable = (sums.n >= FEWEST) & (variance > LEAST_VARIANCE)
    compared = _with_control(sums.n > 0, control) & (sums.pair_eligible > 0)
    comparable = _with_control(usable, control) & compared
    v = np.where(usable, variance, 1.0)
    arms = Sequence(
        np.maximum(sums.eligible, 1).astype(np.float64),
        sums.score,
        np.where(usable, v * sums.inverse, 1.0),
        tuned_for * k * k * v,
    )
    t = np.maximum(sums.pair_eligible, 1).astype(np.float64)
    of_arm = np.where(comparable, v * sums.pair_inverse, 1.0)
    of_control = np.where(comparable, v[control] * sums.pair_control_inverse, 1.0)
    tightest_at = 0.5 * tuned_for * k * k
    differences = Sequence(t, sums.pair_score, of_arm + of_control, tightest_at * (v + v[control]))
    divisor, liftable = _divisor(arms.mean[control], compared)
    mean = divisor + differences.mean
    _, lift_unit, liftable = _lift(mean, v, divisor, v[control], liftable)
    lift, lift_variance, liftable = _lift(mean, of_arm, divisor, of_control, liftable)
    lifts = Sequence(t, t * lift, lift_variance, tightest_at * lift_unit)
    return Estimates(arms, differences, lifts, compared, liftable, usable, comparable)


def _with_control(has: NDArray[np.bool_], control: int) -> NDArray[np.bool_]:
    """Which arms have it together with control; control itself is not among them."""
    both: NDArray[np.bool_] = has & has[control]
    both[control] = False
    return both


def _lift(
    mean: Floats,
    variance: Floats,
    control_mean: float,
    control_variance: ArrayLike,
    liftable: NDArray[np.bool_],
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """`relative_lift`, and for which of the arms that are `liftable` it is a number that can be reckoned with."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lift, spread = relative_lift(mean, variance, control_mean, control_variance)
        known = liftable & (spread > LEAST_VARIANCE) & (spread < LARGEST_VARIANCE) & np.isfinite(lift)
    return np.where(known, lift, 0.0), np.where(known, spread, 1.0), known


def _divisor(control_mean: float, compared: NDArray[np.bool_]) -> tuple[float, NDArray[np.bool_]]:
    """What a lift is relative to, and for which arms there is one: a control mean of 0 has none."""
    if control_mean == 0.0:
        return 1.0, np.zeros_like(compared)
    return float(control_mean), compared
