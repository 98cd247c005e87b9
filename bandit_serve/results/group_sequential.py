"""Group-sequential bounds: a test that is looked at a few times, planned before, on its way to a fixed end.

The statistic is a Brownian motion S(t) with drift, looked at where t = n/N is one of the *fractions* of the planned
observations; Z(t) = S(t)/sqrt(t). Its density between the bounds is carried from look to look by numerical integration
(Armitage, McPherson, Rowe 1969). Bounds by the error that may be spent up to t: Lan and DeMets 1983.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from bandit_serve.results.sequence import Floats

MAX_Z = 38.0
"""Bound of a look at which there is no error to spend: no number has a smaller tail."""
NODES = 64
PANEL = 24.0
"""Width of the range that so many nodes integrate over, in standard deviations of the shorter step beside it."""
MAX_PANELS = 64
MAX_HALF_RANGE = 9.0
"""Standard deviations of S up to which its density is carried on: beyond lies 1e-19."""
MAX_STEPS = 100
TOLERANCE = 1e-12

Spending = Callable[[float, float], float]
"""Error of alpha in all that may be spent up to the fraction t, half of it on each side."""


def obrien_fleming_spending(t: float, alpha: float) -> float:
    """4 - 4 Phi(z/sqrt(t)), z the quantile with alpha/4 above it: on each side what spends alpha/2 (1983)."""
    return 2.0 * math.erfc(quantile(0.25 * alpha) / math.sqrt(2.0 * t))


def pocock_spending(t: float, alpha: float) -> float:
    """alpha ln(1 + (e - 1) t) (Lan and DeMets 1983)."""
    return alpha * math.log1p((math.e - 1.0) * t)


MIN_TAIL = 1e-300


def quantile(tail: float) -> float:
    """Normal quantile with this chance, from (0, 1), above it; that of `MIN_TAIL` for a smaller one."""
    return -NormalDist().inv_cdf(max(tail, MIN_TAIL))


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _tails(z: Floats) -> Floats:
    """Chances that a normal variable is above z."""
    return 0.5 * np.asarray(_erfc(z * math.sqrt(0.5)), np.float64)


class _Walk:
    """Density of S between the bounds of the looks so far.

    nodes, mass: float64 (n,), values of S and the density there times the weight of the node.
    """

    def __init__(self, fractions: Sequence[float], drift: float = 0.0) -> None:
        self._fractions = (0.0, *fractions)
        self._drift = drift
        self._look = 0
        self._nodes = np.zeros(1)
        self._mass = np.ones(1)

    @property
    def at(self) -> float:
        """Fraction of the next look."""
        return self._fractions[self._look + 1]

    @property
    def _step(self) -> float:
        return self.at - self._fractions[self._look]

    def beyond(self, z: float) -> float:
        """Chance of arriving beyond ±z at the next look, and beyond no bound before."""
        mean, deviation = self._nodes + self._drift * self._step, math.sqrt(self._step)
        bound = z * math.sqrt(self.at)
        tails = _tails((bound - mean) / deviation) + _tails((bound + mean) / deviation)
        return float(self._mass @ tails)

    def thinning(self, z: float) -> float:
        """How fast `beyond` falls as z grows: the density of Z at ±z."""
        mean, deviation = self._nodes + self._drift * self._step, math.sqrt(self._step)
        bound = z * math.sqrt(self.at)
        both = (np.exp(-0.5 * ((side * bound - mean) / deviation) ** 2) for side in (1.0, -1.0))
        return float(self._mass @ sum(both)) * math.sqrt(self.at / self._step / (2.0 * math.pi))

    def look(self, z: float) -> None:
        """Passes the next look, going on only within ±z."""
        t, step, mean = self.at, self._step, self._drift * self.at
        bound, widest = z * math.sqrt(t), MAX_HALF_RANGE * math.sqrt(t)
        low, high = max(-bound, mean - widest), min(bound, mean + widest)
        half = max(0.5 * (high - low), 0.0)
        self._look += 1
        finest = math.sqrt(min(step, self._step if self._look + 1 < len(self._fractions) else step))
        n_panels = min(max(math.ceil(2.0 * half / (PANEL * finest)), 1), MAX_PANELS)
        at, weights = _legendre()
        part = half / n_panels
        nodes = (low + part * (2.0 * np.arange(n_panels) + 1.0)[:, None] + part * at).ravel()
        apart = nodes[:, None] - (self._nodes + (mean - self._drift * (t - step)))
        mass = np.exp(apart * apart * (-0.5 / step)) @ self._mass
        self._nodes = nodes
        self._mass = mass * np.tile(weights, n_panels) * (part / math.sqrt(2.0 * math.pi * step))


@functools.cache
def _legendre() -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(NODES)


def _checked(fractions: Sequence[float]) -> tuple[float, ...]:
    looks = tuple(float(t) for t in fractions)
    if not looks or any(after <= before for before, after in zip((0.0, *looks), looks, strict=False)):
        raise ValueError("expected fractions that rise from above 0")
    return looks


def bounds(
    fractions: Sequence[float], alpha: float, spending: Spending = obrien_fleming_spending
) -> tuple[float, ...]:
    """Two-sided bounds of |Z| at each look of a test of level `alpha`.

    fractions: of the planned observations, rising. At 1 and later all of alpha is spent.
    """
    looks = _checked(fractions)
    walk, spent, found = _Walk(looks), 0.0, []
    for i, t in enumerate(looks):
        up_to_now = max(min(spending(min(t, 1.0), alpha), alpha), spent)
        found.append(_bound(walk, up_to_now - spent))
        spent = up_to_now
        if i + 1 < len(looks):
            walk.look(found[-1])
    return tuple(found)


def _bound(walk: _Walk, error: float) -> float:
    """Bound of the next look beyond which it arrives with the chance `error`: by Newton's steps on its logarithm."""
    if walk.beyond(MAX_Z) >= error:
        return MAX_Z
    low, high, z = 0.0, MAX_Z, min(max(quantile(0.5 * error), 0.0), MAX_Z)
    for _ in range(MAX_STEPS):
        chance = walk.beyond(z)
        low, high = (z, high) if chance > error else (low, z)
        falls = walk.thinning(z)
        following = z + chance * math.log(chance / error) / falls if chance > 0.0 and falls > 0.0 else -1.0
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - z) <= TOLERANCE:
            return following
        z = following
    return z


