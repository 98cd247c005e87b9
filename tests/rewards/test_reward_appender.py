"""Append of rewards: grouped, counted once, refused when late, and never half-written."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
from builders import experiment, rewards
from numpy.typing import NDArray
from stores import ThrowawayStore

from bandit_serve.errors import Overloaded, StoreUnavailable, Unavailable, UnreadableEntry
from bandit_serve.log.events import REWARD, Rewarded, decode
from bandit_serve.log.offset import START
from bandit_serve.log.times import COUNTED_MS
from bandit_serve.rewards import appender as module
from bandit_serve.rewards import group_commit
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store.store import Store

WINDOW_MS = 600_000
OWNER = "e"
TAKING = experiment(
    metrics=[
        {"name": "click", "kind": "binary", "role": "objective"},
        {"name": "spend", "kind": "continuous"},
    ],
    attribution={"window": f"{WINDOW_MS}ms", "missing": "ignore"},
)


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


def on(
    server: ThrowawayStore,
    scenario: Callable[[Store, RewardAppender, int], Awaitable[None]],
    timeout_s: float = 5.0,
) -> None:
    """Runs a scenario with a store, an appender for the metrics `click` and `spend`, and log time."""

    async def run() -> None:
        store = Store(server.url, timeout_s=timeout_s)
        try:
            appender = RewardAppender(store, OWNER, TAKING)
            await scenario(store, appender, await store.time_ms())
        finally:
            await store.close()

    asyncio.run(run())


async def under_way() -> None:
    """Returns when an append that was just begun has been sent to the store."""
    for _ in range(20):
        await asyncio.sleep(0)


async def logged(store: Store) -> list[NDArray[np.void]]:
    return [np.frombuffer(entry.data, REWARD) for entry in await store.read(OWNER, START, 1_000)]


def test_what_arrives_during_an_append_goes_into_the_next_together(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        tries = [asyncio.create_task(appender.append(rewards([0], times_ms=now_ms)))]
        await under_way()
        tries += [asyncio.create_task(appender.append(rewards([i], times_ms=now_ms))) for i in range(1, 100)]
        assert await asyncio.gather(*tries) == [b"a"] * 100
        entries = await logged(store)
        assert [len(entry) for entry in entries] == [1, 99]
        assert np.concatenate(entries)["counter"].tolist() == list(range(100))
        assert appender.idle

    on(server, scenario)


def test_what_lies_in_a_socket_when_an_append_is_due_goes_along(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        tries = []

        def ask(counter: int) -> None:
            tries.append(asyncio.create_task(appender.append(rewards([counter], times_ms=now_ms))))

        here, there = socket.socketpair()
        with here, there:
            asyncio.get_running_loop().add_reader(here, lambda: ask(here.recv(1)[0]))
            ask(0)
            await asyncio.sleep(0)
            there.send(b"\x01")
            assert await tries[0] == b"a"
            assert asyncio.get_running_loop().remove_reader(here)
        assert await tries[1] == b"a"
        assert [len(entry) for entry in await logged(store)] == [2]

    on(server, scenario)


def test_what_arrives_soon_after_an_append_began_waits_for_the_next(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "PACE_S", 0.3)

    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await appender.append(rewards([0], times_ms=now_ms))
        assert loop.time() - started_s < 0.3
        tries = []
        for i in range(1, 6):
            tries.append(asyncio.create_task(appender.append(rewards([i], times_ms=now_ms))))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tries)
        assert loop.time() - started_s >= 0.3
        assert [len(entry) for entry in await logged(store)] == [1, 5]

    on(server, scenario)


def test_features_are_logged_behind_their_rows_and_dropped_with_them(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        x = np.arange(12, dtype=np.float32).reshape(4, 3)
        rows = rewards([1, 2, 1, 3], times_ms=now_ms)
        appender = RewardAppender(store, OWNER, TAKING, 3)
        for unlike in (None, x[:, :2], x[:3]):
            with pytest.raises(UnreadableEntry):
                await appender.append(rows, unlike)
        assert await store.read(OWNER, START, 10) == [], "what no fold could read is not appended"
        assert await appender.append(rows, x) == b"aada"
        (entry,) = await store.read(OWNER, START, 10)
        decoded = decode(entry.kind, entry.data, 3)
        assert isinstance(decoded, Rewarded)
        assert decoded.rows["counter"].tolist() == [1, 2, 3]
        assert decoded.x is not None
        assert decoded.x.tolist() == x[[0, 1, 3]].tolist()

    on(server, scenario)


def test_rows_are_logged_as_they_came(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        rows = rewards([3, 4], values=[0.25, -1.5], times_ms=now_ms, arms=[1, 0])
        assert await appender.append(rows) == b"aa"
        assert (await logged(store))[0].tobytes() == rows.tobytes()

    on(server, scenario)


def test_each_waiter_gets_its_own_verdicts(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        await appender.append(rewards([5], times_ms=now_ms))
        late = now_ms - WINDOW_MS - 1_000
        results = await asyncio.gather(
            appender.append(rewards([0], times_ms=now_ms)),
            appender.append(rewards([1, 5, 1], times_ms=now_ms)),
            appender.append(rewards([2, 6], times_ms=[late, now_ms])),
            appender.append(rewards([6], times_ms=now_ms)),
        )
        assert list(results) == [b"a", b"add", b"la", b"d"]

    on(server, scenario)


def test_a_reward_counts_once_for_each_metric_decision_and_worker(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        def row(counter: int, metric: int = 0, incarnation: int = 1) -> NDArray[np.void]:
            return rewards([counter], times_ms=now_ms, metric=metric, incarnation=incarnation)

        distinct = [row(0), row(1), row(0, metric=1), row(0, incarnation=2), row(1 << 16), row((1 << 32) + 1)]
        for _ in range(2):
            first = [await appender.append(each) for each in distinct]
        assert first == [b"d"] * len(distinct)
        assert sum(len(entry) for entry in await logged(store)) == len(distinct)
        together = np.concatenate([*distinct, *(row(9, metric=m) for m in (0, 1, 0))])
        assert await appender.append(together) == b"d" * len(distinct) + b"aad"

    on(server, scenario)


def test_another_worker_refuses_what_this_one_logged(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        other = RewardAppender(store, OWNER, TAKING)
        rows = rewards(range(50), times_ms=now_ms)
        first, second = await asyncio.gather(appender.append(rows), other.append(rows))
        assert sorted([first, second]) == [b"a" * 50, b"d" * 50]

    on(server, scenario)


def test_late_is_judged_by_the_stores_clock_to_the_windows_end(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        margin_ms = 30_000
        times = [now_ms - WINDOW_MS + margin_ms, now_ms - WINDOW_MS - 1, now_ms + 3_600_000]
        assert await appender.append(rewards([0, 1, 2], times_ms=times)) == b"ala"
        assert [entry["counter"].tolist() for entry in await logged(store)] == [[0, 2]]

    on(server, scenario)


def test_bitmaps_outlive_every_token_that_they_must_refuse(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        times = np.array([now_ms - 300_000, now_ms, now_ms - 500_000], np.int64)
        for i, time_ms in enumerate(times.tolist()):
            await appender.append(rewards([i], times_ms=time_ms))
        key = store.keys.seen(OWNER, "click", 0xFEED, 0)
        with server.client() as client:
            assert client.keys("*seen*") == [key.encode()]
            assert client.ttl(key) == -1
            until = client.zscore(store.keys.expiries(OWNER), key)
        assert until == int(times.max()) + WINDOW_MS + COUNTED_MS

    on(server, scenario)


def test_decisions_of_one_worker_share_a_bitmap(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        await appender.append(rewards(range(20_000), times_ms=now_ms))
        with server.client() as client:
            (key,) = client.keys("*seen*")
            assert client.bitcount(key) == 20_000
            assert client.strlen(key) == 2_500

    on(server, scenario)


def test_a_full_store_refuses_and_counts_nothing() -> None:
    with ThrowawayStore(options={"maxmemory": "3mb"}, appendfsync="no") as full, full.client() as client:
        client.set("filler", b"x")
        while client.info("memory")["used_memory"] < 3 * 2**20:
            client.append("filler", b"x" * 100_000)

        async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
            rows = rewards(range(10), times_ms=now_ms)
            tries = [appender.append(rows[:5]), appender.append(rows[5:])]
            failures = await asyncio.gather(*tries, return_exceptions=True)
            assert all(isinstance(failure, StoreUnavailable) for failure in failures)
            assert all(isinstance(failure, Unavailable) and failure.retry_after_s > 0 for failure in failures)
            assert client.keys("*") == [b"filler"]
            client.delete("filler")
            assert await appender.append(rows) == b"a" * 10, "the retry counts each of them"

        on(full, scenario)


def test_a_store_that_does_not_answer_fails_in_time_and_the_retry_counts_once() -> None:
    with ThrowawayStore(appendfsync="no") as server:

        async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
            rows = rewards(range(10), times_ms=now_ms)
            server.pause()
            try:
                async with asyncio.timeout(10):
                    with pytest.raises(StoreUnavailable):
                        await appender.append(rows)
            finally:
                server.resume()
            verdicts = await appender.append(rows)
            assert set(verdicts) <= set(b"ad")
            assert sum(len(entry) for entry in await logged(store)) == 10
            assert await appender.append(rows) == b"d" * 10

        on(server, scenario, timeout_s=0.3)


@pytest.mark.parametrize(
    ("bound", "most"), [("MAX_WAITING_ROWS", 10), ("MAX_WAITING_BYTES", 10 * REWARD.itemsize)]
)
def test_over_a_bound_it_says_so_and_takes_no_more(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(group_commit, bound, most)

    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        first = asyncio.create_task(appender.append(rewards([0], times_ms=now_ms)))
        await under_way()
        waiting = asyncio.create_task(appender.append(rewards(range(1, 11), times_ms=now_ms)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await appender.append(rewards([11], times_ms=now_ms))
        assert list(await asyncio.gather(first, waiting)) == [b"a", b"a" * 10]
        assert await appender.append(rewards([11], times_ms=now_ms)) == b"a"

    on(server, scenario)


@pytest.mark.parametrize(
    ("bound", "most"), [("MAX_GROUP_ROWS", 25), ("MAX_GROUP_BYTES", 25 * REWARD.itemsize)]
)
def test_groups_are_bounded(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(module if hasattr(module, bound) else group_commit, bound, most)

    async def scenario(store: Store, _: RewardAppender, now_ms: int) -> None:
        appender = RewardAppender(store, OWNER, TAKING)
        tries = [appender.append(rewards(range(10 * i, 10 * i + 10), times_ms=now_ms)) for i in range(6)]
        assert await asyncio.gather(*tries) == [b"a" * 10] * 6
        assert [len(entry) for entry in await logged(store)] == [20, 20, 20]

    on(server, scenario)


def test_a_caller_that_leaves_takes_nothing_from_the_others(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        first = asyncio.create_task(appender.append(rewards([0], times_ms=now_ms)))
        leaves = asyncio.create_task(appender.append(rewards([1], times_ms=now_ms)))
        stays = asyncio.create_task(appender.append(rewards([2], times_ms=now_ms)))
        await asyncio.sleep(0)
        leaves.cancel()
        assert list(await asyncio.gather(first, stays)) == [b"a", b"a"]
        assert await appender.append(rewards([1], times_ms=now_ms)) == b"d"

    on(server, scenario)


def test_stopping_tells_everyone_who_waits(server: ThrowawayStore) -> None:
    async def scenario(store: Store, appender: RewardAppender, now_ms: int) -> None:
        server.pause()
        try:
            tries = [asyncio.create_task(appender.append(rewards([i], times_ms=now_ms))) for i in range(4)]
            await under_way()
            assert appender._rewards._running is not None
            appender._rewards._running.cancel()
            async with asyncio.timeout(5):
                results = await asyncio.gather(*tries, return_exceptions=True)
        finally:
            server.resume()
        assert all(isinstance(failure, StoreUnavailable) for failure in results)

    on(server, scenario)


def test_an_entry_moves_no_more_of_a_model_than_is_folded_quickly(server: ThrowawayStore) -> None:
    order = 500
    most = module.MAX_GROUP_NUMBERS // order**2

    async def scenario(store: Store, _: RewardAppender, now_ms: int) -> None:
        appender = RewardAppender(store, OWNER, TAKING, 2, order)
        n = 2 * most + 3
        x = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
        verdicts, alone = await asyncio.gather(
            appender.append(rewards(range(n), times_ms=now_ms), x),
            appender.append(rewards([1, n], times_ms=now_ms), x[:2]),
        )
        assert (verdicts, alone) == (b"a" * n, b"da")
        decoded = [decode(entry.kind, entry.data, 2) for entry in await store.read(OWNER, START, 1_000)]
        assert [len(each.rows) for each in decoded if isinstance(each, Rewarded)] == [most, most, 4]
        counters = [each.rows["counter"].tolist() for each in decoded if isinstance(each, Rewarded)]
        assert list(itertools.chain(*counters)) == list(range(n + 1))

    on(server, scenario)
