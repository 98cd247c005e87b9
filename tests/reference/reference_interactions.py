"""Models of interactions by the formulas of the papers, dense and slow."""

import numpy as np


def ease(x, penalty):
    """B of Steck 2019, eq. 8: −P_ij / P_jj off the diagonal, 0 on it, with P = (XᵀX + λI)⁻¹."""
    precision = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1]))
    b = -precision / np.diag(precision)
    np.fill_diagonal(b, 0.0)
    return b


def ridge_row(weights, factors, penalty, confidence):
    """Hu, Koren and Volinsky 2008, eq. 4: (YᵀCY + λI)⁻¹ YᵀCp, C = 1 + αw, p = 1 where w > 0."""
    c = np.diag(1.0 + confidence * weights)
    preferences = (weights > 0).astype(float)
    return np.linalg.solve(
        factors.T @ c @ factors + penalty * np.eye(factors.shape[1]), factors.T @ c @ preferences
    )


def weighted_als(weights, items, penalty, confidence, n_epochs):
    """Factors of users and items after turns from these of the items; rows without an entry are 0."""
    for _ in range(n_epochs):
        users = np.array([ridge_row(row, items, penalty, confidence) for row in weights])
        items = np.array([ridge_row(row, users, penalty, confidence) for row in weights.T])
    return users, items


def loss(weights, users, items, penalty, confidence):
    """Loss that the turns make smaller."""
    errors = (weights > 0) - users @ items.T
    return (
        ((1.0 + confidence * weights) * errors**2).sum()
        + penalty * (users**2).sum()
        + penalty * (items**2).sum()
    )
