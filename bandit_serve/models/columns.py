"""The column of ratings that every family is fitted on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput


def rating_column(ratings: ArrayLike) -> NDArray[np.float32]:
    """(n,) float32, n ≥ 1. Raises `InvalidInput` when it is empty, not a vector of numbers, or not finite."""
    try:
        column = np.asarray(ratings)
    except ValueError:  # nested sequences of different lengths
        raise InvalidInput("The ratings must be a vector of numbers.") from None
    if column.ndim != 1 or column.dtype.kind not in "iufb":
        raise InvalidInput("The ratings must be a vector of numbers.")
    if not column.size:
        raise InvalidInput("There must be at least one rating.")
    # Far from where float32 ends, so that training diverges visibly before anything overflows.
    if not (np.abs(column.astype(np.float64)) <= 1e6).all():
        raise InvalidInput("Every rating must be finite and at most a million in size.")
    return column.astype(np.float32)
