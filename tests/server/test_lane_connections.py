"""Connections with a lane, over real sockets and with endpoints of our own: what is parsed, and what lasts too long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from bandit_serve.api.rewards import DecisionReward, RewardVerdict
from bandit_serve.base.request_tags import current_tags
from bandit_serve.errors import Late, StoreUnavailable
from bandit_serve.rewards.rewards import Settle
from bandit_serve.server.handlers.single_rewards import SingleRewards
from bandit_serve.server.heads import MAX_HEADS, MAX_NEW
from bandit_serve.server.lane import MAX_TOGETHER, Hot, Lane, LaneProtocol
from bandit_serve.server.wire import Reply
from bandit_serve.server.wire_form import WireForm

ANSWER_S = 20.0
KEEPALIVE_S = 30.0


def request(path: str, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", *lines, "Content-Length: 3"]
    return "\r\n".join([*head, "", ""]).encode() + b"abc"


class Written:
    """Transport whose writes are noted, by their numbers of bytes."""

    def __init__(self, transport: asyncio.Transport, written: list[int]) -> None:
        self._transport, self._written = transport, written

    def write(self, data: bytes) -> None:
        self._written.append(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Counting(LaneProtocol):
    """Connection that counts what it gives to the parser, and keeps what it writes."""

    __slots__ = ("n_parsed", "written")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.written: list[int] = []
        super().connection_made(transport)
        assert self.transport is not None
        self.transport = Written(self.transport, self.written)  # type: ignore[assignment]

    def _parse(self, data: bytes) -> None:
        self.n_parsed = getattr(self, "n_parsed", 0) + 1
        super()._parse(data)


class Side:
    """Both ends of one connection, whose first request is answered."""

    protocol: Counting

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, *pieces: bytes, pause_s: float = 0.02) -> bytes:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(pause_s)
        return await self.answer()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def answer(self) -> bytes:
        async with asyncio.timeout(ANSWER_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            return await self._reader.readexactly(int(length.split(b":")[1]))


Endpoint = Callable[[str, WireForm, bytes], Reply | Awaitable[Reply]]


class World:
    """Lane with endpoints of its own, and a server with an application that answers all else."""

    def __init__(self, lane: Lane, server: web.Server, port: int, protocols: list[Counting]) -> None:
        self.lane, self._port, self._protocols = lane, port, protocols
        self._server = server
        self._sides: list[Side] = []

    async def connect(self) -> Side:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        side = Side(reader, writer)
        assert await side.ask(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n") == b"app"
        side.protocol = self._protocols[-1]
        self._sides.append(side)
        return side

    async def leave(self) -> None:
        for side in self._sides:
            await side.close()
        await self._server.shutdown(1.0)


@asynccontextmanager
async def serving(
    endpoints: Mapping[str, Endpoint], keepalive_s: float = KEEPALIVE_S
) -> AsyncIterator[World]:
    nothing = SimpleNamespace(request=lambda *_: None, add=lambda *_: None)
    replica = SimpleNamespace(experiments={})
    service: Any = SimpleNamespace(
        gate=None,
        tenant=None,
        draining=False,
        ready=True,
        counters=nothing,
        node=SimpleNamespace(replica=replica),
    )
    authentication: Any = SimpleNamespace(is_open=True, caller=lambda *_: None)
    admission: Any = SimpleNamespace(proxies=(), knows=lambda host: host == "localhost")
    lane = Lane(service, admission, authentication)
    for path, endpoint in endpoints.items():
        lane._paths[path] = Hot(endpoint, "", f"POST {path}", "serve", 2**20)
    connections: Any = SimpleNamespace(take_in=lambda _: True, forget=lambda _: None)
    protocols: list[Counting] = []

    async def app(asked: web.BaseRequest) -> web.Response:
        await asked.read()
        return web.Response(text="app")

    server, loop = web.Server(app), asyncio.get_running_loop()

    def connection() -> Counting:
        made = Counting(
            lane,
            connections,
            server,
            loop=loop,
            access_log=None,
            keepalive_timeout=keepalive_s,
            lingering_time=1.0,
        )
        protocols.append(made)
        return made

    listening = await loop.create_server(connection, "127.0.0.1", 0)
    world = World(lane, server, listening.sockets[0].getsockname()[1], protocols)
    try:
        yield world
    finally:
        listening.close()
        await world.leave()


def fast(_: str, form: object, body: bytes) -> Reply:
    tags = current_tags()
    return Reply(f"{body.decode()} {None if tags is None else tags.request_id}".encode(), "text/plain")


def test_a_known_head_is_not_parsed_however_it_comes() -> None:
    async def run() -> None:
        async with serving({"/fast": fast}) as world:
            side, asked = await world.connect(), request("/fast")
            assert await side.ask(asked) == b"abc None"
            n_parsed = side.protocol.n_parsed
            assert await side.ask(asked) == b"abc None"
            assert await side.ask(asked[:-3], asked[-3:]) == b"abc None"
            assert await side.ask(asked[:-1], asked[-1:] + asked) == b"abc None"
            assert await side.answer() == b"abc None"
            assert side.protocol.n_parsed == n_parsed
            other = await world.connect()
            n_parsed = other.protocol.n_parsed
            assert await other.ask(asked) == b"abc None"
            assert other.protocol.n_parsed == n_parsed, "it is known to all connections"

    asyncio.run(run())


def large(_: str, form: object, body: bytes) -> Reply:
    return Reply(body * (MAX_TOGETHER // 6), "text/plain")


def slow(_: str, form: object, body: bytes) -> Awaitable[Reply]:
    async def answer() -> Reply:
        await asyncio.sleep(0.01)
        return Reply(b"slow", "text/plain")

    return answer()


def test_answers_to_known_requests_in_a_pipeline_are_written_together() -> None:
    async def run() -> None:
        async with serving({"/fast": fast, "/large": large, "/slow": slow}) as world:
            side = await world.connect()
            every = {path: request(path) for path in ("/fast", "/large", "/slow")}
            for asked in every.values():
                await side.ask(asked)
            sent = ["/fast", "/fast", "/slow", "/fast", "/fast", *["/large"] * 4, "/fast"]
            whole = b"abc" * (MAX_TOGETHER // 6)
            expected = {"/fast": b"abc None", "/slow": b"slow", "/large": whole}
            for paths in (sent, sent[::-1], ["/fast"] * 5):
                side.protocol.written.clear()
                answers = [await side.ask(b"".join(every[path] for path in paths))]
                answers += [await side.answer() for _ in paths[1:]]
                assert answers == [expected[path] for path in paths]
                assert max(side.protocol.written) < 2 * MAX_TOGETHER
            assert len(side.protocol.written) == 1
            n_bytes = side.protocol.written[0]
            await side.ask(every["/fast"] * 2 + every["/fast"][:-1], every["/fast"][-1:])
            assert [await side.answer() for _ in range(2)] == [b"abc None"] * 2
            assert side.protocol.written[1:] == [n_bytes // 5 * 2, n_bytes // 5], (
                "what is there does not wait"
            )

    asyncio.run(run())


def test_a_connection_goes_on_with_the_parser_where_it_can_not_be_told_apart() -> None:
    async def run() -> None:
        async with serving({"/fast": fast}) as world:
            side, asked = await world.connect(), request("/fast")
            for pieces in [(asked[:9], asked[9:]), (asked,), (asked,)]:
                n_parsed = side.protocol.n_parsed
                assert await side.ask(*pieces) in (b"abc None", b"app")
                assert side.protocol.n_parsed > n_parsed

    asyncio.run(run())


def test_heads_that_differ_each_time_push_no_other_out_and_are_soon_left_to_the_parser() -> None:
    async def run() -> None:
        async with serving({"/fast": fast}) as world:
            side, asked = await world.connect(), request("/fast")
            await side.ask(asked)
            for i in range(MAX_HEADS + 10):
                if i % 100 == 0:
                    noisy = await world.connect()
                await noisy.ask(request("/fast", f"X-Number: {i}"))
            n_parsed = side.protocol.n_parsed
            await side.ask(asked)
            assert side.protocol.n_parsed == n_parsed
            assert noisy.protocol._owed is None
            known = [
                i for i in range(MAX_HEADS) if world.lane.heads.get(request("/fast", f"X-Number: {i}")[:-3])
            ]
            assert len(known) <= MAX_NEW * (MAX_HEADS // 100 + 1)

    asyncio.run(run())


def test_known_requests_that_wait_behind_an_answer_are_no_news() -> None:
    async def slow(name: str, form: WireForm, body: bytes) -> Reply:
        await asyncio.sleep(0.01)
        return fast(name, form, body)

    async def run() -> None:
        async with serving({"/slow": slow, "/fast": fast}) as world:
            side, waits, asked = await world.connect(), request("/slow"), request("/fast")
            for each in (waits, asked):
                assert await side.ask(each) == b"abc None"
            assert await side.ask(waits + asked * (MAX_NEW + 4)) == b"abc None"
            for _ in range(MAX_NEW + 4):
                assert await side.answer() == b"abc None"
            n_parsed = side.protocol.n_parsed
            assert await side.ask(asked) == b"abc None"
            assert side.protocol.n_parsed == n_parsed

    asyncio.run(run())


def test_heads_of_cold_paths_and_with_tags_are_not_kept() -> None:
    async def run() -> None:
        async with serving({"/fast": fast}) as world:
            side = await world.connect()
            cold, tagged = request("/nowhere"), request("/fast", "X-Request-Id: r1")
            assert await side.ask(cold) == b"app"
            assert await side.ask(tagged) == b"abc r1"
            assert world.lane.heads.get(cold[:-3]) is None
            assert world.lane.heads.get(tagged[:-3]) is None

    asyncio.run(run())


def test_the_keep_alive_time_does_not_end_within_a_request() -> None:
    async def run() -> None:
        async with serving({"/fast": fast}, keepalive_s=0.5) as world:
            side, asked = await world.connect(), request("/fast")
            await side.ask(asked)
            await asyncio.sleep(0.3)
            assert await side.ask(asked[:-1], asked[-1:], pause_s=0.5) == b"abc None"

    asyncio.run(run())


def test_the_tags_of_a_request_are_not_those_of_the_next() -> None:
    async def slow(name: str, form: WireForm, body: bytes) -> Reply:
        await asyncio.sleep(0.01)
        return fast(name, form, body)

    async def run() -> None:
        async with serving({"/slow": slow, "/fast": fast}) as world:
            side = await world.connect()
            assert (
                await side.ask(request("/slow", "X-Request-Id: alice") + request("/fast") * 2) == b"abc alice"
            )
            assert [await side.answer() for _ in range(2)] == [b"abc None"] * 2

    asyncio.run(run())


def test_an_answer_that_is_cancelled_ends_its_connection_at_once() -> None:
    async def run() -> None:
        coming: list[asyncio.Future[Reply]] = []

        def never(name: str, form: WireForm, body: bytes) -> asyncio.Future[Reply]:
            coming.append(asyncio.get_running_loop().create_future())
            return coming[0]

        async with serving({"/never": never}) as world:
            side = await world.connect()
            side._writer.write(request("/never"))
            while not coming:
                await asyncio.sleep(0.001)
            handler = side.protocol
            handler._handler_waiter = asyncio.get_running_loop().create_future()
            coming[0].cancel()
            async with asyncio.timeout(ANSWER_S):
                await handler._handler_waiter
                assert await side._reader.read() == b""

    asyncio.run(run())


@pytest.mark.parametrize("outcome", ["accepted", "late", StoreUnavailable("away")], ids=str)
def test_a_reward_that_is_refused_keeps_no_request_in_memory(
    outcome: RewardVerdict | StoreUnavailable,
) -> None:
    class Headers(dict[str, str]):
        pass

    def submit(rewards: Any, settle: Settle) -> None:
        settle(0, outcome)
        for i in range(1, len(rewards)):
            settle(i, "accepted")

    def reply_to(_: DecisionReward, verdict: RewardVerdict, __: Mapping[str, str]) -> Reply:
        if verdict == "late":
            raise Late("too late")
        return Reply(b"", "")

    async def run() -> list[weakref.ref[Headers]]:
        singles = SingleRewards(submit, reply_to)
        all_headers = [Headers() for _ in range(100)]
        kept = [weakref.ref(each) for each in all_headers]
        replies = [singles.take(DecisionReward("t", 1.0), each) for each in all_headers]
        await asyncio.gather(*replies, return_exceptions=True)
        return kept

    gc.collect()
    gc.disable()
    try:
        kept = asyncio.run(run())
        assert sum(each() is not None for each in kept) == 0
    finally:
        gc.enable()
