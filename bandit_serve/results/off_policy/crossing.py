"""Cross-fitting: predictions of outcomes by models that have not seen the decision.

Chernozhukov et al., "Double/debiased machine learning", 2018: a model that was fitted to the decisions that it then
corrects would hide their noise, and the interval would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.results.off_policy.logged import columns
from bandit_serve.results.off_policy.ridge import Ridge
from bandit_serve.results.sequence import Floats

FOLDS = 5
MIN_OF_ARM = 2
"""Outcomes of an arm in the other folds, below which it has the mean of all arms."""


class Regressor(Protocol):
    """Model with scikit-learn's two methods: `fit(features (n, d), outcome (n,))` and `predict(features (m, d))`."""

    def fit(self, features: Any, outcome: Any, /) -> Any: ...

    def predict(self, features: Any, /) -> Any: ...


class Crossed(NamedTuple):
    """Predicted outcomes of every arm for every decision, float64 (n, K)."""

    outcomes: Floats

    def of(self, arms: NDArray[np.integer]) -> Floats:
        """Predictions `q` (n,) for the chosen arms (n,)."""
        chosen: Floats = self.outcomes[np.arange(len(self.outcomes)), arms]
        return chosen

    def under(self, target: Floats) -> Floats:
        """Means `q_target` (n,) under a policy's probabilities, float64 (n, K) or (K,)."""
        mean: Floats = (self.outcomes * target).sum(axis=1)
        return mean


def cross_fitted(
    reward: ArrayLike,
    arms: ArrayLike,
    n_arms: int,
    features: ArrayLike | None = None,
    *,
    model: Callable[[], Regressor] = Ridge,
    folds: int = FOLDS,
    seed: int = 0,
    groups: ArrayLike | None = None,
    fold: ArrayLike | None = None,
) -> Crossed:
    """Predictions of outcomes, each by a model of the other folds.

    arms: int (n,), 0 … n_arms - 1. features: (n, d); without any, an arm's outcome is its mean. model: makes a
    regressor for one arm. groups: (n,), decisions of one group are in one fold, such as those of one unit. fold: int
    (n,), 0 … folds - 1, of each decision, in place of drawing it. Raises ValueError for columns that do not fit
    together, and for fewer than 2 folds.
    """
    (rewards,) = columns(reward=reward)
    chosen = np.asarray(arms)
    if chosen.shape != rewards.shape or ((chosen < 0) | (chosen >= n_arms)).any():
        raise ValueError(f"arms: expected a number from 0 to {n_arms - 1} for each reward")
    if folds < 2:
        raise ValueError(f"folds: expected 2 at least, not {folds}")
    x = None if features is None else np.asarray(features, np.float64)
    if x is not None and (x.ndim != 2 or len(x) != len(rewards) or not np.isfinite(x).all()):
        raise ValueError("features: expected a row of finite numbers for each reward")
    in_fold = _folds(len(rewards), folds, seed, groups) if fold is None else np.asarray(fold)
    if in_fold.shape != rewards.shape or ((in_fold < 0) | (in_fold >= folds)).any():
        raise ValueError(f"fold: expected a number from 0 to {folds - 1} for each reward")
    outcomes = np.empty((len(rewards), n_arms))
    for k in range(folds):
        held, others = in_fold == k, in_fold != k
        for arm in range(n_arms):
            own = others & (chosen == arm)
            outcomes[held, arm] = _predicted(rewards, x, own, others, held, model)
    return Crossed(outcomes)


def _folds(n: int, folds: int, seed: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    generator = np.random.default_rng(seed)
    if groups is None:
        return generator.permutation(n) % folds
    found, places = np.unique(np.asarray(groups), return_inverse=True)
    if len(places) != n:
        raise ValueError("groups: expected one for each reward")
    of_group: NDArray[np.intp] = generator.permutation(len(found)) % folds
    return of_group[places]


def _predicted(
    rewards: Floats,
    x: Floats | None,
    own: NDArray[np.bool_],
    others: NDArray[np.bool_],
    held: NDArray[np.bool_],
    model: Callable[[], Regressor],
) -> Floats | float:
    """Predictions for the held-out decisions, from an arm's `own` in the other folds."""
    n = int(own.sum())
    if n < MIN_OF_ARM:
        return float(rewards[others].mean()) if others.any() else 0.0
    if x is None or x.shape[1] == 0:
        return float(rewards[own].mean())
    fitted = model()
    fitted.fit(x[own], rewards[own])
    predicted = np.asarray(fitted.predict(x[held]), np.float64) if held.any() else np.zeros(0)
    return predicted.reshape(-1)
