"""Steps of an export that goes on: an end at each of them, exposures that come late, and logs that were trimmed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import exposed, rewards
from stores import ThrowawayStore

from bandit_serve.cli.access import following
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.export.follow import FollowingExport
from bandit_serve.export.places import place_of
from bandit_serve.log.events import EXPOSED, REWARDED, TICK, encode
from bandit_serve.log.times import EARLY_REWARD_MS
from bandit_serve.node import Node
from bandit_serve.settings import Settings

WINDOW_MS = 60_000
STEPS = ["put", "write", "move", "no step"]


class EndedHere(BaseException):
    """End of the process, as far as files can tell."""


class MadeLog:
    """Log whose entries have the times that a test wants, from `begin_ms` on."""

    def __init__(self, node: Node, begin_ms: int) -> None:
        self._node = node
        self.begin_ms = begin_ms

    async def add(self, after_ms: int, kind: bytes, data: bytes) -> None:
        store = self._node.store
        key, at = store.keys.log("e"), f"{self.begin_ms + after_ms}-*"
        await store._client.xadd(key, {kind: data}, id=at)

    async def decide(self, after_ms: int, first: int, ages_ms: list[int], late_ms: int = 0) -> None:
        """Exposures of decisions `ages_ms` before the entry's time, less `late_ms`."""
        times = [self.begin_ms + after_ms - late_ms - age for age in ages_ms]
        event = exposed(first, [number % 2 for number in range(len(times))], times)
        await self.add(after_ms, EXPOSED, encode(event))

    async def reward(self, after_ms: int, number: int, decided_after_ms: int) -> None:
        row = rewards([number], times_ms=self.begin_ms + decided_after_ms, arms=number % 2)
        await self.add(after_ms, REWARDED, row.tobytes())

    async def tick(self, after_ms: int) -> None:
        await self.add(after_ms, TICK, b"")


def with_log(store: ThrowawayStore, data: Path, work: Callable[[Node, MadeLog], Awaitable[None]]) -> None:
    async def run() -> None:
        async with following(Settings(data=str(data), store=store.url), store.url) as node:
            made = Experiment(
                id="e",
                arms=(Arm("a"), Arm("b")),
                metrics=(Metric(name="click", kind="binary", role="objective"),),
                attribution=Attribution(window="60s", missing="zero"),
            )
            await node.experiment_changes.create(made, "test")
            await node.experiment_changes.start("e", "test")
            await work(node, MadeLog(node, await node.store.time_ms() + 10_000))

    asyncio.run(run())


async def cut(node: Node, out: Path, broken: str = "no step") -> FollowingExport:
    """Goes on with the export in `out`, which ends at the step `broken`."""
    live = await node.experiment_changes.known("e")
    place = place_of(str(out))
    follower = FollowingExport(node, live, place, "parquet")
    try:
        await follower.start()

        def end(*_: Any) -> None:
            raise EndedHere

        if broken != "no step":
            setattr(place, broken, end)
        try:
            await follower.cut()
        except EndedHere:
            assert broken != "no step"
    finally:
        follower.close()
    return follower


def numbers_in(out: Path) -> Counter[int]:
    parts = list(out.glob("date=*/part-*.parquet"))
    return Counter(number for part in parts for number in pq.ParquetFile(part).read()["number"].to_pylist())


@pytest.mark.parametrize("broken", STEPS)
def test_an_end_at_each_step_loses_and_doubles_nothing(
    store: ThrowawayStore, tmp_path: Path, broken: str
) -> None:
    async def work(node: Node, log: MadeLog) -> None:
        out, closes_ms = tmp_path / "out", WINDOW_MS + EARLY_REWARD_MS
        await log.decide(100, 0, [50, 20, 0])
        await log.reward(200, 1, 80)
        await log.decide(closes_ms, 3, [10, 0])
        await log.tick(closes_ms + 500)
        await cut(node, out, broken)
        await cut(node, out)
        assert numbers_in(out) == Counter(range(3))
        await log.tick(3 * closes_ms)
        await cut(node, out, broken)
        await cut(node, out, broken)
        await cut(node, out)
        assert numbers_in(out) == Counter(range(5))
        assert not list(out.glob("_pending/*"))

    with_log(store, tmp_path / "data", work)


def test_an_exposure_that_comes_after_its_reward_was_written(store: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node, log: MadeLog) -> None:
        out, closes_ms = tmp_path / "out", WINDOW_MS + EARLY_REWARD_MS
        await log.reward(100, 7, 50)
        await log.tick(closes_ms + 500)
        await cut(node, out)
        assert numbers_in(out) == Counter([7])
        # Two exposures are late: of one the reward has been written, of the other there is none.
        await log.decide(closes_ms + 1_000, 7, [1, 0], late_ms=closes_ms + 949)
        await log.tick(3 * closes_ms)
        await cut(node, out)
        assert numbers_in(out) == Counter([7, 8])

    with_log(store, tmp_path / "data", work)


def test_what_was_trimmed_before_it_was_read_is_said(store: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node, log: MadeLog) -> None:
        out, closes_ms = tmp_path / "out", WINDOW_MS + EARLY_REWARD_MS
        await log.decide(100, 0, [0])
        await log.tick(closes_ms + 500)
        assert (await cut(node, out)).trimmed_ms is None
        await log.decide(2 * closes_ms, 1, [0])
        await log.reward(2 * closes_ms + 1, 1, 2 * closes_ms)
        await log.decide(3 * closes_ms, 2, [0])
        await log.tick(5 * closes_ms)
        live = await node.experiment_changes.known("e")
        before = log.begin_ms + 2 * closes_ms
        await node.store._client.xtrim(
            node.store.keys.log(live.owner), minid=f"{before + 1}-0", approximate=False
        )
        await node.store._client.set(node.store.keys.trimmed(live.owner), f"{before}-0")
        follower = await cut(node, out)
        assert follower.trimmed_ms == before
        # Of the decision whose exposure is gone the reward alone is known: it would count for more than it is.
        assert numbers_in(out) == Counter([0, 2])

    with_log(store, tmp_path / "data", work)


def test_shares_and_rewards_of_what_is_written(store: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node, log: MadeLog) -> None:
        out = tmp_path / "out"
        await log.decide(100, 0, [50, 0])
        await log.reward(150, 1, 100)
        await log.tick(WINDOW_MS + EARLY_REWARD_MS + 500)
        await cut(node, out)
        (part,) = out.glob("date=*/part-*.parquet")
        rows = pq.ParquetFile(part).read().to_pylist()
        assert [row["reward_click"] for row in rows] == [None, 1.0]
        assert [row["shares"] for row in rows] == [[0.5, 0.5]] * 2
        assert np.diff([row["decided_at"].timestamp() for row in rows]) == pytest.approx(0.05, abs=1e-5)

    with_log(store, tmp_path / "data", work)