def crossing(fractions: Sequence[float], z: Sequence[float], drift: float = 0.0) -> tuple[float, ...]:
    """Chances of being beyond ±z first at each look, where S(t) has the mean drift · t.

    With drift 0 they sum to the test's error. An effect that a fixed test finds with power b has the drift
    z(1 - alpha/2) + z(b).
    """
    looks = _checked(fractions)
    walk, chances = _Walk(looks, drift), []
    for i, bound in enumerate(z):
        chances.append(walk.beyond(bound))
        if i + 1 < len(looks):
            walk.look(bound)
    return tuple(chances)


def even_fractions(looks: int) -> tuple[float, ...]:
    return tuple((i + 1) / looks for i in range(looks))


def pocock_constant(looks: int, alpha: float) -> float:
    """Bound of |Z| that is the same at each of so many even looks (Pocock 1977)."""
    return _constant([1.0] * looks, alpha)


def obrien_fleming_constant(looks: int, alpha: float) -> float:
    """Bound of |Z| at the last of so many even looks; at t it is that over sqrt(t) (O'Brien and Fleming 1979)."""
    return _constant([1.0 / math.sqrt(t) for t in even_fractions(looks)], alpha)


def _constant(shape: Sequence[float], alpha: float) -> float:
    """Number by which `shape`, the bounds of even looks, makes a test of level alpha."""
    fractions, low, high = even_fractions(len(shape)), 0.0, MAX_Z
    while high - low > TOLERANCE:
        middle = 0.5 * (low + high)
        if sum(crossing(fractions, [middle * bound for bound in shape])) > alpha:
            low = middle
        else:
            high = middle
    return high
