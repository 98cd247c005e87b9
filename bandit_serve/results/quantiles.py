"""Quantiles of the arms' values and of their differences to control, with intervals that hold at every time.

Howard & Ramdas 2022 (Bernoulli 28(3), "Sequential estimation of quantiles with applications to A/B testing and best-arm
identification"): for the true quantile the number of values up to it is Binomial, whatever their law, and a mixture
over its chance is a martingale (`histograms.pyx`). The product of two arms' martingales is one, too. So the interval of
an arm is where its own is below 1/alpha; that of a difference, all differences of two places of which the product is;
and the least product over common places is an e-value against there being no difference.

An arm's values may come in any share of the traffic that depends on earlier values only: the martingale moves when the
arm's next value comes. It supposes that the law of an arm's values does not depend on when they come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results._histograms import Histograms, log_wealth
from bandit_serve.results.sequence import TUNED_FOR, Floats, tuning

Interval = tuple[float, float]

MIN_PRIOR = 1.0


@dataclass(frozen=True)
class Quantiles:
    """Quantile `p` of K arms at level `alpha`, from B bins.

    low, high: float64 (B,), edges of the bins, ascending. counts: int64 (B, K), how many values of an arm are in each.
    wealth: float64 (B, K), logarithms of e-values against each arm's quantile being in the bin; beyond: float64 (2, K),
    against its being below all bins and above all.
    """

    p: float
    alpha: float
    control: int
    low: Floats
    high: Floats
    counts: NDArray[np.int64]
    wealth: Floats
    beyond: Floats

    @classmethod
    def of(
        cls,
        histograms: Histograms,
        metric: int,
        p: float,
        control: int,
        alpha: float,
        tuned_for: float = TUNED_FOR,
    ) -> Quantiles:
        """Quantiles of a metric, tightest at `tuned_for` observations of an arm and control together."""
        low, high, counts = histograms.of_metric(metric)
        prior = max(MIN_PRIOR, 0.5 * tuned_for / tuning(alpha) - 1.0)
        return cls(p, alpha, control, low, high, counts, *log_wealth(counts, p, prior))

    @cached_property
    def n(self) -> NDArray[np.int64]:
        """Numbers of values, (K,)."""
        n: NDArray[np.int64] = self.counts.sum(axis=0)
        return n

    @cached_property
    def values(self) -> Floats:
        """Sample quantiles, (K,), interpolated within their bins; NaN for an arm without values."""
        if len(self.low) == 0:
            return np.full(self.counts.shape[1], np.nan)
        up_to = np.cumsum(self.counts, axis=0)
        wanted = np.minimum(self.p * self.n, self.n - 1e-9 * self.n)
        at = np.argmax(up_to > wanted, axis=0)
        here = np.take_along_axis(self.counts, at[None], axis=0)[0]
        before = np.take_along_axis(up_to, at[None], axis=0)[0] - here
        part = (wanted - before) / np.maximum(here, 1)
        values: Floats = self.low[at] + part * (self.high[at] - self.low[at])
        return np.where(self.n > 0, values, np.nan)

    @property
    def differences(self) -> Floats:
        """Differences to control, (K,)."""
        differences: Floats = self.values - self.values[self.control]
        return differences

    @property
    def threshold(self) -> float:
        """Logarithm of the e-value from which a place is left out."""
        return -math.log(self.alpha)

    def interval(self, arm: int) -> Interval | None:
        """Interval of an arm's quantile; None while it has no two ends."""
        inside = np.flatnonzero(self.wealth[:, arm] < self.threshold)
        if len(inside) == 0 or (self.beyond[:, arm] < self.threshold).any():
            return None
        return float(self.low[inside[0]]), float(self.high[inside[-1]])

    def comparable(self) -> NDArray[np.bool_]:
        """True, bool (K,), for the other arms of which there are values, as of control."""
        there: NDArray[np.bool_] = (self.n > 0) & (self.n[self.control] > 0)
        there[self.control] = False
        return there

    def log_e_values(self) -> Floats:
        """Logarithms of the evidence against each arm's quantile being that of control, (K,)."""
        if len(self.low) == 0:
            return np.zeros(self.counts.shape[1])
        least: Floats = (self.wealth + self.wealth[:, [self.control]]).min(axis=0)
        return np.where(self.comparable(), least, 0.0)

    def directed(self) -> tuple[Floats, Floats]:
        """Present logarithms of e-values above and below control, (K,), as `evidence.directed`."""
        log_e, differences = self.log_e_values(), self.differences
        return np.where(differences > 0, log_e, 0.0), np.where(differences < 0, log_e, 0.0)

    def difference_interval(self, arm: int) -> Interval | None:
        """Interval of the difference to control; None while it has no two ends."""
        if not self._has_ends(arm):
            return None
        first, last = self._partners(arm)
        there = first < len(self.low)
        lows, highs = self.low[first[there]] - self.high[there], self.high[last[there]] - self.low[there]
        return (float(lows.min()), float(highs.max())) if there.any() else None

    def lift_interval(self, arm: int) -> Interval | None:
        """Interval of the difference relative to control; None where a quantile may be 0 or less, or next to 0."""
        if not self._has_ends(arm):
            return None
        first, last = self._partners(arm)
        there = first < len(self.low)
        if not there.any() or self.low[there].min() <= 0.0 or self.low[first[there]].min() <= 0.0:
            return None
        low = (self.low[first[there]] / self.high[there]).min() - 1.0
        with np.errstate(over="ignore"):
            high = (self.high[last[there]] / self.low[there]).max() - 1.0
        return (float(low), float(high)) if np.isfinite(high) else None

    def _has_ends(self, arm: int) -> bool:
        """Whether no place beyond the bins is possible, for the arm or for control."""
        if not self.comparable()[arm]:
            return False
        pair = [arm, self.control]
        least = self.wealth[:, pair].min(axis=0)
        return bool((self.beyond[:, pair] + least[::-1] >= self.threshold).all())

    def _partners(self, arm: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """For control's quantile in each bin, the first and last bins in which the arm's may be: (B,) each.

        Where it may be in none, the first is B.
        """
        left = self.threshold - self.wealth[:, self.control]
        own = self.wealth[:, arm]
        falling, rising = np.minimum.accumulate(own), np.minimum.accumulate(own[::-1])[::-1]
        # The first bin whose own value is less is that at which the least so far becomes less.
        first = np.searchsorted(-falling, -left, side="right")
        last = np.searchsorted(rising, left, side="left") - 1
        return first, last
