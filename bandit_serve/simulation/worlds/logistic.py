"""Rewards of 0 or 1 whose log odds are linear in the context."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.random import Generator

from bandit_serve.metrics import Binary
from bandit_serve.simulation.worlds.contextual import Contextual
from bandit_serve.simulation.worlds.environment import Matrix


class Logistic(Contextual, frozen=True, kw_only=True):
    """The probability of a 1 is 1/(1 + exp(−score))."""

    kind: ClassVar[str] = "logistic"
    objective: ClassVar[str] = Binary.name
    noun: ClassVar[str] = "logistic"

    def expected(self, scores: Matrix) -> Matrix:
        means: Matrix = np.exp(-np.logaddexp(0.0, -scores))
        return means

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        return (generator.random(means.shape) < means).astype(np.float64)
