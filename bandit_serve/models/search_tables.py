"""Validation of a file's tables for top-k searches against its factors.

A search trusts its tables: with bounds that are too low it leaves out the best items, and never computes their scores.
They are not computed anew to be compared, as another processor rounds some of them otherwise; what is checked is what
the search relies on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidArtifact

LANES = 8
BLOCKS_AT_ONCE = 1 << 12
# More than float32 loses, also where squares are denormal; too little to change an order.
RELATIVE, ABSOLUTE = 1e-5, 1e-17


def check_search_tables(
    factors: NDArray[np.float32], biases: NDArray[np.float32], tables: Mapping[str, NDArray[Any]]
) -> None:
    """Raise `InvalidArtifact` unless the tables are the items'. `TopK` took them, so shapes and order are right.

    factors: f4 (n, f); biases: f4 (n,). Takes memory for some thousand blocks of items at a time.
    """
    n_blocks = len(tables["scales"])
    for begin in range(0, n_blocks, BLOCKS_AT_ONCE):
        fault = _fault(factors, biases, tables, begin, min(begin + BLOCKS_AT_ONCE, n_blocks))
        if fault is not None:
            raise InvalidArtifact(f"The search tables are not those of the factors: {fault}.")


def _fault(
    factors: NDArray[np.float32],
    biases: NDArray[np.float32],
    tables: Mapping[str, NDArray[Any]],
    begin: int,
    end: int,
) -> str | None:
    f = factors.shape[1]
    rows = tables["order"][begin * LANES : end * LANES]
    places = (end - begin) * LANES
    vectors = np.zeros((places, f))
    vectors[: len(rows)] = factors[rows]
    own = np.full(places, -np.inf if biases.any() else 0.0, np.float32)
    own[: len(rows)] = biases[rows]
    if not np.array_equal(own, tables["biases"][begin * LANES : end * LANES]):
        return "other biases"
    scales = tables["scales"][begin:end].astype(np.float64)
    if not (np.isfinite(scales).all() and (scales >= 0.0).all()):
        return "scales that are not finite"
    width = (f + 3) // 4 * 32
    codes = tables["codes"][begin * width : end * width].reshape(end - begin, -1, LANES, 4)
    codes = codes.transpose(0, 2, 1, 3).reshape(places, -1)[:, :f]
    decoded = (codes.astype(np.float64) - 128.0) * np.repeat(scales, LANES)[:, None]
    for name, per_item in (
        ("norms", np.linalg.norm(vectors, axis=1)),
        ("errors", np.linalg.norm(vectors - decoded, axis=1)),
    ):
        expected = per_item.reshape(-1, LANES).max(axis=1)
        if not np.allclose(tables[name][begin:end], expected, rtol=RELATIVE, atol=ABSOLUTE):
            return f"other {name}"
    return None
