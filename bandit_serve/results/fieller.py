"""Lift of an arm relative to control: the ratio of two estimates, and its interval.

Fieller's set (1954): all ratios r at which difference - r * control is not further from 0 than its variance allows.
It is an interval where control is told apart from 0, and else all numbers but some: then there is none. In place of a
linear approximation at the estimate, whose intervals miss more often the nearer control is to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats


@dataclass(frozen=True)
class Ratios:
    """Ratios difference / |control|, arrays (K,): numbers where `known`, and intervals where `bounded`."""

    value: Floats
    low: Floats
    high: Floats
    known: NDArray[np.bool_]
    bounded: NDArray[np.bool_]


def ratios(
    difference: Floats,
    control: Floats,
    variance: Floats,
    control_variance: Floats,
    covariance: Floats,
    squared_threshold: Floats,
) -> Ratios:
    """Ratios of `difference` to the absolute value of `control`, arrays (K,) all.

    `variance` and `control_variance` are those of the two estimates, `covariance` is that between them;
    `squared_threshold` is how far from 0 an estimate may be, squared, in its variances. So 0 is in the interval
    exactly when it is in that of the difference.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        size = np.abs(control)
        value = difference / size
        # All in units of control: what is squared has then the size of a ratio.
        tied = np.sign(control) * (covariance / size / size)
        spread = np.square(np.sqrt(variance) / size)
        control_spread = np.square(np.sqrt(control_variance) / size)
        most = np.sqrt(spread * control_spread)
        tied = np.clip(tied, -most, most)
        lead = 1.0 - squared_threshold * control_spread
        middle = value - squared_threshold * tied
        rest = np.square(value) - squared_threshold * spread
        root = np.sqrt(np.maximum(np.square(middle) - lead * rest, 0.0))
        low, high = (middle - root) / lead, (middle + root) / lead
    known = np.isfinite(value)
    bounded = known & (lead > 0.0) & np.isfinite(low) & np.isfinite(high)
    return Ratios(value, low, high, known, bounded)
