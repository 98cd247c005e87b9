"""Store, as the rest of the service uses it: on a single server, on one behind sentinels and on a cluster."""

from __future__ import annotations

import asyncio
import io
import itertools
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import experiment, rewards
from store_kinds import KINDS, store_of

from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store import store as module
from bandit_serve.store.files import CHUNK_BYTES, StoreFiles
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

OWNERS = ["checkout", "checkout@2", "landing", "search", "ranking", "b17", COMMON]
FOLD = "policy"
DAY_MS = 86_400_000
Use = Callable[[Store], Awaitable[None]]
numbers = itertools.count()


@pytest.fixture(scope="module", params=list(KINDS))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with store_of(request.param) as running:
        yield running


@pytest.fixture(params=[0, 1], ids=["unconfirmed", "confirmed"])
def replicas(request: pytest.FixtureRequest, url: str) -> int:
    if request.param and url.startswith("unix:"):
        pytest.skip("a single server has no replica")
    return int(request.param)


@pytest.fixture
def with_store(url: str, replicas: int) -> Callable[[Use], None]:
    """Runs a test with a store of its own namespace."""

    def run(use: Use) -> None:
        async def within() -> None:
            store = Store(url, namespace=f"n{next(numbers)}", timeout_s=10, replicas=replicas)
            try:
                await store.check()
                await use(store)
            finally:
                await store.close()

        asyncio.run(within())

    return run


def test_a_store_says_what_it_is(with_store: Callable[[Use], None], url: str) -> None:
    async def use(store: Store) -> None:
        survey = await store.facts()
        assert survey.kind == {"unix": "single"}.get(url.partition(":")[0], url.partition(":")[0][6:])
        assert len(survey.shards) == (3 if survey.kind == "cluster" else 1)
        assert sum(shard.n_slots for shard in survey.shards) == (16_384 if survey.kind == "cluster" else 0)
        assert survey.n_replicas == {"single": 0, "sentinel": 2, "cluster": 1}[survey.kind]

    with_store(use)


