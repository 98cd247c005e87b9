"""Traffic that keeps a bound, in worlds with known means: regret and how far the bound is passed.

`python tests/statistics/simulated_tradeoffs.py [RUNS [DECISIONS [BLOCK]]]` plays all, beside two other ways to keep a
bound, and prints the table.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from bandit_serve.experiments.policy import default_floor
from bandit_serve.policies import Thompson
from bandit_serve.policies.mixtures import Bound, LearnedMetric, Tradeoff, mixture_shares

Floats = NDArray[np.float64]
BLOCK = 20
"""Decisions for which shares stay as they are, until their rewards are learned from all at once."""


class World(NamedTuple):
    """Arms with chances of a reward, means of a cost of the deviation `noise`, and what the mean cost is at most."""

    rewards: Floats
    costs: Floats
    limit: float
    noise: float

    @property
    def floor(self) -> float:
        return default_floor("thompson", len(self.rewards))


def world(rewards: list[float], costs: list[float], limit: float, noise: float = 60.0) -> World:
    return World(np.array(rewards), np.array(costs, float), limit, noise)


WORLDS = {
    "the best arm passes it": world([0.5, 0.3, 0.2], [300, 200, 100], 250),
    "only a mixture is best": world([0.6, 0.1], [400, 100], 250),
    "it costs nothing": world([0.3, 0.5, 0.4], [200, 150, 300], 250),
    "no arm keeps it": world([0.5, 0.3, 0.4], [300, 280, 400], 250),
    "arms close to it": world([0.5, 0.45, 0.2], [260, 248, 100], 250),
    "ten arms": world(
        [0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14],
        [100, 120, 140, 160, 180, 200, 230, 270, 330, 420],
        250,
    ),
}


class Best(NamedTuple):
    """Best mixture above the floor: its reward, and the cost that no mixture has to pass."""

    reward: float
    cost: float


def best(of: World) -> Best:
    """Best mixture, by SciPy: of those that keep the bound, or else the one of the least cost."""
    n, ends = len(of.rewards), (of.floor, 1.0)
    simplex = {"A_eq": np.ones((1, n)), "b_eq": [1.0], "bounds": [ends] * n}
    found = linprog(-of.rewards, A_ub=of.costs[None], b_ub=[of.limit], **simplex)
    if found.status == 0:
        return Best(-found.fun, of.limit)
    found = linprog(of.costs, **simplex)
    return Best(float(of.rewards @ found.x), found.fun)


class Player:
    """Shares by what was observed of each arm: numbers, sums of rewards, of costs and of squared costs."""

    def __init__(self, of: World, horizon: int) -> None:
        self.world, self.horizon = of, horizon
        self.n, self.won, self.spent, self.squares = np.zeros((4, len(of.rewards)))

    def shares(self) -> Floats:
        raise NotImplementedError

    def observe(self, arms: NDArray[np.intp], rewards: Floats, costs: Floats) -> None:
        size = len(self.n)
        self.n += np.bincount(arms, minlength=size)
        self.won += np.bincount(arms, rewards, size)
        self.spent += np.bincount(arms, costs, size)
        self.squares += np.bincount(arms, costs**2, size)

    def estimates(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Means of rewards and costs, and their deviations, (K,) each."""
        seen = np.maximum(self.n, 1.0)
        mean, cost = (1.0 + self.won) / (2.0 + self.n), self.spent / seen
        variance = max(
            float((self.squares - self.spent**2 / seen).sum()) / max(self.n.sum() - 3.0, 1.0), 1e-9
        )
        return mean, np.sqrt(mean * (1.0 - mean) / (3.0 + self.n)), cost, np.sqrt(variance / seen)

    def floored(self, shares: Floats) -> Floats:
        return self.world.floor + (1.0 - len(shares) * self.world.floor) * shares


class Served(Player):
    """What is served."""

    def __init__(self, of: World, horizon: int) -> None:
        super().__init__(of, horizon)
        n_arms = len(of.rewards)
        self.reward = Thompson(n_arms, min_share=of.floor, seed=0)
        self.cost = Thompson(n_arms, objective="continuous", seed=0)
        self.tradeoff = Tradeoff(np.array([1.0, 0.0]), (Bound(1, 1.0, of.limit),))

    def shares(self) -> Floats:
        return mixture_shares(self.tradeoff, [LearnedMetric(self.reward), LearnedMetric(self.cost)])

    def observe(self, arms: NDArray[np.intp], rewards: Floats, costs: Floats) -> None:
        self.reward.update_many(arms, rewards)
        self.cost.update_many(arms, costs)


