"""A change of what an arm is worth: noticed and reported. Nothing else follows from it.

For each arm, x_1, x_2, … in [0, 1] are watched. Against "their mean never changes" stands "it changed once, after
x_s(i)", for candidates i = 1, 2, …; both means unknown. With B(·) the likelihood of a Bernoulli sequence over a
Beta(½, ½) mean,

    E_n = Σ_i w_i · B(x_1 … x_s(i)) · B(x_s(i)+1 … x_n) / sup_p Π p^x (1 − p)^(1 − x),    w_i = 1 / (5.3 (i + 10))

with weights that add up to less than 1 over all looks that there can be. Whatever the mean p is, the numerator over the
likelihood of p is a supermartingale that starts below 1: for binary x it is a likelihood ratio, and for others
p^x (1 − p)^(1 − x) and its ratios are convex in x. E_n is at most that. So by Ville's inequality the probability that
E_n ever reaches 1/`LEVEL`, though nothing changes, is at most `LEVEL` for each arm, however often it is looked at
(universal inference: Wasserman, Ramdas and Balakrishnan 2020). An alarm begins the arm's watch anew, with the same
promise.

Where values are not 0 or 1 they vary less than a Bernoulli sequence of their mean, by a dispersion
D = variance / (p (1 − p)) below 1, and tell more. So for them the i-th ratio is that of Normal means of this variance,
the change being Normal(0, `SHIFT`² · variance) beforehand and the mean before it whatever it is (Pérez-Ortiz et al.
2024, e-statistics and group invariance), with m values before and k behind:

    sqrt(1 / (1 + h)) · exp(½ · h / (1 + h) · z²),    h = SHIFT² · m k / (m + k)

where z² is the deviance of the two means against one, over D (quasi-likelihood: Wedderburn 1974), which for values of
which most are 0 says better than their difference how rare it is. The variance is what the arm has shown so far, with
one observation more of D = 1. That is an e-detector with the running variance (Shin, Ramdas and Rinaldo 2023), and not
exact: benchmarks/README.md has what it comes to, by law.

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

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve._rewards import log_marginal, watch
from bandit_serve.states import known_only

LEVEL = 0.001
BLOCK = 32
SPACING = 64
"""Each look is a candidate from then on. After n observations of an arm, the next look is `BLOCK` of them later, or n /
`SPACING` where that is more: a change that took n to come is not noticed much later for it, and looks stay few."""
CANDIDATES = 64
SHIFT = 0.5
REFERENCE = 100
MOST_REFERENCE = 1_000
FARTHEST, ROOM = 4.0, 0.5
MAX_ALARMS = 100
# From this dispersion on values are 0 and 1, but for rounding.
WHOLE = 1.0 - 1e-9
STATE = frozenset({"bounds", "alarms", "n", "total", "m2", "low", "width", "first", "looks", "candidates"})

Vector = NDArray[np.float64]


class Alarm(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """By log time, `arm`'s mean changed from `before` to `after` soon after `since_ms`, as was noticed at `at_ms`."""

    arm: int
    at_ms: int
    since_ms: int
    before: float
    after: float


