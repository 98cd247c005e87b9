"""Clipped weights, with a bound on what the clipping took away."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.results.off_policy.estimate import Estimate, Interval, IntervalOptions, of_terms
from bandit_serve.results.off_policy.logged import logged


class ClippedEstimate(Estimate, frozen=True, kw_only=True):
    """Estimate with clipped weights. The clipping took away something between the two numbers of `bias`, as far as the
    sample says, and `interval` allows for all of it.
    """

    bias: tuple[float, float]


def clipped(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    *,
    limit: float,
    rewards: tuple[float, float] = (0.0, 1.0),
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> ClippedEstimate:
    """Inverse propensity score with weights of at most `limit`, for rewards between the two numbers of `rewards`.

    As the mean weight is 1, the weights that are clipped off have the mean c = 1 - E min(w, limit), and what they would
    have brought is between c times the lowest and c times the highest reward (after Ionides 2008). Where the other
    policy does what the log lacks, that mass is part of c, so the interval holds there, too. Bernstein's `bound` is
    the range of min(w, limit) (r - lowest) and of min(w, limit) (r - highest).
    """
    low, high = rewards
    if not (math.isfinite(limit) and limit > 0.0):
        raise ValueError(f"limit: expected a number above 0, not {limit}")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError("rewards: expected a lowest and a highest reward")
    log = logged(reward, propensity, target)
    if ((log.reward < low) | (log.reward > high)).any():
        raise ValueError(f"reward: expected numbers from {low} to {high}")
    options = IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha)
    weight = np.minimum(log.weight, limit)
    kept = of_terms(weight * log.reward, options)
    least = of_terms(weight * log.reward + low * (1.0 - weight), options)
    most = of_terms(weight * log.reward + high * (1.0 - weight), options)
    assert least.interval is not None
    assert most.interval is not None
    return ClippedEstimate(
        value=kept.value,
        standard_error=kept.standard_error,
        interval=(least.interval[0], most.interval[1]),
        bias=(least.value - kept.value, most.value - kept.value),
    )
