"""Tail of all logs: every entry once and in order, through outages, and from snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from builders import created, eventually, experiment, record, rewards
from stores import ThrowawayStore

from bandit_serve.base import turns as turn
from bandit_serve.changes.changes import Changes
from bandit_serve.errors import Conflict, NotFound, PreconditionFailed, StoreUnavailable
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.registry.registry import ANNOUNCED, ExperimentAnnounced
from bandit_serve.replication import tail as module
from bandit_serve.replication.tail import Tail
from bandit_serve.server.ending import end
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


class Reader:
    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        self.store = Store(url, timeout_s=timeout_s)
        self.replica = Replica()
        self.tail = Tail(self.store, self.replica)
        self.changes = Changes(self.store, self.replica, self.tail)
        self.seen: list[tuple[str, Offset]] = []
        self.replica.on_change(lambda owner: self.seen.append((owner, self.replica.positions[owner])))
        self._task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        self._task = asyncio.create_task(self.tail.run())

    async def rest(self) -> None:
        if self._task is not None:
            await end([self._task])
            self._task = None

    async def close(self) -> None:
        await self.rest()
        await self.store.close()


def reading(
    server: ThrowawayStore, scenario: Callable[..., Awaitable[None]], n: int = 1, timeout_s: float = 2.0
) -> None:
    async def run() -> None:
        readers = [Reader(server.url, timeout_s) for _ in range(n)]
        try:
            for reader in readers:
                await reader.tail.load()
                reader.follow()
            await scenario(*readers)
        finally:
            for reader in readers:
                await reader.close()

    asyncio.run(run())


async def reward(store: Store, name: str, counter: int) -> Offset:
    return await store.append(name, events.REWARDED, rewards([counter]).tobytes())


def test_two_readers_of_many_logs_see_every_entry_once_and_in_order(server: ThrowawayStore) -> None:
    names = [f"e{i}" for i in range(12)]

    async def scenario(one: Reader, two: Reader) -> None:
        for i, name in enumerate(names):
            await one.changes.create(created(experiment(id=name), uid=i + 1))
        for counter in range(20):
            await asyncio.gather(*(reward(one.store, name, counter) for name in names))
        for reader in (one, two):
            await reader.tail.wait_for_end(COMMON)
            for name in names:
                await reader.tail.wait_for_end(name)
                logged = [(name, entry.offset) for entry in await reader.store.read(name, START, 1_000)]
                assert [entry for entry in reader.seen if entry[0] == name] == logged
                assert reader.replica.experiments[name].rewards.tolist() == [20, 0]
        for name in names:
            assert one.replica.experiments[name].state() == two.replica.experiments[name].state()

    reading(server, scenario, n=2)


def test_reach_returns_when_the_entry_has_been_applied(server: ThrowawayStore) -> None:
    async def scenario(reader: Reader) -> None:
        await reader.changes.create(created(experiment()))
        for counter in range(5):
            offset = await reward(reader.store, "e", counter)
            await reader.tail.wait_for("e", offset)
            assert reader.replica.experiments["e"].offset >= offset
        await reader.tail.wait_for("e", START)

    reading(server, scenario)


def test_what_is_never_read_is_unavailable_and_not_waited_for_for_ever(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REACH_S", 0.05)

    async def scenario(reader: Reader) -> None:
        await reader.changes.create(created(experiment()))
        with pytest.raises(StoreUnavailable):
            await reader.tail.wait_for("e", Offset(2**50, 0))
        with pytest.raises(StoreUnavailable):
            await reader.tail.wait_for("unheard-of", Offset(1, 0))
        await eventually(lambda: not reader.tail._waiting)

    reading(server, scenario)


def test_a_store_that_was_away_is_followed_again(server: ThrowawayStore) -> None:
    async def scenario(reader: Reader) -> None:
        await reader.changes.create(created(experiment()))
        await reward(reader.store, "e", 0)
        server.kill()
        await eventually(lambda: not reader.tail.available)
        with pytest.raises(StoreUnavailable):
            await reader.tail.wait_for_end("e")
        await reader.tail.refresh("e")  # says nothing new while the store is away, and does not fail
        server.start()
        await eventually(lambda: reader.tail.available)
        await reader.tail.wait_for("e", await reward(reader.store, "e", 1))
        assert reader.replica.experiments["e"].rewards.tolist() == [2, 0]
        offsets = [offset for owner, offset in reader.seen if owner == "e"]
        assert offsets == [entry.offset for entry in await reader.store.read("e", START, 100)]

    reading(server, scenario)


def test_a_worker_starts_from_snapshots_and_the_log_after_them(server: ThrowawayStore) -> None:
    async def scenario(writer: Reader) -> None:
        for i in range(3):
            await writer.changes.create(created(experiment(id=f"e{i}"), uid=i + 1))
            await writer.tail.wait_for(f"e{i}", await reward(writer.store, f"e{i}", 0))
        live = writer.replica.experiments["e1"]
        await writer.store.write_snapshot("e1", POLICY_FOLD, Snapshot(live.offset, live.state()))
        await writer.store.trim("e1", live.offset)
        for i in range(3):
            await writer.tail.wait_for(f"e{i}", await reward(writer.store, f"e{i}", 1))
        fresh = Reader(writer.store.url)
        try:
            await fresh.tail.load()
            assert fresh.tail.available
            assert list(fresh.replica.experiments) == ["e0", "e1", "e2"]
            for name, live in writer.replica.experiments.items():
                assert fresh.replica.experiments[name].state() == live.state()
                assert fresh.replica.by_uid[live.record.uid] is fresh.replica.experiments[name]
            assert fresh.replica.positions == writer.replica.positions
        finally:
            await fresh.close()

    reading(server, scenario)


def test_a_reader_that_slept_through_a_trim_starts_over_from_the_snapshot(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAPSE_MS", 0)

    async def scenario(writer: Reader, sleeper: Reader) -> None:
        await writer.changes.create(created(experiment()))
        await sleeper.tail.wait_for_end(COMMON)
        await sleeper.tail.wait_for_end("e")
        before = sleeper.replica.experiments["e"]
        await sleeper.rest()
        for counter in range(5):
            await writer.tail.wait_for("e", await reward(writer.store, "e", counter))
        live = writer.replica.experiments["e"]
        await writer.store.write_snapshot("e", POLICY_FOLD, Snapshot(live.offset, live.state()))
        await writer.store.trim("e", live.offset)
        last = await reward(writer.store, "e", 5)
        await writer.tail.wait_for("e", last)
        sleeper.follow()
        await sleeper.tail.wait_for("e", last)
        after = sleeper.replica.experiments["e"]
        assert after is not before
        assert after.rewards.tolist() == [6, 0]
        assert after.state() == live.state()
        assert sleeper.replica.by_uid[7] is after

    reading(server, scenario, n=2)


def test_requests_have_their_turn_while_many_entries_are_applied(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "TURN_S", 0.0)

    async def scenario(writer: Reader, reader: Reader) -> None:
        await writer.changes.create(created(experiment()))
        await reader.tail.wait_for_end("e")
        await reader.rest()
        for counter in range(100):
            last = await reward(writer.store, "e", counter)
        at_once: list[int] = []

        async def other_requests() -> None:
            while True:
                seen = len(reader.seen)
                await asyncio.sleep(0)
                at_once.append(len(reader.seen) - seen)

        others = asyncio.create_task(other_requests())
        reader.follow()
        await reader.tail.wait_for("e", last)
        await end([others])
        assert sum(at_once) >= 100
        assert max(at_once) == 1

    reading(server, scenario, n=2)


# Changes


def changed(live: LiveExperiment, status: str) -> Changed:
    made = record(live.experiment, status=status, revision=live.record.revision + 1)  # type: ignore[arg-type]
    return Changed(made, Change("pause", "test"))


def test_a_name_is_taken_once(server: ThrowawayStore) -> None:
    async def scenario(one: Reader, two: Reader) -> None:
        tries = [
            reader.changes.create(created(experiment(), uid=i))
            for i, reader in enumerate([one, two, one, two], 1)
        ]
        made = await asyncio.gather(*tries, return_exceptions=True)
        failures = [error for error in made if isinstance(error, BaseException)]
        assert len(failures) == 3
        assert all(isinstance(error, Conflict) for error in failures)
        for reader in (one, two):
            await reader.tail.wait_for_end("e")
        assert one.replica.experiments["e"].record.uid == two.replica.experiments["e"].record.uid
        end = await one.store.last_offset(COMMON)
        with pytest.raises(Conflict):
            await two.changes.create(created(experiment(), uid=9))
        assert await one.store.last_offset(COMMON) == end, "a taken name grows no log"

    reading(server, scenario, n=2)


def test_changes_at_once_are_all_made_one_after_another(server: ThrowawayStore) -> None:
    async def scenario(one: Reader, two: Reader) -> None:
        await one.changes.create(created(experiment()))
        await two.tail.wait_for_end(COMMON)
        tries = [
            reader.changes.change_experiment("e", lambda live: changed(live, "paused"))
            for reader in (one, two) * 4
        ]
        await asyncio.gather(*tries)
        await one.tail.wait_for_end("e")
        history = one.replica.experiments["e"].history
        assert [entry.revision for entry in history] == list(range(1, 10))

    reading(server, scenario, n=2)


def test_if_match_is_compared_with_the_newest_revision(server: ThrowawayStore) -> None:
    async def scenario(one: Reader, two: Reader) -> None:
        await one.changes.create(created(experiment()))
        await two.tail.wait_for_end(COMMON)
        await one.changes.change_experiment("e", lambda live: changed(live, "paused"), 1)
        with pytest.raises(PreconditionFailed, match="revision 2"):
            await two.changes.change_experiment("e", lambda live: changed(live, "running"), 1)
        live = await two.changes.change_experiment("e", lambda live: changed(live, "running"), 2)
        assert live.record.revision == 3

    reading(server, scenario, n=2)


def test_a_change_of_nothing_is_not_found_and_a_refusal_appends_nothing(server: ThrowawayStore) -> None:
    async def scenario(reader: Reader) -> None:
        with pytest.raises(NotFound):
            await reader.changes.change_experiment("nothing", lambda live: changed(live, "paused"))
        await reader.changes.create(created(experiment()))
        end = await reader.store.last_offset("e")

        def refuse(live: LiveExperiment) -> Changed:
            raise Conflict("no")

        with pytest.raises(Conflict):
            await reader.changes.change_experiment("e", refuse)
        assert await reader.changes.change_models(lambda registry: None) is None
        assert await reader.store.last_offset("e") == end

    reading(server, scenario)


def test_an_announcement_without_a_log_is_harmless(server: ThrowawayStore) -> None:
    """Its worker died between the two."""

    async def scenario(reader: Reader) -> None:
        announcement = events.encode(ExperimentAnnounced("half-made"))
        await reader.tail.wait_for(COMMON, await reader.store.append(COMMON, ANNOUNCED, announcement))
        await reader.tail.refresh("half-made")
        with pytest.raises(NotFound):
            reader.replica.experiment("half-made")
        live = await reader.changes.create(created(experiment(id="half-made")))
        assert live.record.revision == 1

    reading(server, scenario)
