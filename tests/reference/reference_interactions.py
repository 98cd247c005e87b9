"""Models of interactions by the formulas of the papers, dense and slow."""

import numpy as np


def ease(x, penalty):
    """B of Steck 2019, eq. 8: −P_ij / P_jj off the diagonal, 0 on it, with P = (XᵀX + λI)⁻¹."""
    precision = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1]))
    b = -precision / np.diag(precision)
    np.fill_diagonal(b, 0.0)
    return b


def ridge_row(weights, factors, penalty, confidence, targets=1.0):
    """Hu, Koren and Volinsky 2008, eq. 4: (YᵀCY + λI)⁻¹ YᵀCp, C = 1 + αw, p the target where w > 0."""
    c = np.diag(1.0 + confidence * weights)
    preferences = (weights > 0) * targets
    return np.linalg.solve(
        factors.T @ c @ factors + penalty * np.eye(factors.shape[1]), factors.T @ c @ preferences
    )


def loss(weights, users, items, penalty, confidence, damping):
    """Loss that the turns make smaller; damping: (n_users,)."""
    errors = (weights > 0) - users @ items.T
    by_user = ((1.0 + confidence * weights) * errors**2).sum(axis=1) + penalty * (users**2).sum(axis=1)
    return (damping**2 * by_user).sum() + penalty * (items**2).sum()
