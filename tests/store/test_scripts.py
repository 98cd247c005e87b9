"""Lua scripts, on a real store: all checks come before any write."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files

import pytest
from stores import ThrowawayStore

from bandit_serve.errors import StoreUnavailable
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.times import COUNTED_MS, REPEATED_MS
from bandit_serve.store import scripts
from bandit_serve.store.store import CountedRows, Store

ROW = 56
EXP = "e"
FAR_MS = 10**13


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


def on(server: ThrowawayStore, scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store(server.url, timeout_s=30)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(run())


def checks(*rows: tuple[int, int, int]) -> bytes:
    """Of rewards of 1 on a binary metric: bitmap, bit and deadline of each."""
    return b"".join(
        struct.pack("<HHHIQ", bitmap, bit, bitmap, 2 * bit + 1, deadline) for bitmap, bit, deadline in rows
    )


async def append_rewards(store: Store, bitmaps: list[str], data: bytes, asked: bytes) -> bytes:
    values = [f"of-{bitmap}" for bitmap in bitmaps]
    return await store.append_rewards(EXP, CountedRows(data, ROW, asked, bitmaps, values))


def rows(*letters: str) -> bytes:
    return b"".join(letter.encode() * ROW for letter in letters)


def test_every_script_is_listed_and_says_what_it_takes() -> None:
    names = {path.name for path in files("bandit_serve.store").iterdir() if path.name.endswith(".lua")}
    made = [value for value in vars(scripts).values() if isinstance(value, scripts.Script)]
    assert len(made) == len(names - {"appending.lua", "counting.lua", "reading_marks.lua"})
    for script in made:
        assert "KEYS:" in script.source
        assert "ARGV:" in script.source


@pytest.mark.parametrize("forgetting", [False, True])
def test_a_store_that_forgot_the_scripts_is_sent_them(server: ThrowawayStore, forgetting: bool) -> None:
    async def scenario(store: Store) -> None:
        with server.client() as client:
            assert await store.hold_lease("a", 60_000)
            if forgetting:
                client.script_flush()
            assert await store.append_change(EXP, 0, b"c", b"1") is not None
            if forgetting:
                client.script_flush()
            assert await append_rewards(store, ["b{e}"], rows("a"), checks((0, 0, FAR_MS))) == b"a"
            if forgetting:
                client.script_flush()
            assert await store.append_exposures(EXP, 1, 0, 1, b"x")
            if forgetting:
                client.script_flush()
            assert await store.trim(EXP, START) == 0
            assert client.xlen(store.keys.log(EXP)) == 3

    on(server, scenario)


# Rewards


def test_rewards_are_one_entry_without_duplicates_and_late_ones(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        now_ms = await store.time_ms()
        asked = checks(
            (0, 1, FAR_MS), (0, 2, now_ms - 1), (0, 1, FAR_MS), (1, 1, FAR_MS), (0, 65_535, FAR_MS)
        )
        verdicts = await append_rewards(store, ["b0{e}", "b1{e}"], rows(*"abcde"), asked)
        assert verdicts == b"aldaa"
        (entry,) = await store.read(EXP, START, 10)
        assert entry.kind == b"r"
        assert entry.data == rows(*"ade")
        again = await append_rewards(store, ["b0{e}", "b1{e}"], rows(*"abcde"), asked)
        assert again == b"dlddd"
        assert len(await store.read(EXP, START, 10)) == 1

    on(server, scenario)


def test_nothing_but_duplicates_writes_nothing(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        assert await append_rewards(store, ["b{e}"], rows("a"), checks((0, 3, FAR_MS))) == b"a"
        before = await store.last_offset(EXP)
        assert await append_rewards(store, ["b{e}"], rows("a"), checks((0, 3, FAR_MS))) == b"d"
        assert await store.last_offset(EXP) == before

    on(server, scenario)


def test_a_late_reward_makes_no_bitmap(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        assert await append_rewards(store, ["b{e}"], rows("a"), checks((0, 3, 1))) == b"l"
        with server.client() as client:
            assert client.keys("*{e}*") == []

    on(server, scenario)


def test_a_bitmap_outlives_the_youngest_token_that_it_must_refuse(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        now_ms = await store.time_ms()
        young, old = now_ms + 900_000, now_ms + 5_000
        with server.client() as client:
            for bit, deadline in ((0, old), (1, young), (2, old)):
                await append_rewards(store, ["b{e}"], rows("a"), checks((0, bit, deadline)))
                latest = old if bit == 0 else young
                assert client.ttl("b{e}") == -1
                assert client.zscore(store.keys.expiries(EXP), "b{e}") == latest + COUNTED_MS

    on(server, scenario)


def test_many_rows_and_bitmaps_in_one_call(server: ThrowawayStore) -> None:
    """Lua's unpack would fail near 8,000 arguments."""

    async def scenario(store: Store) -> None:
        n = 20_000
        bitmaps = [f"b{i}{{e}}" for i in range(n // 2)]
        asked = checks(*((i // 2, i % 2, FAR_MS) for i in range(n)))
        assert await append_rewards(store, bitmaps, b"r" * ROW * n, asked) == b"a" * n
        assert await append_rewards(store, bitmaps, b"r" * ROW * n, asked) == b"d" * n

    on(server, scenario)


def test_a_check_that_fails_has_written_nothing(server: ThrowawayStore) -> None:
    """The second bitmap is another type: the script fails at its check, before the first write."""

    async def scenario(store: Store) -> None:
        with server.client() as client:
            client.rpush("b1{e}", "not a bitmap")
            with pytest.raises(Exception, match="WRONGTYPE"):
                await append_rewards(
                    store, ["b0{e}", "b1{e}"], rows("a", "b"), checks((0, 0, FAR_MS), (1, 0, FAR_MS))
                )
            assert client.keys("*{e}*") == [b"b1{e}"]

    on(server, scenario)


def test_a_full_store_takes_a_change_whole_or_not_at_all() -> None:
    with ThrowawayStore(options={"maxmemory": "3mb"}, appendfsync="no") as full, full.client() as client:
        client.set("filler", b"x")
        while client.info("memory")["used_memory"] < 3 * 2**20:
            client.append("filler", b"x" * 100_000)

        async def scenario(store: Store) -> None:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: append_rewards(store, ["b{e}"], rows("a"), checks((0, 0, FAR_MS))),
                lambda: store.append_exposures(EXP, 1, 0, 1, b"x"),
                lambda: store.append_change(EXP, 0, b"c", b"1"),
            ]
            for call in calls:
                with pytest.raises(StoreUnavailable):
                    await call()
            assert client.keys("*") == [b"filler"]
            client.delete("filler")
            for call in calls:
                assert await call()

        on(full, scenario)


# Changes


def test_a_change_is_appended_only_on_the_revision_that_it_was_decided_on(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        assert await store.append_change(EXP, 1, b"c", b"early") is None
        assert await store.append_change(EXP, 0, b"c", b"one") is not None
        assert await store.append_change(EXP, 0, b"c", b"again") is None
        assert await store.append_change(EXP, 1, b"c", b"two") is not None
        assert [entry.data for entry in await store.read(EXP, START, 10)] == [b"one", b"two"]

    on(server, scenario)


def test_one_of_many_changes_at_once_wins(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        tries = [store.append_change(EXP, 0, b"c", b"%d" % i) for i in range(40)]
        won = [offset for offset in await asyncio.gather(*tries) if offset is not None]
        assert len(won) == 1
        assert [entry.offset for entry in await store.read(EXP, START, 10)] == won

    on(server, scenario)


# Exposures


def test_a_repeated_flush_adds_nothing(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        assert await store.append_exposures(EXP, 1, 0, 3, b"first")
        assert not await store.append_exposures(EXP, 1, 0, 3, b"first")
        assert await store.append_exposures(EXP, 1, 3, 2, b"second")
        assert not await store.append_exposures(EXP, 1, 0, 3, b"first")
        assert await store.append_exposures(EXP, 2, 0, 3, b"another worker's")
        assert await store.append_exposures(EXP, 1, 9, 1, b"after a gap")
        logged = [entry.data for entry in await store.read(EXP, START, 10)]
        assert logged == [b"first", b"second", b"another worker's", b"after a gap"]
        with server.client() as client:
            assert client.ttl(store.keys.exposed(EXP, 1)) == -1

    on(server, scenario)


def test_rewards_that_go_with_exposures_are_there_as_often_as_they_are(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        rewards = (b"row" * 100_000, b"another")
        assert await store.append_exposures(EXP, 1, 0, 3, b"first", rewards=rewards)
        assert not await store.append_exposures(EXP, 1, 0, 3, b"first", rewards=rewards)
        assert await store.append_exposures(EXP, 1, 3, 1, b"second")
        long_ago_ms = await store.time_ms() - 10 * REPEATED_MS
        assert await store.append_exposures(EXP, 2, 0, 1, b"lost", long_ago_ms, rewards) is None
        logged = [(entry.kind, entry.data) for entry in await store.read(EXP, START, 10)]
        assert logged == [(b"x", b"first"), *[(b"r", rows) for rows in rewards], (b"x", b"second")]

    on(server, scenario)


def test_a_mark_is_exact_beyond_the_precision_of_luas_text(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        first = 2**47
        assert await store.append_exposures(EXP, 1, first, 1, b"x")
        assert not await store.append_exposures(EXP, 1, first, 1, b"x")
        assert await store.append_exposures(EXP, 1, first + 1, 1, b"x")

    on(server, scenario)


# The lease, and trimming


def test_a_lease_is_one_holders_until_it_lapses(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        assert await store.hold_lease("a", 60_000)
        assert not await store.hold_lease("b", 60_000)
        assert await store.hold_lease("a", 50)
        async with asyncio.timeout(5):
            while not await store.hold_lease("b", 60_000):
                await asyncio.sleep(0.005)
        assert not await store.hold_lease("a", 60_000)

    on(server, scenario)


def test_trimming_forgets_through_the_offset_and_says_so(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        offsets = [await store.append(EXP, b"t", b"%d" % i) for i in range(5)]
        assert await store.trimmed(EXP) == START
        assert await store.trim(EXP, offsets[1]) == 2
        assert await store.trimmed(EXP) == offsets[1]
        assert [entry.offset for entry in await store.read(EXP, START, 10)] == offsets[2:]

    on(server, scenario)


def test_a_late_trim_does_not_take_the_mark_back(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        for earlier, later in ((Offset(9, 5), Offset(10, 0)), (Offset(20, 9), Offset(20, 10))):
            await store.trim(EXP, later)
            await store.trim(EXP, earlier)
            assert await store.trimmed(EXP) == later

    on(server, scenario)


def demand(*decisions: tuple[int, int, int]) -> Callable[[Store], Awaitable[bytes]]:
    """Appends exposures on demand, by bitmap, bit and deadline, in two bitmaps."""

    async def append(store: Store) -> bytes:
        keys = [store.keys.demanded(EXP, 7, block) for block in range(2)]
        packed = b"".join(struct.pack("<HHQ", *decision) for decision in decisions)
        events = [b"event %d" % i for i in range(len(decisions))]
        return await store.append_demanded(EXP, keys, packed, events)

    return append


def test_exposures_on_demand_are_appended_once_and_in_time(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        now_ms = await store.time_ms()
        some = demand((0, 5, FAR_MS), (1, 5, FAR_MS), (0, 5, FAR_MS), (0, 6, now_ms - 1), (0, 7, FAR_MS))
        assert await some(store) == b"aadla"
        entries = await store.read(EXP, START, 10)
        assert [entry.data for entry in entries] == [b"event 0", b"event 1", b"event 4"]
        assert {entry.kind for entry in entries} == {b"x"}
        assert await some(store) == b"dddld"
        assert await store.read(EXP, START, 10) == entries
        expiries = dict(server.client().zrange(store.keys.expiries(EXP), 0, -1, withscores=True))
        bitmaps = [store.keys.demanded(EXP, 7, block).encode() for block in range(2)]
        assert expiries == dict.fromkeys(bitmaps, FAR_MS + COUNTED_MS)

    on(server, scenario)


def test_exposures_on_demand_are_judged_before_the_first_is_appended(server: ThrowawayStore) -> None:
    async def scenario(store: Store) -> None:
        await store.time_ms()
        server.client().hset(store.keys.demanded(EXP, 7, 1), "no", "bitmap")
        with pytest.raises(Exception, match="WRONGTYPE"):
            await demand((0, 1, FAR_MS), (1, 1, FAR_MS))(store)
        assert await store.read(EXP, START, 10) == []
        assert not server.client().exists(store.keys.demanded(EXP, 7, 0), store.keys.expiries(EXP))

    on(server, scenario)
