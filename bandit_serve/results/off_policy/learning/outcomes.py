"""Model of outcomes that knows the past alone, and keeps only sums of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.off_policy.learning.logged_part import LoggedPart
from bandit_serve.results.sequence import Floats

MIN_OF_ARM = 2.0
"""Outcomes of an arm, below which it has the mean of all arms."""
PENALTY = 1.0
GROWTH = 1.25
"""Factor by which the outcomes have to grow before the regressions are made anew."""
MAX_NUMBERS = 1 << 23
"""Numbers in all arms' matrices, above which an arm has its mean alone."""


class PastOutcomes:
    """Outcomes of each arm in the past: their mean, or with features their ridge regression on those.

    A prediction lies within the outcomes that were seen: what the first few say of far features may be anything.
    """

    def __init__(self, n_arms: int, n_features: int) -> None:
        width = n_features + 1 if n_features and n_arms * (n_features + 1) ** 2 <= MAX_NUMBERS else 0
        self._counts: Floats = np.zeros(n_arms)
        self._totals: Floats = np.zeros(n_arms)
        self._low, self._high = np.inf, -np.inf
        self._gram: Floats = np.zeros((n_arms, width, width))
        self._moment = np.zeros((n_arms, width))
        self._slopes: Floats = np.zeros((n_arms, width))
        self._fitted_at = 0.0

    def add(self, decided: LoggedPart) -> None:
        if not len(decided.arms):
            return
        n_arms = len(self._counts)
        np.add.at(self._counts, decided.arms, 1.0)
        np.add.at(self._totals, decided.arms, decided.value)
        self._low = min(self._low, float(decided.value.min()))
        self._high = max(self._high, float(decided.value.max()))
        if self._gram.shape[1]:
            rows = _with_one(decided.x)
            for arm in range(n_arms):
                own: Floats = rows[decided.arms == arm]
                self._gram[arm] += own.T @ own
                self._moment[arm] += own.T @ decided.value[decided.arms == arm]
            if self._counts.sum() >= GROWTH * self._fitted_at:
                self._fit()

    def _fit(self) -> None:
        self._fitted_at = float(self._counts.sum())
        ridge = self._gram + PENALTY * np.eye(self._gram.shape[1])
        self._slopes = np.asarray(np.linalg.solve(ridge, self._moment[:, :, None])[:, :, 0], np.float64)

    def means(self) -> Floats:
        """Mean outcomes of the arms, float64 (K,): 0 before any, and of an arm with hardly any that of all."""
        total = self._counts.sum()
        overall = float(self._totals.sum() / total) if total else 0.0
        known = self._counts >= MIN_OF_ARM
        means: Floats = np.where(known, self._totals / np.maximum(self._counts, 1.0), overall)
        return means

    def predicted(self, x: NDArray[np.float32]) -> Floats:
        """Outcomes of every arm, float64 (n, K), for features (n, d)."""
        means = self.means()
        if not self._gram.shape[1] or not self._fitted_at:
            return np.broadcast_to(means, (len(x), len(means)))
        by_model = np.clip(_with_one(x) @ self._slopes.T, self._low, self._high)
        predicted: Floats = np.where(self._counts >= MIN_OF_ARM, by_model, means)
        return predicted


def _with_one(x: NDArray[np.float32]) -> Floats:
    """Features with one that is always 1 before them."""
    return np.concatenate([np.ones((len(x), 1)), x.astype(np.float64)], axis=1)