class _Candidates:
    """Where an arm's mean may have changed: n, sum, number of the look, and time, a row for each look."""

    def __init__(self, rows: NDArray[np.float64] | None = None, looks: int = 0) -> None:
        self._rows = np.zeros((CANDIDATES + 1, 4))
        self._used = 0 if rows is None else len(rows)
        self._rows[: self._used] = 0.0 if rows is None else rows
        self.looks = looks

    @property
    def rows(self) -> NDArray[np.float64]:
        return self._rows[: self._used]

    def add(self, n: int, total: float, now_ms: int) -> None:
        self.looks += 1
        self._rows[self._used] = n, total, self.looks, now_ms
        self._used += 1
        if self._used > CANDIDATES:
            # Every second of the older half goes: candidates are close together where a change would be new.
            kept = np.concatenate([self.rows[: CANDIDATES // 2 : 2], self.rows[CANDIDATES // 2 :]])
            self._used = len(kept)
            self._rows[: self._used] = kept

    def change(self, n: int, total: float, dispersion: float) -> tuple[int, float, float] | None:
        """From when on, from which mean, to which: the likeliest change if there was one, else None."""
        if not self._used:
            return None
        before, sums, look, times_ms = self.rows.T
        after, rest = n - before, total - sums
        never = float(_log_largest(np.array([n]), np.array([total]))[0])
        if dispersion > WHOLE:
            ratios = log_marginal(before, sums) + log_marginal(after, rest) - never
        else:
            half_deviance = (_log_largest(before, sums) + _log_largest(after, rest) - never) / dispersion
            prior = SHIFT**2 * before * after / n
            ratios = half_deviance * prior / (1.0 + prior) - 0.5 * np.log1p(prior)
        ratios += _log_weight(look)
        best = int(ratios.argmax())
        if ratios[best] + np.log(np.exp(ratios - ratios[best]).sum()) < -np.log(LEVEL):
            return None
        return int(times_ms[best]), float(sums[best] / before[best]), float(rest[best] / after[best])


def _log_weight(look: Vector) -> Vector:
    weight: Vector = -np.log(5.3 * (look + 10.0))
    return weight


def _log_largest(n: NDArray[Any], total: Vector) -> Vector:
    """ln of the likelihood of n values in [0, 1] with sum `total` at its maximum."""
    mean = np.minimum(total / n, 1.0)
    return _x_log(total, mean) + _x_log(n - total, 1.0 - mean)


def _x_log(x: Vector, y: Vector) -> Vector:
    """x ln y, 0 where x is 0 or, by rounding, less."""
    some = x > 0.0
    product: Vector = np.where(some, x, 0.0) * np.log(np.where(some, y, 1.0))
    return product


def _binary_m2(n: NDArray[np.int64], total: Vector) -> Vector:
    """The sum of squared deviations of n values that are 0 or 1."""
    m2: Vector = total * (n - total) / np.maximum(n, 1)
    return m2


def _next_look(n: int) -> int:
    """After how many observations the look after the one at `n` is."""
    return n + max(BLOCK, n // SPACING)


class ChangeAlarms:
    """The watches of K arms, and their `alarms`: the last `MAX_ALARMS`, the oldest first. A fold by log time.

    bounds: between which values lie, or None.
    """

    def __init__(self, n_arms: int, bounds: tuple[float, float] | None) -> None:
        self._bounds = bounds
        self.alarms: list[Alarm] = []
        self._n = np.zeros(n_arms, np.int64)
        self._total = np.zeros(n_arms)
        self._m2 = np.zeros(n_arms)
        # What of a value is 0, and how much more is 1; NaN while it is not known.
        self._low = np.full(n_arms, np.nan)
        self._width = np.full(n_arms, np.nan)
        self._first: list[list[float]] = [[] for _ in range(n_arms)]
        self._candidates: list[_Candidates] = []
        # Of each arm, when it has its next look.
        self._next = np.zeros(n_arms, np.int64)
        for arm in range(n_arms):
            self._candidates.append(_Candidates())
            self._begin(arm)

    def _begin(self, arm: int) -> None:
        self._n[arm], self._total[arm], self._m2[arm], self._next[arm] = 0, 0.0, 0.0, BLOCK
        self._candidates[arm] = _Candidates()
        if self._bounds is not None:
            self._low[arm], self._width[arm] = self._bounds[0], self._bounds[1] - self._bounds[0]
        else:
            self._low[arm] = self._width[arm] = np.nan

    def rewarded(self, arms: NDArray[np.intp], values: Vector, now_ms: int) -> None:
        """Rewards (n,) of `arms` (n,), in the order of the log."""
        if self._bounds is None:
            unknown = np.isnan(self._low[arms])
            for arm, value in zip(arms[unknown].tolist(), values[unknown].tolist(), strict=True):
                self._first[arm].append(value)
            for arm in set(arms[unknown].tolist()):
                self._set_scale(arm)
            arms, values = arms[~unknown], values[~unknown]
        if watch(arms, values, self._low, self._width, self._n, self._total, self._m2, self._next):
            self._look(now_ms)

    def closed(self, decisions: NDArray[np.int64], conversions: NDArray[np.int64], now_ms: int) -> None:
        """How many `decisions` (K,) have closed, and how many of them, `conversions` (K,), with a reward."""
        self._n += decisions
        self._total += conversions
        self._m2 = _binary_m2(self._n, self._total)
        self._look(now_ms)

    def _set_scale(self, arm: int) -> None:
        first = self._first[arm]
        if len(first) < REFERENCE or (min(first) == max(first) and len(first) < MOST_REFERENCE):
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

    def _dispersion(self, arm: int) -> float:
        """The variance that the arm has shown, in parts of a Bernoulli sequence's of its mean."""
        n = float(self._n[arm])
        binary = float(_binary_m2(self._n[arm], self._total[arm]))
        if binary <= 0.0:
            return 1.0
        return min((float(self._m2[arm]) / binary * n + 1.0) / (n + 1.0), 1.0)

    def _look(self, now_ms: int) -> None:
        for arm in (self._n >= self._next).nonzero()[0].tolist():
            n, total, candidates = int(self._n[arm]), float(self._total[arm]), self._candidates[arm]
            found = candidates.change(n, total, self._dispersion(arm))
            if found is None:
                candidates.add(n, total, now_ms)
                self._next[arm] = _next_look(n)
                continue
            low, width = float(self._low[arm]), float(self._width[arm])
            since_ms, before, after = found
            self.alarms.append(Alarm(arm, now_ms, since_ms, low + width * before, low + width * after))
            del self.alarms[:-MAX_ALARMS]
            self._begin(arm)

    def grown(self, n_arms: int) -> ChangeAlarms:
        """The same with more arms."""
        grown = ChangeAlarms(n_arms, self._bounds)
        grown._take(self.state())
        return grown

    def state(self) -> dict[str, Any]:
        return {
            "bounds": self._bounds,
            "alarms": [[a.arm, a.at_ms, a.since_ms, a.before, a.after] for a in self.alarms],
            "n": self._n.tolist(),
            "total": self._total.tolist(),
            "m2": self._m2.tolist(),
            "low": self._low.tolist(),
            "width": self._width.tolist(),
            "first": [list(first) for first in self._first],
            "looks": [candidates.looks for candidates in self._candidates],
            "candidates": [candidates.rows.copy() for candidates in self._candidates],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ChangeAlarms:
        known_only(state, STATE, "alarms")
        bounds = state["bounds"]
        found = cls(len(state["n"]), None if bounds is None else (bounds[0], bounds[1]))
        if "m2" not in state:
            # Of a build that knew no variance.
            state = {**state, "m2": _binary_m2(np.array(state["n"]), np.array(state["total"]))}
        found._take(state)
        return found

    def _take(self, state: dict[str, Any]) -> None:
        """Everything of `state`, for as many arms as it has."""
        self.alarms = [Alarm(*alarm) for alarm in state["alarms"]]
        arms = slice(len(state["n"]))
        for name in ("n", "total", "m2", "low", "width"):
            getattr(self, f"_{name}")[arms] = state[name]
        self._first[arms] = [list(first) for first in state["first"]]
        self._candidates[arms] = [
            _Candidates(rows, looks) for rows, looks in zip(state["candidates"], state["looks"], strict=True)
        ]
        for arm, candidates in enumerate(self._candidates[arms]):
            last = int(candidates.rows[-1, 0]) if len(candidates.rows) else 0
            self._next[arm] = _next_look(last)
