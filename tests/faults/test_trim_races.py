"""Trims between a reader's decision where to read and its read: no entry is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

import pytest
from builders import created, eventually, experiment, rewards
from stores import ThrowawayStore

from bandit_serve.changes.changes import Changes
from bandit_serve.errors import StoreUnavailable
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import POLICY_FOLD, RESULTS_FOLD
from bandit_serve.log.offset import Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.tail import Tail
from bandit_serve.results import ResultsFold
from bandit_serve.store.store import Store


class TrimmedStore(Store):
    """A real store in which `trim_now` happens after a reader has decided where to read from and before it does."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout_s=2)
        self.before_read: Callable[[], Awaitable[None]] | None = None

    async def read(self, owner: str, after: Offset, count: int) -> list[Entry]:
        await self._happen(owner)
        return await super().read(owner, after, count)

    async def read_any(
        self, after: Mapping[str, Offset], count: int, block_ms: int = 100
    ) -> dict[str, list[Entry]]:
        await self._happen("e")
        return await super().read_any(after, count, block_ms)

    async def _happen(self, owner: str) -> None:
        if owner == "e" and self.before_read is not None:
            happen, self.before_read = self.before_read, None
            await happen()


class Reader:
    def __init__(self, url: str) -> None:
        self.store = TrimmedStore(url)
        self.replica = Replica()
        self.tail = Tail(self.store, self.replica)

    @property
    def live(self) -> LiveExperiment:
        return self.replica.experiments["e"]


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


def scene(server: ThrowawayStore, play: Callable[[Reader, Reader, ResultsLog], Awaitable[None]]) -> None:
    """Writer that follows its log, a reader that does not yet, and the writer's results."""

    async def run() -> None:
        writer, reader = Reader(server.url), Reader(server.url)
        following = asyncio.create_task(writer.tail.run())
        try:
            await Changes(writer.store, writer.replica, writer.tail).create(created(experiment()))
            await play(writer, reader, ResultsLog(writer.store, writer.replica))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await writer.store.close()
            await reader.store.close()

    asyncio.run(run())


async def reward(writer: Reader, counter: int) -> None:
    offset = await writer.store.append("e", events.REWARDED, rewards([counter]).tobytes())
    await writer.tail.wait_for("e", offset)


async def snapshot(writer: Reader, results: ResultsLog) -> None:
    live = writer.live
    await results.snapshot(live)
    await writer.store.write_snapshot("e", POLICY_FOLD, Snapshot(live.offset, live.state()))


async def forget(writer: Reader, results: ResultsLog) -> None:
    """Appends rewards, writes a snapshot, and trims the log to it."""
    for counter in range(10, 14):
        await reward(writer, counter)
    await snapshot(writer, results)
    assert await writer.store.trim("e", writer.live.offset, [POLICY_FOLD, RESULTS_FOLD])
    await reward(writer, 20)


def test_a_worker_that_starts_during_a_trim_has_the_right_state(server: ThrowawayStore) -> None:
    async def play(writer: Reader, reader: Reader, results: ResultsLog) -> None:
        await reward(writer, 0)
        await snapshot(writer, results)
        reader.store.before_read = lambda: forget(writer, results)
        await reader.tail.load()
        assert reader.replica.positions == writer.replica.positions
        assert reader.live.digest() == writer.live.digest()
        assert reader.live.rewards.sum() == 6

    scene(server, play)


def test_a_reader_that_sleeps_just_before_it_reads_has_the_right_state(server: ThrowawayStore) -> None:
    async def play(writer: Reader, reader: Reader, results: ResultsLog) -> None:
        await reward(writer, 0)
        await reader.tail.load()
        reader.store.before_read = lambda: forget(writer, results)
        following = asyncio.create_task(reader.tail.run())
        await eventually(lambda: reader.live.rewards.sum() == 6)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert reader.live.digest() == writer.live.digest()

    scene(server, play)


def test_results_that_are_asked_for_during_a_trim_cover_everything(server: ThrowawayStore) -> None:
    async def play(writer: Reader, reader: Reader, results: ResultsLog) -> None:
        await reward(writer, 0)
        await reader.tail.load()
        asked = ResultsLog(reader.store, reader.replica)
        await asked.up_to_now(reader.live, ResultsFold.state)
        await reward(writer, 1)
        reader.store.before_read = lambda: forget(writer, results)
        await asked.up_to_now(reader.live, ResultsFold.state)
        state = await asked.up_to_now(reader.live, ResultsFold.state)
        assert state == await results.up_to_now(writer.live, ResultsFold.state)

    scene(server, play)


def test_an_experiment_whose_snapshot_is_gone_is_set_aside_and_not_wrong(server: ThrowawayStore) -> None:
    async def play(writer: Reader, reader: Reader, results: ResultsLog) -> None:
        await reward(writer, 0)
        await snapshot(writer, results)
        await forget(writer, results)
        with server.client() as client:
            client.delete(writer.store.keys.snapshots("e", POLICY_FOLD))
        await reader.tail.load()
        assert "e" not in reader.replica.experiments
        assert "no snapshot after that can be used" in reader.replica.aside["e"].reason

    scene(server, play)


def test_a_flood_of_unknown_names_does_not_wait_one_by_one_for_a_store_that_left(
    server: ThrowawayStore,
) -> None:
    async def play(writer: Reader, reader: Reader, results: ResultsLog) -> None:
        await reader.tail.load()
        assert reader.tail.available
        server.pause()
        try:
            asking = [asyncio.create_task(reader.tail.refresh("e")) for _ in range(50)]
            await asyncio.sleep(0)
            reader.tail.available = False
            async with asyncio.timeout(10):
                answers = await asyncio.gather(*asking, return_exceptions=True)
        finally:
            server.resume()
        assert sum(isinstance(answer, StoreUnavailable) for answer in answers) <= 2
        assert sum(answer is None for answer in answers) >= 48

    scene(server, play)
