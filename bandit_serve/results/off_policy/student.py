"""Student's t: interval of a mean of few independent values."""

from __future__ import annotations

import math

import numpy as np

from bandit_serve.policies._best_arm import student_below_at
from bandit_serve.results.off_policy.estimate import Estimate, error_of_mean
from bandit_serve.results.sequence import Floats


def of_runs(values: Floats, alpha: float) -> Estimate:
    """Mean of n independent values, float64 (n,), with Student's 1 - alpha interval."""
    value, error = float(values.mean()), error_of_mean(values)
    if not math.isfinite(error):
        return Estimate(value=value, standard_error=error, interval=(-math.inf, math.inf))
    half = student_quantile(1.0 - alpha / 2.0, len(values) - 1) * error
    return Estimate(value=value, standard_error=error, interval=(value - half, value + half))


def student_quantile(level: float, df: int) -> float:
    """Quantile of Student's t with `df` degrees of freedom, for a level in [0.5, 1)."""
    low, high = 0.0, 1.0
    while _below(high, df) < level:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _below(middle, df) < level else (low, middle)
    return high


def _below(z: float, df: int) -> float:
    return float(student_below_at(np.array([z]), np.array([float(df)]))[0])
