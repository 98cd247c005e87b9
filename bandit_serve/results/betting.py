"""Confidence interval of a mean by betting: exact from the second observation on, for values between two bounds.

For each possible mean m, a bookmaker offers bets on the next value that are fair if the mean is m. One gambler bets on
a larger mean and one on a smaller mean, with stakes that follow from the values so far. If the mean is m, the chance
that either ever multiplies its capital by 2/alpha is at most alpha, by Ville's inequality, however often one looks. So
an m is excluded for good once a gambler has done so. (Waudby-Smith & Ramdas, JRSS-B 2024: the hedged capital process
with predictable plug-in bets, section 4.3, theorem 3, and the running intersection.)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.results.sequence import Floats

STEPS = 10_000
"""Ends are multiples of the range over this, rounded outwards."""
MAX_STAKE = 0.5
"""The part of its capital that a gambler bets at most, if the worst came."""


def mean_interval(values: ArrayLike, low: float, high: float, alpha: float) -> tuple[float, float] | None:
    """Interval at level 1 - alpha of the mean of `values`, in their order, all between `low` and `high`.

    It holds at every time at once where each value has the same mean given those before it. None where every mean
    has been left out, which has probability at most alpha.
    """
    x = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0.0, 1.0)
    stakes = _stakes(x, alpha)
    above, below = _least_kept(x, stakes, alpha), STEPS - _least_kept(1.0 - x, stakes, alpha)
    if above > below:
        return None
    ends = np.array([max(above - 1, 0), min(below + 1, STEPS)]) / STEPS
    # Of the two the sum is exact where an end is a bound.
    lower, upper = low * (1.0 - ends) + high * ends
    return float(lower), float(upper)


def _stakes(x: Floats, alpha: float) -> Floats:
    """Stakes on each value, from the values before it (eq. 26), not yet bounded by `MAX_STAKE`."""
    t = np.arange(1, len(x) + 1)
    means = (0.5 + np.cumsum(x)) / (t + 1)
    variances = (0.25 + np.cumsum(np.square(x - means))) / (t + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    stakes: Floats = np.sqrt(2.0 * _enough(alpha) / (before * t * np.log(t + 1)))
    return stakes


def _least_kept(x: Floats, stakes: Floats, alpha: float) -> int:
    """Smallest mean, in steps, that betting on more has not refuted, by bisection: capital falls as the mean grows."""
    low, high = 0, STEPS
    while low < high:
        middle = (low + high) // 2
        if _refuted(middle / STEPS, x, stakes, alpha):
            low = middle + 1
        else:
            high = middle
    return low


def _refuted(mean: float, x: Floats, stakes: Floats, alpha: float) -> bool:
    bets = np.minimum(stakes, MAX_STAKE / mean) if mean > 0.0 else stakes
    capital = np.cumsum(np.log1p(bets * (x - mean)))
    return bool(capital.max() >= _enough(alpha))


def _enough(alpha: float) -> float:
    """Logarithm of 2/alpha, the capital that refutes a mean. 2/alpha itself may overflow."""
    return math.log(2.0) - math.log(alpha)
