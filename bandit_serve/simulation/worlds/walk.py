"""Numbers that drift: a random walk that is reflected at its limits."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

PER_DECISIONS = 1_000


class Walk:
    """From `start`, any shape, each number by steps of Normal(0, drift² / 1,000): after 1,000 by about `drift`."""

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
        """The next n values, (n, …); the first follows one step after what was taken last."""
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
