"""Chores of the lease holder: snapshots, trimming that leaves replay possible, ticks, keys and promotions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import created, eventually, experiment, exposed, record, rewards
from stores import ThrowawayStore

from bandit_serve.base.troubles import Troubles
from bandit_serve.changes.changes import Changes
from bandit_serve.changes.promotion import promote_winner
from bandit_serve.errors import StoreUnavailable
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log import events
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.fold import EXPOSURES_FOLD, POLICY_FOLD, REGISTRY_FOLD, RESULTS_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.log.times import KEY_SETTLES_MS
from bandit_serve.log.token import Keyring, new_key
from bandit_serve.registry.registry import Version
from bandit_serve.replication.exposures_log import ExposuresLog
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.second_folds import SecondSetAside
from bandit_serve.replication.tail import Tail
from bandit_serve.server.ending import end
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store
from bandit_serve.upkeep import keeper as module
from bandit_serve.upkeep.keeper import KEPT_SNAPSHOTS, Keeper

HOUR_S = 3_600.0


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


class Worker:
    """Replica of a worker and its keeper, without HTTP."""

    def __init__(self, url: str, incarnation: int = 1, **limits: Any) -> None:
        self.store = Store(url, timeout_s=30)
        self.replica = Replica()
        self.tail = Tail(self.store, self.replica)
        self.changes = Changes(self.store, self.replica, self.tail)
        self.results = ResultsLog(self.store, self.replica)
        self.exposures = ExposuresLog(self.store, self.replica)
        self.troubles = Troubles()
        self.keeper = Keeper(
            self.store,
            self.replica,
            self.changes,
            self.results,
            self.exposures,
            incarnation=incarnation,
            **{
                "snapshot_every_s": HOUR_S,
                "retention_s": 24 * HOUR_S,
                "retention_bytes": 2**30,
                "key_rotation_s": 24 * HOUR_S,
                "troubles": self.troubles,
                **limits,
            },
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.tail.load()
        self.run(self.tail.run())

    def run(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.append(task)
        return task

    def troubles_now(self) -> set[tuple[str, object]]:
        return {(trouble.what, trouble.experiment) for trouble in self.troubles}

    async def die(self) -> None:
        await end(self._tasks)
        await self.store.close()

    async def create(self, made: Experiment, **fields: Any) -> LiveExperiment:
        return await self.changes.create(created(made, **fields))

    async def stop(self, name: str, winner: str | None) -> LiveExperiment:
        def decide(live: LiveExperiment) -> Changed:
            stopped = record(live.experiment, status="stopped", revision=live.record.revision + 1)
            return Changed(
                type(stopped)(**{**_fields(stopped), "winner": winner, "stopped_ms": 5}),
                Change("stop", "test"),
            )

        return await self.changes.change_experiment(name, decide)

    async def register(self, version: str, status: str, model: str = "m") -> None:
        made = Version(model, version, "staged", "0" * 64, 1, "popularity", 1, 1)
        await self.changes.change_models(lambda registry: registry.register(made, "test"))
        if status != "staged":
            await self.changes.change_models(
                lambda registry: registry.move(model, version, status, now_ms=1, who="test")  # type: ignore[arg-type]
            )


def _fields(of: Any) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__struct_fields__}


def with_workers(
    server: ThrowawayStore, scenario: Callable[..., Awaitable[None]], n: int = 1, **limits: Any
) -> None:
    async def run() -> None:
        workers = [Worker(server.url, incarnation, **limits) for incarnation in range(1, n + 1)]
        try:
            for worker in workers:
                await worker.start()
            await scenario(*workers)
        finally:
            for worker in workers:
                await worker.die()

    asyncio.run(run())


async def reward_some(worker: Worker, name: str, first: int, n: int = 4) -> None:
    """Appends rewards to the log; returns when this worker has folded them."""
    rows = rewards(range(first, first + n), values=[1.0, 0.0] * (n // 2), arms=[0, 1] * (n // 2))
    offset = await worker.store.append(name, events.REWARDED, rows.tobytes())
    await worker.tail.wait_for(name, offset)


async def replayed(store: Store, name: str, start: Offset | None = None) -> LiveExperiment:
    """State by a replay of the log, from its beginning or from a snapshot."""
    live: LiveExperiment | None = None
    at = START
    if start is not None:
        snapshot = await store.read_snapshot(name, POLICY_FOLD, start)
        assert snapshot is not None
        live, at = LiveExperiment.from_state(snapshot.offset, snapshot.state), snapshot.offset
    for entry in await store.read(name, at, 100_000):
        event = events.decode(entry.kind, entry.data)
        if live is None:
            assert isinstance(event, Changed)
            live = LiveExperiment(event)
        live.apply(entry.offset, event)
    assert live is not None
    return live


# Snapshots


def test_snapshots_are_of_everything_and_another_worker_starts_from_them(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        await reward_some(worker, "e", 0)
        await worker.register("v1", "production")
        await worker.keeper.keep()
        live = worker.replica.experiments["e"]
        for owner, fold, offset in (
            ("e", POLICY_FOLD, live.offset),
            ("e", RESULTS_FOLD, live.offset),
            (COMMON, REGISTRY_FOLD, worker.replica.registry.offset),
        ):
            assert await worker.store.snapshot_offsets(owner, fold) == [offset]
        await reward_some(worker, "e", 10)
        other = Worker(server.url, 2)
        try:
            await other.tail.load()
            assert other.replica.experiments["e"].state() == live.state()
            assert other.replica.registry.state() == worker.replica.registry.state()
            assert other.replica.positions == worker.replica.positions
        finally:
            await other.die()

    with_workers(server, scenario)


def test_what_has_not_moved_is_not_written_again(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        await worker.keeper.keep()
        await worker.keeper.keep()
        assert len(await worker.store.snapshot_offsets("e", POLICY_FOLD)) == 1

    with_workers(server, scenario)


def test_snapshots_are_thinned_to_some_way_apart(server: ThrowawayStore) -> None:
    """Forty snapshots a second apart, where the retention is forty seconds: some eight stay, and the young ones."""

    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        base = worker.replica.experiments["e"].offset.time_ms
        for i in range(1, 41):
            snapshot = Snapshot(Offset(base + 1_000 * i, 0), b"state %d" % i)
            await worker.keeper._keep_fold("e", POLICY_FOLD, snapshot)
        kept = [offset.time_ms for offset in await worker.store.snapshot_offsets("e", POLICY_FOLD)]
        assert kept[-1] == base + 40_000, "the newest"
        assert kept[0] == base + 1_000, "the oldest, until trimming"
        old = [time_ms for time_ms in kept if time_ms < kept[-1] - module.UNTRIMMED_MS]
        gaps = np.diff(old[:-1])
        assert (gaps >= 5_000).all()
        young = module.UNTRIMMED_MS // 1_000 + 1
        assert KEPT_SNAPSHOTS <= len(kept) <= KEPT_SNAPSHOTS + 2 + young
        assert kept[-young:] == [base + 1_000 * i for i in range(41 - young, 41)], "what is young"

    with_workers(server, scenario, retention_s=40.0)


# Trimming


def test_a_log_over_its_bytes_is_trimmed_and_replay_stays_possible(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNTRIMMED_MS", 0)

    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        for i in range(12):
            for j in range(20):
                await worker.store.append(
                    "e", events.EXPOSED, events.encode(exposed(1_000 * i + 40 * j, [0, 1] * 20, [0] * 40))
                )
            await reward_some(worker, "e", 100 * i)
            await worker.keeper.keep()
        await reward_some(worker, "e", 1_200)
        trimmed = await worker.store.trimmed("e")
        assert trimmed > START
        assert (await worker.store.read("e", START, 1))[0].offset > trimmed
        offsets = await worker.store.snapshot_offsets("e", POLICY_FOLD)
        assert offsets[0] == trimmed, "replay starts where the log does"
        results = await worker.store.snapshot_offsets("e", RESULTS_FOLD)
        assert results[-1] >= trimmed
        live = worker.replica.experiments["e"]
        for start in offsets:
            assert (await replayed(worker.store, "e", start)).state() == live.state()

    with_workers(server, scenario, retention_bytes=30_000)


def test_a_log_is_trimmed_by_age_and_not_before(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNTRIMMED_MS", 0)

    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        await reward_some(worker, "e", 0)
        await worker.keeper.keep()
        first = worker.replica.experiments["e"].offset
        await reward_some(worker, "e", 10)
        assert await worker.store.trimmed("e") == START

        async def age() -> bool:
            return await worker.store.time_ms() > first.time_ms + 2_000

        async with asyncio.timeout(5):
            while not await age():
                await asyncio.sleep(0.01)
        await reward_some(worker, "e", 20)
        await worker.keeper.keep()
        assert await worker.store.trimmed("e") == first
        live = worker.replica.experiments["e"]
        assert (await replayed(worker.store, "e", first)).state() == live.state()

    with_workers(server, scenario, retention_s=2.0)


def test_the_common_log_is_trimmed_and_its_readers_start_over(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNTRIMMED_MS", 0)

    async def scenario(worker: Worker) -> None:
        other = Worker(server.url, 2)
        try:
            await other.tail.load()
            for i in range(1, 5):
                await worker.register(f"v{i}", "production")
                await worker.keeper.keep()
            trimmed = await worker.store.trimmed(COMMON)
            assert START < trimmed <= worker.replica.registry.offset
            assert other.replica.positions[COMMON] < trimmed
            calls: list[str] = []
            other.replica.on_change(calls.append)
            other.run(other.tail.run())
            await other.tail.wait_for(COMMON, worker.replica.registry.offset)
            assert other.replica.registry.state() == worker.replica.registry.state()
            assert COMMON in calls
            await worker.register("v5", "production")
            assert worker.replica.registry.models["m"].production == "v5"
        finally:
            await other.die()

    with_workers(server, scenario, retention_bytes=1)


def test_exposures_of_units_are_kept_and_trimming_waits_for_them(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNTRIMMED_MS", 0)

    async def scenario(worker: Worker) -> None:
        made = experiment(unit="user")
        await worker.create(made)
        await worker.create(experiment(id="r"))
        await reward_some(worker, "e", 0)
        now_ms = await worker.store.time_ms()
        units = np.array([5, 6], "<u8").tobytes()
        event = msgspec.structs.replace(exposed(0, [0, 1], [now_ms, now_ms]), units=units)
        await worker.tail.wait_for("e", await worker.store.append("e", events.EXPOSED, events.encode(event)))
        await worker.keeper.keep()
        live = worker.replica.experiments["e"]
        assert await worker.store.snapshot_offsets("e", EXPOSURES_FOLD) == [live.offset]
        assert await worker.store.snapshot_offsets("r", EXPOSURES_FOLD) == []
        snapshot = await worker.store.read_snapshot("e", EXPOSURES_FOLD)
        assert snapshot is not None
        assert len(UnitExposures.from_state(*snapshot)) == 2
        await reward_some(worker, "e", 10)

        async def fails(live: LiveExperiment) -> None:
            raise SecondSetAside("exposures", "e", START)

        monkeypatch.setattr(worker.exposures, "snapshot", fails)
        await worker.keeper.keep()
        assert ("exposures_set_aside", "e") in worker.troubles_now()
        assert (await worker.store.snapshot_offsets("e", POLICY_FOLD))[-1] == worker.replica.experiments[
            "e"
        ].offset
        assert await worker.store.trimmed("e") <= snapshot.offset

    with_workers(server, scenario, retention_bytes=1)


def test_nothing_is_trimmed_that_the_results_still_need(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNTRIMMED_MS", 0)

    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        for i in range(3):
            await reward_some(worker, "e", 10 * i)
            live = worker.replica.experiments["e"]
            await worker.keeper._keep_fold("e", POLICY_FOLD, Snapshot(live.offset, live.state()))
        await worker.keeper._trim("e", POLICY_FOLD, RESULTS_FOLD)
        assert await worker.store.trimmed("e") == START
        assert len(await worker.store.snapshot_offsets("e", POLICY_FOLD)) == 3
        await worker.results.snapshot(live)
        await worker.keeper._trim("e", POLICY_FOLD, RESULTS_FOLD)
        assert await worker.store.trimmed("e") > START

    with_workers(server, scenario, retention_bytes=1)


def test_what_is_young_is_not_trimmed_however_large(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.create(experiment())
        for i in range(3):
            await reward_some(worker, "e", 10 * i)
            await worker.keeper.keep()
        assert await worker.store.trimmed("e") == START

    with_workers(server, scenario, retention_bytes=1, retention_s=0.001)


def test_a_keeper_that_slept_drops_neither_the_newest_snapshot_nor_moves_the_mark_back(
    server: ThrowawayStore,
) -> None:
    async def scenario(worker: Worker) -> None:
        store = worker.store
        old, newer, newest = (Offset(time_ms, 0) for time_ms in (1_000, 2_000, 3_000))
        for offset in (old, newer, newest):
            await store.append("e", events.TICK, b"")
            for fold in (POLICY_FOLD, RESULTS_FOLD):
                await store.write_snapshot("e", fold, Snapshot(offset, b"state"))
        await store.trim("e", newer, [POLICY_FOLD, RESULTS_FOLD])
        assert await store.trimmed("e") == newer
        await store.trim("e", old, [POLICY_FOLD, RESULTS_FOLD])
        assert await store.trimmed("e") == newer
        await store.drop_snapshots("e", POLICY_FOLD, [old, newer, newest])
        assert await store.snapshot_offsets("e", POLICY_FOLD) == [newest]
        beyond = Offset(4_000, 0)
        await store.trim("e", beyond, [POLICY_FOLD, RESULTS_FOLD])
        assert await store.trimmed("e") == newer, "no fold could go on from there"

    with_workers(server, scenario)


# The lease


def test_one_worker_keeps_house_and_another_takes_over_when_it_dies(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_S", 0.02)
    monkeypatch.setattr(module, "LEASE_MS", 300)

    async def scenario(first: Worker, second: Worker) -> None:
        rounds = {1: 0, 2: 0}
        for incarnation, worker in ((1, first), (2, second)):

            async def counted(worker: Worker = worker, incarnation: int = incarnation) -> None:
                rounds[incarnation] += 1

            monkeypatch.setattr(worker.keeper, "_round", counted)
        task = first.run(first.keeper.run())
        await eventually(lambda: rounds[1] >= 1)
        second.run(second.keeper.run())
        await eventually(lambda: rounds[1] >= 20)
        assert rounds[2] == 0
        await end([task])
        await eventually(lambda: rounds[2] >= 1)

    with_workers(server, scenario, n=2)


def test_a_chore_that_fails_does_not_end_the_keeper(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_S", 0.01)

    async def scenario(worker: Worker) -> None:
        seen = []

        async def failing() -> None:
            seen.append(1)
            raise StoreUnavailable("away")

        monkeypatch.setattr(worker.keeper, "_round", failing)
        worker.run(worker.keeper.run())
        await eventually(lambda: len(seen) >= 3)

    with_workers(server, scenario)


# Ticks


def test_time_passes_where_a_window_is_to_close_and_nothing_else_happens(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        made = experiment(attribution={"window": "100ms", "missing": "zero"})
        await worker.create(made)
        await worker.create(experiment(id="ignoring"), uid=8)
        quiet = worker.replica.experiments["ignoring"].offset
        await worker.keeper._tick()
        live = worker.replica.experiments["e"]
        assert await worker.store.last_offset("e") == live.offset, (
            "nothing is pending, so nothing is appended"
        )
        now_ms = await worker.store.time_ms()
        offset = await worker.store.append(
            "e", events.EXPOSED, events.encode(exposed(0, [0, 1, 1], [now_ms] * 3))
        )
        await worker.tail.wait_for("e", offset)
        async with asyncio.timeout(5):
            while live.policy.counts.sum() < 3:
                await worker.keeper._tick()
                await asyncio.sleep(0.01)
        assert live.policy.counts.tolist() == [1, 2]
        assert await worker.store.last_offset("ignoring") == quiet
        await worker.tail.wait_for_end("e")
        end = live.offset
        await worker.keeper._tick()
        assert await worker.store.last_offset("e") == end

    with_workers(server, scenario)


# Winners


def winning(**fields: Any) -> Experiment:
    return experiment(
        arms=[{"name": "a", "model": "m", "version": "v1"}, {"name": "b", "model": "m", "version": "v2"}],
        **fields,
    )


def test_a_winner_is_promoted_once_also_when_the_worker_died_before_it_could(server: ThrowawayStore) -> None:
    async def scenario(dies: Worker, lives: Worker) -> None:
        await dies.register("v1", "production")
        await dies.register("v2", "staged")
        await dies.create(winning())
        await dies.stop("e", "b")  # and no promotion
        await lives.tail.wait_for_end(COMMON)
        await lives.tail.wait_for_end("e")
        assert lives.replica.registry.production("m").version == "v1"
        await lives.keeper._round()
        assert lives.replica.registry.production("m").version == "v2"
        assert lives.replica.registry.version("m", "v1").status == "retired"
        await lives.changes.change_models(
            lambda registry: registry.rollback("m", now_ms=9, who="someone who knows better")
        )
        end = await lives.store.last_offset(COMMON)
        await lives.keeper._round()
        await dies.keeper._round()
        await promote_winner(dies.changes, dies.replica.experiments["e"].record)
        assert await lives.store.last_offset(COMMON) == end
        assert lives.replica.registry.production("m").version == "v1"

    with_workers(server, scenario, n=2)


def test_two_workers_that_promote_at_once_promote_once(server: ThrowawayStore) -> None:
    async def scenario(one: Worker, two: Worker) -> None:
        await one.register("v1", "production")
        await one.register("v2", "staged")
        await one.create(winning())
        live = await one.stop("e", "b")
        await asyncio.gather(
            *(promote_winner(worker.changes, live.record) for worker in (one, two) for _ in range(3))
        )
        await one.tail.wait_for_end(COMMON)
        promotions = [
            entry for entry in one.replica.registry.models["m"].history if entry.who == "experiment:e"
        ]
        assert [(entry.version, entry.status) for entry in promotions] == [
            ("v1", "retired"),
            ("v2", "production"),
        ]

    with_workers(server, scenario, n=2)


def test_without_a_winner_or_its_model_nothing_is_promoted(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.register("v1", "production")
        await worker.register("v2", "staged")
        await worker.create(winning())
        await worker.stop("e", None)
        await worker.create(experiment(id="bare"), uid=8)
        await worker.stop("bare", "a")
        await worker.create(winning(id="running"), uid=9)
        end = await worker.store.last_offset(COMMON)
        await worker.keeper._round()
        assert await worker.store.last_offset(COMMON) == end

    with_workers(server, scenario)


def test_a_promotion_that_fails_keeps_no_other_chore_from_being_done(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.create(winning())  # of a model that nobody registered
        await worker.stop("e", "b")
        await worker.register("v1", "production", model="other")
        arms = [
            {"name": "a", "model": "other", "version": "v1"},
            {"name": "b", "model": "other", "version": "v2"},
        ]
        await worker.register("v2", "staged", model="other")
        await worker.create(experiment(id="sound", arms=arms), uid=8)
        await worker.stop("sound", "b")
        monkeypatch.setattr(module, "ROUND_S", 0.01)
        worker.run(worker.keeper.run())
        worker.run(worker.keeper.keep_regularly())
        await eventually(lambda: worker.replica.registry.production("other").version == "v2")
        async with asyncio.timeout(10):
            while not await worker.store.snapshot_offsets("e", POLICY_FOLD):
                await asyncio.sleep(0.01)

    with_workers(server, scenario, snapshot_every_s=0.0)


# Chores that fail


def test_a_snapshot_that_fails_keeps_no_other_experiment_from_its_own(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Because it is too large for a slow link, for example, or its state can not be packed."""

    async def scenario(worker: Worker) -> None:
        for uid, name in enumerate(("slow", "odd", "sound"), 1):
            await worker.create(experiment(id=name), uid=uid)
        write = worker.store.write_snapshot

        async def write_slowly(owner: str, fold: str, snapshot: Snapshot) -> None:
            if owner == "slow":
                raise StoreUnavailable("slow", what="store_slow")
            await write(owner, fold, snapshot)

        def fail() -> Callable[[], bytes]:
            raise ValueError("NaN")

        monkeypatch.setattr(worker.store, "write_snapshot", write_slowly)
        monkeypatch.setattr(worker.replica.experiments["odd"], "capture", fail)
        await worker.keeper.keep()
        assert worker.keeper.failed == 2
        assert await worker.store.snapshot_offsets("sound", POLICY_FOLD)
        assert await worker.store.snapshot_offsets(COMMON, REGISTRY_FOLD)
        assert not await worker.store.snapshot_offsets("odd", POLICY_FOLD)
        assert worker.troubles_now() == set()

    with_workers(server, scenario)


