"""Interactions: which ratings are some, such as clicks, plays and likes, and the sparse matrix that they make."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models._interactions import counting_order, dense_product, gram, sparse_product
from bandit_serve.models.row_threads import RowThreads

MAX_WEIGHT = 1e6
# The smallest number that a rating must reach where none were seen before: any that is above 0.
ABOVE_ZERO = float(np.finfo(np.float64).tiny)


class InteractionRule(NamedTuple):
    """Rule that makes interactions of ratings: those that reach `least`, with weights (rating / least)^`exponent`.

    With the exponent 0 every interaction weighs 1; with 1, and plays, weights are counts, up to a million.
    """

    least: float = ABOVE_ZERO
    exponent: float = 0.0

    @classmethod
    def of(cls, ratings: NDArray[np.float64], share: float, exponent: float) -> InteractionRule:
        """Rule of n ratings: `least` is the smallest one above 0 that no more than `share` of those reach.

        Without one it is the largest, so that clicks of 1, or of 0 and 1, are interactions where they are 1. Where no
        rating is above 0, all count.
        """
        above = ratings[ratings > 0.0]
        values, counts = np.unique(above if above.size else ratings, return_counts=True)
        reached = counts[::-1].cumsum()[::-1]
        few = values[reached <= share * counts.sum()]
        return cls(float(few[0] if few.size else values[-1]), exponent)

    def weights(self, ratings: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,): of each rating, 0 for those that are no interactions."""
        chosen = ratings >= self.least
        if self.exponent == 0.0 or self.least <= ABOVE_ZERO:
            return chosen.astype(np.float64)
        return np.where(chosen, np.clip(ratings / self.least, 1.0, MAX_WEIGHT) ** self.exponent, 0.0)

    def weight(self, rating: float) -> float:
        """Weight of one rating."""
        return float(self.weights(np.array([rating]))[0])


class Interactions:
    """Sparse matrix of weights, float32, row by row: int64 `starts` (n + 1,), int32 `columns`, float32 `weights`."""

    def __init__(
        self,
        starts: NDArray[np.int64],
        columns: NDArray[np.int32],
        weights: NDArray[np.float32],
        n_columns: int,
    ) -> None:
        self.starts = starts
        self.columns = columns
        self.weights = weights
        self.n_columns = n_columns

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        weights: NDArray[np.float64],
        shape: tuple[int, int],
    ) -> Interactions:
        """Matrix of n entries; weights of the same row and column are added, entries of 0 are left out."""
        chosen = np.flatnonzero(weights)
        order, _ = counting_order(columns[chosen], shape[1])
        chosen = chosen[order]
        order, _ = counting_order(rows[chosen], shape[0])
        chosen = chosen[order]
        own_rows, own_columns = rows[chosen], columns[chosen]
        first = np.ones(chosen.size, np.bool_)
        first[1:] = (np.diff(own_rows) != 0) | (np.diff(own_columns) != 0)
        begins = np.flatnonzero(first)
        summed = np.add.reduceat(weights[chosen], begins)
        _, starts = counting_order(own_rows[begins], shape[0])
        return cls(starts, own_columns[begins].astype(np.int32), summed.astype(np.float32), shape[1])

    @property
    def n_rows(self) -> int:
        return self.starts.size - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n_rows,): entries of each row."""
        return np.diff(self.starts)

    @functools.cached_property
    def rows(self) -> NDArray[np.int64]:
        """Row of each entry."""
        return np.repeat(np.arange(self.n_rows), self.sizes)

    @functools.cached_property
    def transposed(self) -> Interactions:
        """Matrix whose rows are this one's columns."""
        order, starts = counting_order(self.columns.astype(np.int64), self.n_columns)
        return Interactions(starts, self.rows[order].astype(np.int32), self.weights[order], self.n_rows)

    def damping(self, power: float) -> NDArray[np.float64]:
        """(n_rows,): the number of each row's entries to the power of its negative."""
        weights: NDArray[np.float64] = np.maximum(self.sizes, 1.0) ** -power
        return weights

    def times_rows(self, factors: NDArray[np.float64]) -> Interactions:
        """Matrix with each row multiplied by a factor, float64 (n_rows,)."""
        weights = (self.weights * factors[self.rows]).astype(np.float32)
        return Interactions(self.starts, self.columns, weights, self.n_columns)

    def times(self, factors: NDArray[np.float32], threads: RowThreads) -> NDArray[np.float32]:
        """Product with a dense matrix, float32 (n_rows, f) of (n_columns, f)."""
        out = np.empty((self.n_rows, factors.shape[1]), np.float32)
        threads.each(
            self.n_rows,
            self.columns.size * factors.shape[1],
            lambda begin, end: sparse_product(
                self.starts, self.columns, self.weights, factors, out, begin, end
            ),
        )
        return out


def gram_matrix(
    factors: NDArray[np.float32], threads: RowThreads, weights: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Σ w x xᵀ over the rows of float32 (n, f): float64 (f, f), symmetric."""
    f = factors.shape[1]
    upper = np.zeros((f, f))
    for part in threads.sums(len(factors), lambda begin, end: gram(factors, weights, begin, end)):
        upper += part
    return upper + np.triu(upper, 1).T


def image(
    factors: NDArray[np.float32], matrix: NDArray[np.float64], threads: RowThreads
) -> NDArray[np.float32]:
    """Product of float32 (n, f) and float64 (f, g): float32 (n, g)."""
    out = np.empty((len(factors), matrix.shape[1]), np.float32)
    plain = np.ascontiguousarray(matrix)
    threads.each(
        len(factors),
        factors.size * matrix.shape[1],
        lambda begin, end: dense_product(factors, plain, out, begin, end),
    )
    return out
