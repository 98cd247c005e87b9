"""Results fold of an experiment on demand: all of a report is of one offset of the log."""

from __future__ import annotations

import asyncio
import threading

import msgspec
from builders import created, experiment, rewards
from stores import ThrowawayStore

from bandit_serve.changes.changes import Changes
from bandit_serve.experiments.checks import with_arm, with_policy
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.events import Change, Changed
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.tail import Tail
from bandit_serve.results import ResultsFold
from bandit_serve.server.ending import end
from bandit_serve.store.store import Store

NUMERIC = {"name": "x", "kind": "numeric"}


def test_nothing_is_applied_while_a_result_is_read() -> None:
    async def run(url: str) -> None:
        store = Store(url, timeout_s=30)
        replica = Replica()
        tail = Tail(store, replica)
        await tail.load()
        following = asyncio.create_task(tail.run())
        entered, leave = threading.Event(), threading.Event()

        def slowly(fold: ResultsFold) -> tuple[int, int]:
            before = fold.now_ms
            entered.set()
            assert leave.wait(10)
            return before, fold.now_ms

        try:
            live = await Changes(store, replica, tail).create(created(experiment()))
            log = ResultsLog(store, replica)
            slow = asyncio.create_task(log.up_to_now(live, slowly))
            await asyncio.to_thread(entered.wait, 10)
            offset = await store.append("e", events.REWARDED, rewards([0, 1]).tobytes())
            quick = asyncio.create_task(log.up_to_now(live, lambda fold: fold.now_ms))
            done, _ = await asyncio.wait({quick}, timeout=0.2)
            assert not done
            leave.set()
            before, after = await slow
            assert before == after < offset.time_ms
            assert await quick == offset.time_ms
        finally:
            leave.set()
            await end([following])
            await store.close()

    with ThrowawayStore(appendfsync="no") as server:
        asyncio.run(run(server.url))


def test_results_are_the_same_whenever_they_are_asked_for_first() -> None:
    async def run(url: str) -> None:
        store = Store(url, timeout_s=30)
        replica = Replica()
        tail = Tail(store, replica)
        await tail.load()
        following = asyncio.create_task(tail.run())
        changes = Changes(store, replica, tail)
        early, late = ResultsLog(store, replica), ResultsLog(store, replica)

        def with_another(live: LiveExperiment) -> Changed:
            made = with_policy(with_arm(live.experiment, Arm("late")), PolicySpec(kind="fixed_split"))
            later = msgspec.structs.replace(live.record, experiment=made, revision=live.record.revision + 1)
            return Changed(later, Change("change", "test"))

        try:
            live = await changes.create(created(experiment(policy={"kind": "lin_ts"}, context=[NUMERIC])))
            before = await early.up_to_now(live, ResultsFold.state)
            await changes.change_experiment("e", with_another)
            live = replica.experiment("e")
            await store.append("e", events.TICK, b"")
            state = await early.up_to_now(live, ResultsFold.state)
            assert state != before
            assert await late.up_to_now(live, ResultsFold.state) == state
        finally:
            await end([following])
            await store.close()

    with ThrowawayStore(appendfsync="no") as server:
        asyncio.run(run(server.url))