def test_a_state_that_can_not_be_read_is_not_written(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        live = await worker.create(experiment())
        monkeypatch.setattr(live, "capture", lambda: lambda: b"no state")
        await worker.keeper.keep()
        assert worker.keeper.failed == 1
        assert not await worker.store.snapshot_offsets("e", POLICY_FOLD)

    with_workers(server, scenario)


def test_what_is_overdue_is_said_until_it_is_done(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_S", 0.01)

    async def scenario(worker: Worker) -> None:
        live = await worker.create(experiment())
        whole = live.capture

        def fail() -> Callable[[], bytes]:
            raise ValueError("NaN")

        monkeypatch.setattr(live, "capture", fail)
        worker.run(worker.keeper.run())
        worker.run(worker.keeper.keep_regularly())
        await eventually(lambda: ("snapshot_overdue", "e") in worker.troubles_now())
        monkeypatch.setattr(live, "capture", whole)
        await eventually(lambda: ("snapshot_overdue", "e") not in worker.troubles_now())
        assert await worker.store.snapshot_offsets("e", POLICY_FOLD)

    with_workers(server, scenario, snapshot_every_s=0.2)


# Keys


def test_workers_that_start_together_share_one_key(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        rings = await asyncio.gather(*(load_keyring(worker.store) for _ in range(8)))
        assert len(await worker.store.token_keys()) == 1
        token = rings[0].seal.sign(1, 2, 3, 4, 5, 1, 0.5, 0)
        for ring in rings:
            assert ring.open([token], np.ones(1))[1].tolist() == [1]

    with_workers(server, scenario)


def test_keys_rotate_when_they_are_old_and_leave_when_nothing_needs_them(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.create(experiment(attribution={"window": "7d", "missing": "ignore"}))
        now_ms = await worker.store.time_ms()
        day_ms = 86_400_000
        await worker.store.add_token_key(3, new_key(now_ms - 40 * day_ms))
        await worker.keeper._rotate_keys()
        assert sorted(await worker.store.token_keys()) == [3, 4]
        await worker.keeper._rotate_keys()
        assert sorted(await worker.store.token_keys()) == [3, 4], "the new one is young"
        await worker.store.drop_token_key(4)
        await worker.store.add_token_key(4, new_key(now_ms - 7 * day_ms))
        await worker.keeper._rotate_keys()
        assert 3 in await worker.store.token_keys(), "its last tokens are inside the longest window"
        await worker.store.drop_token_key(4)
        await worker.store.add_token_key(4, new_key(now_ms - 7 * day_ms - 3 * KEY_SETTLES_MS))
        await worker.keeper._rotate_keys()
        assert sorted(await worker.store.token_keys()) in ([4], [4, 5])

    with_workers(server, scenario, key_rotation_s=30 * 86_400.0)


def test_a_new_key_signs_only_when_every_worker_knows_it() -> None:
    keys = {0: new_key(0), 1: new_key(1_000_000)}
    assert Keyring(keys, 1_000_000 + KEY_SETTLES_MS - 1).seal.key_id == 0
    assert Keyring(keys, 1_000_000 + KEY_SETTLES_MS).seal.key_id == 1
    assert Keyring({0: keys[0]}, 0).seal.key_id == 0, "the only one signs from the start"


def test_tokens_of_an_old_key_stay_valid_until_it_expires() -> None:
    window_ms = 3_600_000
    keys = {0: new_key(0), 1: new_key(10_000_000)}
    token = Keyring({0: keys[0]}, 10_000_000).seal.sign(9, 2, 3, 4, 5, 1, 0.5, 0)
    late = 10_000_000 + 2 * KEY_SETTLES_MS + window_ms
    assert Keyring(keys, late).open([token], np.ones(1))[1].tolist() == [9]
    assert Keyring(keys, late).expired(late, window_ms) == []
    assert Keyring(keys, late + 1).expired(late + 1, window_ms) == [0]
    assert Keyring({1: keys[1]}, late).open([token], np.ones(1))[1].tolist() == [0]
