"""Estimates of one metric from the sums of a fold: every arm's mean, its difference to control, its lift.

Two methods. *Fixed split*, while everything analysed was drawn from one share vector: sample means and their
Welch-type variance. *Moving shares*: the mean of the AIPW scores, for a difference weighted by where both arms had
traffic. Its variance is computed from the logged shares, V(a, b) = v_a sum w^2/e(a) + v_b sum w^2/e(b), because the
running sample variance of the scores has not yet seen a starved arm; it is at least that sample variance, because
shares may depend on what moves the mean. Where scores are made around a model of the features (`outcome.pxd`; AIPW
with regression: Bibaut et al. 2021, Zhan et al. 2021), v is of the deviations from what that expected, and the
variation of the expected differences is added: V = v_a sum w^2/e(a) + v_b sum w^2/e(b) + sum w^2 (d_s - mean d)^2, with
d_s = mu_s(b) - mu_s(a).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.metrics import MetricKind
from bandit_serve.results import skewness
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results.fieller import Ratios, ratios
from bandit_serve.results.sequence import TUNED_FOR, Floats, Sequence, mean_sequence

MIN_OBSERVATIONS = 50
"""Observations of its own from which an arm has intervals and p-values: the sequences are asymptotic."""

PRIOR = 1_000.0

MIN_VARIANCE = 1e-190
"""Variances below this count as none: their products have no digits."""
MAX_LOST = 1e-3
"""Part of the squared deviations that numbers which left the sums may have taken with them: then nothing is said."""
MAX_APART = 1e4
"""Times an arm's mean that a number may be which left the sums of values that are all the same."""
MAX_UNSEEN = 1e-9
"""Sum of squares that may have gone unseen from values of which none is known to differ."""
MIN_WEIGHT = 1e-50
"""Sum of weights below which two arms are not compared: one of them is never drawn then."""


