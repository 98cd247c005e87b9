"""Bounds of shares: the vector that arms are drawn from, made of a policy's raw shares.

Bounds apply in one order: eligibility (callers pass raw shares of eligible arms only), policy, floor, cap, ramp,
holdout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.policies._shares import uncapped_shares
from bandit_serve.policies.numbers import Vector, refusal

# How far K · min_share may pass 1, so that min_share = 1/K works for every K.
ROUNDING = 1e-12


def check_bounds(n_arms: int, min_share: float, max_share: float) -> None:
    """InvalidInput unless 0 <= min_share <= max_share, n_arms · min_share <= 1 and 0 < max_share <= 1."""
    for name, share in (("min_share", min_share), ("max_share", max_share)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            raise refusal(name, f"{name} must be a number from 0 to 1, not {share!r}")
    if max_share == 0.0:
        raise refusal("max_share", "max_share must be above 0")
    if min_share > max_share:
        raise refusal("min_share", f"min_share ({min_share:g}) must not exceed max_share ({max_share:g})")
    if n_arms * min_share > 1.0 + ROUNDING:
        raise InvalidInput(f"{n_arms} arms of at least min_share {min_share:g} each would pass 1")


def final_shares(
    raw: Vector,
    eligible: NDArray[np.intp],
    n_arms: int,
    min_share: float = 0.0,
    max_share: float = 1.0,
    ramps: Vector | None = None,
    holdout: float = 0.0,
) -> Vector:
    """Shares of all `n_arms` arms: float64 (n_arms,), not negative, their sum within 1e-15 · n_arms of 1.

    raw: (E,), the policy's shares of the arms `eligible`, intp (E,); not negative, of any sum; all 0 is even.
    min_share: the least share of an eligible arm. max_share: the most; where that cannot be, 1/E is.
    ramps: (n_arms,), the most of each arm for the time being, 1 where there is no such bound; even below
        `min_share`. Where caps and ramps leave less than 1, caps are relaxed before ramps.
    holdout: the share that is split evenly among the eligible arms, on top of all that.
    """
    own = None if ramps is None or ramps[eligible].min() >= 1.0 else ramps[eligible]
    if max_share >= 1.0 and own is None:
        return uncapped_shares(raw, eligible, n_arms, min_share, holdout)
    shares = np.zeros(n_arms)
    policy = capped(floored(proportional(raw), min_share), max_share, own)
    shares[eligible] = mixed_evenly(policy, holdout)
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
    """Mixture of `shares` (E,) with the even split that leaves every arm at least `min_share`."""
    return min_share + max(0.0, 1.0 - shares.size * min_share) * shares


def mixed_evenly(shares: Vector, part: float) -> Vector:
    """Shares of which `part` is split evenly, the rest like `shares` (E,)."""
    return shares if part == 0.0 else (1.0 - part) * shares + part / shares.size


def capped(shares: Vector, max_share: float, ramps: Vector | None = None) -> Vector:
    """`shares` (E,) with what exceeds `max_share`, or an arm's ramp, given to the others in proportion to theirs.

    Evenly if those have none. A cap under which the shares could not sum to 1 is relaxed to 1/E.
    """
    caps = np.full(shares.size, max(max_share, 1.0 / shares.size))
    if ramps is not None:
        caps = relaxed(caps[0], ramps)
    full = np.zeros(shares.size, dtype=bool)
    result = shares
    while (over := (result > caps) & ~full).any():
        full |= over
        if full.all():
            return proportional(caps)
        result = np.where(full, caps, 0.0)
        result[~full] = max(0.0, 1.0 - caps[full].sum()) * proportional(shares[~full])
    return result


def relaxed(cap: float, ramps: Vector) -> Vector:
    """Caps of the arms, (E,), of the sum 1 or more: the smaller of both bounds where those allow it.

    Otherwise `cap` is raised as far as is needed, and if that is not enough, ramps move towards 1/E.
    """
    caps = np.minimum(cap, ramps)
    if caps.sum() >= 1.0:
        return caps
    if ramps.sum() <= 1.0:
        room = np.maximum(1.0 / ramps.size - ramps, 0.0)
        missing = 1.0 - ramps.sum()
        return np.asarray(ramps + room * (missing / room.sum() if missing > 0.0 else 0.0))
    # The cap c at which sum(min(c, ramps)) is 1: arms whose ramps lie below c have those, the others c.
    ascending = np.sort(ramps)
    left = 1.0 - np.concatenate([[0.0], np.cumsum(ascending)[:-1]])
    levels = left / np.arange(ramps.size, 0, -1)
    level = float(levels[np.argmax(levels <= ascending)])
    return np.asarray(np.minimum(level, ramps))
