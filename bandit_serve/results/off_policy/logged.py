"""Columns of logged decisions, checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.results.sequence import Floats


class Logged(NamedTuple):
    """Rewards and importance weights, target / propensity, of n decisions: float64 (n,) each."""

    reward: Floats
    weight: Floats


def logged(reward: ArrayLike, propensity: ArrayLike, target: ArrayLike) -> Logged:
    """Columns of n decisions. Raises ValueError for arrays that are empty, of unequal lengths or not finite, for
    propensities outside (0, 1] and for negative targets.
    """
    rewards, propensities, targets = columns(reward=reward, propensity=propensity, target=target)
    return Logged(rewards, _weights(propensities, targets))


def weights(propensity: ArrayLike, target: ArrayLike) -> Floats:
    """Importance weights float64 (n,), with the checks of `logged`."""
    return _weights(*columns(propensity=propensity, target=target))


def columns(**named: ArrayLike) -> tuple[Floats, ...]:
    """Columns as float64 (n,) arrays, in the given order. Raises ValueError that names the one that is wrong."""
    arrays = {name: _column(name, given) for name, given in named.items()}
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1:
        said = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise ValueError(f"expected arrays of one length, not {said}")
    return tuple(arrays.values())


def _column(name: str, given: ArrayLike) -> Floats:
    array = np.asarray(given, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: expected an array of at least one number, not one of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers")
    return array


def _weights(propensities: Floats, targets: Floats) -> Floats:
    if not ((propensities > 0.0) & (propensities <= 1.0)).all():
        raise ValueError("propensity: expected numbers above 0 and at most 1")
    if (targets < 0.0).any():
        raise ValueError("target: expected no negative number")
    # A tiny propensity may make it infinite.
    with np.errstate(over="ignore"):
        weight = targets / propensities
    if not np.isfinite(weight).all():
        raise ValueError("propensity: expected numbers by which the targets can be divided")
    return weight
