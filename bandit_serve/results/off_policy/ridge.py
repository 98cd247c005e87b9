"""Ridge regression of outcomes on features, for each arm on its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats


class Ridge:
    """Linear model of an outcome whose intercept is not shrunk. It has the two methods of a scikit-learn regressor.

    penalty: of the sum of squares of the slopes, on features scaled to standard deviation 1.
    """

    def __init__(self, penalty: float = 1.0) -> None:
        if not penalty > 0.0:
            raise ValueError(f"penalty: expected a number above 0, not {penalty}")
        self._penalty = penalty

    def fit(self, features: NDArray[np.floating], outcome: Floats) -> Ridge:
        """Learns from n rows, features (n, d) and outcome (n,), n > 0."""
        x = np.asarray(features, np.float64)
        self._centre = x.mean(axis=0)
        spread = x.std(axis=0)
        self._scale = np.where(spread > 0.0, spread, 1.0)
        self._mean = float(outcome.mean())
        z = (x - self._centre) / self._scale
        gram = z.T @ z + self._penalty * np.eye(x.shape[1])
        self._slopes: Floats = np.linalg.solve(gram, z.T @ (outcome - self._mean))
        return self

    def predict(self, features: NDArray[np.floating]) -> Floats:
        """Outcomes, float64 (m,), of features (m, d)."""
        predicted: Floats = ((features - self._centre) / self._scale) @ self._slopes + self._mean
        return predicted
