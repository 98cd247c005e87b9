"""Stores behind real sentinels: which server is the master, logins, and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from sentinel_sets import SERVICE, ThrowawaySentinels
from stores import ThrowawayStore

from bandit_serve.errors import StoreRefused, StoreUnavailable
from bandit_serve.log.offset import START
from bandit_serve.store.store import Store


@pytest.fixture(scope="module")
def servers() -> Iterator[ThrowawaySentinels]:
    with ThrowawaySentinels(appendfsync="no") as running:
        yield running


def used(url: str, use: Callable[[Store], Awaitable[None]], **options: object) -> None:
    async def run() -> None:
        store = Store(url, **{"timeout_s": 2.0, **options})  # type: ignore[arg-type]
        try:
            await use(store)
        finally:
            await store.close()

    asyncio.run(run())


async def check(store: Store) -> None:
    await store.check()


async def insist(store: Store, event: bytes) -> None:
    """Appends until the store takes it."""
    async with asyncio.timeout(60):
        while True:
            try:
                await store.append("e", b"k", event)
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


def test_connections_lead_to_the_new_master_and_never_to_one_that_came_back(
    servers: ThrowawaySentinels,
) -> None:
    async def use(store: Store) -> None:
        await store.check()
        await store.append("e", b"k", b"before")
        dead = await asyncio.to_thread(servers.fail_over)
        await insist(store, b"after")
        # It takes itself for the master until a sentinel tells it otherwise.
        dead.start()
        for n in range(50):
            await store.append("e", b"k", b"%d" % n)
            await store._link.renew()
        await asyncio.to_thread(servers.wait_until_whole)
        found = [entry.data for entry in await store.read("e", START, 100)]
        assert found == [b"before", b"after", *(b"%d" % n for n in range(50))]
        with dead.client() as client:
            assert client.info("replication")["role"] == "slave"

    used(servers.url, use)


def test_one_sentinel_of_three_is_enough(servers: ThrowawaySentinels) -> None:
    for sentinel in servers.sentinels[1:]:
        sentinel.pause()
    try:
        used(servers.url, check)
    finally:
        for sentinel in servers.sentinels[1:]:
            sentinel.resume()
    servers.wait_until_whole()


def test_an_unknown_service_and_wrong_schemes_are_refused(servers: ThrowawaySentinels) -> None:
    with pytest.raises(StoreRefused, match="know no service other"):
        used(servers.url.replace(SERVICE, "other"), check)
    with pytest.raises(StoreRefused, match=r"name it as redis\+sentinel://"):
        used(f"redis://127.0.0.1:{servers.sentinels[0].port}", check)


def test_sentinels_that_are_away_are_an_outage() -> None:
    with ThrowawayStore(tcp=True) as gone:
        port = gone.port
    with pytest.raises(StoreUnavailable):
        used(f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{port + 1}/{SERVICE}", check)


def test_logins_of_servers_and_sentinels() -> None:
    secrets = {"requirepass": "s3cret", "masterauth": "s3cret"}
    lines = f"sentinel auth-pass {SERVICE} s3cret\n"
    with ThrowawaySentinels(appendfsync="no", options=secrets, sentinel_lines=lines) as servers:
        with_login = servers.url.replace("://", "://:s3cret@")
        used(with_login, check)
        with pytest.raises(StoreRefused, match="rejects the login"):
            used(servers.url, check)
        for sentinel in servers.sentinels:
            with sentinel.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "resetpass", ">s3cret")
        # Sentinels that ask for a login get that of the servers, or one of their own.
        used(with_login, check)
        used(with_login + "?sentinel_password=s3cret", check)
        with pytest.raises(StoreUnavailable):
            used(with_login + "?sentinel_password=other", check)
