"""Estimates for each position of a page, and of all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike

from bandit_serve.results.off_policy.estimate import Estimate


class PerPosition(Struct, frozen=True, kw_only=True):
    """Estimates by position, and `pooled`, their mean by numbers of decisions, with a normal interval."""

    positions: Mapping[Any, Estimate]
    pooled: Estimate


def per_position(
    estimator: Callable[..., Estimate],
    position: ArrayLike,
    *columns: ArrayLike,
    alpha: float = 0.05,
    **options: Any,
) -> PerPosition:
    """Estimates of the decisions at each position on their own.

    estimator: `ips`, `snips`, … . position: (n,), of any type. columns: those of the estimator, (n,) each. Raises
    ValueError as the estimator does, and where the lengths differ.
    """
    places = np.asarray(position)
    arrays = [np.asarray(column) for column in columns]
    if places.ndim != 1 or any(array.shape != places.shape for array in arrays):
        raise ValueError("position: expected one for each decision")
    if takes_alpha := estimator.__name__ != "dm":
        options["alpha"] = alpha
    found, counts = np.unique(places, return_counts=True)
    estimates = {
        place: estimator(*(array[places == place] for array in arrays), **options) for place in found.tolist()
    }
    share = counts / counts.sum()
    value = float(share @ [each.value for each in estimates.values()])
    error = math.sqrt(float(np.square(share) @ [each.standard_error**2 for each in estimates.values()]))
    half = NormalDist().inv_cdf(1.0 - alpha / 2.0) * error
    interval = (value - half, value + half) if takes_alpha else None
    return PerPosition(
        positions=estimates, pooled=Estimate(value=value, standard_error=error, interval=interval)
    )
