"""Random walk that is reflected at its limits, for means and coefficients that drift."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

PER_DECISIONS = 1_000


class Walk:
    """Walk of an array of any shape, from `start`, in steps of Normal(0, drift² / 1,000) within [low, high].

    So `drift` is the standard deviation of a number's change over 1,000 decisions.
    """

    def __init__(
        self,
        start: NDArray[np.float64],
        drift: float,
        generator: Generator,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        self._at = start
        self._step = drift / math.sqrt(PER_DECISIONS)
        self._generator = generator
        self._low = low
        self._high = high

    def take(self, n: int) -> NDArray[np.float64]:
        """Takes n steps; returns the values after each, float64 (n, …)."""
        if self._step == 0.0:
            return np.broadcast_to(self._at, (n, *self._at.shape))
        steps = self._generator.normal(0.0, self._step, (n, *self._at.shape))
        path = self._at + np.cumsum(steps, axis=0)
        self._at = path[-1]
        return self._reflected(path)

    def _reflected(self, path: NDArray[np.float64]) -> NDArray[np.float64]:
        if math.isinf(self._low):
            return path
        if math.isinf(self._high):
            return self._low + np.abs(path - self._low)
        width = self._high - self._low
        folded: NDArray[np.float64] = self._low + width - np.abs((path - self._low) % (2.0 * width) - width)
        return folded
