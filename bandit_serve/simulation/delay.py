"""Delay: how many decisions later a reward comes, if it comes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.random import Generator
from numpy.typing import NDArray

from bandit_serve.experiments.checks import MAX_WINDOW_MS
from bandit_serve.experiments.spec import MAX_ARMS
from bandit_serve.simulation.worlds.environment import Environment, require_that

DECISION_MS = 1_000
"""Simulated log time between two decisions."""
WINDOW_DELAYS = 5
"""Length of the default window, in mean delays."""
MAX_WINDOW_DECISIONS = MAX_WINDOW_MS // DECISION_MS


class Delay(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Random delay of rewards, counted in decisions.

    kind: `exponential` or `geometric` (1, 2, …).
    mean: mean delay, one for all arms or one for each.
    window: later rewards do not count; by default 5 × the longest mean.
    missing: with `zero`, only rewards other than 0 are sent, and a decision without one counts as 0 when its window
        closes. With `ignore`, all rewards are sent, and decisions without one do not count.
    lost: share of rewards that never come.
    refresh: number of decisions that are drawn from one share vector.
    """

    mean: float | list[float]
    kind: Literal["exponential", "geometric"] = "exponential"
    window: Annotated[int, Meta(ge=1, le=MAX_WINDOW_DECISIONS)] | None = None
    missing: Literal["zero", "ignore"] = "zero"
    lost: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    refresh: Annotated[int, Meta(ge=1, le=1_000_000)] = 20

    def __post_init__(self) -> None:
        min_mean = 1.0 if self.kind == "geometric" else 0.0
        require_that(
            all(math.isfinite(mean) and mean >= min_mean for mean in self.means),
            f"the mean of a delay must be finite and at least {min_mean:g}, not {self.mean}.",
        )

    @property
    def means(self) -> list[float]:
        """Mean delays: one, or one for each arm."""
        return self.mean if isinstance(self.mean, list) else [self.mean]

    @property
    def window_decisions(self) -> int:
        """Attribution window, in decisions."""
        return self.window or min(MAX_WINDOW_DECISIONS, max(1, math.ceil(WINDOW_DELAYS * max(self.means))))

    def check(self, environment: Environment) -> None:
        """Raises `InvalidInput` unless the delay fits the `environment`."""
        require_that(
            environment.n_arms <= MAX_ARMS,
            f"delays go through the fold of an experiment, which has at most {MAX_ARMS:,} arms.",
        )
        require_that(
            len(self.means) in (1, environment.n_arms),
            f"a delay has one mean, or one for each of the {environment.n_arms} arms, not {len(self.means)}.",
        )

    def draw(self, n: int, n_arms: int, generator: Generator) -> NDArray[np.int64]:
        """Draws int64 (n, K): the number of decisions until the reward comes, -1 for never.

        One random number serves all arms of a decision, so that policies that choose differently meet the same delays.
        """
        luck, kept = generator.random((2, n, 1))
        means = np.broadcast_to(np.array(self.means), (n_arms,))
        if self.kind == "exponential":
            delays = np.ceil(-np.log1p(-luck) * means)
        else:
            with np.errstate(divide="ignore"):
                delays = np.ceil(np.log1p(-luck) / np.log1p(-1.0 / means))
        counted: NDArray[np.int64] = np.where(kept < self.lost, -1, np.maximum(delays, 1.0)).astype(np.int64)
        return counted

    def summary(self) -> str:
        """Few words for a title."""
        means = ", ".join(f"{mean:g}" for mean in self.means)
        lost = f", {100 * self.lost:g} % lost" if self.lost else ""
        return (
            f"{self.kind} delays of {means}{lost}, window {self.window_decisions:,}, missing: {self.missing}"
        )