@dataclass(frozen=True)
class Sums:
    """One metric's rows of the `Accumulators`, arrays (K,); or those of any number of experiments side by side, arrays
    (K, R), and (R,) in place of numbers.
    """

    n: NDArray[np.int64]
    total: Floats
    shifted: Floats
    m2: Floats
    cube: Floats
    eligible: NDArray[np.int64]
    score: Floats
    square: Floats
    inverse: Floats
    pair_eligible: NDArray[np.int64]
    pair_weight: Floats
    pair_score: Floats
    pair_control_score: Floats
    pair_weight_square: Floats
    pair_square_score: Floats
    pair_square: Floats
    pair_inverse: Floats
    pair_control_inverse: Floats
    balance: Floats
    spread: Floats
    split: Floats
    residual: Floats
    residual_cube: Floats
    predicted: Floats
    predicted_square: Floats
    pair_predicted: Floats
    pair_predicted_square: Floats
    peak: Floats
    score_peak: Floats
    origin: float
    analysed: int
    unfloored: int
    unsquared: int
    modelled: int
    dated: int
    moved: bool
    contextual: bool

    @classmethod
    def of(cls, sums: Accumulators, metric: int) -> Sums:
        rows = sums.of_metric(metric)
        return cls(
            **{name: rows[name] for name in (*sums.COUNTS, *sums.SUMS)},
            analysed=int(rows["analysed"]),
            unfloored=int(rows["unfloored"]),
            unsquared=int(rows["unsquared"]),
            modelled=int(rows["modelled"]),
            dated=int(rows["dated"]),
            origin=float(rows["origin"]),
            moved=bool(rows["moved"]),
            contextual=sums.contextual,
        )

    @classmethod
    def of_rows(cls, sums: Accumulators, rows: NDArray[np.int64]) -> Sums:
        """Sums of several metrics side by side, of rows int64 (R,)."""
        columns = sums.of_metrics(rows)
        numbers = ("analysed", "unfloored", "unsquared", "modelled", "dated", "origin")
        side_by_side: dict[str, Any] = {name: columns[name].T for name in (*sums.COUNTS, *sums.SUMS)}
        side_by_side |= {name: columns[name] for name in numbers} | {"moved": columns["moved"] > 0}
        return cls(**side_by_side, contextual=sums.contextual)

    @property
    def mean(self) -> Floats:
        return self.total / np.maximum(self.n, 1)

    @property
    def shifted_mean(self) -> Floats:
        """Means without `origin`, (K,): differences are made from them, so that they keep their digits."""
        return self.shifted / np.maximum(self.n, 1)

    @property
    def expected(self) -> NDArray[np.bool_]:
        """True, bool () or (R,), where values deviate from what a model or a mean of their time expected."""
        return np.asarray(self.modelled + self.dated) > 0

    def lost(self, kind: type[MetricKind], moving: bool) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose digits went with numbers that were corrected or taken back.

        A sum that held a number x has lost what is below half a unit in its last place with each number that was added
        meanwhile. Values 0 and 1 are summed without rounding.
        """
        if kind.two_valued:
            return np.zeros(self.n.shape, bool)
        lost = self._taken_along(self.analysed, self.peak, self.m2)
        if moving:
            lost |= self._taken_along(self.eligible, self.score_peak, self.variation)
        return lost

    def _taken_along(self, n: ArrayLike, peak: Floats, squares: Floats) -> NDArray[np.bool_]:
        """True where numbers of size `peak` took digits from `squares` that matter.

        Where the squares are no more than rounding, as of values that are all the same, those of about the values' own
        size took nothing that other sums keep.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            gone = np.finfo(np.float64).eps * np.maximum(n, 1) * np.square(peak)
            alike = (squares <= gone) & ((peak <= MAX_APART * np.abs(self.mean)) | (gone <= MAX_UNSEEN))
            taken: NDArray[np.bool_] = (peak > 0.0) & ~(gone <= MAX_LOST * squares) & ~alike
        return taken

    @property
    def successes(self) -> Floats:
        """Number of 1s of each arm, (K,), for values 0 and 1: from 0 to n.

        A log may correct values that it never had, after which their sum may be below 0 or above n.
        """
        return np.clip(self.total, 0.0, self.n)

    @property
    def cautious_rate(self) -> Floats:
        """(successes + 1)/(n + 2) of each arm, (K,), for values 0 and 1."""
        return (self.successes + 1.0) / (self.n + 2.0)

    @property
    def sample_variance(self) -> Floats:
        return self.m2 / np.maximum(self.n - 1, 1)

    @property
    def skewness(self) -> Floats:
        """Skewness of each arm's values, (K,), moved up towards that within all arms as the variance is.

        Values that have not shown their tail yet have no skewness of their own.
        """
        mean = self.shifted_mean
        with np.errstate(over="ignore", invalid="ignore"):
            third = self.cube - 3.0 * mean * self.m2 - self.n * mean**3
        return self._moved_up(third, self.m2)

    @property
    def residual_skewness(self) -> Floats:
        """Skewness of the deviations from what was expected; `skewness` where that was a running mean."""
        skewness_of_residuals = self._moved_up(self.residual_cube, np.maximum(self.residual, 0.0))
        return np.where(self.expected, skewness_of_residuals, self.skewness)

    def _moved_up(self, third: Floats, second: Floats) -> Floats:
        """Skewness from the sums of cubed and squared deviations, (K,), moved up towards that within all arms.

        Sums of cubes that are too large for a number leave an arm as skewed as can be.
        """
        n = np.maximum(self.n, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            # Beyond the power of the squares' sum it is what was rounded beside a large mean.
            most = second**1.5
            third = np.clip(np.where(np.isnan(third), most, third), -most, most)
            own = _skewness(third, second, n)
            pooled = _skewness(third.sum(axis=0), second.sum(axis=0), np.maximum(self.n.sum(axis=0), 1))
        larger = np.abs(pooled) > np.abs(own)
        return own + np.where(larger, (pooled - own) * PRIOR / (self.n + PRIOR), 0.0)

    @property
    def variation(self) -> Floats:
        """Sum of the squared deviations of the scores from their mean."""
        return np.maximum(self.square - np.square(self.score) / np.maximum(self.eligible, 1), 0.0)

    def pair_variation(self, estimate: Floats) -> Floats:
        """Sum of w^2 (d - estimate)^2."""
        moved = np.square(estimate) * self.pair_weight_square - 2.0 * estimate * self.pair_square_score
        return np.maximum(self.pair_square + moved, 0.0)

    @property
    def predicted_variation(self) -> Floats:
        """Sum of the squared deviations of what each arm was expected to bring, 0 where that was a running mean."""
        spread = self.predicted_square - np.square(self.predicted) / np.maximum(self.eligible, 1)
        return np.where(self.expected, np.maximum(spread, 0.0), 0.0)

    @property
    def pair_predicted_variation(self) -> Floats:
        """Sum of w^2 times the squared deviations of the expected differences, as above."""
        weight = np.where(self.pair_weight_square > 0.0, self.pair_weight_square, 1.0)
        spread = self.pair_predicted_square - np.square(self.pair_predicted) / weight
        return np.where(self.expected, np.maximum(spread, 0.0), 0.0)

    def residual_variance(self, kind: type[MetricKind]) -> Floats:
        """Variance of the deviations from what was expected; `cautious_variance` where that was a running mean.

        To the squared deviations of values 0 and 1 is added what one success and one failure more add to those from
        their mean: an arm without a success, which a model predicts well, varies all the same.
        """
        n = np.maximum(self.n, 1)
        # What late rewards change is rounded, and their centres are not known any more.
        residual = np.maximum(self.residual, 0.0)
        if kind.two_valued:
            m, mean = self.cautious_rate, self.total / n
            added = (self.n + 2.0) * m * (1.0 - m) - self.n * mean * (1.0 - mean)
            own = (residual + added) / (self.n + 2.0)
        else:
            own = residual / np.maximum(self.n - 1, 1)
        pooled = residual.sum(axis=0) / np.maximum(self.analysed - 1, 1)
        cautious = moved_up(own, pooled, self.n)
        return np.where(self.expected, cautious, self.cautious_variance(kind))

    def cautious_variance(self, kind: type[MetricKind]) -> Floats:
        """Each arm's variance, moved up towards that of all arms by the weight of `PRIOR` observations.

        A starved arm's own variance is too small when poor first outcomes are what starved it, and that of an arm of
        a small share is as badly known: alone it rejects 16 % (Bernoulli) to 67 % (revenue) of true families of
        80/5/5/5/5 at level .05, moved up at most 2 %. For values 0 and 1 it is m(1 - m), with
        m = (successes + 1)/(n + 2) for an arm and the plain mean over all; for others the sample variance and that
        within the arms.
        """
        if kind.two_valued:
            m = self.cautious_rate
            own = m * (1.0 - m)
            mean = self.total.sum(axis=0) / np.maximum(self.analysed, 1)
            pooled = mean * (1.0 - mean)
        else:
            own = self.sample_variance
            pooled = self.m2.sum(axis=0) / np.maximum(self.analysed - np.count_nonzero(self.n, axis=0), 1)
        return moved_up(own, pooled, self.n)


def moved_up(own: Floats, pooled: Floats, n: NDArray[np.int64]) -> Floats:
    """Variances `own` of n observations each, moved up towards `pooled` by the weight of `PRIOR` observations.

    A variance that left the numbers stays infinite.
    """
    above = np.subtract(pooled, own, out=np.zeros_like(own), where=np.less(own, pooled))
    return np.asarray(own + above * PRIOR / (n + PRIOR))


@dataclass(frozen=True)
class Estimates:
    """Arrays of the shape of the sums'. `controls`: control's mean over the decisions of each difference, with the same
    weights; its variance is control's part of that of the difference. `control_variance` and `covariance` are those of
    a mean of control's, and of that with the difference's. `compared`: the difference to control has a mean; `usable`:
    the arm's mean has a variance, and, with `tame`, an interval; `comparable`: so has its difference. What is not so
    holds numbers without a meaning. `skewness` is that of the arms' means.
    """

    arms: Sequence
    differences: Sequence
    controls: Sequence
    control_variance: Floats
    covariance: Floats
    compared: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    comparable: NDArray[np.bool_]
    skewness: Floats
    tame: NDArray[np.bool_]

    def reach(self, alpha: float) -> tuple[Floats, Floats]:
        """Distances from the arms' means to the lower and the upper ends of their intervals, (K,) each."""
        return skewness.reach(self.arms, self.skewness, alpha)

    def liftable(
        self, lifts: Ratios, lost: NDArray[np.bool_], control: int, least: float
    ) -> NDArray[np.bool_]:
        """True for arms with a lift: control is not 0, and the estimates are values that the metric can have.

        `least` is the least that its mean may be, `lost` as `Sums.lost`.
        """
        known: NDArray[np.bool_] = self.compared & lifts.known & ~(lost | lost[control])
        if least >= 0.0:
            mean = self.controls.mean
            known &= (mean > 0.0) & (mean + self.differences.mean >= 0.0)
        return known

    def lifts(self, alpha: float) -> Ratios:
        """Differences relative to control, with intervals that hold like those of the differences."""
        variance = self.differences.variance_of_mean
        with np.errstate(over="ignore"):
            squared_threshold = np.square(self.differences.half_width(alpha) / np.sqrt(variance))
        return ratios(
            self.differences.mean,
            self.controls.mean,
            variance,
            self.control_variance,
            self.covariance,
            squared_threshold,
        )


def fixed_split(sums: Sums, kind: type[MetricKind], control: int, tuned_for: float = TUNED_FOR) -> Estimates:
    """Two-sample sequences on sample means (arXiv 2103.06476v7, eq. 9, N = n_a + n_b).

    They are tightest at `tuned_for` observations of their arms.
    """
    variance = sums.cautious_variance(kind)
    usable = (sums.n >= MIN_OBSERVATIONS) & (variance > MIN_VARIANCE)
    compared = _with_control(sums.n > 0, control)
    n = np.maximum(sums.n, 1)
    variance_of_mean = np.where(usable, variance, 1.0) / n
    pair = n + n[control]
    gamma = _skewness_of_mean(sums, sums.skewness, kind, n)
    control_variance = np.broadcast_to(variance_of_mean[control], n.shape)
    return Estimates(
        mean_sequence(n, sums.mean, variance_of_mean, tuned_for),
        mean_sequence(
            pair,
            sums.shifted_mean - sums.shifted_mean[control],
            variance_of_mean + control_variance,
            tuned_for,
        ),
        mean_sequence(pair, np.broadcast_to(sums.mean[control], n.shape), control_variance, tuned_for),
        control_variance,
        -control_variance,
        compared,
        usable,
        _with_control(usable, control),
        gamma,
        _tame(gamma, kind),
    )


def moving_shares(
    sums: Sums, kind: type[MetricKind], control: int, peers: NDArray[np.int64], tuned_for: float = TUNED_FOR
) -> Estimates:
    """AIPW: the sequences over the decisions for which the arm (for a pair: both) had a share.

    A difference is the mean of those of the scores, weighted by w: by where both arms had traffic. `observations` of
    its sequence are the sum of w. A sequence is tightest where, under even shares, `tuned_for` observations of its arms
    would be in: a point that depends on the outcomes through the arms' variances only.

    peers: int64 (K,), the number of arms that each arm's sequence is tuned for.
    """
    k = peers.astype(np.float64).reshape(-1, *(1,) * (sums.n.ndim - 1))
    variance = sums.residual_variance(kind)
    usable = (sums.n >= MIN_OBSERVATIONS) & (variance > MIN_VARIANCE) & (sums.eligible > 0)
    compared = _with_control(sums.n > 0, control) & (sums.pair_weight > MIN_WEIGHT)
    comparable = _with_control(usable, control) & compared
    v = np.where(usable, variance, 1.0)
    t = np.maximum(sums.eligible, 1).astype(np.float64)
    expected = sums.predicted_variation
    arms = Sequence(
        t,
        sums.score + t * sums.origin,
        np.where(usable, np.maximum(v * sums.inverse + expected, sums.variation), 1.0),
        tuned_for * k * (k * v + expected / t),
    )
    w = np.where(compared, sums.pair_weight, 1.0)
    estimate = sums.pair_score / w
    arm_spread = np.where(comparable, v * sums.pair_inverse, 1.0)
    control_spread = np.where(comparable, v[control] * sums.pair_control_inverse, 1.0)
    spread = arm_spread + control_spread
    expected = sums.pair_predicted_variation
    seen = np.where(comparable, np.maximum(spread + expected, sums.pair_variation(estimate)), spread)
    # Under even shares, `tuned_for` observations of a pair have w = 1/4 each whatever the number of arms.
    variance_of_one = 0.125 * (v + v[control]) + 0.5 * k * expected / np.maximum(sums.pair_eligible, 1)
    differences = Sequence(w, sums.pair_score, seen, tuned_for * variance_of_one)
    control_part = seen * (control_spread / spread)
    controls = Sequence(w, sums.pair_control_score + w * sums.origin, control_part, differences.tightest_at)
    control_variance = controls.variance_of_mean
    covariance = -control_variance
    if sums.contextual:
        # What moves the mean moves the scores of both arms; their weights are even, so that the three variances tell.
        control_variance = np.broadcast_to(arms.variance_of_mean[control], w.shape)
        covariance = 0.5 * (arms.variance_of_mean - control_variance - differences.variance_of_mean)
    shared = np.square(t) / np.maximum(sums.inverse, 1.0)
    gamma = _skewness_of_mean(sums, sums.residual_skewness, kind, np.minimum(np.maximum(sums.n, 1), shared))
    return Estimates(
        arms,
        differences,
        controls,
        control_variance,
        covariance,
        compared,
        usable,
        comparable,
        gamma,
        _tame(gamma, kind),
    )


def _skewness(third: Floats, second: Floats, n: NDArray[np.int64]) -> Floats:
    """Skewness from the sums of cubed and squared deviations; 0 where nothing varies.

    Where they are too large for that it is the most that n values can have.
    """
    varied = second > n * MIN_VARIANCE
    skewness_of_one = third / n / np.where(varied, second / n, 1.0) ** 1.5
    there = np.isfinite(third) & np.isfinite(skewness_of_one)
    return np.where(varied, np.where(there, skewness_of_one, np.sqrt(n)), 0.0)


def _skewness_of_mean(sums: Sums, skewness_of_one: Floats, kind: type[MetricKind], n: Floats) -> Floats:
    """Skewness of means of `n` observations, of which each has `skewness_of_one`.

    For values 0 and 1 it follows from the cautious m, as the variance does.
    """
    if kind.two_valued:
        m = sums.cautious_rate
        return (1.0 - 2.0 * m) / np.sqrt(m * (1.0 - m) * n)
    return skewness_of_one / np.sqrt(n)


def _tame(gamma: Floats, kind: type[MetricKind]) -> NDArray[np.bool_]:
    """True, bool (K,), where the mean is not too skewed for an interval.

    For values 0 and 1 the cautious m has no tail to miss.
    """
    return skewness.tame(gamma) | kind.two_valued


def _with_control(has: NDArray[np.bool_], control: int) -> NDArray[np.bool_]:
    """True, bool (K,), for the other arms where both the arm and control are True in `has`."""
    both: NDArray[np.bool_] = has & has[control]
    both[control] = False
    return both
