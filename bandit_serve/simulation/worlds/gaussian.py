"""Rewards with Normal noise: revenue after a transformation, ratings, latencies."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from msgspec import Meta
from numpy.random import Generator

from bandit_serve.metrics import Continuous
from bandit_serve.simulation.worlds.context_free import ContextFree
from bandit_serve.simulation.worlds.environment import Matrix, require


class Gaussian(ContextFree, frozen=True, kw_only=True):
    """arms: the means. sd: the standard deviation of a reward."""

    kind: ClassVar[str] = "gaussian"
    objective: ClassVar[str] = Continuous.name
    noun: ClassVar[str] = "Gaussian"

    sd: Annotated[float, Meta(gt=0.0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(math.isfinite(self.sd), "sd must be finite.")

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        return means + self.sd * generator.standard_normal(means.shape)

    def divergence(self, mean: float, best: float) -> float:
        """With a variance that policies are not told: ½ ln(1 + (μ* − μ)²/σ²) (Burnetas and Katehakis 1996)."""
        return 0.5 * math.log1p(((best - mean) / self.sd) ** 2)

    def summary(self) -> str:
        return f"{super().summary()}, sd {self.sd:g}"
