"""Look-ups of results by a field that was not declared: of a whole log, one at a time, and of nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from builders import created, experiment, rewards
from stores import ThrowawayStore

from bandit_serve.changes.changes import Changes
from bandit_serve.errors import Conflict, InvalidInput, Overloaded
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.fold import POLICY_FOLD, RESULTS_FOLD
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.policies.features import Features
from bandit_serve.replication import segmented_results
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.segmented_results import SegmentedResults
from bandit_serve.replication.tail import Tail
from bandit_serve.results.segment_report import SegmentReport
from bandit_serve.server.ending import end
from bandit_serve.store.store import Store

CONTEXT = [
    {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
    {"name": "hour", "kind": "numeric"},
]


class Scene:
    """An experiment in a real store whose rewards are of the device ios, in `n` entries of two."""

    def __init__(self, store: Store, replica: Replica, tail: Tail, live: LiveExperiment) -> None:
        self.store, self.replica, self.tail = store, replica, tail
        self.owner = live.owner
        self.results = ResultsLog(store, replica)
        self.segmented = SegmentedResults(store, replica, self.results)

    @property
    def live(self) -> LiveExperiment:
        return self.replica.experiment("e")

    async def reward(self, counter: int) -> None:
        x = np.repeat(Features(self.live.experiment.context).vector({"device": "ios"})[None], 2, axis=0)
        rows = rewards([counter, counter + 1])
        offset = await self.store.append("e", events.REWARDED, events.pack_rewards(rows, x))
        await self.tail.wait_for("e", offset)

    async def by(self, field: str) -> Any:
        return (await self.segmented.report(self.live, {}, 0, field)).segments

    async def trim(self) -> None:
        await self.results.snapshot(self.live)
        snapshot = Snapshot(self.live.offset, self.live.state())
        await self.store.write_snapshot("e", POLICY_FOLD, snapshot)
        assert await self.store.trim("e", self.live.offset, [POLICY_FOLD, RESULTS_FOLD])


def played(play: Callable[[Scene], Awaitable[None]], **fields: Any) -> None:
    async def run(url: str) -> None:
        store = Store(url, timeout_s=30)
        replica = Replica()
        tail = Tail(store, replica)
        await tail.load()
        following = asyncio.create_task(tail.run())
        try:
            live = await Changes(store, replica, tail).create(created(experiment(context=CONTEXT, **fields)))
            scene = Scene(store, replica, tail, live)
            for i in range(3):
                await scene.reward(2 * i)
            await play(scene)
        finally:
            await end([following])
            await store.close()

    with ThrowawayStore(appendfsync="no") as server:
        asyncio.run(run(server.url))


def counts(segments: SegmentReport) -> list[int]:
    return [sum(arm.metrics["click"].n for arm in each.arms) for each in segments.values]


def test_a_look_up_sees_all_that_the_log_has() -> None:
    async def play(scene: Scene) -> None:
        looked_up = await scene.by("device")
        assert (looked_up.declared, counts(looked_up)) == (False, [6, 0, 0])
        await scene.reward(6)
        assert counts(await scene.by("device")) == [8, 0, 0]
        with pytest.raises(InvalidInput, match="by: expected a categorical context field"):
            await scene.by("hour")

    played(play)


def test_of_a_trimmed_log_declared_dimensions_are_told_and_nothing_is_looked_up() -> None:
    async def declared(scene: Scene) -> None:
        await scene.trim()
        await scene.reward(6)
        assert counts(await scene.by("device")) == [8, 0, 0]

    async def undeclared(scene: Scene) -> None:
        await scene.trim()
        with pytest.raises(Conflict, match="first part of the experiment's log was trimmed"):
            await scene.by("device")
        assert (await scene.segmented.report(scene.live, {}, 0, None)).experiment == "e"

    played(declared, dimensions=["device"])
    played(undeclared)


def test_one_is_looked_up_at_a_time() -> None:
    async def play(scene: Scene) -> None:
        several = await asyncio.gather(*(scene.by("device") for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(each, SegmentReport) for each in several) == 1
        refused = [each for each in several if isinstance(each, Overloaded)]
        assert len(refused) == 3
        assert "ask again" in str(refused[0])
        assert counts(await scene.by("device")) == [6, 0, 0]

    played(play)


def test_too_long_a_log_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(scene: Scene) -> None:
        monkeypatch.setattr(segmented_results, "MAX_LOOKED_UP", 6)
        assert counts(await scene.by("device")) == [6, 0, 0]
        monkeypatch.setattr(segmented_results, "MAX_LOOKED_UP", 5)
        with pytest.raises(Conflict, match="more than 5 decisions and rewards"):
            await scene.by("device")

    played(play)
