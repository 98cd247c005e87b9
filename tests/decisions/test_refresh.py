"""Refresh of shares: fair to all experiments, within a budget."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from builders import created, eventually, experiment, record, rewards

from bandit_serve.decisions import refresh as module
from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.refresh import Refresher
from bandit_serve.experiments.checks import with_arm
from bandit_serve.experiments.spec import Arm
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Change, Changed, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.policies.context_free import ContextFreePolicy


def decider(name: str, n_arms: int = 2, refresh: str = "10ms") -> Decider:
    first = created(
        experiment(
            id=name,
            arms=[{"name": f"a{k}"} for k in range(n_arms)],
            policy={"kind": "thompson", "refresh": refresh},
        )
    )
    live = LiveExperiment(first)
    live.apply(Offset(1, 0), first)
    return Decider(live, 1)


def learn(one: Decider, counter: int, refresher: Refresher) -> None:
    one.live.apply(Offset(2 + counter, 0), Rewarded(rewards([counter], arms=0)))
    refresher.moved(one.live.experiment.id)


def refreshing(deciders: dict[str, Decider], scenario: Callable[[Refresher], Awaitable[None]]) -> None:
    async def run() -> None:
        refresher = Refresher(deciders, Replica())
        task = asyncio.create_task(refresher.run())
        try:
            await scenario(refresher)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("n_arms", [2, module.MAX_ARMS_IN_LOOP + 1])
def test_shares_follow_the_evidence(n_arms: int) -> None:
    one = decider("e", n_arms)
    before = one.draw.shares.copy()
    subset = frozenset([0, 1])
    one.choose(None, ["a0", "a1"])

    async def scenario(refresher: Refresher) -> None:
        for counter in range(30):
            learn(one, counter, refresher)
        await eventually(lambda: one.evidence == one.live.evidence)
        assert one.draw.shares.tobytes() == one.live.shares().tobytes()
        assert one.draw.shares[0] > before[0]
        if subset in one._subsets:
            assert one._subsets[subset].shares.tobytes() == one.live.shares(one.mask(subset)).tobytes()

    refreshing({"e": one}, scenario)


def test_shares_over_subsets_are_not_computed_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    one = decider("e", 3)
    subsets = [["a0", "a1"], ["a1", "a2"]]
    for subset in subsets:
        one.choose(None, subset)
    threads: list[threading.Thread] = []
    real = ContextFreePolicy.shares

    def noted(self: ContextFreePolicy, **arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return real(self, **arguments)

    monkeypatch.setattr(ContextFreePolicy, "shares", noted)

    async def scenario(refresher: Refresher) -> None:
        learn(one, 0, refresher)
        await eventually(lambda: one.evidence == one.live.evidence)

    refreshing({"e": one}, scenario)
    assert len(threads) == 3
    assert threading.main_thread() not in threads
    assert set(one._subsets) == {frozenset([0, 1]), frozenset([1, 2])}


def test_an_arm_may_be_added_while_shares_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = decider("e", 3)
    one.choose(None, ["a0", "a1"])
    computing, added = threading.Event(), threading.Event()
    real = ContextFreePolicy.shares

    def slow(self: ContextFreePolicy, **arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            computing.set()
            assert added.wait(10.0)
        return real(self, **arguments)

    monkeypatch.setattr(ContextFreePolicy, "shares", slow)

    async def scenario(refresher: Refresher) -> None:
        learn(one, 0, refresher)
        await eventually(computing.is_set)
        grown = with_arm(one.live.experiment, Arm("late"))
        one.live.apply(
            Offset(9, 0), Changed(record(grown, revision=2), Change("add_arm", "test", None, "late"))
        )
        one.renew(one.live)
        added.set()
        learn(one, 10, refresher)
        await eventually(lambda: one.evidence == one.live.evidence)
        assert len(one.shares) == 4

    refreshing({"e": one}, scenario)


def test_no_experiment_starves_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refresh uses up the whole budget, and the first always has new evidence when it is due again."""
    monkeypatch.setattr(module, "MAX_CORE_SHARE", 0.04)
    deciders = {f"e{i}": decider(f"e{i}") for i in range(6)}
    refreshed: list[str] = []

    async def refresh(self: Refresher, one: Decider) -> None:
        refreshed.append(one.live.experiment.id)
        one.evidence = one.live.evidence
        for each in deciders.values():
            learn(each, len(refreshed), self)
        await asyncio.sleep(0.0001)

    monkeypatch.setattr(Refresher, "_refresh", refresh)

    async def scenario(refresher: Refresher) -> None:
        for each in deciders.values():
            learn(each, 0, refresher)
        await eventually(lambda: len(refreshed) >= 12)

    refreshing(deciders, scenario)
    assert set(refreshed[:6]) == set(deciders)
    assert set(refreshed[6:12]) == set(deciders)


def test_what_did_not_move_is_not_computed_again() -> None:
    one, two = decider("e"), decider("f")
    kept = two.draw

    async def scenario(refresher: Refresher) -> None:
        learn(one, 0, refresher)
        await eventually(lambda: one.evidence == one.live.evidence)

    refreshing({"e": one, "f": two}, scenario)
    assert two.draw is kept
    assert np.isclose(one.draw.shares.sum(), 1.0)


@pytest.mark.parametrize("refresh", ["1ms", "40ms"])
def test_shares_follow_as_often_as_refresh_says(monkeypatch: pytest.MonkeyPatch, refresh: str) -> None:
    """With evidence that comes all the time, and never more often."""
    monkeypatch.setattr(module, "MAX_CORE_SHARE", 1.0)
    one = decider("e", refresh=refresh)
    apart_s = one.live.experiment.policy.refresh_ms / 1000
    seen: list[Any] = []
    late: list[int] = []

    async def scenario(refresher: Refresher) -> None:
        started_s = last_s = time.monotonic()
        counter = turns = 0
        while len(seen) < 20:
            learn(one, counter, refresher)
            counter += 1
            await asyncio.sleep(0)
            turns += time.monotonic() >= last_s + apart_s
            if not seen or seen[-1] is not one.draw:
                seen.append(one.draw)
                late.append(turns)
                last_s, turns = time.monotonic(), 0
            assert len(seen) <= 2 + (time.monotonic() - started_s) / apart_s

    refreshing({"e": one}, scenario)
    # In turns of the loop, however long a busy machine takes for one.
    assert max(late) <= 10
