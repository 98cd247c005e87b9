"""Columns with room for more rows, or more arms, than they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

State = dict[str, NDArray[Any]]
"""Columns of a state, by name."""


def longer(column: ArrayLike, rows: int) -> NDArray[Any]:
    """`column` with room for `rows` rows, 0 in those that are new."""
    former = np.asarray(column)
    column = np.zeros((rows, *former.shape[1:]), former.dtype)
    column[: len(former)] = former
    return column


def widened(column: ArrayLike, n_arms: int) -> NDArray[Any]:
    """`column` [rows, K] with room for `n_arms` arms, 0 for those that are new."""
    former = np.asarray(column)
    return np.pad(former, ((0, 0), (0, n_arms - former.shape[1])))


def first_rows(column: ArrayLike, rows: int) -> NDArray[Any]:
    """Copy of the rows that are held."""
    return np.asarray(column)[:rows].copy()


def notes_of(state: State, name: str, rows: int, width: int) -> NDArray[np.float32]:
    """Notes in a state, float32 (rows, width); `ValueError` for anything else."""
    notes = state[name]
    if notes.dtype != np.float32 or notes.shape != (rows, width) or not np.isfinite(notes).all():
        raise ValueError("the snapshot does not hold the notes that it counts")
    return notes
