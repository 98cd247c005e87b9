"""Alarms when an arm's worth changes: noticed and reported. Nothing else follows from them.

For each arm, x_1, x_2, … in [0, 1] are watched. Against "their mean never changes" stands "it changed once, after x_m",
for candidates m, one for each look that there was. How much likelier that has become after n values, m of them before
and k = n − m behind, is

    Λ_m = sqrt(1 / (1 + h)) · exp(½ · h / (1 + h) · z²),    h = SHIFT² · m k / n

which is the ratio of Normal means of a known variance, the change being Normal(0, `SHIFT`² · variance) beforehand and
the mean before it whatever it is (Pérez-Ortiz et al. 2024, e-statistics and group invariance). z² is the deviance of
two means against one (quasi-likelihood: Wedderburn 1974) of a Poisson law, moved and stretched to have the mean, the
variance and the third central moment that the arm has shown: for values of which few are large it says better than a
difference how rare such a mean is, up or down. With s = third moment / variance, and u = s · (mean − mean of all) /
variance for the values before m and for those behind,

    ½ z² = Σ n · variance / s² · ((1 + u) ln(1 + u) − u),    or Σ n · (mean − mean of all)² / (2 variance) for s = 0

The moments have one observation more, of a Bernoulli sequence of that mean.

There is an alarm when

    R_n = Σ_m g_m Λ_m ≥ PASSED / LEVEL,    g_m = values from the candidate before to m

Each Λ_m is 1 on average while nothing changes, so R_n is at most n on average, and R_n − n never drifts up. So where
nothing changes, R_n comes to 1/`LEVEL` at most once in 1/`LEVEL` values of an arm on average, however often it is
looked at, and among its first N values with a probability of at most N · `LEVEL` (Shiryaev–Roberts; Shin, Ramdas and
Rinaldo 2023, e-detectors). With moments that are estimated, and three of them, and with `PASSED`, that is near, not
exact, for 0 and 1 as for others: benchmarks/README.md has what it comes to, by law. Of more than `CANDIDATES`, the one
that is missed the least goes, and its weight to the one before it: a change that was earlier is noticed no later, so
the promise stays. An alarm begins the arm's watch anew, with the same promise.

What is watched must come in an order that has nothing to do with its values. Where a missing reward is ignored,
rewards are watched as they come. Where it counts as zero, good news comes sooner than bad: what is watched is
whether decisions got a reward other than 0, in the order of the decisions, when their windows have closed.
Rewards without bounds are scaled by the arm's first `REFERENCE`: what lies `ROOM` standard deviations beyond the least
and the largest, but no farther from them than their median, becomes 0 and 1, or their mean ± `FARTHEST` where that is
nearer; the rest is cut off. Where these are all the same, more are waited for.

An arm's mean under a policy that goes by context is not watched: as the policy learns, others come to the arm, and
their mean changes though nothing else does.
"""

from __future__ import annotations

import numpy as np
from msgspec import UNSET, Struct, UnsetType, structs
from numpy.typing import NDArray

from bandit_serve.folds._changes import evidence, forget, watch

LEVEL = 1e-7
"""At most so many false alarms a value, on average: of 1,000 arms with 10,000 each, one has one."""
PASSED = 0.6
"""Part of 1/`LEVEL` that is enough. A look finds R_n past its mark by then, not at it: where all of it was asked for,
nine laws of benchmarks/README.md had .34 to .52 times as many false alarms as `LEVEL` says (100 arms of 100,000 values
each, at a level of 1e-5)."""
BLOCK = 16
SPACING = 1_024
"""Each look is a candidate from then on. After n observations of an arm, the next look is `BLOCK` of them later, or n /
`SPACING` where that is more: a change that took n to come is not noticed much later for it, and looks stay few."""
CANDIDATES = 128
SHIFT = 0.35
REFERENCE = 100
MAX_REFERENCE = 1_000
FARTHEST, ROOM = 4.0, 0.5
MAX_ALARMS = 100

Vector = NDArray[np.float64]


