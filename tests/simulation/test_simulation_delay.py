"""Late and missing rewards: delays as described, through the fold that serves traffic."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.random import SeedSequence, default_rng

from bandit_serve.errors import InvalidInput
from bandit_serve.simulation import Simulation
from bandit_serve.simulation.delay import Delay
from bandit_serve.simulation.late_rewards import run_with_delays


def simulation(delay: dict[str, Any], horizon: int = 2_000, policy: str = "thompson") -> Simulation:
    return Simulation.of(
        {
            "environment": {"kind": "bernoulli", "arms": [0.3, 0.5, 0.2]},
            "delay": delay,
            "policies": [policy],
            "horizon": horizon,
        }
    )


def counted(
    delay: dict[str, Any], horizon: int = 2_000
) -> tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The policy after a run, the arms that it chose, and what each brought."""
    described = simulation(delay, horizon)
    assert described.delay is not None
    contender = described.contenders[0]
    policy = contender.policy(described.environment, seed=3)
    blocks = described.environment.blocks(horizon, SeedSequence(1))
    taken = run_with_delays(policy, described.environment, described.delay, blocks, SeedSequence(2))
    arms, values = [], []
    for block, chosen in taken:
        arms.append(chosen)
        values.append(block.rewards[np.arange(len(chosen)), chosen])
    return policy, np.concatenate(arms), np.concatenate(values)


@pytest.mark.parametrize("kind", ["exponential", "geometric"])
def test_delays_have_the_means_that_are_said(kind: str) -> None:
    delay = msgspec.convert({"kind": kind, "mean": [10.0, 400.0]}, Delay)
    drawn_arms = delay.draw(40_000, 2, default_rng(0))
    error = drawn_arms.std(axis=0) / math.sqrt(len(drawn_arms))
    rounding = 0.5 if kind == "exponential" else 0.0  # up to the next decision
    assert (np.abs(drawn_arms.mean(axis=0) - np.array([10.0, 400.0]) - rounding) < 4.0 * error + 0.01).all()
    assert drawn_arms.min() == 1


def test_the_share_that_is_lost_never_comes() -> None:
    drawn_arms = Delay(mean=5.0, lost=0.25).draw(40_000, 3, default_rng(0))
    gone = (drawn_arms == -1).mean(axis=0)
    assert np.abs(gone - 0.25).max() < 4.0 * math.sqrt(0.25 * 0.75 / 40_000)
    assert ((drawn_arms == -1).all(axis=1) == (drawn_arms == -1).any(axis=1)).all()


def test_a_reward_that_comes_in_the_window_counts_once() -> None:
    policy, arms, values = counted({"mean": 3.0, "window": 400, "missing": "ignore", "refresh": 7})
    learned = policy.counts
    chosen = np.bincount(arms, minlength=3)
    assert (learned <= chosen).all()
    assert learned.sum() > 0.99 * len(arms)
    expected = np.bincount(arms, values, 3) / chosen
    assert np.allclose(policy.means, expected, atol=0.02)


def test_what_is_missing_is_zero_when_the_window_has_closed() -> None:
    policy, arms, values = counted({"mean": 3.0, "window": 100, "missing": "zero", "lost": 0.5})
    settled = len(arms) - 100
    assert settled - 60 < policy.counts.sum() < len(arms)
    # Half of the ones are lost, and counted as zeros.
    assert np.nansum(policy.means * policy.counts) == pytest.approx(
        0.5 * values.sum(), abs=4 * math.sqrt(0.25 * values.sum()) + 10
    )


def test_what_comes_after_the_window_does_not_count() -> None:
    late, *_ = counted({"mean": 1_000.0, "window": 5, "missing": "ignore"})
    assert 0 < late.counts.sum() < 40
    never, *_ = counted({"mean": 1_000.0, "window": 5, "missing": "zero"})
    assert never.counts.sum() > 1_900
    assert np.nansum(never.means * never.counts) < 40


def test_shares_follow_the_rewards_that_came() -> None:
    _, arms, _ = counted({"mean": 20.0, "missing": "ignore", "refresh": 10})
    assert (arms[:10] == 1).mean() < 1.0
    assert (arms[-500:] == 1).mean() > 0.8


@pytest.mark.parametrize(
    ("delay", "words"),
    [
        ({"mean": -1.0}, "at least 0"),
        ({"mean": 0.5, "kind": "geometric"}, "at least 1"),
        ({"mean": [1.0, 2.0]}, "each of the 3 arms"),
        ({"mean": 1.0, "kind": "uniform"}, "delay.kind"),
        ({"mean": 1.0, "lost": 1.0}, "delay.lost"),
        ({"mean": 1.0, "window": 0}, "delay.window"),
        ({"mean": math.inf}, "finite"),
        ({"window": 7}, "mean"),
    ],
)
def test_what_can_not_be_is_refused(delay: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        simulation(delay)
