"""Environments without context: each arm has one mean for all decisions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta, Struct
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


class MeanChange(Struct, frozen=True, forbid_unknown_fields=True):
    """Change of the means to `arms`, from decision `at` on, counted from 0."""

    at: Annotated[int, Meta(ge=1)]
    arms: tuple[float, ...]


class ContextFree(Environment, frozen=True, kw_only=True):
    """arms: the K means. changes: later means. drift: standard deviation of a mean's walk over 1,000 decisions."""

    lowest: ClassVar[float] = -math.inf
    highest: ClassVar[float] = math.inf

    arms: Annotated[tuple[float, ...], Meta(min_length=1)]
    changes: tuple[MeanChange, ...] = ()
    drift: Annotated[float, Meta(ge=0.0)] = 0.0

    def __post_init__(self) -> None:
        for name, means in (("arms", self.arms), *(("a change's arms", each.arms) for each in self.changes)):
            require_that(
                all(math.isfinite(mean) and self.lowest <= mean <= self.highest for mean in means),
                f"{name} of a {self.kind} environment must be {self._range()}, not {list(means)}.",
            )
            require_that(
                len(means) == len(self.arms),
                f"a change must give a mean for each of the {len(self.arms)} arms, not {len(means)}.",
            )
        times = [each.at for each in self.changes]
        require_that(times == sorted(set(times)), f"changes must come one after another, not at {times}.")
        require_that(math.isfinite(self.drift), "drift must be finite.")

    @property
    def n_arms(self) -> int:
        return len(self.arms)

    @property
    def change_points(self) -> tuple[int, ...]:
        return tuple(each.at for each in self.changes)

    @property
    def moves(self) -> bool:
        return bool(self.changes) or self.drift > 0.0

    def blocks(self, horizon: int, seed: SeedSequence) -> Iterator[Block]:
        outcomes, course = (default_rng(child) for child in seed.spawn(2))
        means_from = {0: self.arms, **{each.at: each.arms for each in self.changes}}
        rows = block_rows(self.n_arms)
        for start, end in spans(horizon, rows, self.change_points):
            if start in means_from:
                means = np.array(means_from[start], dtype=np.float64)
                walk = Walk(means, self.drift, course, self.lowest, self.highest)
            expected = walk.take(end - start)
            yield Block(expected, self.outcomes(expected, outcomes))

    def outcomes(self, means: Matrix, generator: Generator) -> Matrix:
        """Draws float64 (B, K): a reward of each arm at each decision, with these means."""
        raise NotImplementedError

    def lost_per_log(self) -> float | None:
        """C of the growth C·ln t (Lai and Robbins 1985): Σ (μ* − μ_k)/KL(μ_k, μ*); None if means move or are equal."""
        best = max(self.arms)
        if self.moves or min(self.arms) == best:
            return None
        return math.fsum((best - mean) / self.divergence(mean, best) for mean in self.arms if mean < best)

    def divergence(self, mean: float, best: float) -> float:
        """KL divergence from an arm of `mean` to one of mean `best`; infinite where there is no such arm."""
        raise NotImplementedError

    def summary(self) -> str:
        changed = f", {len(self.changes)} change{'s' * (len(self.changes) > 1)}" if self.changes else ""
        drifting = f", drift {self.drift:g}" if self.drift else ""
        return f"{self.n_arms} {self.noun} arms, {spelled(self.arms)}{changed}{drifting}"

    noun: ClassVar[str]

    def _range(self) -> str:
        if math.isinf(self.lowest):
            return "finite numbers"
        if math.isinf(self.highest):
            return f"finite numbers of at least {self.lowest:g}"
        return f"numbers from {self.lowest:g} to {self.highest:g}"


def spelled(means: tuple[float, ...]) -> str:
    """Lists means in order, with runs of equal ones shortened: `0.05, 9 × 0.04`."""
    runs: list[tuple[float, int]] = []
    for mean in means:
        if runs and runs[-1][0] == mean:
            runs[-1] = (mean, runs[-1][1] + 1)
        else:
            runs.append((mean, 1))
    shown = [f"{count} × {mean:g}" if count > 1 else f"{mean:g}" for mean, count in runs]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:6], "…", shown[-1]])
