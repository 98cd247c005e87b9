"""Coverage: how often intervals have the truth, over logs of adaptive policies with floors."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scale import scaled

from bandit_serve.policies import Thompson
from bandit_serve.results import off_policy
from bandit_serve.results.off_policy import Estimate

Floats = NDArray[np.float64]
LOGS = scaled(100, 1_000)
N, STEP = scaled(4_000, 10_000), 100
LEAST = {
    "anytime": scaled(88, 94) / 100,
    "bernstein": scaled(88, 94) / 100,
    "normal": scaled(88, 93) / 100,
    "bootstrap": scaled(80, 90) / 100,
}
"""Least part of the logs of which an interval has the truth. `normal` and `bootstrap` aim at .95, of which chance
leaves .88 of 100 logs, and .93 of 1,000, in all but one of some hundred times; there are fewer of the bootstrap.
"""
MAX_BOOTSTRAPS = scaled(20, 200)


class World(NamedTuple):
    """Rates of the arms, and the floor of the Thompson sampling that goes with them."""

    rates: tuple[float, ...]
    floor: float


WORLDS = [World((0.1, 0.1), 0.1), World((0.3, 0.4), 0.1), World((0.05, 0.05, 0.05, 0.05, 0.08), 0.1)]


class Log(NamedTuple):
    """Decisions of one run, (N,) each."""

    arms: NDArray[np.int64]
    propensity: Floats
    reward: Floats


def logged(world: World, seed: int) -> Log:
    random = np.random.default_rng(seed)
    policy = Thompson(n_arms=len(world.rates), min_share=world.floor)
    arms, propensities, rewards = [], [], []
    for _ in range(N // STEP):
        shares = policy.shares()
        some = random.choice(len(shares), STEP, p=shares / shares.sum())
        values = (random.random(STEP) < np.array(world.rates)[some]).astype(float)
        policy.update_many(some, values)
        arms.append(some)
        propensities.append(shares[some])
        rewards.append(values)
    return Log(*map(np.concatenate, (arms, propensities, rewards)))  # type: ignore[arg-type]


def estimates(world: World, log: Log, target: Floats, seed: int) -> dict[tuple[str, str], Estimate]:
    """Estimates by method and interval."""
    model = off_policy.cross_fitted(log.reward, log.arms, len(world.rates), seed=seed)
    plain = (log.reward, log.propensity, target[log.arms])
    doubly = (*plain, model.of(log.arms), model.under(target))
    largest = float((target / world.floor).max())
    found = {}
    for interval in ("normal", "anytime", *(["bootstrap"] if seed < MAX_BOOTSTRAPS else [])):
        options: dict[str, Any] = {"interval": interval}
        found["ips", interval] = off_policy.ips(*plain, **options)
        found["snips", interval] = off_policy.snips(*plain, **options)
        found["dr", interval] = off_policy.dr(*doubly, **options)
    found["ips", "bernstein"] = off_policy.ips(*plain, interval="bernstein", bound=largest)
    found["dr", "bernstein"] = off_policy.dr(*doubly, interval="bernstein", bound=2 * largest + 1)
    found["clipped", "normal"] = off_policy.clipped(*plain, limit=2.0)
    return found


@pytest.mark.timeout(scaled(300, 7_200))
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_intervals_have_the_truth(world: World) -> None:
    n_arms = len(world.rates)
    target = np.full(n_arms, 0.5 / (n_arms - 1))
    target[0] = 0.5
    truth = float(target @ world.rates)
    hits, runs = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    widths = set()
    for seed in range(LOGS):
        for name, estimate in estimates(world, logged(world, seed), target, seed).items():
            assert estimate.interval is not None
            low, high = estimate.interval
            hits[name] += low <= truth <= high
            runs[name] += 1
            widths.add(high - low)
    assert len(widths) > LOGS
    rates = {name: hits[name] / runs[name] for name in runs}
    print(world, rates)
    assert {interval for _, interval in rates} == set(LEAST)
    assert {name: rate for name, rate in rates.items() if rate < LEAST[name[1]]} == {}


def test_the_check_can_fail() -> None:
    """With an arm's mean share in place of the share of each decision, the truth is missed."""
    world, target = World((0.2, 0.5), 0.02), np.array([1.0, 0.0])
    missed = 0
    for seed in range(20):
        log = logged(world, seed)
        wrong = (np.bincount(log.arms, minlength=2) / len(log.arms))[::-1][log.arms]
        low, high = off_policy.ips(log.reward, wrong, target[log.arms]).interval or (0.0, 0.0)
        missed += not low <= world.rates[0] <= high
    assert missed > 10