class Optimistic(Player):
    """Linear program of the upper ends of rewards and the lower ends of costs (Agrawal and Devanur 2014)."""

    def shares(self) -> Floats:
        mean, deviation, cost, cost_deviation = self.estimates()
        width = math.sqrt(2.0 * math.log(max(self.n.sum(), 2.0)))
        ends = World(
            mean + width * deviation, cost - width * cost_deviation, self.world.limit, self.world.noise
        )
        n, simplex = len(mean), {"bounds": (0.0, 1.0)}
        found = linprog(
            -ends.rewards,
            A_ub=ends.costs[None],
            b_ub=[ends.limit],
            A_eq=np.ones((1, n)),
            b_eq=[1.0],
            **simplex,
        )
        chosen = found.x if found.status == 0 else (np.arange(n) == ends.costs.argmin()).astype(float)
        return self.floored(np.clip(chosen, 0.0, 1.0))


class PrimalDual(Player):
    """Thompson sampling of reward minus price times cost; the price follows the costs in steps of 1/sqrt(T)
    (Badanidiyuru, Kleinberg and Slivkins 2013; Castiglioni, Celli and Kroer 2022).
    """

    def __init__(self, of: World, horizon: int) -> None:
        super().__init__(of, horizon)
        self.price, self.unit = 0.0, float(np.abs(of.costs - of.limit).max())
        self.random = np.random.default_rng(0)

    def shares(self) -> Floats:
        mean, deviation, cost, cost_deviation = self.estimates()
        above = (cost - self.world.limit) / self.unit
        spread = np.sqrt(deviation**2 + (self.price * cost_deviation / self.unit) ** 2)
        drawn = mean - self.price * above + spread * self.random.standard_normal((256, len(mean)))
        return self.floored(np.bincount(drawn.argmax(axis=1), minlength=len(mean)) / 256)

    def observe(self, arms: NDArray[np.intp], rewards: Floats, costs: Floats) -> None:
        super().observe(arms, rewards, costs)
        step = float((costs - self.world.limit).sum()) / self.unit / math.sqrt(self.horizon)
        self.price = min(max(self.price + step, 0.0), 10.0)


def played(
    make: Callable[[World, int], Player], of: World, horizon: int, seed: int, block: int = BLOCK
) -> Floats:
    """Regret, and by how much costs passed the bound in all, after a quarter of the horizon and at it: (2, 2).

    Both are by the arms' true means. Where no mixture keeps the bound, what is passed beyond need counts.
    """
    random, player, to_reach = np.random.default_rng([seed, 3]), make(of, horizon), best(of)
    regret, passed, noted = 0.0, 0.0, []
    for start in range(0, horizon, block):
        shares = player.shares()
        arms = random.choice(len(shares), block, p=shares / shares.sum())
        rewards = (random.random(block) < of.rewards[arms]).astype(float)
        player.observe(arms, rewards, of.costs[arms] + of.noise * random.standard_normal(block))
        regret += block * (to_reach.reward - float(shares @ of.rewards))
        passed += block * (float(shares @ of.costs) - to_reach.cost)
        if start + block in (horizon // 4, horizon):
            noted.append((regret, passed))
    return np.array(noted)


def runs(make: Callable[[World, int], Player], of: World, horizon: int, n: int, block: int = BLOCK) -> Floats:
    """(n, 2, 2): `played` by seed."""
    return np.array([played(make, of, horizon, seed, block) for seed in range(n)])


def main() -> None:
    given = [int(each) for each in sys.argv[1:]]
    n, horizon, block = (*given, *(30, 20_000, BLOCK)[len(given) :])
    for name, of in WORLDS.items():
        for make in (Served, Optimistic, PrimalDual):
            found = runs(make, of, horizon, n, block)
            mean, error = found.mean(axis=0), found.std(axis=0, ddof=1) / math.sqrt(n)
            unit = of.noise * math.sqrt(horizon)
            print(
                f"{name:24}{make.__name__:12} regret {mean[1, 0]:8.1f} ± {error[1, 0]:5.1f}   passed by "
                f"{mean[1, 1] / unit:7.2f} ± {error[1, 1] / unit:.2f} noise sqrt(T), "
                f"{mean[1, 1] / horizon:7.2f} a decision (at T/4 {4 * mean[0, 1] / horizon:7.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
