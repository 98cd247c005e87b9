"""Outages that a store remembers, and large snapshots in pieces."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from certificates import Authority
from redis.exceptions import ResponseError
from stores import ThrowawayStore
from switching_proxy import SwitchingProxy

from bandit_serve.errors import StoreUnavailable
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.store import store as module
from bandit_serve.store.failures import AWAY, CLOCK, FULL, OF_WRITES, OUTAGES, SLOW, Outage, translate
from bandit_serve.store.outages import Outages
from bandit_serve.store.store import Store

AT = Offset(17, 0)
FOLD = "policy"
LARGE = bytes(range(256)) * (4 * module.PIECE_BYTES // 256) + b"end"


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


def with_store(server: ThrowawayStore, use: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store(server.url, timeout_s=2)
        try:
            await use(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_a_store_over_tls_that_stands_still_is_an_outage_to_each_call(tmp_path: Path) -> None:
    """Closing a connection over TLS waits for the other end, which is what does not answer."""
    authority = Authority()
    _, cert, _, key = authority.make().write(tmp_path)
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(cert, key)
    trusted = tmp_path / "authority.crt"
    trusted.write_bytes(authority.pem)

    async def use(port: int, proxy: SwitchingProxy) -> None:
        n_before = n_open_files()
        store = Store(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={trusted}", timeout_s=0.3)
        try:
            await asyncio.gather(*(store.time_ms() for _ in range(8)))
            with proxy.standing_still():
                for _ in range(2):
                    asked = [store.time_ms() for _ in range(4)]
                    told = await asyncio.gather(*asked, return_exceptions=True)
                    assert {type(error) for error in told} == {StoreUnavailable}
            assert await store.time_ms()
        finally:
            await store.close()
        # asyncio closes a connection whose handshake was given up as soon as the server answers.
        async with asyncio.timeout(30):
            while n_open_files() > n_before:
                await asyncio.sleep(0.01)

    def n_open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with (
        ThrowawayStore(tcp=True, appendfsync="no") as behind,
        SwitchingProxy(behind.port, tls=shown) as proxy,
    ):
        asyncio.run(use(proxy.port, proxy))


def test_each_way_has_its_outage_and_each_kind_is_told_once() -> None:
    outages = Outages()
    calls: list[list[str]] = []
    outages.on_change(lambda now: calls.append([error.what for error in now]))
    away, slow = StoreUnavailable("away", what=AWAY), StoreUnavailable("slow", what=SLOW)
    outages.passed("read")
    outages.failed("read", away)
    outages.failed("read", away)
    outages.failed("write", away)
    outages.failed("write", slow)
    outages.passed("read")
    outages.passed("read")
    outages.passed("write")
    assert calls == [[AWAY], [AWAY], [AWAY, SLOW], [SLOW], []]
    assert outages.now == []


def test_what_keeps_writes_away_keeps_no_reads_away() -> None:
    for what in OF_WRITES:
        outages = Outages()
        outages.failed("write", StoreUnavailable("no", what=what))
        assert outages.readable


def test_a_clock_that_never_agrees_is_an_outage_of_writes(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(store: Store) -> None:
        now_ms = await store.time_ms()
        monkeypatch.setattr(store.clock, "now_ms", lambda: now_ms + 3_600_000)
        monkeypatch.setattr(store, "time_ms", lambda: asyncio.sleep(0, now_ms))
        with pytest.raises(StoreUnavailable) as refused:
            await store.append_exposures("e", 1, 0, 1, b"x")
        assert refused.value.what == CLOCK
        assert CLOCK in OF_WRITES

    with_store(server, use)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.what)
def test_every_outage_has_its_name_as_an_error_and_in_each_spelling(outage: Outage) -> None:
    for kind in outage.errors:
        try:
            error = kind("no")
        except (TypeError, ValueError, IndexError):
            error = kind("3999 127.0.0.1:6381")
        translated = translate(error)
        assert isinstance(translated, StoreUnavailable)
        assert translated.what == outage.what
    for code in outage.codes:
        for text in (f"{code} no", f"Error running script (call to f_1): @user_script:4: -{code} no"):
            translated = translate(ResponseError(text))
            assert isinstance(translated, StoreUnavailable)
            assert translated.what == outage.what
        assert translate(ResponseError(f"no {code} here")) is None


def test_a_full_store_takes_small_snapshots_the_lease_and_trims(server: ThrowawayStore) -> None:
    async def use(store: Store) -> None:
        offsets = [await store.append("e", b"k", b"x" * 1_000) for _ in range(10)]
        with server.client() as client:
            client.config_set("maxmemory", "1")
            try:
                with pytest.raises(StoreUnavailable) as refused:
                    await store.append("e", b"k", b"x")
                assert refused.value.what == FULL
                assert [error.what for error in store.outages.now] == [FULL]
                assert await store.hold_lease("me", 60_000)
                assert await store.hold_lease("me", 60_000)
                assert not await store.hold_lease("you", 60_000)
                await store.write_snapshot("e", FOLD, Snapshot(offsets[-1], b"state"))
                assert await store.trim("e", offsets[-2], [FOLD]) == 9
                assert await store.trimmed("e") == offsets[-2]
                assert await store.trim("e", offsets[-2], [FOLD]) == 0
            finally:
                client.config_set("maxmemory", "0")
        await store.append("e", b"k", b"x")
        assert store.outages.now == []

    with_store(server, use)


def test_a_large_snapshot_is_read_as_it_was_written_and_dropped_whole(server: ThrowawayStore) -> None:
    async def use(store: Store) -> None:
        await store.write_snapshot("e", FOLD, Snapshot(AT, LARGE))
        await store.write_snapshot("e", FOLD, Snapshot(AT.next, LARGE[::-1]))
        assert await store.read_snapshot("e", FOLD, AT) == Snapshot(AT, LARGE)
        assert await store.read_snapshot("e", FOLD) == Snapshot(AT.next, LARGE[::-1])
        with server.client() as client:
            longest = max(
                client.hstrlen(key, field)
                for key in client.keys("*:snapshots:*")
                for field in client.hkeys(key)
            )
            assert longest == module.PIECE_BYTES
            await store.drop_snapshots("e", FOLD, [AT, AT.next])
            assert len(client.keys("*:snapshots:*")) == 2, "the newest and its pieces stay"
        assert await store.read_snapshot("e", FOLD, AT) is None

    with_store(server, use)


@pytest.mark.parametrize("damage", ["a piece is gone", "a piece is another", "all are gone"])
def test_a_snapshot_that_is_not_whole_is_none(server: ThrowawayStore, damage: str) -> None:
    async def use(store: Store) -> None:
        await store.write_snapshot("e", FOLD, Snapshot(AT, b"older"))
        await store.write_snapshot("e", FOLD, Snapshot(AT.next, LARGE))
        key = store.keys.snapshot_pieces("e", FOLD, str(AT.next))
        with server.client() as client:
            if damage == "a piece is gone":
                client.hdel(key, "1")
            elif damage == "a piece is another":
                client.hset(key, "1", b"other")
            else:
                client.delete(key)
        assert await store.read_snapshot("e", FOLD, AT.next) is None
        assert await store.read_snapshot("e", FOLD) == Snapshot(AT, b"older")

    with_store(server, use)


def test_pieces_of_a_snapshot_that_never_became_whole_expire(server: ThrowawayStore) -> None:
    async def use(store: Store) -> None:
        key = store.keys.snapshot_pieces("e", FOLD, str(AT))
        await store._write_pieces(key, LARGE)
        assert await store.read_snapshot("e", FOLD) is None
        with server.client() as client:
            assert 0 < client.pttl(key) <= module.PIECES_MS
            await store.write_snapshot("e", FOLD, Snapshot(AT, LARGE))
            assert client.pttl(key) == -1

    with_store(server, use)


def test_logs_that_lost_their_end_are_found(server: ThrowawayStore) -> None:
    async def use(store: Store) -> None:
        at = {}
        for owner in "abcd":
            await store.append(owner, b"k", b"x")
            at[owner] = await store.append(owner, b"k", b"x")
        with server.client() as client:
            client.delete(store.keys.log("b"))
            client.xdel(store.keys.log("c"), str(at["c"]))
        await store.trim("d", at["d"])
        assert await store.find_lost(list(at.items())) == ["b", "c"]
        assert await store.find_lost([("a", at["a"].next)]) == ["a"]

    with_store(server, use)


def test_a_store_has_one_identity_until_it_is_emptied(server: ThrowawayStore) -> None:
    async def use(store: Store) -> None:
        assert await store.identity() is None
        made = await store.make_identity()
        assert await store.make_identity() == made == await store.identity()
        server.flush()
        assert await store.identity() is None
        assert await store.make_identity() != made
        assert await store.trimmed("e") == START

    with_store(server, use)
