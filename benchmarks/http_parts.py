"""Parts of one request, in nanoseconds: what each costs alone, the whole without its sockets, and these alone.

    python benchmarks/http_parts.py [--rounds 7] [--calls 10000] [--msgpack]

The service runs in this process, on a store of its own, with connections whose transport only counts what is written.
A part is called alone, with the service's own objects. `in the connection` is what a request costs from its bytes to
those of its answer (of a reward, to its place in the queue), and `behind it` all that the process does beside that: the
flush of exposures, appends and answers of rewards, and the fold of the log. `sockets` is uvloop with a protocol that
answers requests of such a size with as many bytes as the service does, and nothing else: two calls of the system a
request, and the loop. `a new head` is what the parser takes for a head that is not known. All is CPU of this process;
medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import http_load
import msgpack
import numpy as np
import uvloop
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

from bandit_serve.api.decisions import DecideRequest, PredictRequest
from bandit_serve.node import Node
from bandit_serve.server.admission import Admission
from bandit_serve.server.app import make_app
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.connections import Connections
from bandit_serve.server.handlers.decisions import DecisionHandlers
from bandit_serve.server.handlers.rewards import RewardHandlers
from bandit_serve.server.heads import END
from bandit_serve.server.lane import LaneProtocol
from bandit_serve.server.metrics import Counters
from bandit_serve.server.routes import ROUTE_LABELS
from bandit_serve.server.service import Service
from bandit_serve.server.site import make_site
from bandit_serve.server.tenants import Tenants
from bandit_serve.server.wire import Reply, encoded
from bandit_serve.server.worker import COLLECTED_AT
from bandit_serve.settings import Settings

KEEPALIVE_S = 60.0
EXPERIMENT = "bench"
BURST = 32
"""Requests that arrive in one turn of the loop, as from so many connections."""
PATHS = {
    "decide": "/v1/experiments/bench/decide",
    "predict": "/v1/experiments/bench/predict",
    "reward": "/v1/rewards",
}


class Answers:
    """Answers of all connections."""

    def __init__(self) -> None:
        self._missing = 0
        self._all_there: asyncio.Future[None] | None = None
        self.last = b""

    def expect(self, n: int) -> None:
        self._missing += n

    def add(self, data: bytes) -> None:
        self.last = data
        self._missing -= 1
        if not self._missing and self._all_there is not None:
            self._all_there.set_result(None)
            self._all_there = None

    async def all_there(self) -> None:
        if self._missing:
            self._all_there = asyncio.get_running_loop().create_future()
            await self._all_there


class CountingTransport(asyncio.Transport):
    """Transport without a socket."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def write(self, data: Any) -> None:
        self._answers.add(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class World(NamedTuple):
    """The service of this process, with connections that have no sockets."""

    service: Service
    protocols: list[LaneProtocol]
    answers: Answers


@contextlib.contextmanager
def prepared() -> Iterator[tuple[str, Path]]:
    """A store with the experiment of `http_load.py` and its models, and the data directory."""
    with (
        tempfile.TemporaryDirectory() as directory,
        http_load.ThrowawayStore(appendfsync="everysec") as store,
    ):
        data = Path(directory)
        with http_load.ThrowawayService(data, store=store.url) as service:
            http_load.register_models(service, data)
            assert service.call("POST", "/v1/experiments", http_load.EXPERIMENT).status == 201
            assert service.call("POST", "/v1/experiments/bench/start").status == 200
        yield store.url, data


@contextlib.asynccontextmanager
async def world(store: str, data: Path) -> AsyncIterator[World]:
    service = Service(Node(Settings(data=str(data), store=store), store), Counters(ROUTE_LABELS))
    admission = Admission(service.settings, loopback=True)
    node = service.node
    authentication = Authentication(node.replica, node.store.clock.now_ms, required=False)
    site = make_site(service, admission, authentication, {})
    tenants = Tenants(service, lambda _: site)
    runner = web.AppRunner(make_app(site, tenants, admission, authentication), handle_signals=False)
    await runner.setup()
    await service.load()
    service.start()
    connections = Connections(service.settings, 4_096, service.counters)
    protocols, answers = [], Answers()
    for _ in range(BURST):
        protocol = LaneProtocol(
            site.lane,
            connections,
            runner.server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,
        )
        protocol.connection_made(CountingTransport(answers))
        protocols.append(protocol)
    await asyncio.sleep(0.1)
    try:
        yield World(service, protocols, answers)
    finally:
        await service.stop()


def request_of(path: str, body: bytes, media: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: {media}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def bodies_of(there: World, route: str, n: int) -> list[dict[str, Any]]:
    if route == "decide":
        return [{"unit": f"user-{i}"} for i in range(n)]
    if route == "predict":
        return [{"user_id": str(i % 600), "item_id": str(i % 9_000)} for i in range(n)]
    tokens: list[Any] = []
    while len(tokens) < n:
        columns = await there.service.decisions.decide_columns(
            EXPERIMENT, [f"u{i}" for i in range(5_000)], None
        )
        tokens += columns.decision_ids
    await there.service.flusher.flush()
    return [{"decision_id": token, "value": i % 2} for i, token in enumerate(tokens[:n])]


class Whole(NamedTuple):
    """Nanoseconds a request: in the connection, and in the rest of the process."""

    received: float
    behind: float


async def whole(there: World, requests: list[bytes]) -> Whole:
    """Feeds requests in bursts, each when the burst before is answered."""
    received_ns = 0
    began_ns = time.process_time_ns()
    for first in range(0, len(requests), BURST):
        started_ns = time.process_time_ns()
        some = requests[first : first + BURST]
        there.answers.expect(len(some))
        for protocol, data in zip(there.protocols, some, strict=False):
            protocol.data_received(data)
        received_ns += time.process_time_ns() - started_ns
        await there.answers.all_there()
        await asyncio.sleep(0)
    # What is left to flush and fold is of these requests, too.
    await there.service.flusher.flush()
    await there.service.node.tail.wait_for_end(EXPERIMENT)
    spent_ns = time.process_time_ns() - began_ns
    assert there.answers.last.startswith(b"HTTP/1.1 200"), there.answers.last
    n = len(requests)
    return Whole(received_ns / n, (spent_ns - received_ns) / n)


def ns_of(call: Callable[[], object], n: int) -> float:
    """CPU of one of `n` calls."""
    began_ns = time.process_time_ns()
    for _ in range(n):
        call()
    return (time.process_time_ns() - began_ns) / n


def parts_of(there: World, route: str, request: bytes, media: str) -> dict[str, Callable[[], object]]:
    """Calls, each of one part of a request."""
    protocol, service = there.protocols[0], there.service
    lane, decisions = protocol._lane, service.decisions
    end = request.index(END) + len(END)
    body, loop = request[end:], asyncio.get_running_loop()
    head = lane.heads.get(request[:end])
    assert head is not None, "the head is known by now"
    path, headers, form = head.path, head.headers, head.form
    parts: dict[str, Callable[[], object]] = {
        "head, known": lambda: lane.heads.get(request[: request.index(END) + len(END)]),
        "route and key": lambda: protocol._find(path, headers),
    }
    found = protocol._find(path, headers)
    assert found is not None
    hot = found.hot
    handlers = DecisionHandlers(service)
    if route == "reward":
        rewards = RewardHandlers(service)
        parts["body"] = lambda: rewards._body.decode(form, body)
        token = rewards._body.decode(form, body).decision_id
        parts["token, opened"] = lambda: service.rewards.keyring.open([token], np.zeros(1))
    else:
        decoder: Any = handlers._decide if route == "decide" else handlers._predict
        asked = decoder.decode(form, body)
        decider = decisions.deciders[EXPERIMENT]
        unit, now_ms = "user-1", decisions._now_ms()
        choice = decider.choose(unit, None)
        assert choice.draw is not None
        shares = choice.draw.shares
        parts["body"] = lambda: decoder.decode(form, body)
        parts["draw"] = lambda: decider.choose(unit, None)
        if isinstance(asked, PredictRequest):
            model = decisions._models.get("ranker", "v1")
            assert model is not None
            parts["score"] = lambda: model.score(asked)
        parts["record"] = lambda: decider.exposures.add(choice.arm, 0, shares, decider.revision, now_ms)
        parts["token"] = lambda: decisions.keyring.seal.sign(decider.uid, 1, 2, now_ms, 3, 1, 0.5, 0, 0, None)
        decided = (
            decisions.decide(EXPERIMENT, asked)
            if type(asked) is DecideRequest
            else decisions.predict(EXPERIMENT, asked)
        )
        parts["encode"] = lambda: encoded(form, decided)
    answer = there.answers.last
    reply = Reply(answer[answer.index(END) + len(END) :], media)
    parts["head of the answer, write"] = lambda: protocol._give(lane, hot, reply, 0.0)
    parts["counters"] = lambda: service.counters.request(hot.label, 200, 1e-5)
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    parts["(a new head: its parser)"] = lambda: parser.feed_data(request)
    return parts


async def route_table(there: World, route: str, media: str, rounds: int, calls: int) -> dict[str, float]:
    encode: Any = msgpack.packb if media == http_load.MSGPACK else lambda body: json.dumps(body).encode()
    figures: dict[str, list[float]] = {}
    n_bytes = (0, 0)
    for number in range(rounds + 1):
        bodies = await bodies_of(there, route, calls)
        requests = [request_of(PATHS[route], encode(body), media) for body in bodies]
        measured = await whole(there, requests)
        n_bytes = (len(requests[-1]), len(there.answers.last))
        if number == 0:  # the heads are not known yet
            continue
        parts = parts_of(there, route, requests[-1], media)
        for name, call in parts.items():
            there.answers.expect(calls if name.startswith("head of") else 0)
            figures.setdefault(name, []).append(ns_of(call, calls))
        figures.setdefault("in the connection", []).append(measured.received)
        figures.setdefault("behind it", []).append(measured.behind)
        figures.setdefault("sockets", []).append(await asyncio.to_thread(sockets_ns, *n_bytes))
    return {name: statistics.median(some) for name, some in figures.items()}


ECHO = """
import asyncio, sys, time, uvloop
answer = b"x" * int(sys.argv[2])
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.write = transport.write
    def data_received(self, data): self.write(answer)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    print(time.process_time_ns(), flush=True)
uvloop.run(main())
"""
SOCKET_REQUESTS = 20_000


def sockets_ns(n_request: int, n_answer: int) -> float:
    """CPU a request of a uvloop protocol that only answers, under as many connections as a burst has."""
    command = [sys.executable, "-c", ECHO, str(n_request), str(n_answer)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdin is not None
        assert echo.stdout is not None
        port = int(echo.stdout.readline())
        before_ns = http_load.cpu_s([echo.pid]) * 1e9
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(BURST)]
        request = b"x" * n_request
        for _ in range(SOCKET_REQUESTS // BURST):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                left = n_answer
                while left:
                    left -= len(connection.recv(left))
        for connection in connections:
            connection.close()
        echo.stdin.write("\n")
        echo.stdin.flush()
        return (int(echo.stdout.readline()) - before_ns) / SOCKET_REQUESTS


async def run(store: str, data: Path, media: str, rounds: int, calls: int) -> None:
    async with world(store, data) as there:
        tables = {route: await route_table(there, route, media, rounds, calls) for route in PATHS}
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    last = ["in the connection", "behind it", "sockets"]
    print(f"{media}, nanoseconds a request, medians of {rounds} rounds of {calls}")
    print(f"{'':28}" + "".join(f"{route:>10}" for route in tables))
    for name in [*(name for name in names if name not in last), *last]:
        cells = (table.get(name) for table in tables.values())
        print(f"{name:28}" + "".join(f"{'' if cell is None else f'{cell:,.0f}':>10}" for cell in cells))
    sums = (sum(table[name] for name in last) for table in tables.values())
    print(f"{'whole':28}" + "".join(f"{total:>10,.0f}" for total in sums))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--msgpack", action="store_true", help="bodies and answers in MessagePack")
    arguments = parser.parse_args()
    media = http_load.MSGPACK if arguments.msgpack else http_load.JSON
    with prepared() as (store, data):
        gc.freeze()
        gc.set_threshold(COLLECTED_AT)
        uvloop.run(run(store, data, media, arguments.rounds, arguments.calls))


if __name__ == "__main__":
    main()
