"""Rewards of 0 or 1: clicks, conversions."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from bandit_serve.metrics import Binary
from bandit_serve.simulation.worlds.context_free import ContextFree
from bandit_serve.simulation.worlds.environment import Matrix


class Bernoulli(ContextFree, frozen=True, kw_only=True):
    """arms: the probability of a 1 of each."""

    kind: ClassVar[str] = "bernoulli"
    objective: ClassVar[str] = Binary.name
    noun: ClassVar[str] = "Bernoulli"
    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        return (generator.random(means.shape) < means).astype(np.float64)

    def divergence(self, mean: float, best: float) -> float:
        return part(mean, best) + part(1.0 - mean, 1.0 - best)


def part(p: float, q: float) -> float:
    """p ln(p/q), 0 at p = 0."""
    if p == 0.0:
        return 0.0
    return p * math.log(p / q) if q > 0.0 else math.inf
