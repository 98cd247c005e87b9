"""Laws of one observation, as real metrics have them, for checks of error rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


@dataclass(frozen=True)
class Law:
    """Law of one observation with `mean` and `sd`: `draw(rng, n)` returns float64 (n,); `kind` is the metric's."""

    kind: str
    draw: Draw
    mean: float
    sd: float

    def moved(self, a: float, b: float) -> Law:
        """Law of a·y + b."""
        return Law(
            "continuous", lambda rng, n: a * self.draw(rng, n) + b, a * self.mean + b, abs(a) * self.sd
        )


def _bernoulli(p: float) -> Law:
    return Law("binary", lambda rng, n: (rng.random(n) < p).astype(float), p, (p * (1 - p)) ** 0.5)


def _orders(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return (rng.random(n) < 0.05) * (1.0 + rng.poisson(2.0, n))


def _lognormal(sigma: float, some: float = 1.0) -> Law:
    """Draws lognormal values for a share `some` of observations, and 0 for the others."""
    first, second = np.exp(sigma**2 / 2), np.exp(2 * sigma**2)
    mean = some * first

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        values = rng.lognormal(0.0, sigma, n)
        return values if some == 1.0 else values * (rng.random(n) < some)

    return Law("continuous", draw, mean, (some * second - mean**2) ** 0.5)


_NORMAL = Law("continuous", lambda rng, n: rng.normal(1.0, 1.0, n), 1.0, 1.0)
_REVENUE = _lognormal(1.5, 0.05)

LAWS: dict[str, Law] = {
    "Bernoulli .5": _bernoulli(0.5),
    "Bernoulli .1": _bernoulli(0.1),
    "Bernoulli .01": _bernoulli(0.01),
    "Bernoulli .001": _bernoulli(0.001),
    "Poisson .1": Law("count", lambda rng, n: rng.poisson(0.1, n).astype(float), 0.1, 0.1**0.5),
    "orders": Law("count", _orders, 0.15, (0.05 * 11 - 0.15**2) ** 0.5),
    "normal": _NORMAL,
    "t3": Law("continuous", lambda rng, n: rng.standard_t(3, n), 0.0, 3**0.5),
    "lognormal 1": _lognormal(1.0),
    "lognormal 2": _lognormal(2.0),
    "revenue, 95 % zeros": _REVENUE,
    "revenue, 99 % zeros": _lognormal(1.5, 0.01),
    "bounded beta": Law("bounded", lambda rng, n: rng.beta(0.05, 0.95, n), 0.05, (0.05 * 0.95 / 2) ** 0.5),
    "count 700 ± 5": Law("count", lambda rng, n: np.rint(rng.normal(700.0, 5.0, n)), 700.0, 5.0),
    "100 sd − 3 normal": _NORMAL.moved(-3.0, 300.0),
    "100 sd − 3 revenue": _REVENUE.moved(-3.0, 300.0 * _REVENUE.sd),
}
