"""Lists of arms in the cascade model: regret of what the service draws, beside the ways of the literature.

A reader goes down the list, clicks an arm with its probability, and stops at the first click. What a list earns is the
probability of a click, 1 - Π (1 - w). CascadeKL-UCB (Kveton, Szepesvári, Wen, Ashkan 2015, "Cascading bandits",
algorithm 1) places the arms of the largest indices; cascade Thompson sampling (Zhong, Cheung, Tan 2021, in its Beta
form) those of the largest values of one posterior sample.

`PYTHONPATH=tests/support python tests/statistics/simulated_slots.py` plays all at full size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from builders import created, experiment
from numpy.typing import NDArray

from bandit_serve.api.decisions import DecideRequest
from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.slots import place_arms
from bandit_serve.folds.experiment import LiveExperiment

Floats = NDArray[np.float64]


class World(NamedTuple):
    """Probabilities of a click, (K,), and the number of places."""

    clicks: Floats
    slots: int

    def earns(self, placed: list[int]) -> float:
        return float(1.0 - np.prod(1.0 - self.clicks[placed]))

    @property
    def best(self) -> float:
        return self.earns(np.argsort(-self.clicks)[: self.slots].tolist())

    def seen(self, placed: list[int], rng: np.random.Generator) -> list[tuple[int, bool]]:
        """Arms that a reader looks at, with whether each was clicked."""
        looked = []
        for arm in placed:
            looked.append((arm, bool(rng.random() < self.clicks[arm])))
            if looked[-1][1]:
                break
        return looked


WORLDS = {
    "one click in ten": World(np.array([0.2, 0.2, 0.2] + [0.1] * 5), 3),
    "a slope": World(np.linspace(0.05, 0.5, 10), 3),
    "one stands out": World(np.array([0.4] + [0.1] * 5), 2),
}


class Served:
    """What a worker draws, from shares that are fresh for every list."""

    def __init__(self, world: World, seed: int) -> None:
        names = [f"a{k}" for k in range(len(world.clicks))]
        # The textbook has no floor, whose price is known: a part of each list.
        policy = {"kind": "thompson", "min_share": 0.0}
        made = experiment(arms=[{"name": name} for name in names], slots=world.slots, policy=policy)
        self.live = LiveExperiment(created(made))
        self.decider = Decider(self.live, 1)

    def place(self) -> list[int]:
        return [choice.arm for choice in place_arms(self.decider, DecideRequest(), None)]

    def learn(self, looked: list[tuple[int, bool]]) -> None:
        for arm, clicked in looked:
            self.live.policy.update(arm, float(clicked))
        self.decider.refresh()


class UpperBounds:
    """CascadeKL-UCB: log t + 3 log log t over the number of observations bounds the divergence of an index."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 1])
        self.n, self.clicked = np.zeros(len(world.clicks)), np.zeros(len(world.clicks))
        self.slots, self.t = world.slots, 0

    def place(self) -> list[int]:
        self.t += 1
        indices = np.where(self.n > 0, self._indices(), 2.0)
        placed: list[int] = np.argsort(-(indices + 1e-9 * self.rng.random(len(indices))))[
            : self.slots
        ].tolist()
        return placed

    def _indices(self) -> Floats:
        n = np.maximum(self.n, 1.0)
        mean = np.clip(self.clicked / n, 1e-9, 1.0 - 1e-9)
        bound = (math.log(self.t) + 3.0 * math.log(max(math.log(self.t), 1.0))) / n
        low, high = mean.copy(), np.full(len(n), 1.0 - 1e-9)
        for _ in range(25):
            middle = (low + high) / 2.0
            divergence = mean * np.log(mean / middle) + (1.0 - mean) * np.log((1.0 - mean) / (1.0 - middle))
            low, high = (
                np.where(divergence <= bound, middle, low),
                np.where(divergence <= bound, high, middle),
            )
        return low

    def learn(self, looked: list[tuple[int, bool]]) -> None:
        for arm, clicked in looked:
            self.n[arm] += 1
            self.clicked[arm] += clicked


class OneSample:
    """Beta-Bernoulli cascade Thompson sampling."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 1])
        self.clicked, self.passed = np.ones(len(world.clicks)), np.ones(len(world.clicks))
        self.slots = world.slots

    def place(self) -> list[int]:
        drawn = self.rng.beta(self.clicked, self.passed)
        placed: list[int] = np.argsort(-drawn)[: self.slots].tolist()
        return placed

    def learn(self, looked: list[tuple[int, bool]]) -> None:
        for arm, clicked in looked:
            self.clicked[arm] += clicked
            self.passed[arm] += not clicked


Player = Served | UpperBounds | OneSample


def regret(of: Callable[[World, int], Player], world: World, horizon: int, seed: int) -> float:
    """Clicks that `horizon` lists were expected to miss."""
    player, readers, missed = of(world, seed), np.random.default_rng([seed, 0]), 0.0
    for _ in range(horizon):
        placed = player.place()
        missed += world.best - world.earns(placed)
        player.learn(world.seen(placed, readers))
    return missed


def regrets(world: World, horizon: int, runs: int) -> dict[type[Player], Floats]:
    """Regret, (runs,), of each way."""
    ways: list[type[Player]] = [Served, UpperBounds, OneSample]
    return {of: np.array([regret(of, world, horizon, seed) for seed in range(runs)]) for of in ways}


def ratio(mine: Floats, theirs: Floats) -> tuple[float, float]:
    """Ratio of two means, and its standard error by the delta method."""
    found = mine.mean() / theirs.mean()
    spread = (
        np.var(mine, ddof=1) / len(mine) / mine.mean() ** 2
        + np.var(theirs, ddof=1) / len(theirs) / theirs.mean() ** 2
    )
    return float(found), float(found * np.sqrt(spread))


if __name__ == "__main__":
    for name, world in WORLDS.items():
        found = regrets(world, 5_000, 40)
        for of, each in found.items():
            part, error = ratio(found[Served], each)
            print(
                f"{name}: {of.__name__} {each.mean():.1f}, as served {part:.2f} ± {error:.2f} of it",
                flush=True,
            )
