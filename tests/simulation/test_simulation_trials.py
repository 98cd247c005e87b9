"""Trials: the same result for the same seed, in one process or in several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.random import SeedSequence

from bandit_serve.experiments.policy import default_floor
from bandit_serve.policies import POLICIES, Thompson
from bandit_serve.simulation import SimulatedTrial, Simulation, run_trial, run_trials, simulation_report
from bandit_serve.simulation.trial import Seeds, checkpoints

WORLD = {"kind": "bernoulli", "arms": [0.5, 0.4, 0.2]}


def simulation(**changed: Any) -> Simulation:
    document = {"environment": WORLD, "policies": ["thompson"], "horizon": 3_000, "seeds": 4}
    return Simulation.of({**document, **changed})


def same(one: SimulatedTrial, other: SimulatedTrial) -> bool:
    return np.array_equal(one.regret, other.regret) and (one.reward, one.best, one.late_best) == (
        other.reward,
        other.best,
        other.late_best,
    )


def test_a_trial_is_the_policy_itself_asked_and_told() -> None:
    described = simulation()
    seeds = Seeds.of(described, 2)
    policy = Thompson(3, seed=seeds.policy, min_share=default_floor("thompson", 3))
    regret, reward = [], 0.0
    for block in described.environment.blocks(3_000, seeds.world):
        for means, rewards in zip(block.means, block.rewards, strict=True):
            arm = policy.choose()
            policy.update(arm, rewards[arm])
            regret.append(0.5 - means[arm])
            reward += rewards[arm]
    trial = run_trial(described, described.contenders[0], 2)
    assert trial.regret == pytest.approx(np.cumsum(regret)[checkpoints(3_000) - 1])
    assert trial.reward == reward / 3_000
    assert trial.best == np.mean(np.array(regret) == 0.0)
    assert trial.late_best == np.mean(np.array(regret)[2_250:] == 0.0)


@pytest.mark.parametrize("kind", POLICIES)
def test_every_kind_takes_part_by_being_listed(kind: str) -> None:
    policy = POLICIES[kind]
    world = {"kind": "logistic", "arms": 3, "features": 4} if policy.contextual else WORLD
    described = simulation(environment=world, policies=[kind], horizon=400)
    first, again, other = (run_trial(described, described.contenders[0], number) for number in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)
    assert first.regret[-1] <= 400.0
    assert (np.diff(first.regret) >= 0.0).all()


def test_the_even_split_loses_what_it_must() -> None:
    described = simulation(policies=["fixed_split"], seeds=20)
    standing = simulation_report(described, run_trials(described, 1)).policies[0]
    assert standing.regret.se is not None
    assert abs(standing.regret.mean - 3_000 * (0.1 + 0.3) / 3) < 4.0 * standing.regret.se
    assert standing.best_share.mean == pytest.approx(1 / 3, abs=0.01)
    assert standing.reward.mean == pytest.approx(1.1 / 3, abs=0.01)


def test_another_policy_beside_changes_nothing() -> None:
    alone, joint = simulation(), simulation(policies=["ucb1", "thompson"])
    assert same(run_trial(alone, alone.contenders[0], 1), run_trial(joint, joint.contenders[1], 1))


def test_another_seed_of_the_simulation_is_another_one() -> None:
    first, other = simulation(), simulation(seed=1)
    assert not same(run_trial(first, first.contenders[0], 0), run_trial(other, other.contenders[0], 0))


def test_several_processes_find_what_one_does() -> None:
    described = simulation(policies=["thompson", "ucb1"])
    seen: list[tuple[int, int]] = []
    several = run_trials(described, 2, lambda contender, number, trial: seen.append((contender, number)))
    one = run_trials(described, 1)
    assert sorted(seen) == [(i, number) for i in range(2) for number in range(4)]
    assert all(same(x, y) for xs, ys in zip(one, several, strict=True) for x, y in zip(xs, ys, strict=True))


def test_a_policy_that_forgets_is_told_the_time() -> None:
    """One decision is one second, so 50 s are 50 decisions: it follows a change that the other misses."""
    world = {"kind": "bernoulli", "arms": [0.9, 0.1], "changes": [{"at": 2_000, "arms": [0.1, 0.9]}]}
    described = simulation(environment=world, policies=["thompson", "thompson:half_life=50s"])
    plain, forgetting = simulation_report(described, run_trials(described, 1)).policies
    assert forgetting.late_best_share.mean > plain.late_best_share.mean + 0.2


def test_errors_are_those_of_a_mean() -> None:
    described = simulation(seeds=9)
    trials = run_trials(described, 1)
    results = simulation_report(described, trials)
    curves = np.array([trial.regret for trial in trials[0]])
    standing = results.policies[0]
    assert standing.curve == pytest.approx(curves.mean(axis=0))
    assert standing.curve_se == pytest.approx(curves.std(axis=0, ddof=1) / 3.0)
    assert standing.regret.mean == pytest.approx(standing.curve[-1])
    assert results.decisions[-1] == 3_000
    single = simulation(seeds=1)
    alone = simulation_report(single, run_trials(single, 1)).policies[0]
    assert (alone.curve_se, alone.regret.se) == (None, None)


def test_behind_is_paired_by_seed() -> None:
    described = simulation(policies=["fixed_split", "ucb1", "thompson"], seeds=6)
    trials = run_trials(described, 1)
    results = simulation_report(described, trials)
    first = results.ranked[0]
    assert (first.behind.mean, first.behind.se) == (0.0, 0.0)
    ends = {
        each.name: np.array([trial.regret[-1] for trial in of])
        for each, of in zip(results.policies, trials, strict=True)
    }
    for standing in results.policies:
        difference = ends[standing.name] - ends[first.name]
        assert standing.behind.mean == pytest.approx(difference.mean())
        assert standing.behind.se == pytest.approx(difference.std(ddof=1) / math.sqrt(6))


@pytest.mark.parametrize("horizon", [1, 2, 50, 10_000])
def test_checkpoints_ascend_to_the_horizon(horizon: int) -> None:
    points = checkpoints(horizon)
    assert points[0] >= 1
    assert points[-1] == horizon
    assert (np.diff(points) > 0).all()


def test_parts_of_a_trial_have_randomness_of_their_own() -> None:
    described = simulation()
    drawn = [Seeds.of(described, number) for number in range(50)]
    words = [
        SeedSequence.generate_state(part, 2).tobytes()
        for seeds in drawn
        for part in (seeds.world, seeds.delays)
    ]
    assert len({*words}) == 100
    assert len({seeds.policy for seeds in drawn}) == 50
