"""Mean of an arm's outcomes, whatever the context."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats


class ArmMean:
    """Model of an outcome that is the same for all features. It has the two methods of a scikit-learn regressor."""

    def fit(self, features: NDArray[np.floating], outcome: Floats) -> ArmMean:
        """Learns from n outcomes (n,), n > 0."""
        self._mean = float(outcome.mean())
        return self

    def predict(self, features: NDArray[np.floating]) -> Floats:
        """Outcomes, float64 (m,), of features (m, d)."""
        return np.full(len(features), self._mean)