def test_logs_are_read_in_order_each_by_itself_and_all_together(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        at = {owner: [await store.append(owner, b"k", b"%d" % n) for n in range(5)] for owner in OWNERS}
        for owner, offsets in at.items():
            assert offsets == sorted(offsets)
            assert await store.last_offset(owner) == offsets[-1]
            entries = await store.read(owner, offsets[0], 3)
            assert [entry.offset for entry in entries] == offsets[1:4]
            assert [entry.data for entry in entries] == [b"1", b"2", b"3"]
            n, size = await store.log_size(owner)
            assert n == 5
            assert size > 0
        assert await store.last_offset("nothing") == START
        positions = dict.fromkeys([*OWNERS, "nothing"], START)
        found: dict[str, list[Offset]] = {owner: [] for owner in OWNERS}
        while any(len(offsets) < 5 for offsets in found.values()):
            news = await store.read_any(positions, 2, 100)
            assert news.entries.keys() <= set(news.read) <= positions.keys()
            for owner, entries in news.entries.items():
                found[owner] += [entry.offset for entry in entries]
                positions[owner] = found[owner][-1]
        assert found == at

    with_store(use)


def test_news_are_read_when_somebody_expects_them(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        positions = dict.fromkeys(OWNERS, START)
        for _ in range(10):
            await store.read_any(positions, 10, 20)
        appended = await store.append("landing", b"k", b"late")
        store.expect("landing")
        news = await store.read_any(positions, 10, 1_000)
        assert [entry.offset for entry in news.entries["landing"]] == [appended]

    with_store(use)


def test_a_change_needs_the_revision_that_it_was_made_from(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        first = await store.append_change("checkout", 0, b"c", b"one")
        assert first is not None
        assert await store.append_change("checkout", 0, b"c", b"two") is None
        assert await store.append_change("checkout", 1, b"c", b"two") is not None
        await store.set_head("checkout", 1)
        assert await store.append_change("checkout", 1, b"c", b"three") is not None

    with_store(use)


def test_rewards_and_events_count_once(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        for owner in ("checkout", "landing"):
            appender = RewardAppender(store, owner, experiment(id=owner))
            now_ms = await store.time_ms()
            rows = rewards(range(40), times_ms=now_ms, values=1.0)
            assert await appender.append(rows[:30]) == b"a" * 30
            assert await appender.append(rows[:30]) == b"d" * 30
            assert await appender.append(rows) == b"d" * 30 + b"a" * 10
            other = rewards(range(3), times_ms=now_ms, values=0.0)
            assert await appender.append(other) == b"x" * 3
            assert await appender.append(rewards([99], times_ms=now_ms - 2 * DAY_MS)) == b"l"
            events = rewards(range(100, 104), times_ms=now_ms, values=1.0)
            ids = np.arange(1, 5, dtype=np.uint64)
            assert await appender.append_events(events, ids) == b"a" * 4
            assert await appender.append_events(events, ids) == b"d" * 4

    with_store(use)


def test_exposures_count_once(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        assert await store.append_exposures("checkout", 1, 0, 5, b"x") is True
        assert await store.append_exposures("checkout", 1, 0, 5, b"x") is False
        assert await store.append_exposures("checkout", 1, 5, 5, b"y", rewards=[b"r"]) is True
        kinds = [entry.kind for entry in await store.read("checkout", START, 10)]
        assert kinds == [b"x", b"x", b"r"]
        bitmap = store.keys.demanded("checkout", 1, 0)
        until_ms = await store.time_ms() + DAY_MS
        checks = b"".join(struct.pack("<HHQ", 0, bit, until_ms) for bit in (3, 4))
        assert await store.append_demanded("checkout", [bitmap], checks, [b"p", b"q"]) == b"aa"
        assert await store.append_demanded("checkout", [bitmap], checks, [b"p", b"q"]) == b"dd"

    with_store(use)


def test_snapshots_are_kept_and_logs_are_trimmed_behind_them(with_store: Callable[[Use], None]) -> None:
    large = bytes(range(256)) * (3 * module.PIECE_BYTES // 256) + b"end"

    async def use(store: Store) -> None:
        at = [await store.append("checkout", b"k", b"x") for _ in range(4)]
        await store.write_snapshot("checkout", FOLD, Snapshot(at[1], b"small"))
        await store.write_snapshot("checkout", FOLD, Snapshot(at[2], large))
        assert await store.snapshot_offsets("checkout", FOLD) == at[1:3]
        assert await store.read_snapshot("checkout", FOLD) == Snapshot(at[2], large)
        assert await store.trim("checkout", at[3], [FOLD]) == 0
        assert await store.trim("checkout", at[2], [FOLD]) == 3
        assert await store.trimmed("checkout") == at[2]
        await store.drop_snapshots("checkout", FOLD, at[1:3])
        assert await store.snapshot_offsets("checkout", FOLD) == [at[2]]
        assert await store.find_lost([("checkout", at[1]), ("checkout", at[2])]) == []

    with_store(use)


def test_logs_that_lost_their_end_are_named(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        at = {owner: await store.append(owner, b"k", b"x") for owner in OWNERS}
        assert await store.find_lost(list(at.items())) == []
        gone = [(owner, offset.next) for owner, offset in at.items()]
        assert sorted(await store.find_lost(gone)) == sorted(OWNERS)
        assert await store.find_lost([*at.items()][:3] + gone[3:4]) == [OWNERS[3]]

    with_store(use)


def test_what_a_deleted_experiment_leaves_is_freed(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        for owner in OWNERS[:4]:
            await store.append_exposures(owner, 1, 0, 1, b"x")
            await store.write_snapshot(owner, FOLD, Snapshot(await store.last_offset(owner), b"state"))
        assert sorted(await store.find_present([*OWNERS, "nothing"])) == sorted(OWNERS[:4])
        await store.sweep("checkout")
        await store.free("checkout", [FOLD])
        assert sorted(await store.find_present(OWNERS)) == sorted(OWNERS[1:4])

    with_store(use)


def test_workers_leases_and_answers(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        assert await store.hold_lease("me", 60_000)
        assert not await store.hold_lease("you", 60_000)
        assert await store.hold_learner("films", "you", 60_000)
        await store.announce(b"worker", 60_000)
        await store.announce(b"other", 60_000)
        await store.retire(b"other")
        assert await store.workers() == [b"worker"]
        key = store.keys.census("checkout", "c1")
        await store.write_answer(key, 7, b"digest")
        assert await store.answers(key) == {7: b"digest"}
        await store.write_agreement("films", "v1", 7, b"sums")
        assert await store.agreements("films", "v1") == [b"sums"]
        await store.report_loaded(7, b"films")
        assert await store.loaded() == {7: b"films"}

    with_store(use)


def test_keys_marks_caches_and_the_identity(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        assert await store.identity() is None
        made = await store.make_identity()
        assert await store.make_identity() == made == await store.identity()
        assert await store.add_token_key(1, b"secret")
        assert not await store.add_token_key(1, b"other")
        assert await store.token_keys() == {1: b"secret"}
        await store.drop_token_key(1)
        assert await store.token_keys() == {}
        marks = {store.keys.last_sent("checkout", unit, 0, 1): b"%d" % unit for unit in range(5)}
        await store.write_marks(marks, 60_000)
        missing = store.keys.last_sent("checkout", 9, 0, 1)
        assert await store.read_marks([*marks, missing]) == [*marks.values(), None]
        digest = "0123456789abcdef"
        assert await store.cached(digest) is None
        await store.cache(digest, b"answer", 60_000)
        assert await store.cached(digest) == b"answer"

    with_store(use)


def test_log_time_never_goes_back(with_store: Callable[[Use], None]) -> None:
    async def use(store: Store) -> None:
        times = []
        for owner in OWNERS * 3:
            times.append(await store.time_ms())
            times.append((await store.append(owner, b"k", b"x")).time_ms)
        assert all(later >= earlier - 50 for earlier, later in itertools.pairwise(times)), times
        assert times[::2] == sorted(times[::2])

    with_store(use)


def test_files_arrive_whole(url: str, replicas: int, tmp_path: Path) -> None:
    files, content = (
        StoreFiles(url, f"n{next(numbers)}"),
        bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"end",
    )
    path, sha256 = tmp_path / "model", "ab" * 32
    path.write_bytes(content)
    assert not files.has(sha256)
    for _ in range(2):
        files.send(sha256, path)
    assert files.has(sha256)
    into = io.BytesIO()
    assert files.fetch(sha256, into)
    assert into.getvalue() == content
    files.delete(sha256)
    assert not files.fetch(sha256, io.BytesIO())
