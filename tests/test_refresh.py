"""Keeping shares up to date: fair to all experiments, within a budget."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from makers import created, eventually, experiment, rewards

from bandit_serve.decisions import refresh as module
from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.refresh import Refresher
from bandit_serve.events import Rewarded
from bandit_serve.live import LiveExperiment
from bandit_serve.policies import Policy
from bandit_serve.store.offset import Offset


def decider(name: str, n_arms: int = 2) -> Decider:
    first = created(
        experiment(
            id=name,
            arms=[{"name": f"a{k}"} for k in range(n_arms)],
            policy={"kind": "thompson", "refresh": "10ms"},
        )
    )
    live = LiveExperiment(first)
    live.apply(Offset(1, 0), first)
    return Decider(live, 1)


def learn(one: Decider, counter: int) -> None:
    one.live.apply(Offset(2 + counter, 0), Rewarded(rewards([counter], arms=0)))


def refreshing(deciders: dict[str, Decider], scenario: Any) -> None:
    async def run() -> None:
        task = asyncio.create_task(Refresher(deciders).run())
        try:
            await scenario()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("n_arms", [2, module.MAX_ARMS_IN_LOOP + 1])
def test_shares_follow_the_evidence(n_arms: int) -> None:
    one = decider("e", n_arms)
    before = one.draw.shares.copy()
    subset = frozenset([0, 1])
    one._draw_among(["a0", "a1"])

    async def scenario() -> None:
        for counter in range(30):
            learn(one, counter)
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
        one._draw_among(subset)
    threads: list[threading.Thread] = []
    real = Policy.shares

    def noted(self: Policy, **arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return real(self, **arguments)

    monkeypatch.setattr(Policy, "shares", noted)

    async def scenario() -> None:
        learn(one, 0)
        await eventually(lambda: one.evidence == one.live.evidence)

    refreshing({"e": one}, scenario)
    assert len(threads) == 3
    assert threading.main_thread() not in threads
    assert set(one._subsets) == {frozenset([0, 1]), frozenset([1, 2])}


def test_no_experiment_starves_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refresh uses up the whole budget, and the first always has new evidence when it is due again."""
    monkeypatch.setattr(module, "TICK_S", 0.001)
    monkeypatch.setattr(module, "MOST_OF_A_CORE", 0.04)
    deciders = {f"e{i}": decider(f"e{i}") for i in range(6)}
    refreshed: list[str] = []

    async def refresh(self: Refresher, one: Decider) -> None:
        refreshed.append(one.live.experiment.id)
        one.evidence = one.live.evidence
        for each in deciders.values():
            learn(each, len(refreshed))
        await asyncio.sleep(0.0001)

    monkeypatch.setattr(Refresher, "_refresh", refresh)

    async def scenario() -> None:
        for each in deciders.values():
            learn(each, 0)
        await eventually(lambda: len(refreshed) >= 12)

    refreshing(deciders, scenario)
    assert set(refreshed[:6]) == set(deciders)
    assert set(refreshed[6:12]) == set(deciders)


def test_what_did_not_move_is_not_computed_again() -> None:
    one, two = decider("e"), decider("f")
    kept = two.draw

    async def scenario() -> None:
        learn(one, 0)
        await eventually(lambda: one.evidence == one.live.evidence)

    refreshing({"e": one, "f": two}, scenario)
    assert two.draw is kept
    assert np.isclose(one.draw.shares.sum(), 1.0)
