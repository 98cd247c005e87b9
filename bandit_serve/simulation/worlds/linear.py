"""Mean rewards that are linear in the context."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from msgspec import Meta
from numpy.random import Generator

from bandit_serve.metrics import Continuous
from bandit_serve.simulation.worlds.contextual import Contextual
from bandit_serve.simulation.worlds.environment import Matrix, require


class Linear(Contextual, frozen=True, kw_only=True):
    """The reward is the score and Normal noise of the standard deviation `noise`."""

    kind: ClassVar[str] = "linear"
    objective: ClassVar[str] = Continuous.name
    noun: ClassVar[str] = "linear"

    noise: Annotated[float, Meta(ge=0.0)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(math.isfinite(self.noise), "noise must be finite.")

    def expected(self, scores: Matrix) -> Matrix:
        return scores

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        return means + self.noise * generator.standard_normal(means.shape)

    def summary(self) -> str:
        return f"{super().summary()}, noise {self.noise:g}"
