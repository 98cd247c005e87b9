"""Span of the leading eigenvectors of WᵀW, the items' co-occurrences, by subspace iteration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models._interactions import cholesky, upper_inverse
from bandit_serve.models.interactions import Interactions, gram_matrix, image
from bandit_serve.models.row_threads import RowThreads

# Part of a squared length that float32 does not tell from none.
LOST = 1e-10


def drawn_span(n_items: int, n_factors: int, seed: int) -> NDArray[np.float32]:
    """Span to begin with, float32 (n_items, f)."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((n_items, n_factors), np.float32)


def turned(span: NDArray[np.float32], given: Interactions, threads: RowThreads) -> NDArray[np.float32]:
    """WᵀW times a span of items, made orthonormal on the side of which there are fewer."""
    users = given.times(span, threads)
    if given.n_rows <= given.n_columns:
        users = _orthonormal(users, threads)
    span = given.transposed.times(users, threads)
    return span if given.n_rows <= given.n_columns else _orthonormal(span, threads)


def _orthonormal(span: NDArray[np.float32], threads: RowThreads) -> NDArray[np.float32]:
    """Basis of a span; the second time takes away what rounding left of the first."""
    for _ in range(2):
        span = image(span, _whitening(span, threads), threads)
    return span


def _whitening(span: NDArray[np.float32], threads: RowThreads) -> NDArray[np.float64]:
    """Matrix that makes the columns of a span orthonormal, (f, f); with columns of 0 where the span has fewer."""
    return upper_inverse(cholesky(gram_matrix(span, threads), LOST))


def energy_of(
    span: NDArray[np.float32], given: Interactions, threads: RowThreads
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whitening of a span of items, and T = QᵀWᵀWQ of its basis Q; float64 (f, f) both."""
    whitening = _whitening(span, threads)
    energy = gram_matrix(given.times(span, threads), threads)
    return whitening, _product(whitening.T, _product(energy, whitening))


def kept_vectors(
    span: NDArray[np.float32],
    whitening: NDArray[np.float64],
    energy: NDArray[np.float64],
    penalty: float,
    threads: RowThreads,
) -> NDArray[np.float32]:
    """V of VVᵀ = Q T (T + λI)⁻¹ Qᵀ = Q (I − λ (T + λI)⁻¹) Qᵀ, float32 (n_items, f); of what `energy_of` gives."""
    f = len(energy)
    inverse = upper_inverse(cholesky(energy + penalty * np.eye(f)))
    kept = np.eye(f) - penalty * _product(inverse, inverse.T)
    return image(span, _product(whitening, cholesky(kept).T), threads)


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Product of matrices in one order of sums, as that of NumPy's library depends on the number of its threads."""
    product: NDArray[np.float64] = np.einsum("ij,jk->ik", a, b)
    return product
