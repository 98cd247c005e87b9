"""Factorization machine as its formula reads, in float64, one sample at a time."""

from __future__ import annotations


def score(mean, weights, vectors, x):
    """μ + Σ w_c x_c + Σ_{c<d} v_c·v_d x_c x_d; weights (n,), vectors (n, F), x (n,)."""
    total = mean + weights @ x
    for c in range(len(x)):
        for d in range(c + 1, len(x)):
            total += vectors[c] @ vectors[d] * x[c] * x[d]
    return total


def step(mean, weights, vectors, x, rating, rates, shrink_vectors, shrink_weight):
    """The implicit step of gradient descent, to first order: new weights and vectors.

    rates, shrink_vectors: (n,), of each column.
    """
    error = rating - score(mean, weights, vectors, x)
    whole = (vectors * x[:, None]).sum(axis=0)
    gradients = x[:, None] * (whole - x[:, None] * vectors)
    bend = 1.0 + float((rates * (x**2 + (gradients**2).sum(axis=1))).sum())
    new_vectors = (
        vectors - (rates * shrink_vectors)[:, None] * vectors + (rates * error / bend)[:, None] * gradients
    )
    new_weights = weights + rates * (error / bend * x - shrink_weight * weights)
    return new_weights, new_vectors
