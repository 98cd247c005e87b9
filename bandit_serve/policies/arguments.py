"""Arguments of contextual policies, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput

MAX_FEATURES = 4096
"""Numbers in a vector of features, and coefficients of a model."""


def feature_count(n_features: Any) -> int:
    """`n_features` if it is a whole number from 1 to 4,096; InvalidInput otherwise."""
    whole = hasattr(n_features, "__index__") and not isinstance(n_features, (bool, np.bool_))
    if not whole or not 1 <= n_features <= MAX_FEATURES:
        raise InvalidInput(
            f"n_features must be a whole number from 1 to {MAX_FEATURES:,}, not {n_features!r}"
        )
    return int(n_features)


def feature_rows(values: ArrayLike, length: int, name: str) -> NDArray[np.float32]:
    """`values` as float32 (N, length), C order; InvalidInput unless they are finite numbers of that shape."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be numbers: {error}") from None
    if given.dtype.kind not in "fiub":
        raise InvalidInput(f"{name} must be numbers, not of type {given.dtype}")
    if given.ndim != 2 or given.shape[1] != length:
        raise InvalidInput(f"{name} must be rows of {length} numbers, not of shape {given.shape}")
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(given, dtype=np.float32)
    if not np.isfinite(rounded).all():
        raise InvalidInput(f"{name} must be finite as float32")
    return rounded


def masks_of(eligible: ArrayLike | None, rows: int, n_arms: int) -> NDArray[np.bool_] | None:
    """Masks of eligible arms by row, or None for all arms in all rows; InvalidInput for what is neither."""
    if eligible is None:
        return None
    try:
        masks = np.asarray(eligible)
    except ValueError as error:
        raise InvalidInput(f"eligible must be rows of one length: {error}") from None
    if masks.ndim == 1:
        return np.broadcast_to(masks, (rows, masks.shape[0]))
    if masks.shape != (rows, n_arms):
        raise InvalidInput(f"eligible must be of shape {(n_arms,)} or {(rows, n_arms)}, not {masks.shape}")
    return masks


def arrays_like(
    given: Mapping[str, ArrayLike], mine: Mapping[str, NDArray[Any]], name: str
) -> dict[str, NDArray[Any]]:
    """`given` as arrays of the names, shapes and types of `mine`; InvalidInput unless they are finite numbers."""
    if not isinstance(given, Mapping) or set(given) != set(mine):
        raise InvalidInput(f"{name} must hold {', '.join(mine)} and nothing else")
    arrays = {}
    for part, own in mine.items():
        try:
            array = np.ascontiguousarray(given[part])
        except (TypeError, ValueError):
            array = np.empty(0, dtype=object)
        if array.dtype.kind not in "fiu" or array.shape != own.shape or not np.isfinite(array).all():
            raise InvalidInput(f"{name}.{part} must be finite numbers of shape {own.shape}")
        arrays[part] = array.astype(own.dtype, copy=False)
    return arrays
