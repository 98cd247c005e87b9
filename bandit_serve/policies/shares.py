"""From a policy's raw shares to the vector that arms are drawn from, in the one order there is.

Eligibility (whoever calls gives the raw shares of the eligible arms only), policy, floor, cap.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput

Vector: TypeAlias = NDArray[np.float64]

# How far K · min_share may pass 1, so that min_share = 1/K works for every K.
ROUNDING = 1e-12


def check_bounds(n_arms: int, min_share: float, max_share: float) -> None:
    """InvalidInput unless 0 <= min_share <= max_share, n_arms · min_share <= 1 and 0 < max_share <= 1."""
    for name, share in (("min_share", min_share), ("max_share", max_share)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            raise InvalidInput(f"{name} must be a number from 0 to 1, not {share!r}")
    if max_share == 0.0:
        raise InvalidInput("max_share must be above 0")
    if min_share > max_share:
        raise InvalidInput(f"min_share ({min_share:g}) must not exceed max_share ({max_share:g})")
    if n_arms * min_share > 1.0 + ROUNDING:
        raise InvalidInput(f"{n_arms} arms of at least min_share {min_share:g} each would pass 1")


def final_shares(
    raw: Vector, eligible: NDArray[np.intp], n_arms: int, min_share: float = 0.0, max_share: float = 1.0
) -> Vector:
    """The shares of all `n_arms` arms: float64 (n_arms,), not negative, their sum within 1e-15 · n_arms of 1.

    raw: (E,), the policy's shares of the arms `eligible`, intp (E,); not negative, of any sum; all 0 is even.
    min_share: the least share of an eligible arm. max_share: the most; where that cannot be, 1/E is.
    """
    shares = np.zeros(n_arms)
    shares[eligible] = capped(floored(proportional(raw), min_share), max_share)
    return shares


def proportional(weights: Vector) -> Vector:
    """`weights` (E,) scaled to the sum 1; even when all are 0."""
    if not (np.isfinite(weights).all() and (weights >= 0.0).all()):
        raise InvalidInput("weights of arms must be finite and not negative")
    largest = weights.max()
    if largest == 0.0:
        return np.full(weights.size, 1.0 / weights.size)
    # By the largest first: neither the sum nor the quotients of extreme weights can overflow then.
    scaled = weights / largest
    return np.asarray(scaled / scaled.sum())


def floored(shares: Vector, min_share: float) -> Vector:
    """The mixture of `shares` (E,) with the even split that leaves every arm at least `min_share`."""
    return min_share + max(0.0, 1.0 - shares.size * min_share) * shares


def capped(shares: Vector, max_share: float) -> Vector:
    """`shares` (E,) with what exceeds `max_share` given to the arms below it, in proportion to their shares.

    Evenly if those have none. A cap under which the shares could not sum to 1 is relaxed to 1/E.
    """
    cap = max(max_share, 1.0 / shares.size)
    full = np.zeros(shares.size, dtype=bool)
    result = shares
    while (over := (result > cap) & ~full).any():
        full |= over
        if full.all():
            return np.full(shares.size, 1.0 / shares.size)
        result = np.where(full, cap, 0.0)
        result[~full] = (1.0 - full.sum() * cap) * proportional(shares[~full])
    return result
