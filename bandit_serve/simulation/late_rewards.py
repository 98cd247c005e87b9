"""Late and missing rewards: decisions and rewards go through the fold that serves traffic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import REWARD, Change, Changed, Exposed, Rewarded, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.simulation.delay import DECISION_MS, Delay
from bandit_serve.simulation.worlds.environment import Block, Environment

INCARNATION = 1


def run_with_delays(
    policy: Any,
    environment: Environment,
    delay: Delay,
    blocks: Iterator[Block],
    seed: SeedSequence,
) -> Iterator[tuple[Block, NDArray[np.intp]]]:
    """Yields blocks of at most `delay.refresh` decisions, with the arms, intp (B,), that were drawn for them.

    All arms of a block are drawn from the shares that the fold has before it. Decision i (from 0) is made at i seconds
    of log time. Exposures are logged when the last decision of their block is made, and each reward when it comes: with
    a delay of n it is known before decision i + n, if that begins a block.
    """
    live = _experiment(policy, environment, delay)
    delays, draws = (default_rng(child) for child in seed.spawn(2))
    arriving: dict[int, list[NDArray[np.void]]] = defaultdict(list)
    start = 0
    for whole in blocks:
        waits = delay.draw(len(whole.rewards), environment.n_arms, delays)
        for block, block_waits in _parts(whole, waits, delay.refresh):
            n = len(block.rewards)
            _apply_rewards(live, start, arriving)
            live.apply(Offset(start * DECISION_MS, 1), Tick())
            shares = live.shares()
            arms = _drawn(shares, n, draws)
            _send(arriving, start, arms, block, block_waits, shares, delay)
            _apply_rewards(live, start + n - 1, arriving)
            _apply_exposures(live, start, arms, shares)
            yield block, arms
            start += n


def _experiment(policy: Any, environment: Environment, delay: Delay) -> LiveExperiment:
    """Fold of an experiment with these arms, in which `policy` takes the place of its own."""
    experiment = validated(
        Experiment(
            id="simulation",
            arms=tuple(Arm(f"arm-{k}") for k in range(environment.n_arms)),
            metrics=(Metric("reward", kind=environment.objective),),
            attribution=Attribution(f"{delay.window_decisions * DECISION_MS // 1_000}s", delay.missing),
        )
    )
    record = Record(experiment, uid=1, status="running", revision=1, created_ms=0, updated_ms=0)
    live = LiveExperiment(Changed(record, Change("create", "simulation")))
    live.policy = policy
    return live


def _parts(block: Block, waits: NDArray[np.int64], rows: int) -> Iterator[tuple[Block, NDArray[np.int64]]]:
    """Cuts a block into blocks of at most `rows` decisions, with the delays of their rewards."""
    for start in range(0, len(waits), rows):
        part = slice(start, start + rows)
        yield Block(block.means[part], block.rewards[part]), waits[part]


def _drawn(shares: NDArray[np.float64], n: int, draws: Generator) -> NDArray[np.intp]:
    arms = np.searchsorted(np.cumsum(shares), draws.random(n), side="right")
    # By rounding, the last sum may be a little below 1.
    possible: NDArray[np.intp] = np.minimum(arms, np.flatnonzero(shares)[-1]).astype(np.intp)
    return possible


def _apply_rewards(live: LiveExperiment, until: int, arriving: dict[int, list[NDArray[np.void]]]) -> None:
    """Applies the rewards that come by decision `until`, in their order."""
    for at in sorted(at for at in arriving if at <= until):
        live.apply(Offset(at * DECISION_MS, 0), Rewarded(np.concatenate(arriving.pop(at))))


def _apply_exposures(
    live: LiveExperiment, start: int, arms: NDArray[np.intp], shares: NDArray[np.float64]
) -> None:
    n = len(arms)
    live.apply(
        Offset((start + n - 1) * DECISION_MS, 2),
        Exposed(
            incarnation=INCARNATION,
            first=start,
            revision=1,
            time_ms=start * DECISION_MS,
            arms=arms.astype("<u2").tobytes(),
            ages_ms=(np.arange(n) * DECISION_MS).astype("<u4").tobytes(),
            units=b"",
            vectors=shares.tobytes(),
            runs=np.array([n], "<u4").tobytes(),
        ),
    )


def _send(
    arriving: dict[int, list[NDArray[np.void]]],
    start: int,
    arms: NDArray[np.intp],
    block: Block,
    delays: NDArray[np.int64],
    shares: NDArray[np.float64],
    delay: Delay,
) -> None:
    """Adds the rewards of a block to `arriving`, by the decision at which they come, if they come within the window."""
    places = np.arange(len(arms))
    values, waits = block.rewards[places, arms], delays[places, arms]
    sent = (waits >= 0) & (waits <= delay.window_decisions)
    if delay.missing == "zero":
        sent &= values != 0.0
    rows = np.zeros(len(arms), REWARD)
    rows["incarnation"], rows["counter"] = INCARNATION, start + places
    rows["time_ms"] = (start + places) * DECISION_MS
    rows["value"], rows["propensity"] = values, shares[arms]
    rows["revision"], rows["arm"] = 1, arms
    for i in np.flatnonzero(sent).tolist():
        arriving[start + i + int(waits[i])].append(rows[i : i + 1])
