"""Estimate of a policy's value, and the intervals around one."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct

from bandit_serve.results.sequence import Floats, mean_sequence

Interval = Literal["normal", "bootstrap", "bernstein", "anytime"]
INTERVALS: tuple[Interval, ...] = ("normal", "bootstrap", "bernstein", "anytime")
N_BOOTSTRAP = 2_000


class Estimate(Struct, frozen=True):
    """Mean reward that a policy would have had, its standard error, and its 1 - alpha interval.

    With one decision alone the standard error is infinite. interval: None where the estimator has none.
    """

    value: float
    standard_error: float
    interval: tuple[float, float] | None = None


class IntervalOptions(Struct, frozen=True, kw_only=True):
    """Options of an interval: its kind; the bootstrap's seed; Bernstein's `bound`, the largest weight x reward.

    Where the terms that were seen reach further, as those with a model may, their range is taken in its place. Terms
    that never varied say nothing of how they will: an `anytime` interval is without ends then.
    """

    kind: Interval = "normal"
    seed: int = 0
    bound: float | None = None
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in INTERVALS:
            raise ValueError(f"interval: expected one of {', '.join(INTERVALS)}, not {self.kind!r}")
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha: expected a number between 0 and 1, not {self.alpha}")
        if self.kind == "bernstein" and (
            self.bound is None or not (math.isfinite(self.bound) and self.bound > 0)
        ):
            raise ValueError(
                "bound: expected a positive number, the largest weight x reward, for Bernstein's interval"
            )

    def around(self, value: float, standard_error: float, terms: Floats) -> tuple[float, float]:
        """Interval of the mean `value` of n terms, float64 (n,)."""
        if not math.isfinite(standard_error):
            return -math.inf, math.inf
        if self.kind == "bootstrap":
            return self._bootstrap(terms)
        reach = float(terms.max() - terms.min()) if self.kind == "bernstein" else 0.0
        return self.around_mean(value, standard_error, len(terms), reach)

    def around_mean(self, value: float, standard_error: float, n: int, reach: float) -> tuple[float, float]:
        """Interval of the mean of n terms, of which the largest is `reach` above the least.

        Raises ValueError for the bootstrap, which draws terms.
        """
        if self.kind == "bootstrap":
            raise ValueError("interval: expected another than bootstrap, which needs the terms one by one")
        if not math.isfinite(standard_error):
            return -math.inf, math.inf
        half = self._half_width(value, standard_error, n, reach)
        return value - half, value + half

    def _half_width(self, value: float, standard_error: float, n: int, reach: float) -> float:
        if self.kind == "normal":
            return NormalDist().inv_cdf(1.0 - self.alpha / 2.0) * standard_error
        if self.kind == "bernstein":
            # Maurer & Pontil (2009), theorem 4, at alpha/2 for each side.
            assert self.bound is not None
            log_term = math.log(4.0 / self.alpha)
            widest = max(float(self.bound), reach)
            return standard_error * math.sqrt(2.0 * log_term) + 7.0 * widest * log_term / (3.0 * (n - 1))
        if standard_error == 0.0:
            return math.inf
        return float(mean_sequence(n, value, standard_error**2).half_width(self.alpha))

    def _bootstrap(self, terms: Floats) -> tuple[float, float]:
        """Percentiles of the means of drawn terms. RandomState's stream is the same in every version of NumPy."""
        random = np.random.RandomState(self.seed)
        means = [random.choice(terms, size=len(terms)).mean() for _ in range(N_BOOTSTRAP)]
        low, high = np.percentile(means, [50.0 * self.alpha, 100.0 - 50.0 * self.alpha])
        return float(low), float(high)


class Moments(NamedTuple):
    """Moments of n terms: their mean, their variance with n - 1, the least and the largest."""

    n: int
    mean: float
    variance: float
    least: float
    most: float

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.variance / self.n) if self.n > 1 else math.inf


def of_moments(moments: Moments, options: IntervalOptions) -> Estimate:
    """Estimate that is the mean of terms, as `of_terms`. Raises ValueError for the bootstrap."""
    interval = options.around_mean(moments.mean, moments.error, moments.n, moments.most - moments.least)
    return Estimate(value=moments.mean, standard_error=moments.error, interval=interval)


def of_terms(terms: Floats, options: IntervalOptions) -> Estimate:
    """Estimate that is the mean of n terms, float64 (n,)."""
    value, error = float(terms.mean()), error_of_mean(terms)
    return Estimate(value=value, standard_error=error, interval=options.around(value, error, terms))


def error_of_mean(terms: Floats) -> float:
    """Standard error of the mean of n terms, from their variance with n - 1."""
    n = len(terms)
    return float(terms.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
