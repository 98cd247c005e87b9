"""Rewards that are counts: items bought, pages seen."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from bandit_serve.metrics import Count
from bandit_serve.simulation.worlds.context_free import ContextFree
from bandit_serve.simulation.worlds.environment import Matrix, require

# NumPy draws no Poisson number above it, and no policy sees one.
LARGEST_RATE = 1e9


class Counts(ContextFree, frozen=True, kw_only=True):
    """arms: the rate of each, of Poisson numbers."""

    kind: ClassVar[str] = "counts"
    objective: ClassVar[str] = Count.name
    noun: ClassVar[str] = "Poisson"
    lowest: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rates = [*self.arms, *(rate for each in self.changes for rate in each.arms)]
        require(max(rates) <= LARGEST_RATE, f"rates must be at most {LARGEST_RATE:g}, not {max(rates):g}.")

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        return generator.poisson(means).astype(np.float64)

    def divergence(self, mean: float, best: float) -> float:
        return best - mean - (mean * math.log(best / mean) if mean > 0.0 else 0.0)
