"""Reading of many logs of one server: all news come once and in order, whichever logs they are of and whenever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Connection
from stores import ThrowawayStore

from bandit_serve.log.offset import START, Offset
from bandit_serve.store.blocking_reader import FEW
from bandit_serve.store.keys import Keys
from bandit_serve.store.store import Store
from bandit_serve.store.xread import Xread

OWNERS = [f"e{number}" for number in range(FEW + 200)]


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


def on(server: ThrowawayStore, scenario: Callable[[Store, Store], Awaitable[None]]) -> None:
    async def run() -> None:
        writer, reader = Store(server.url, timeout_s=30), Store(server.url, timeout_s=30)
        try:
            await scenario(writer, reader)
        finally:
            await reader.close()
            await writer.close()

    asyncio.run(run())


class Following:
    """Reader's positions, and what it has read of each log."""

    def __init__(self, store: Store, owners: list[str]) -> None:
        self.store = store
        self.positions = dict.fromkeys(owners, START)
        self.read: dict[str, list[bytes]] = {}
        self.was_read: set[str] = set()

    async def turn(self) -> None:
        news = await self.store.read_any(self.positions, 3, 100)
        self.was_read |= set(news.read)
        assert set(news.entries) <= set(news.read)
        assert set(news.unbroken) <= set(news.read)
        for owner, entries in news.entries.items():
            self.read.setdefault(owner, []).extend(entry.data for entry in entries)
            self.positions[owner] = entries[-1].offset

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await self.turn()


def test_news_of_all_logs_come_once_and_in_order(server: ThrowawayStore) -> None:
    async def scenario(writer: Store, reader: Store) -> None:
        chance = random.Random(3)
        following = Following(reader, OWNERS)
        written: dict[str, list[bytes]] = {}

        async def write() -> None:
            for number in range(600):
                # Some logs have news all the time, most have them once in a while.
                owner = chance.choice(OWNERS[:5] if number % 2 else OWNERS)
                await writer.append(owner, b"x", b"%d" % number)
                written.setdefault(owner, []).append(b"%d" % number)
                if number % 100 == 0:
                    await asyncio.sleep(0.2)

        writing = asyncio.create_task(write())
        await following.until(lambda: writing.done() and following.read == written)
        writing.result()
        assert set(OWNERS) == following.was_read

    on(server, scenario)


def test_logs_may_come_go_and_be_read_from_elsewhere_meanwhile(server: ThrowawayStore) -> None:
    async def scenario(writer: Store, reader: Store) -> None:
        following = Following(reader, OWNERS)
        await following.turn()
        following.positions["new"] = START
        del following.positions[OWNERS[7]]
        await writer.append("new", b"x", b"n")
        await writer.append(OWNERS[7], b"x", b"of one that is gone")
        await following.until(lambda: "new" in following.read)
        skipped = await writer.append(OWNERS[9], b"x", b"skipped")
        following.positions[OWNERS[9]] = skipped
        last = await writer.append(OWNERS[9], b"x", b"read")
        await following.until(lambda: following.positions[OWNERS[9]] == last)
        assert following.read == {"new": [b"n"], OWNERS[9]: [b"read"]}
        # Fewer are read by one command again, and more once more by two.
        for owner in OWNERS[20:]:
            del following.positions[owner]
        await writer.append(OWNERS[3], b"x", b"few")
        await following.until(lambda: OWNERS[3] in following.read)
        following.positions |= dict.fromkeys(OWNERS[20:], START)
        await writer.append(OWNERS[-1], b"x", b"many")
        await following.until(lambda: OWNERS[-1] in following.read)

    on(server, scenario)


def test_one_busy_log_costs_no_command_that_names_all(server: ThrowawayStore) -> None:
    async def scenario(writer: Store, reader: Store) -> None:
        following = Following(reader, OWNERS)
        await writer.append(OWNERS[0], b"x", b"0")
        await following.until(lambda: OWNERS[0] in following.read)
        with server.client() as client:
            client.config_resetstat()
            for number in range(1, 100):
                await writer.append(OWNERS[0], b"x", b"%d" % number)
                while len(following.read[OWNERS[0]]) <= number:
                    await following.turn()
            received = client.info("stats")["total_net_input_bytes"]
        of_all = sum(len(reader.keys.log(owner)) for owner in OWNERS)
        assert received < 15 * of_all, "news of one log take 100 commands, which must not name all others"

    on(server, scenario)


def test_an_outage_ends_both_reads_and_is_over_for_both(server: ThrowawayStore) -> None:
    async def scenario(writer: Store, reader: Store) -> None:
        following = Following(reader, OWNERS)
        await following.turn()
        with server.client() as client:
            client.client_kill_filter(_type="normal")
        with pytest.raises(Exception, match="store"):
            await following.until(lambda: False)
        await writer.append(OWNERS[5], b"x", b"after")
        await following.until(lambda: OWNERS[5] in following.read)

    on(server, scenario)


class Sent:
    """Pool of one connection that keeps what is sent, and answers that there is no news."""

    def __init__(self) -> None:
        self.command = b""

    async def get_connection(self) -> Sent:
        return self

    async def release(self, connection: Sent) -> None:
        assert connection is self

    async def send_packed_command(self, pieces: list[bytes]) -> None:
        self.command = b"".join(pieces)

    async def read_response(self) -> None:
        return None


@pytest.mark.parametrize("n", [1, 3, 2_000])
def test_a_command_is_as_redis_py_packs_it(n: int) -> None:
    keys, sent, chance = Keys(), Sent(), random.Random(n)
    owners = [f"e{number}-\u00e9" * chance.randrange(1, 4) for number in range(n)]
    xread = Xread(sent, keys)
    for _ in range(3):
        after = {owner: Offset(chance.randrange(2**44), chance.randrange(2**64)) for owner in owners}
        assert asyncio.run(xread.read(after, 7, 100)) == {}
        names = [keys.log(owner) for owner in after]
        words = ["COUNT", 7, "BLOCK", 100, "STREAMS", *names, *map(str, after.values())]
        assert sent.command == b"".join(Connection().pack_command("XREAD", *words))
        owners = owners[n // 2 :] + [f"new {number} of {len(owners)}" for number in range(n // 2)]


def test_others_run_while_a_command_of_many_logs_is_packed() -> None:
    async def turns() -> int:
        after = {f"e{number}": START for number in range(100_000)}
        reading = asyncio.create_task(Xread(Sent(), Keys()).read(after, 7, 100))
        n = 0
        while not reading.done():
            await asyncio.sleep(0)
            n += 1
        return n

    assert asyncio.run(turns()) > 10
