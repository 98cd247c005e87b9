"""Columns of ratings and arguments of rankings, validated for every family."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.models._ids import id_text
from bandit_serve.models._learner import MAX_RATING

TOO_LARGE = f"Every rating must be finite and at most {MAX_RATING:g} in size."


def rating_column(ratings: ArrayLike) -> NDArray[np.float64]:
    """(n,) float64, n ≥ 1. Raises `InvalidInput` when it is empty, not a vector of numbers, or not finite."""
    try:
        column = np.asarray(ratings)
    except ValueError:  # nested sequences of different lengths
        raise InvalidInput("The ratings must be a vector of numbers.") from None
    if column.ndim != 1 or column.dtype.kind not in "iufb":
        raise InvalidInput("The ratings must be a vector of numbers.")
    if not column.size:
        raise InvalidInput("There must be at least one rating.")
    values = column.astype(np.float64)
    # Far from where float32 ends, so that training diverges visibly before anything overflows.
    if not (np.abs(values) <= MAX_RATING).all():
        raise InvalidInput(TOO_LARGE)
    return values


def id_column(ids: Any, what: str) -> list[str | int]:
    """Column of n ids, each checked. Raises `InvalidInput`."""
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise InvalidInput(f"The {what} must be a vector, not {ids.ndim}-dimensional.")
        ids = ids.tolist()
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidInput(f"The {what} must be a sequence of str or int.")
    column = list(ids)
    for one in column:
        id_text(one)
    return column


def check_ranking(k: int, exclude: Any, among: Any) -> None:
    """Raise `InvalidInput` unless k is 1 or more, and the items are in collections."""
    if k < 1:
        raise InvalidInput("k must be 1 or more.")
    for name, ids in (("exclude", exclude), ("among", among)):
        if isinstance(ids, str | bytes):
            raise InvalidInput(f"{name} is a collection of ids, not one id.")
