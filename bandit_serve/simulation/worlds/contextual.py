"""Environments with context: the best arm depends on the features of the decision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.random import Generator, SeedSequence, default_rng

from bandit_serve.simulation.worlds.environment import (
    Block,
    Environment,
    Matrix,
    block_rows,
    require_that,
    spans,
)
from bandit_serve.simulation.worlds.walk import Walk


class Contextual(Environment, frozen=True, kw_only=True):
    """Arms with scores θ_k·x. The first feature is always 1, the others are Normal(0, 1).

    Each seed draws coefficients θ_k of length `signal` in random directions, so a score has a standard deviation of
    about `signal`. arms: K. features: d, the constant included. changes: decisions at which all coefficients are drawn
    anew. drift: standard deviation of a coefficient's random walk over 1,000 decisions.
    """

    arms: Annotated[int, Meta(ge=1, le=100_000)] = 10
    features: Annotated[int, Meta(ge=1, le=10_000)] = 16
    signal: Annotated[float, Meta(gt=0.0)] = 1.0
    changes: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    drift: Annotated[float, Meta(ge=0.0)] = 0.0

    noun: ClassVar[str]

    def __post_init__(self) -> None:
        require_that(
            math.isfinite(self.signal) and math.isfinite(self.drift), "signal and drift must be finite."
        )
        times = list(self.changes)
        require_that(times == sorted(set(times)), f"changes must come one after another, not at {times}.")

    @property
    def n_arms(self) -> int:
        return self.arms

    @property
    def n_features(self) -> int:
        return self.features

    @property
    def change_points(self) -> tuple[int, ...]:
        return self.changes

    @property
    def moves(self) -> bool:
        return bool(self.changes) or self.drift > 0.0

    def blocks(self, horizon: int, seed: SeedSequence) -> Iterator[Block]:
        outcomes, course, visitors = (default_rng(child) for child in seed.spawn(3))
        rows = block_rows(self.arms * (self.features if self.drift else 1) + self.features)
        for start, end in spans(horizon, rows, self.change_points):
            if start == 0 or start in self.changes:
                walk = Walk(self._coefficients(course), self.drift, course)
            contexts = visitors.standard_normal((end - start, self.features))
            contexts[:, 0] = 1.0
            path = walk.take(end - start)
            # Without drift all rows of the path are the same.
            scores = np.einsum("bd,bkd->bk", contexts, path) if self.drift else contexts @ path[0].T
            means = self.expected(scores)
            yield Block(means, self.outcomes(means, outcomes), contexts)

    def _coefficients(self, generator: Generator) -> Matrix:
        directions = generator.standard_normal((self.arms, self.features))
        scaled: Matrix = self.signal * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        return scaled

    def expected(self, scores: Matrix) -> Matrix:
        """float64 (B, K): mean rewards for these scores."""
        raise NotImplementedError

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        """Draws float64 (B, K): a reward of each arm at each decision, with these means."""
        raise NotImplementedError

    def summary(self) -> str:
        changed = f", {len(self.changes)} change{'s' * (len(self.changes) > 1)}" if self.changes else ""
        drifting = f", drift {self.drift:g}" if self.drift else ""
        return f"{self.noun} context, {self.arms} arms, {self.features} features{changed}{drifting}"
