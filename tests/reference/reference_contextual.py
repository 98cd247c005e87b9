"""Formulas of the contextual policies from their papers, in NumPy, without any code of the package."""

import numpy as np


def ridge(rows, targets, precision, weights=None):
    """The minimiser of Σ w (z - θ'x)² + Σ λ θ², and the inverse of its Hessian's half."""
    rows, targets = np.asarray(rows, dtype=float), np.asarray(targets, dtype=float)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights)
    hessian = (rows * weights[:, None]).T @ rows + np.diag(precision)
    return np.linalg.solve(hessian, rows.T @ (weights * targets)), np.linalg.inv(hessian)


def scores(theta, inverse, x):
    """Mean and width of an arm (Li, Chu, Langford & Schapire 2010, Algorithm 1, line 9)."""
    return theta @ x, np.sqrt(x @ inverse @ x)


def upper_bound_shares(means, widths, alpha):
    bound = means + alpha * widths
    best = bound == bound.max()
    return best / best.sum()


def inverse_gap_shares(means, gamma):
    """Foster & Rakhlin 2020, Algorithm 1, with μ = K; the best arms share what is left."""
    best = means == means.max()
    shares = 1.0 / (len(means) + gamma * (means.max() - means))
    shares[best] = (1.0 - shares[~best].sum()) / best.sum()
    return shares


def best_of_normals(means, scales, draws, seed):
    """P(each is the largest), counted, with its standard error."""
    rng = np.random.default_rng(seed)
    largest = (means + scales * rng.standard_normal((draws, len(means)))).argmax(axis=1)
    shares = np.bincount(largest, minlength=len(means)) / draws
    return shares, np.sqrt(shares * (1 - shares) / draws)


def logistic_observation(theta, inverse, x, reward):
    """The weight and target that stand for a 0/1 reward, by minimising over all coefficients with Newton's method.

    Laplace's approximation of Normal(θ, V) times the likelihood (Spiegelhalter & Lauritzen 1990).
    """
    precision = np.linalg.inv(inverse)
    moved = theta.copy()
    for _ in range(200):
        p = 1.0 / (1.0 + np.exp(-moved @ x))
        gradient = precision @ (moved - theta) + (p - reward) * x
        moved = moved - np.linalg.solve(precision + p * (1 - p) * np.outer(x, x), gradient)
    p = 1.0 / (1.0 + np.exp(-moved @ x))
    weight = p * (1 - p)
    return weight, moved @ x + (reward - p) / weight


def precisions(rows, least=1.0):
    """The prior's: by how many features are present in a row, and by each feature's mean square above 1."""
    squares = (np.asarray(rows, dtype=float) ** 2).mean(axis=0)
    present = np.minimum(1.0, squares).sum()
    return least * max(1.0, present / 4.0) * np.maximum(1.0, squares)
