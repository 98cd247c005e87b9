"""Trial: one policy on one seed, one decision after another, with the policy object that serves traffic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.random import SeedSequence
from numpy.typing import NDArray

from bandit_serve.simulation.contender import Contender
from bandit_serve.simulation.delay import DECISION_MS
from bandit_serve.simulation.description import Simulation
from bandit_serve.simulation.late_rewards import run_with_delays
from bandit_serve.simulation.worlds.environment import Block

EVEN_POINTS = 200
LOG_POINTS = 100
LATE = 0.75
"""Part of the horizon after which choices are also counted apart: they show where a policy has settled."""


class Seeds(NamedTuple):
    """Independent seeds for the parts of a trial; the same for every contender."""

    world: SeedSequence
    delays: SeedSequence
    policy: int

    @classmethod
    def of(cls, simulation: Simulation, number: int) -> Seeds:
        world, delays, policy = SeedSequence([simulation.seed, number]).spawn(3)
        return cls(world, delays, int(policy.generate_state(1, np.uint64)[0] >> 1))


class SimulatedTrial(Struct, frozen=True):
    """Results of one trial.

    regret: float64 (G,), cumulative, at the checkpoints. reward: mean of a decision. best, late_best: shares of
    decisions for the best arm, of all and of those after `LATE`.
    """

    regret: NDArray[np.float64]
    reward: float
    best: float
    late_best: float


def checkpoints(horizon: int) -> NDArray[np.int64]:
    """int64 (G,): the numbers of decisions at which curves are drawn, dense enough for a linear and a log axis."""
    even = np.linspace(1, horizon, EVEN_POINTS + 1)
    log = np.geomspace(1, horizon, LOG_POINTS + 1)
    points: NDArray[np.int64] = np.unique(np.rint(np.concatenate([even, log])).astype(np.int64))
    return points


def run_trial(simulation: Simulation, contender: Contender, number: int) -> SimulatedTrial:
    """Runs a contender on seed `number` of a simulation."""
    environment, horizon = simulation.environment, simulation.horizon
    seeds = Seeds.of(simulation, number)
    policy = contender.policy(environment, seeds.policy)
    blocks = environment.blocks(horizon, seeds.world)
    if simulation.delay is None:
        taken = _at_once(policy, contender, blocks)
    else:
        taken = run_with_delays(policy, environment, simulation.delay, blocks, seeds.delays)
    points = checkpoints(horizon)
    late = int(LATE * horizon)
    regret: list[NDArray[np.float64]] = []
    total, reward, best, late_best, start = 0.0, 0.0, 0, 0, 0
    for block, arms in taken:
        rows = np.arange(len(arms))
        lost = block.means.max(axis=1) - block.means[rows, arms]
        so_far = total + np.cumsum(lost)
        regret.append(so_far[points[(points > start) & (points <= start + len(arms))] - start - 1])
        total = float(so_far[-1])
        reward += float(block.rewards[rows, arms].sum())
        best += int((lost == 0.0).sum())
        late_best += int((lost[max(0, late - start) :] == 0.0).sum())
        start += len(arms)
    return SimulatedTrial(
        np.concatenate(regret), reward / horizon, best / horizon, late_best / (horizon - late)
    )


def _at_once(
    policy: Any, contender: Contender, blocks: Iterator[Block]
) -> Iterator[tuple[Block, NDArray[np.intp]]]:
    """Yields the blocks and the arms that were chosen; each reward is learned from before the next decision."""
    start = 0
    for block in blocks:
        if contender.contextual:
            arms = _choose_with_context(policy, contender.forgets, block, start)
        elif contender.forgets:
            arms = _choose_with_time(policy, block, start)
        else:
            arms = _choose_without_time(policy, block)
        yield block, np.array(arms, dtype=np.intp)
        start += len(arms)


def _choose_without_time(policy: Any, block: Block) -> list[int]:
    # Nearly all time is spent in this loop.
    choose, update = policy.choose, policy.update
    n, n_arms = block.rewards.shape
    rewards = np.ascontiguousarray(block.rewards).reshape(-1).data
    arms = []
    for row in range(0, n * n_arms, n_arms):
        arm = choose()
        update(arm, rewards[row + arm])
        arms.append(arm)
    return arms


def _choose_with_time(policy: Any, block: Block, start: int) -> list[int]:
    choose, update, advance = policy.choose, policy.update, policy.advance
    n, n_arms = block.rewards.shape
    rewards = np.ascontiguousarray(block.rewards).reshape(-1).data
    arms = []
    for i in range(n):
        advance((start + i) * DECISION_MS)
        arm = choose()
        update(arm, rewards[i * n_arms + arm])
        arms.append(arm)
    return arms


def _choose_with_context(policy: Any, forgets: bool, block: Block, start: int) -> list[int]:
    assert block.contexts is not None
    arms = []
    for at, (x, rewards) in enumerate(zip(block.contexts, block.rewards, strict=True), start):
        if forgets:
            policy.advance(at * DECISION_MS)
        arm = policy.choose(x)
        policy.update(arm, float(rewards[arm]), x)
        arms.append(arm)
    return arms
