"""Asymptotic confidence sequences: intervals and p-values that hold at every time at once.

Robbins' normal mixture (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, arXiv 2103.06476v7: eq. 9 the boundary,
eq. 155 the p-value, eq. 161 the tuning).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TUNED_FOR = 5_000.0
"""The number of observations at which a sequence is tightest, unless it is told another."""


def tuning(alpha: float) -> float:
    """Tuning at level `alpha`: rho squared times the variance at which a sequence is tightest (eq. 161)."""
    return -2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))


@dataclass(frozen=True)
class Sequence:
    """Sums of observations, any number of them side by side (arrays of one shape).

    observations: t > 0, their number, or the sum of their weights.
    total: S, their sum.
    variance: V > 0, the variance of S: t times that of one observation, if that is constant.
    tightest_at: the V at which the interval is tightest. It may not depend on how S turned out.
    """

    observations: Floats
    total: Floats
    variance: Floats
    tightest_at: Floats

    @property
    def mean(self) -> Floats:
        return self.total / self.observations

    @property
    def variance_of_mean(self) -> Floats:
        return self.variance / self.observations / self.observations

    def half_width(self, alpha: float) -> Floats:
        """Half the width of the 1 - alpha interval of the mean (eq. 9)."""
        rho2 = tuning(alpha) / self.tightest_at
        q = self.variance * rho2 + 1.0
        return np.sqrt(2.0 * q / rho2 * (0.5 * np.log(q) - math.log(alpha))) / self.observations

    def log_e_value(self, alpha: float) -> Floats:
        """Logarithm of the evidence against a mean of 0 (eq. 155), with the tuning for level `alpha`.

        It reaches ln(1/alpha) exactly when the 1 - alpha interval leaves 0 out.
        """
        rho2 = tuning(alpha) / self.tightest_at
        q = self.variance * rho2 + 1.0
        # Evidence without end is that, too.
        with np.errstate(over="ignore"):
            return rho2 * np.square(self.total) / (2.0 * q) - 0.5 * np.log(q)

    def one_sided_reach(self, alpha: float, parts: ArrayLike = 1) -> Floats:
        """Distance from the mean to the lower end of its one-sided interval at level 1 - alpha/parts (eq. 134).

        It is tuned for level `alpha`, whatever the `parts`.
        """
        rho2 = tuning(alpha) / self.tightest_at
        q = self.variance * rho2 + 1.0
        # Its exponential is sqrt(q) parts/(2 alpha), which may overflow.
        least = 0.5 * np.log(q) + np.log(parts) - math.log(2.0) - math.log(alpha)
        enough = np.logaddexp(0.0, least)
        reach: Floats = np.sqrt(2.0 * q / rho2 * enough) / self.observations
        return reach

    def log_e_above(self, alpha: float) -> Floats:
        """Logarithm of the evidence against a mean of 0 or less, with the tuning for level `alpha`; -inf for none.

        It reaches ln(parts/alpha) exactly when the lower end of the one-sided interval is above 0. It is at most that
        of the half-normal mixture, 2 exp(x) Phi(sqrt(2 x))/sqrt(q), as Phi(z) >= 1 - exp(-z^2/2)/2.
        """
        rho2 = tuning(alpha) / self.tightest_at
        q = self.variance * rho2 + 1.0
        with np.errstate(over="ignore", divide="ignore"):
            x = rho2 * np.square(np.maximum(self.total, 0.0)) / (2.0 * q)
            return math.log(2.0) + x + np.log(-np.expm1(-x)) - 0.5 * np.log(q)

    def leaves_out_zero(self, alpha: float) -> NDArray[np.bool_]:
        """True where the 1 - alpha interval of the mean leaves 0 out."""
        out: NDArray[np.bool_] = self.log_e_value(alpha) >= -math.log(alpha)
        return out


def mean_sequence(
    n: ArrayLike, mean: ArrayLike, variance: ArrayLike, tuned_for: float = TUNED_FOR
) -> Sequence:
    """Estimate from n observations, `variance` of the estimate (not of one observation)."""
    observations = np.asarray(n, np.float64)
    variance_of_one = observations * np.asarray(variance, np.float64)
    return Sequence(
        observations,
        observations * np.asarray(mean),
        observations * variance_of_one,
        tuned_for * variance_of_one,
    )


def p_value(log_e: ArrayLike) -> Floats:
    """Always-valid p-value of the largest e-value so far."""
    return np.minimum(1.0, np.exp(-np.maximum(np.asarray(log_e, np.float64), 0.0)))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's adjustment (1979) of p-values (k,); NaN counts as 1 among the others and stays NaN."""
    given = np.asarray(p_values, np.float64)
    filled = np.where(np.isnan(given), 1.0, given)
    order = np.argsort(filled, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(filled[order] * np.arange(len(filled), 0, -1)))
    adjusted = np.empty_like(filled)
    adjusted[order] = stepped
    return np.where(np.isnan(given), np.nan, adjusted)
