"""Router of a real cluster: redirections, slots that move, shards that are away, replicas that lag, and refusals."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
from builders import eventually, experiment, rewards
from clusters import ThrowawayCluster
from redis.crc import key_slot
from stores import ThrowawayStore

from bandit_serve.errors import StoreRefused, StoreUnavailable
from bandit_serve.log.offset import START
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store.cluster import Cluster
from bandit_serve.store.failures import LACKS_REPLICAS
from bandit_serve.store.keys import BY_BUCKET, Keys
from bandit_serve.store.store import Store
from bandit_serve.store.url import parse_store_url

OWNERS = [f"experiment-{n}" for n in range(24)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ThrowawayCluster]:
    with ThrowawayCluster(appendfsync="no") as running:
        yield running


def used(url: str, use: Callable[[Store], Awaitable[None]], **options: object) -> None:
    async def run() -> None:
        store = Store(url, **{"timeout_s": 2.0, **options})  # type: ignore[arg-type]
        try:
            await use(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_a_slow_answer_sets_no_masters_clock_apart(
    cluster: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(store: Store) -> None:
        await store.time_ms()
        link, now_ms = store._link, store.clock.now_ms
        keys = [store.keys.log(owner) for owner in OWNERS]
        waited_ms = iter([0, 20_000] * len(keys))
        for key in keys:
            with monkeypatch.context() as patch:
                patch.setattr(store.clock, "now_ms", lambda: now_ms() + next(waited_ms, 0))
                await link.compare_clocks(key)
            assert link.shift_ms(key) == 0

    used(cluster.url, use)


def routed(cluster: ThrowawayCluster, use: Callable[[Cluster], Awaitable[None]]) -> None:
    async def run() -> None:
        calls = Cluster(parse_store_url(cluster.url), timeout_s=5)
        try:
            await use(calls)
        finally:
            await calls.close()

    asyncio.run(run())


def test_every_key_is_found_though_the_slots_are_known_wrong(cluster: ThrowawayCluster) -> None:
    async def use(calls: Cluster) -> None:
        await calls.execute_command("SET", "a", "1")
        known = [*calls._masters]
        masters = sorted({master for master in known if master is not None})
        following = dict(zip(masters, masters[1:] + masters[:1], strict=True))
        calls._masters = [None if master is None else following[master] for master in known]
        keys = [f"k{n}" for n in range(300)]
        await asyncio.gather(*(calls.execute_command("SET", key, key) for key in keys))
        assert await asyncio.gather(*(calls.execute_command("GET", key) for key in keys)) == [
            key.encode() for key in keys
        ]
        replies = await calls.execute_all([("GET", key) for key in keys])
        assert replies == [key.encode() for key in keys]
        await eventually(lambda: calls._masters == known)

    routed(cluster, use)


def test_a_slot_that_moves_is_followed_over_many_connections(cluster: ThrowawayCluster) -> None:
    keys = [f"{{moving}}{n}" for n in range(200)]
    slot = key_slot(b"moving")

    async def use(calls: Cluster) -> None:
        for key in keys:
            await calls.execute_command("SET", key, 0)
        before = calls.known_master("{moving}")
        mover = threading.Thread(target=cluster.move_slot, args=("{moving}",), kwargs={"pause_s": 0.02})
        mover.start()
        rounds = 0
        while mover.is_alive() or not rounds:
            rounds += 1
            async with asyncio.timeout(60):
                counted = await asyncio.gather(*(calls.execute_command("INCR", key) for key in keys))
            assert counted == [rounds] * len(keys)
        mover.join()
        assert rounds > 1
        assert await calls.execute_all([("GET", key) for key in keys]) == [b"%d" % rounds] * len(keys)
        await eventually(lambda: calls._masters[slot] not in (None, before))

    routed(cluster, use)


def test_a_call_that_is_given_up_leaves_no_reply_for_another(cluster: ThrowawayCluster) -> None:
    async def use(calls: Cluster) -> None:
        await calls.execute_command("SET", "ours", "ours")
        for steps in range(30):
            given_up = asyncio.create_task(calls.execute_before(("GET", "{ours}theirs"), "GET", "ours"))
            for _ in range(steps):
                await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait({given_up})
            assert await calls.execute_command("GET", "ours") == b"ours"

    routed(cluster, use)


def test_keys_of_ten_thousand_experiments_are_in_few_slots_of_every_shard() -> None:
    keys = Keys(layout=BY_BUCKET)
    owners = [f"e{n}" for n in range(10_000)]
    slots = {key_slot(keys.log(owner).encode()) for owner in owners}
    assert len(slots) == 128
    per_third = [sum(slot * 3 // 16_384 == third for slot in slots) for third in range(3)]
    assert min(per_third) > 30, per_third
    assert len({keys.log(owner) for owner in owners}) == len(owners)
    assert all(
        set(map(keys.layout.tag, group)) == {keys.layout.tag(group[0])}
        for group in keys.layout.together(owners)
    )


def test_shards_that_answer_are_read_and_written_while_another_is_away(cluster: ThrowawayCluster) -> None:
    async def use(store: Store) -> None:
        await store.check()
        for owner in OWNERS:
            await store.append(owner, b"k", b"x")
        dead = cluster.master_of(store.keys.log(OWNERS[0]))
        on_dead = {owner for owner in OWNERS if cluster.master_of(store.keys.log(owner)) is dead}
        assert 0 < len(on_dead) < len(OWNERS)
        others = [owner for owner in OWNERS if owner not in on_dead]
        positions = {owner: await store.last_offset(owner) for owner in OWNERS}
        dead.pause()
        try:
            at = {owner: await store.append(owner, b"k", b"while one is away") for owner in others}
            with pytest.raises(StoreUnavailable):
                await store.append(OWNERS[0], b"k", b"x")
            found = {}
            while len(found) < len(others):
                news = await store.read_any(positions, 10, 100)
                assert not on_dead & set(news.read)
                for owner, entries in news.entries.items():
                    found[owner] = positions[owner] = entries[-1].offset
            assert found == at
            assert store.outages.now
            # A look after losses passes over what is away.
            assert await store.find_lost(list(positions.items())) == []
            lost = [(others[0], positions[others[0]].next)]
            assert await store.find_lost(lost) == [others[0]]
        finally:
            dead.resume()
        cluster.wait_until_whole()
        while store.outages.now:
            await store.read_any(positions, 10, 100)

    used(cluster.url, use, timeout_s=0.5)


def test_a_reward_counts_as_taken_only_when_a_replica_has_it(cluster: ThrowawayCluster) -> None:
    async def use(store: Store) -> None:
        appender = RewardAppender(store, "waited", experiment(id="waited"))
        now_ms = await store.time_ms()
        assert await appender.append(rewards([1], times_ms=now_ms)) == b"a"
        master = cluster.master_of(store.keys.log("waited"))
        lagging = [node for node in cluster.nodes if node not in cluster.masters()]
        for node in lagging:
            node.pause()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable) as refused:
                    await appender.append(rewards([2], times_ms=now_ms))
                assert refused.value.what == LACKS_REPLICAS
            assert [error.what for error in store.outages.now] == [LACKS_REPLICAS]
        finally:
            for node in lagging:
                node.resume()
        assert cluster.master_of(store.keys.log("waited")) is master
        cluster.wait_until_whole()
        assert await appender.append(rewards([2], times_ms=now_ms)) == b"d"
        assert store.outages.now == []
        assert len(await store.read("waited", START, 10)) == 2

    used(cluster.url, use, namespace="waiting", replicas=1, timeout_s=1.5)


def test_other_layouts_are_refused(cluster: ThrowawayCluster) -> None:
    async def by_experiment(store: Store) -> None:
        await store.append(".common", b"k", b"x")
        with pytest.raises(StoreRefused, match="laid out for a single server"):
            await store.check()

    async def marked(store: Store) -> None:
        for _ in range(2):
            await store.check()
        await store._client.set(store.keys.layout_mark, "buckets:64")
        with pytest.raises(
            StoreRefused, match="laid out by buckets:64, and here they have to be by buckets:128"
        ):
            await store.check()

    used(cluster.url, by_experiment, namespace="old")
    used(cluster.url, marked, namespace="new")


def test_a_single_server_with_the_keys_of_a_cluster_is_refused(store: ThrowawayStore) -> None:
    async def use(single: Store) -> None:
        await single.check()
        with store.client() as client:
            client.set(Keys().layout_mark, "buckets:128")
        with pytest.raises(
            StoreRefused, match="laid out by buckets:128, and here they have to be by experiments"
        ):
            await single.check()

    used(store.url, use)


def test_a_wrong_scheme_is_refused_with_the_right_one(cluster: ThrowawayCluster) -> None:
    async def check(store: Store) -> None:
        await store.check()

    node = f"127.0.0.1:{cluster.nodes[0].port}"
    with pytest.raises(StoreRefused, match=r"Redis Cluster: name it as redis\+cluster://"):
        used(f"redis://{node}", check)
    with pytest.raises(StoreRefused, match="names sentinels, and what answers there is none"):
        used(f"redis+sentinel://{node}/bandits", check)
    with ThrowawayStore(tcp=True) as single, pytest.raises(StoreRefused, match="no Redis Cluster"):
        used(f"redis+cluster://127.0.0.1:{single.port}", check)


def test_a_shard_that_may_evict_is_refused(cluster: ThrowawayCluster) -> None:
    async def check(store: Store) -> None:
        await store.check()

    shard = cluster.masters()[2]
    cluster.ask(shard, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreRefused, match="may evict") as refused:
            used(cluster.url, check)
        assert f"127.0.0.1:{shard.port}" in " ".join(refused.value.__notes__)
    finally:
        cluster.ask(shard, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    used(cluster.url, check)


def test_a_cluster_that_wants_a_login_gets_it_at_every_node() -> None:
    secret = {"requirepass": "s3cret", "masterauth": "s3cret"}

    async def use(store: Store) -> None:
        await store.check()
        for owner in OWNERS:
            await store.append(owner, b"k", b"x")

    with ThrowawayCluster(appendfsync="no", options=secret) as cluster:
        used(cluster.url.replace("://", "://:s3cret@"), use)
        with pytest.raises(StoreRefused, match="rejects the login") as refused:
            used(cluster.url, use)
        assert "s3cret" not in str(refused.value)