class Alarm(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Change of `arm`'s mean from `before` to `after`, soon after `since_ms`, noticed at `at_ms`; both in log time."""

    arm: int
    at_ms: int
    since_ms: int
    before: float
    after: float


class AlarmsState(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """State of `ChangeAlarms`, by arm. `count` is there where more alarms were raised than are kept.

    Former builds wrote no `m3`, or neither `m2` nor `m3`, and had `looks`, which this one does not need.
    """

    bounds: tuple[float, float] | None
    alarms: list[Alarm]
    n: list[int]
    total: list[float]
    m2: list[float] | None = None
    m3: list[float] | None = None
    low: list[float]
    width: list[float]
    first: list[list[float]]
    looks: list[int] | UnsetType = UNSET
    candidates: list[Vector]
    count: int | UnsetType = UNSET


_NO_ROWS = np.zeros((0, 4))


class _Candidates:
    """Candidates for the time of a change of an arm's mean, a row each: n, sum, weight, time."""

    def __init__(self, rows: NDArray[np.float64] | None = None) -> None:
        # Most experiments of many have none yet.
        self._rows = _NO_ROWS
        self._used = 0 if rows is None else len(rows)
        if rows is not None and self._used:
            self._rows = np.zeros((CANDIDATES + 1, 4))
            self._rows[: self._used] = rows

    @property
    def rows(self) -> NDArray[np.float64]:
        return self._rows[: self._used]

    def add(self, n: int, total: float, now_ms: int) -> None:
        if not len(self._rows):
            self._rows = np.zeros((CANDIDATES + 1, 4))
        last = float(self._rows[self._used - 1, 0]) if self._used else 0.0
        self._rows[self._used] = n, total, n - last, now_ms
        self._used += 1
        if self._used > CANDIDATES:
            forget(self.rows)
            self._used -= 1

    def change(self, n: int, total: float, variance: float, skew: float) -> tuple[int, float, float] | None:
        """Likeliest change if there is an alarm: its time, the mean before and the mean after; else None."""
        if not self._used or variance <= 0.0:
            return None
        likelihood, best = evidence(self.rows, n, total, variance, skew, SHIFT)
        if likelihood * LEVEL < PASSED:
            return None
        before, sums, _, time_ms = self.rows[best].tolist()
        return int(time_ms), sums / before, (total - sums) / (n - before)


def _binary(n: NDArray[np.int64], total: Vector) -> tuple[Vector, Vector]:
    """Sums of squared and cubed deviations from their mean, for n values that are 0 or 1."""
    m2: Vector = total * (n - total) / np.maximum(n, 1)
    m3: Vector = m2 * (1.0 - 2.0 * total / np.maximum(n, 1))
    return m2, m3


def _completed(state: AlarmsState) -> AlarmsState:
    """Adds to a state what builds with fewer moments did not write, and weights in place of the numbers of looks."""
    if state.m3 is not None:
        return state
    n, total = np.array(state.n, np.int64), np.array(state.total)
    m2, m3 = _binary(n, total)
    if state.m2 is not None:
        # As that build took them to be: of Bernoulli's shape, for their variance.
        shown = np.array(state.m2)
        m3 = m3 * (shown / np.where(m2 > 0.0, m2, 1.0)) ** 2
        m2 = shown
    # Its candidates were no closer together than that.
    candidates = [rows.reshape(-1, 4) for rows in state.candidates]
    for rows in candidates:
        rows[:, 2] = BLOCK
    return structs.replace(state, m2=m2.tolist(), m3=m3.tolist(), candidates=candidates)


def _next_look(n: int) -> int:
    """Number of observations at the look that follows the one at `n`."""
    return n + max(BLOCK, n // SPACING)


class ChangeAlarms:
    """Watches of K arms, and their last `MAX_ALARMS` alarms, oldest first, of `count` in all. A fold, by log time.

    bounds: lower and upper bound of values, or None.
    """

    def __init__(self, n_arms: int, bounds: tuple[float, float] | None) -> None:
        self._bounds = bounds
        self.alarms: list[Alarm] = []
        self.count = 0
        self._n = np.zeros(n_arms, np.int64)
        self._total = np.zeros(n_arms)
        self._m2, self._m3 = np.zeros(n_arms), np.zeros(n_arms)
        # What of a value is 0, and how much more is 1; NaN while it is not known.
        low, high = (np.nan, np.nan) if bounds is None else bounds
        self._low, self._width = np.full(n_arms, low), np.full(n_arms, high - low)
        self._first: list[list[float]] = [[] for _ in range(n_arms)]
        self._candidates = [_Candidates() for _ in range(n_arms)]
        # Of each arm, when it has its next look.
        self._next = np.full(n_arms, BLOCK, np.int64)

    def _begin(self, arm: int) -> None:
        self._n[arm], self._total[arm], self._m2[arm], self._m3[arm] = 0, 0.0, 0.0, 0.0
        self._next[arm] = BLOCK
        self._candidates[arm] = _Candidates()
        if self._bounds is not None:
            self._low[arm], self._width[arm] = self._bounds[0], self._bounds[1] - self._bounds[0]
        else:
            self._low[arm] = self._width[arm] = np.nan

    def rewarded(self, arms: NDArray[np.intp], values: Vector, now_ms: int) -> None:
        """Watches rewards, (n,), of `arms`, (n,), in the order of the log."""
        if self._bounds is None:
            unknown = np.isnan(self._low[arms])
            for arm, value in zip(arms[unknown].tolist(), values[unknown].tolist(), strict=True):
                self._first[arm].append(value)
            for arm in set(arms[unknown].tolist()):
                self._set_scale(arm)
            arms, values = arms[~unknown], values[~unknown]
        counts = self._n, self._total, self._m2, self._m3
        if watch(arms, values, self._low, self._width, *counts, self._next):
            self._look(now_ms)

    def closed(self, decisions: NDArray[np.int64], conversions: NDArray[np.int64], now_ms: int) -> None:
        """Watches closed decisions: their numbers by arm, (K,), and those with a reward, `conversions`, (K,)."""
        self._n += decisions
        self._total += conversions
        self._m2, self._m3 = _binary(self._n, self._total)
        self._look(now_ms)

    def _set_scale(self, arm: int) -> None:
        first = self._first[arm]
        if len(first) < REFERENCE or (min(first) == max(first) and len(first) < MAX_REFERENCE):
            return
        mean = sum(first) / len(first)
        variance = sum((value - mean) ** 2 for value in first) / len(first)
        least = 1e-9 * (abs(mean) or 1.0)
        deviation = variance**0.5
        half, room = max(FARTHEST * deviation, least), ROOM * deviation
        # None where most are the least or the largest that can be: how rare others are must not be lost.
        middle = sorted(first)[len(first) // 2]
        low = max(mean - half, min(first) - min(room, middle - min(first)))
        high = min(mean + half, max(first) + min(room, max(first) - middle))
        if low == high:
            # Whatever else comes is a change; of amounts that have all been 0 so far, to more.
            low, high = low - (least if low else 0.0), high + least
        self._low[arm], self._width[arm], self._first[arm] = low, high - low, []

    def _moments(self, arm: int) -> tuple[float, float]:
        """Variance of an arm's values, and their third central moment over it; 0 where all values are equal."""
        n, mean = float(self._n[arm]), float(self._total[arm] / self._n[arm])
        binary = mean * (1.0 - mean)
        variance = (float(self._m2[arm]) + binary) / (n + 1.0)
        if variance <= 0.0:
            return 0.0, 0.0
        return variance, (float(self._m3[arm]) + binary * (1.0 - 2.0 * mean)) / (n + 1.0) / variance

    def _look(self, now_ms: int) -> None:
        for arm in (self._n >= self._next).nonzero()[0].tolist():
            n, total, candidates = int(self._n[arm]), float(self._total[arm]), self._candidates[arm]
            change = candidates.change(n, total, *self._moments(arm))
            if change is None:
                candidates.add(n, total, now_ms)
                self._next[arm] = _next_look(n)
                continue
            low, width = float(self._low[arm]), float(self._width[arm])
            since_ms, before, after = change
            self.alarms.append(Alarm(arm, now_ms, since_ms, low + width * before, low + width * after))
            del self.alarms[:-MAX_ALARMS]
            self.count += 1
            self._begin(arm)

    def grown(self, n_arms: int) -> ChangeAlarms:
        """Same alarms with more arms."""
        grown = ChangeAlarms(n_arms, self._bounds)
        grown._take(self.state())
        return grown

    def state(self) -> AlarmsState:
        return AlarmsState(
            bounds=self._bounds,
            alarms=list(self.alarms),
            n=self._n.tolist(),
            total=self._total.tolist(),
            m2=self._m2.tolist(),
            m3=self._m3.tolist(),
            low=self._low.tolist(),
            width=self._width.tolist(),
            first=[list(first) for first in self._first],
            candidates=[candidates.rows.copy() for candidates in self._candidates],
            count=UNSET if self.count == len(self.alarms) else self.count,
        )

    @classmethod
    def from_state(cls, state: AlarmsState) -> ChangeAlarms:
        """Alarms that had this state. Raises `ValueError` where its parts have different numbers of arms."""
        alarms = cls(len(state.n), state.bounds)
        alarms._take(_completed(state))
        return alarms

    def _take(self, state: AlarmsState) -> None:
        """Takes over a state, for as many arms as it has."""
        n_arms = len(state.n)
        arms = slice(n_arms)
        self.alarms = list(state.alarms)
        self.count = len(self.alarms) if state.count is UNSET else state.count
        if self.count < len(self.alarms):
            raise ValueError("there are more alarms than were raised")
        for name in ("n", "total", "m2", "m3", "low", "width"):
            column = getattr(self, f"_{name}")
            column[arms] = np.array(getattr(state, name), column.dtype).reshape(n_arms)
        if {len(state.first), len(state.candidates)} != {n_arms}:
            raise ValueError(f"not everything is there of all {n_arms} arms")
        self._first[arms] = [list(first) for first in state.first]
        self._candidates[arms] = [_Candidates(rows.reshape(-1, 4)) for rows in state.candidates]
        for arm, candidates in enumerate(self._candidates[arms]):
            last = int(candidates.rows[-1, 0]) if len(candidates.rows) else 0
            self._next[arm] = _next_look(last)
