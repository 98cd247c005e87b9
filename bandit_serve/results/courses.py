"""Courses of tests: the chance of having found a difference, by the observations so far.

All of them start from the fixed test, which finds the difference with the power asked for at N observations: the
Brownian motion S(t), t = n/N, with the drift theta = z(1 - alpha/2) + z(power). The anytime test ends where S meets the
mixture's boundary (`sequence.py`), looked at as often as the fold does; the horizon test at one of its looks.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from bandit_serve.results.evidence import GROWTH
from bandit_serve.results.group_sequential import bounds, crossing, even_fractions, quantile
from bandit_serve.results.sequence import Floats, tuning

FAR_BEFORE, FAR_BEYOND = 5.5, 3.7
"""Standard deviations between path and boundary before which nothing is found, and beyond which nearly all is."""
STEP = 0.02
"""Growth from one time to the next; what the fold's finer looks see between them is in the boundary."""
OVERSHOOT = 0.5826
"""Standard deviations of a step that a random walk is beyond a boundary when it is first seen there (Siegmund 1985)."""
TUNINGS = 4
"""Tunings for which a course is computed, within a factor of 2 of observations."""
MAX_TUNED = 2.0**12
TOLERANCE = 1e-9


class Course(NamedTuple):
    """Chance of having found the difference, `found` (T,), by the times t (T,), in units of the fixed test's end.

    mean: mean time of a test that ends when it has found it, or else at its planned end if it has one.
    """

    t: Floats
    found: Floats
    mean: float

    def end(self, power: float) -> float:
        """Time by which the difference is found with this chance."""
        return float(np.interp(power, self.found, self.t))


def drift(alpha: float, power: float) -> float:
    """Drift of a difference that a two-sided fixed test of level alpha finds with this power."""
    return quantile(0.5 * alpha) + quantile(1.0 - power)


def anytime_course(alpha: float, power: float, comparisons: int, tuned: float) -> Course:
    """Course of the anytime test of one of so many comparisons; `tuned` is the time at which it is tightest."""
    nearest = round(TUNINGS * math.log2(min(max(tuned, 1.0 / MAX_TUNED), MAX_TUNED)))
    return _anytime_course(alpha, power, comparisons, 2.0 ** (nearest / TUNINGS))


@functools.lru_cache(maxsize=128)
def _anytime_course(alpha: float, power: float, comparisons: int, tuned: float) -> Course:
    theta, rho2 = drift(alpha / comparisons, power), tuning(alpha) / tuned
    t = np.exp(np.arange(math.log(1e-5), math.log(1e3), math.log1p(STEP)))
    q = t * rho2 + 1.0
    z = np.sqrt(2.0 * q / rho2 * (0.5 * np.log(q) + math.log(comparisons / alpha)) / t)
    z -= OVERSHOOT * (math.sqrt(STEP / (1.0 + STEP)) - math.sqrt(GROWTH / (1.0 + GROWTH)))
    ahead = theta * np.sqrt(t) - z
    first, last = int(np.argmax(ahead > -FAR_BEFORE)), int(np.argmax(ahead > FAR_BEYOND))
    t, z = t[first : last + 1], z[first : last + 1]
    chances = np.array(crossing(t.tolist(), z.tolist(), theta))
    # Found between two times, at one of the finer looks.
    when = 0.5 * (t + np.append(t[:1], t[:-1])) * (1.0 + 0.5 * GROWTH)
    return Course(t, np.minimum(np.cumsum(chances), 1.0), float(chances @ when))


@functools.lru_cache(maxsize=128)
def horizon_course(alpha: float, power: float, looks: int) -> Course:
    """Course of a horizon test with so many even looks, the last of them where its power is the one asked for."""
    fractions = even_fractions(looks)
    z = bounds(fractions, alpha)
    low, high = 1.0, 2.0
    while high - low > TOLERANCE:
        middle = 0.5 * (low + high)
        if sum(crossing(fractions, z, drift(alpha, power) * math.sqrt(middle))) < power:
            low = middle
        else:
            high = middle
    t = high * np.asarray(fractions)
    chances = np.array(crossing(fractions, z, drift(alpha, power) * math.sqrt(high)))
    return Course(t, np.cumsum(chances), float(chances @ t + (1.0 - chances.sum()) * t[-1]))
