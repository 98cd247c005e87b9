"""Sums of y - t z, from those of a metric's values y, of their companions z and of the products of both.

CUPED (Deng, Xu, Kohavi, Walker 2013): with z known before the decision, y - t (z - mean z) has the mean of y, and the
least variance for t = cov(y, z)/var(z), over all arms together. All that an estimate is made of is linear, quadratic or
cubic in the values, scores too: so the sums of y - t z follow exactly, and the sequences are those of any metric.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from bandit_serve.metrics import Continuous, MetricKind
from bandit_serve.results._pairs import PairSums
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moved_up, moving_shares
from bandit_serve.results.sequence import Floats, Sequence


@dataclass(frozen=True)
class Products:
    """Sums of products of one pair, arrays (K,), as `PairSums` has them; `joint` (K, 15)."""

    co_moment: Floats
    yyz: Floats
    yzz: Floats
    residual_product: Floats
    residual_yyz: Floats
    residual_yzz: Floats
    score_product: Floats
    predicted_product: Floats
    pair_product: Floats
    pair_predicted_product: Floats
    joint: Floats


@dataclass(frozen=True)
class MetricPair:
    """A metric's values y, their companions z, and the sums of their products."""

    y: Sums
    z: Sums
    products: Products

    @classmethod
    def of(cls, y: Sums, pairs: PairSums, index: int) -> MetricPair:
        return cls(y, Sums.of(pairs.companions, index), Products(**pairs.of_pair(index)))

    @property
    def mean_companion(self) -> float:
        return float(self.z.total.sum() / max(self.z.analysed, 1))

    def theta(self) -> float:
        """Cov(y, z)/var(z) over all that is analysed; 0 where z does not vary."""
        n = np.maximum(self.y.n, 1)
        y, z = self.y.shifted / n, self.z.shifted / n
        total = max(int(self.y.n.sum()), 1)
        off_y, off_z = y - self.y.shifted.sum() / total, z - self.z.shifted.sum() / total
        covariance = float(self.products.co_moment.sum() + (self.y.n * off_y * off_z).sum())
        variance = float(self.z.m2.sum() + (self.y.n * off_z * off_z).sum())
        theta = covariance / variance if variance > 0.0 else 0.0
        return theta if np.isfinite(theta) else 0.0

    def without(self, theta: Floats | float, kind: type[MetricKind]) -> AdjustedSums:
        """Sums of y - theta z; theta: a number, or one for each arm, (K,). `kind` is that of y.

        What leaves the numbers is infinite, or not a number.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._without(np.asarray(theta, np.float64), kind)

    def _without(self, t: Floats, kind: type[MetricKind]) -> AdjustedSums:
        y, z, products = self.y, self.z, self.products

        def squared(name: str, product: Floats) -> Floats:
            return np.asarray(getattr(y, name) - 2.0 * t * product + t * t * getattr(z, name))

        def cubed(name: str, yyz: Floats, yzz: Floats) -> Floats:
            moved = -3.0 * t * yyz + 3.0 * t * t * yzz - t * t * t * getattr(z, name)
            return np.asarray(getattr(y, name) + moved)

        linear = {name: np.asarray(getattr(y, name) - t * getattr(z, name)) for name in LINEAR}
        added: Floats = np.zeros(y.n.shape)
        if kind.two_valued:
            m, mean = y.cautious_rate, y.mean
            added = (y.n + 2.0) * m * (1.0 - m) - y.n * mean * (1.0 - mean)
        changed = linear | {
            "m2": np.maximum(squared("m2", products.co_moment), 0.0),
            "cube": cubed("cube", products.yyz, products.yzz),
            "square": squared("square", products.score_product),
            "pair_square": squared("pair_square", products.pair_product),
            "residual": squared("residual", products.residual_product),
            "residual_cube": cubed("residual_cube", products.residual_yyz, products.residual_yzz),
            "predicted_square": squared("predicted_square", products.predicted_product),
            "pair_predicted_square": squared("pair_predicted_square", products.pair_predicted_product),
            "peak": y.peak + np.abs(t) * z.peak,
            "score_peak": y.score_peak + np.abs(t) * z.score_peak,
        }
        kept = {each.name: getattr(y, each.name) for each in fields(Sums)}
        return AdjustedSums(**(kept | changed), added=added)


LINEAR = (
    "total",
    "shifted",
    "score",
    "pair_score",
    "pair_control_score",
    "pair_square_score",
    "predicted",
    "pair_predicted",
    "origin",
)
"""Sums that are linear in the values."""


@dataclass(frozen=True)
class AdjustedSums(Sums):
    """Sums of y - t z. `added` (K,): squared deviations that one success and one failure more add to those of values
    0 and 1, else 0: an arm without a success varies all the same.
    """

    added: Floats

    def residual_variance(self, kind: type[MetricKind]) -> Floats:
        own = self._moved_up_variance(np.maximum(self.residual, 0.0), self.analysed - 1)
        return np.where(self.expected, own, self.cautious_variance(kind))

    def cautious_variance(self, kind: type[MetricKind]) -> Floats:
        return self._moved_up_variance(self.m2, self.analysed - np.count_nonzero(self.n, axis=0))

    def _moved_up_variance(self, squares: Floats, degrees: int) -> Floats:
        freedom = np.where(self.added > 0.0, self.n + 2, np.maximum(self.n - 1, 1))
        own = (squares + self.added) / freedom
        pooled = squares.sum(axis=0) / max(int(degrees), 1)
        return moved_up(own, pooled, self.n)


@dataclass(frozen=True)
class Adjusted:
    """Estimates of one metric by CUPED, with the factor `theta` of the covariate."""

    theta: float
    sums: AdjustedSums
    estimates: Estimates

    @classmethod
    def of(
        cls,
        pair: MetricPair,
        kind: type[MetricKind],
        control: int,
        peers: np.ndarray[tuple[int], np.dtype[np.int64]],
        tuned_for: float,
        *,
        moving: bool,
    ) -> Adjusted:
        """Estimates from sample means, or from scores where shares have moved (`moving`)."""
        theta = pair.theta()
        sums = pair.without(theta, kind)
        estimates = (
            moving_shares(sums, Continuous, control, peers, tuned_for)
            if moving
            else fixed_split(sums, Continuous, control, tuned_for)
        )
        return cls(theta, sums, estimates)

    def arms(self, pair: MetricPair) -> Sequence:
        """Sequence of the arms' means of y - theta (z - mean z). That mean z is known from the sample, too."""
        arms, n = self.estimates.arms, max(pair.z.analysed, 1)
        own = np.maximum(pair.z.n - 1, 1)
        variance = pair.z.sample_variance
        tied = pair.products.co_moment / own - self.theta * variance
        added = (self.theta**2 * variance + np.maximum(2.0 * self.theta * tied, 0.0)) / n
        return Sequence(
            arms.observations,
            arms.total + arms.observations * self.theta * pair.mean_companion,
            arms.variance + np.square(arms.observations) * added,
            arms.tightest_at,
        )
