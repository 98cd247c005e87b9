"""Factorization machine of outcomes: linear in the features, and in products of any two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats

FIRST_STD = 0.1
N_SWEEPS = 20


class OutcomeMachine:
    """Outcome w0 + Σ w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j, with the two methods of a scikit-learn regressor.

    Rendle, "Factorization machines", 2010, eq. 1, fitted by least squares of one parameter after the other (Rendle et
    al. 2011), which needs no rate: given all others, the outcome is linear in each. penalty: of the sum of squares of
    all w and v, on features scaled to mean 0 and standard deviation 1; the intercept is not shrunk. seed: of the first
    factors.
    """

    def __init__(self, n_factors: int = 4, penalty: float = 1.0, seed: int = 0) -> None:
        if not n_factors >= 1:
            raise ValueError(f"n_factors: expected 1 at least, not {n_factors}")
        if not penalty > 0.0:
            raise ValueError(f"penalty: expected a number above 0, not {penalty}")
        self._n_factors = n_factors
        self._penalty = penalty
        self._seed = seed

    def fit(self, features: NDArray[np.floating], outcome: Floats) -> OutcomeMachine:
        """Learns from n rows, features (n, d) and outcome (n,), n > 0."""
        x = np.asarray(features, np.float64)
        self._centre = x.mean(axis=0)
        spread = x.std(axis=0)
        varies = np.flatnonzero(spread > 0.0)
        self._scale = np.where(spread > 0.0, spread, 1.0)
        # A feature a column in memory: each is gone through on its own.
        z = np.asfortranarray((x - self._centre) / self._scale)
        self._mean = float(outcome.mean())
        self._slopes: Floats = np.zeros(x.shape[1])
        self._factors: Floats = np.random.default_rng(self._seed).normal(
            0.0, FIRST_STD, (x.shape[1], self._n_factors)
        )
        self._factors[spread == 0.0] = 0.0
        left = outcome - self._predicted(z)
        for _ in range(N_SWEEPS):
            shift = float(left.mean())
            self._mean += shift
            left -= shift
            for i in varies:
                self._slopes[i], left = self._improved(float(self._slopes[i]), z[:, i], left)
            for f in range(self._n_factors):
                sums = z @ self._factors[:, f]
                for i in varies:
                    before = float(self._factors[i, f])
                    others = z[:, i] * (sums - before * z[:, i])
                    self._factors[i, f], left = self._improved(before, others, left)
                    sums += (self._factors[i, f] - before) * z[:, i]
        return self

    def _improved(self, parameter: float, slope: Floats, left: Floats) -> tuple[float, Floats]:
        """Best value of a parameter in which the outcome has this slope (n,), and what it leaves of the outcomes."""
        square = float(slope @ slope)
        better = (float(slope @ left) + parameter * square) / (square + self._penalty)
        return better, left - (better - parameter) * slope

    def predict(self, features: NDArray[np.floating]) -> Floats:
        """Outcomes, float64 (m,), of features (m, d)."""
        return self._predicted((features - self._centre) / self._scale)

    def _predicted(self, z: Floats) -> Floats:
        of_pairs = 0.5 * (np.square(z @ self._factors) - np.square(z) @ np.square(self._factors)).sum(axis=1)
        predicted: Floats = self._mean + z @ self._slopes + of_pairs
        return predicted
