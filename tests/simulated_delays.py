"""Rewards that come late, played through `LiveExperiment` with real entries: regret, and the rates it reports.

`python tests/simulated_delays.py` plays everything at full size and prints a table with standard errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from makers import created, experiment, exposed
from numpy.typing import NDArray

from bandit_serve.events import REWARD, Rewarded
from bandit_serve.live import LiveExperiment
from bandit_serve.policies import Thompson
from bandit_serve.store.offset import Offset

START_MS = 1_700_000_000_000
DECISION_MS = 10
STEP = 10  # decisions from one entry of exposures, and one refresh, to the next: the flush interval of 100 ms

Delays = Callable[[np.random.Generator, int], NDArray[np.float64]]


@dataclass(frozen=True)
class World:
    """Arms that convert at `rates` after `delays`, in decisions; what takes longer than the window never comes."""

    rates: Sequence[float]
    delays: Sequence[Delays]
    window: int = 10_000
    horizon: int = 20_000


def exponential(mean: float, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.exponential(mean, n)


def lognormal(median: float, sigma: float, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return median * np.exp(sigma * rng.normal(size=n))


def two_groups(short: float, long: float, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.exponential(np.where(rng.random(n) < 0.5, short, long))


def around(middle: float, spread: float, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return np.abs(rng.normal(middle, spread, n))


class Learner(Protocol):
    """What is played: shares, and what it is told. Times and delays are in decisions."""

    def shares(self, now: int) -> NDArray[np.float64]: ...

    def exposed(self, now: int, arms: NDArray[np.intp]) -> None: ...

    def rewarded(self, now: int, arms: NDArray[np.intp], made: NDArray[np.intp]) -> None: ...


class Served:
    """`missing: zero` as it is served."""

    def __init__(self, world: World, min_share: float = 0.0) -> None:
        made = experiment(
            arms=[{"name": f"arm{k}"} for k in range(len(world.rates))],
            policy={"kind": "thompson", "min_share": min_share},
            attribution={"window": f"{world.window * DECISION_MS}ms", "missing": "zero"},
        )
        self.live = LiveExperiment(created(made))

    def shares(self, now: int) -> NDArray[np.float64]:
        return self.live.shares()

    def exposed(self, now: int, arms: NDArray[np.intp]) -> None:
        times = START_MS + DECISION_MS * np.arange(now - len(arms), now)
        entry = exposed(now - len(arms), arms.tolist(), times.tolist(), n_arms=len(self.live.exposures))
        self.live.apply(Offset(START_MS + DECISION_MS * now, 0), entry)

    def rewarded(self, now: int, arms: NDArray[np.intp], made: NDArray[np.intp]) -> None:
        rows = np.zeros(len(arms), REWARD)
        rows["incarnation"], rows["counter"], rows["time_ms"] = 0xFEED, made, START_MS + DECISION_MS * made
        rows["value"], rows["propensity"], rows["revision"], rows["arm"] = 1.0, 0.5, 1, arms
        self.live.apply(Offset(START_MS + DECISION_MS * now, 1), Rewarded(rows))


class Told:
    """Thompson that is told something of what is open: by `weigh(ages)`, the weight of decisions of those ages."""

    def __init__(
        self, world: World, weigh: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]]
    ):
        self.world, self.weigh = world, weigh
        self.policy = Thompson(n_arms=len(world.rates))
        self.arms = np.zeros(0, np.intp)
        self.trials = np.zeros(len(world.rates))

    def shares(self, now: int) -> NDArray[np.float64]:
        weights = self.weigh(self.arms, now - np.arange(len(self.arms)))
        trials = np.bincount(self.arms, weights, minlength=len(self.world.rates))
        return self.policy.shares(pending=np.maximum(trials - self.policy.counts, 0.0))

    def exposed(self, now: int, arms: NDArray[np.intp]) -> None:
        self.arms = np.concatenate([self.arms, arms])

    def rewarded(self, now: int, arms: NDArray[np.intp], made: NDArray[np.intp]) -> None:
        self.policy.update_many(arms, np.ones(len(arms)))


@dataclass
class Outcome:
    regret: float
    reported: list[float]
    chosen: list[int]


def play(
    world: World, learner: Learner, seed: int, arrives: Callable[[NDArray], NDArray] = lambda d: d
) -> Outcome:
    rng = np.random.default_rng([17, seed])
    rates = np.array(world.rates)
    due: list[tuple[NDArray, NDArray, NDArray]] = []
    waiting_at, waiting_arm, waiting_made = (np.zeros(0), np.zeros(0, np.intp), np.zeros(0, np.intp))
    chosen = np.zeros(len(rates), np.int64)
    for now in range(STEP, world.horizon + 1, STEP):
        shares = learner.shares(now - STEP)
        arms = np.minimum(np.searchsorted(np.cumsum(shares), rng.random(STEP)), len(rates) - 1)
        chosen += np.bincount(arms, minlength=len(rates))
        learner.exposed(now, arms)
        converts = rng.random(STEP) < rates[arms]
        delays = np.full(STEP, np.inf)
        for i in np.flatnonzero(converts):
            delays[i] = world.delays[arms[i]](rng, 1)[0]
        keep = np.flatnonzero(delays <= world.window)
        made = np.arange(now - STEP, now)
        waiting_at = np.concatenate([waiting_at, made[keep] + arrives(delays[keep])])
        waiting_arm = np.concatenate([waiting_arm, arms[keep]])
        waiting_made = np.concatenate([waiting_made, made[keep]])
        come = waiting_at <= now
        if come.any():
            learner.rewarded(now, waiting_arm[come], waiting_made[come])
            waiting_at, waiting_arm, waiting_made = waiting_at[~come], waiting_arm[~come], waiting_made[~come]
    rep = learner.live.reported() if hasattr(learner, "live") and hasattr(learner.live, "reported") else []
    return Outcome(float((chosen * (rates.max() - rates)).sum()), list(rep), chosen.tolist())


W = World((0.05, 0.10, 0.05), [partial(exponential, m) for m in (200.0, 4000.0, 200.0)])


def run(seed):
    return play(W, Served(W), seed)


def immediate(seed):
    return play(W, Told(W, lambda arms, ages: np.ones(len(arms))), seed, lambda d: 0 * d)


def failure(seed):
    return play(W, Told(W, lambda arms, ages: np.ones(len(arms))), seed)


def waiting(seed):
    return play(W, Told(W, lambda arms, ages: (ages >= W.window) * 1.0), seed, lambda d: 0 * d + W.window)


def known(seed):
    m = np.array([200.0, 4000.0, 200.0])
    return play(W, Told(W, lambda arms, ages: -np.expm1(-ages / m[arms])), seed)


if __name__ == "__main__":
    import sys, time

    with ProcessPoolExecutor(2) as pool:
        for f in [globals()[n] for n in sys.argv[2:]]:
            t = time.time()
            o = list(pool.map(f, range(int(sys.argv[1]))))
            r = np.array([x.regret for x in o])
            print(
                f.__name__,
                r.mean().round(1),
                (r.std() / len(r) ** 0.5).round(1),
                np.mean([x.chosen for x in o], axis=0),
                np.mean([x.reported for x in o], axis=0),
                round(time.time() - t, 1),
                flush=True,
            )
