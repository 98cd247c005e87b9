"""Late rewards, run through `LiveExperiment` with real entries: regret, and the means it reports.

`PYTHONPATH=tests/support python tests/statistics/simulated_delays.py` plays everything at full size and prints a table
with standard errors.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from builders import created, experiment, exposed
from numpy.typing import NDArray

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import REWARD, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.policies import Thompson

START_MS = 1_700_000_000_000
DECISION_MS = 10
# Decisions from one flush of exposures, with a refresh of the shares, to the next: 100 ms.
STEP = 10

Times = NDArray[np.float64]
Indices = NDArray[np.int64]
Delays = Callable[[np.random.Generator, int], Times]


def exponential(mean: float, rng: np.random.Generator, n: int) -> Times:
    return rng.exponential(mean, n)


def lognormal(median: float, rng: np.random.Generator, n: int) -> Times:
    return rng.lognormal(np.log(median), 1.5, n)


def two_groups(short: float, long: float, rng: np.random.Generator, n: int) -> Times:
    return rng.exponential(np.where(rng.random(n) < 0.5, short, long))


def about(middle: float, rng: np.random.Generator, n: int) -> Times:
    return np.abs(rng.normal(middle, 0.1 * middle, n))


@dataclass(frozen=True)
class World:
    """Arms that convert at `rates` after `delays`, in decisions; what takes longer than the window never comes."""

    rates: Sequence[float]
    delays: Sequence[Delays]
    window: int = 10_000
    horizon: int = 20_000

    def shown(self) -> list[Times]:
        """Of each arm, delays within the window in their order: their distribution."""
        rng = np.random.default_rng(99)
        drawn = [np.sort(delays(rng, 50_000)) for delays in self.delays]
        return [delays[delays <= self.window] for delays in drawn]


SLOW_BEST = World((0.05, 0.10, 0.05), [partial(exponential, mean) for mean in (200.0, 4_000.0, 200.0)])
WORLDS = {
    ".05, .10, .05 after exponential 200, 4,000, 200": SLOW_BEST,
    ".10, .12, .10 after exponential 100, 3,000, 100": World(
        (0.10, 0.12, 0.10), [partial(exponential, mean) for mean in (100.0, 3_000.0, 100.0)]
    ),
    ".05, .04, .08 after exponential 200, 4,000, 200": World(
        (0.05, 0.04, 0.08), [partial(exponential, mean) for mean in (200.0, 4_000.0, 200.0)]
    ),
    ".05, .10, .05 after exponential 200": World((0.05, 0.10, 0.05), [partial(exponential, 200.0)] * 3),
    ".05, .10, .05 after lognormal 100, 1,500, 100": World(
        (0.05, 0.10, 0.05), [partial(lognormal, median) for median in (100.0, 1_500.0, 100.0)]
    ),
    ".05, .10, .05 after exponential 100 or 4,000": World(
        (0.05, 0.10, 0.05), [partial(two_groups, 100.0, 4_000.0)] * 3
    ),
    ".05, .10, .05 after normal 300, 4,000, 300": World(
        (0.05, 0.10, 0.05), [partial(about, middle) for middle in (300.0, 4_000.0, 300.0)]
    ),
}


class Learner(Protocol):
    """What is played: its shares, and what it is told. Times are in decisions."""

    def shares(self, now: int) -> NDArray[np.float64]: ...

    def exposed(self, now: int, arms: Indices) -> None: ...

    def rewarded(self, now: int, arms: Indices, made: Indices) -> None: ...


class ServedThompson:
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

    def exposed(self, now: int, arms: Indices) -> None:
        times = START_MS + DECISION_MS * np.arange(now - len(arms), now)
        entry = exposed(now - len(arms), arms.tolist(), times.tolist(), n_arms=len(self.live.exposures))
        self.live.apply(Offset(START_MS + DECISION_MS * now, 0), entry)

    def rewarded(self, now: int, arms: Indices, made: Indices) -> None:
        rows = np.zeros(len(arms), REWARD)
        rows["incarnation"], rows["counter"], rows["time_ms"] = 0xFEED, made, START_MS + DECISION_MS * made
        rows["value"], rows["propensity"], rows["revision"], rows["arm"] = 1.0, 0.5, 1, arms
        self.live.apply(Offset(START_MS + DECISION_MS * now, 1), Rewarded(rows))


class ImmediateThompson:
    """Thompson on rewards as they come, and `shown(arm, ages)`: how much decisions of those ages weigh."""

    def __init__(self, world: World, shown: Callable[[int, Indices], Times]) -> None:
        self._shown = shown
        self._policy = Thompson(n_arms=len(world.rates))
        self._made = [np.zeros(0, np.int64) for _ in world.rates]

    def shares(self, now: int) -> NDArray[np.float64]:
        trials = [self._shown(arm, now - made).sum() for arm, made in enumerate(self._made)]
        return self._policy.shares(pending=np.maximum(trials - self._policy.counts, 0.0))

    def exposed(self, now: int, arms: Indices) -> None:
        for arm, made in enumerate(self._made):
            new = now - len(arms) + np.flatnonzero(arms == arm)
            self._made[arm] = np.concatenate([made, new])

    def rewarded(self, now: int, arms: Indices, made: Indices) -> None:
        self._policy.update_many(arms, np.ones(len(arms)))


def known_delays(world: World) -> ImmediateThompson:
    shown = world.shown()
    return ImmediateThompson(world, lambda arm, ages: np.searchsorted(shown[arm], ages) / len(shown[arm]))


def pending_is_failure(world: World) -> ImmediateThompson:
    return ImmediateThompson(world, lambda arm, ages: np.ones(len(ages)))


def waiting(world: World) -> ImmediateThompson:
    return ImmediateThompson(world, lambda arm, ages: (ages >= world.window).astype(np.float64))


def play(
    world: World, learner: Learner, seed: int, arrives: Callable[[Times], Times] = lambda delays: delays
) -> float:
    """The regret of one run; rewards come `arrives(delays)` after their decisions."""
    rng = np.random.default_rng([17, seed])
    rates = np.array(world.rates)
    due = np.zeros(0)
    owed = np.zeros((2, 0), np.int64)
    chosen = np.zeros(len(rates), np.int64)
    for now in range(STEP, world.horizon + 1, STEP):
        cumulated = np.cumsum(learner.shares(now - STEP))
        arms = np.minimum(np.searchsorted(cumulated, rng.random(STEP)), len(rates) - 1)
        chosen += np.bincount(arms, minlength=len(rates))
        learner.exposed(now, arms)
        converts = np.flatnonzero(rng.random(STEP) < rates[arms])
        delays = np.array([world.delays[arm](rng, 1)[0] for arm in arms[converts]])
        within = delays <= world.window
        made = now - STEP + converts[within]
        due = np.concatenate([due, made + arrives(delays[within])])
        owed = np.concatenate([owed, [arms[converts[within]], made]], axis=1)
        come = due <= now
        if come.any():
            learner.rewarded(now, *owed[:, come])
            due, owed = due[~come], owed[:, ~come]
    return float((chosen * (rates.max() - rates)).sum())


@dataclass
class Outcome:
    """Of many runs: each one's regret and, where it was served, the arms' reported means at its end."""

    regrets: list[float] = field(default_factory=list)
    means: list[list[float]] = field(default_factory=list)

    @property
    def regret(self) -> float:
        return float(np.mean(self.regrets))

    def __str__(self) -> str:
        text = f"{_with_error(self.regrets, 1)}, at most {max(self.regrets):.0f}"
        if not self.means:
            return text
        return (
            f"{text}; reports {', '.join(_with_error(means, 4) for means in zip(*self.means, strict=True))}"
        )


def _with_error(values: Sequence[float], digits: int) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def served(world: World, seeds: Sequence[int], min_share: float = 0.0) -> Outcome:
    outcome = Outcome()
    for seed in seeds:
        learner = ServedThompson(world, min_share)
        outcome.regrets.append(play(world, learner, seed))
        outcome.means.append(learner.live.means().tolist())
    return outcome


def immediate(world: World, seeds: Sequence[int]) -> Outcome:
    return Outcome(
        [play(world, pending_is_failure(world), seed, lambda delays: 0.0 * delays) for seed in seeds]
    )


def waited(world: World, seeds: Sequence[int]) -> Outcome:
    arrives = partial(np.full_like, fill_value=float(world.window))
    return Outcome([play(world, waiting(world), seed, arrives) for seed in seeds])


def failing(world: World, seeds: Sequence[int]) -> Outcome:
    return Outcome([play(world, pending_is_failure(world), seed) for seed in seeds])


def knowing(world: World, seeds: Sequence[int]) -> Outcome:
    return Outcome([play(world, known_delays(world), seed) for seed in seeds])


WAYS: dict[str, Callable[[World, Sequence[int]], Outcome]] = {
    "missing: zero": served,
    "missing: zero, min_share .02": partial(served, min_share=0.02),
    "waiting for the window": waited,
    "pending is failure": failing,
    "known delays": knowing,
    "immediate rewards": immediate,
}


def at_full_size(runs: int, everywhere: bool) -> None:
    """The first world by every way; `everywhere`, the others, too."""
    each = max(1, runs // 20)
    chunks = [range(first, min(first + each, runs)) for first in range(0, runs, each)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, world in WORLDS.items() if everywhere else [next(iter(WORLDS.items()))]:
            print(f"{name}, window {world.window:,}, T = {world.horizon:,}, {runs} runs", flush=True)
            for way, simulate in WAYS.items():
                parts = list(pool.map(simulate, [world] * len(chunks), chunks))
                outcome = Outcome([r for p in parts for r in p.regrets], [m for p in parts for m in p.means])
                print(f"  {way:30s}{outcome}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--everywhere", action="store_true", help="other rates and delays, too")
    arguments = parser.parse_args()
    at_full_size(arguments.runs, arguments.everywhere)
