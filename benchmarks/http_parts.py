"""Parts of one request, in nanoseconds: what each costs alone, and the whole without and with its sockets.

    python benchmarks/http_parts.py [--rounds 7] [--calls 20000]

The service runs in this process, on a store of its own. A part is the object that the service itself has, called on its
own as often as in a whole request. `whole, no sockets` feeds requests to real connections whose transport only counts
what is written, and `behind` is what this process spends on them beside that: the flush of exposures, the fold of its
own log, the appends of rewards. `sockets` is uvloop alone, with a protocol that answers as many bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import http_load
import msgpack
import uvloop
from aiohttp import web
from aiohttp.http import HttpRequestParser
from multidict import CIMultiDict, CIMultiDictProxy

from bandit_serve.node import Node
from bandit_serve.server.admission import Admission
from bandit_serve.server.app import make_app
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.connections import Connections
from bandit_serve.server.lane import LaneProtocol
from bandit_serve.server.metrics import Counters
from bandit_serve.server.routes import ROUTE_LABELS
from bandit_serve.server.service import Service
from bandit_serve.server.site import make_site
from bandit_serve.server.tenants import Tenants
from bandit_serve.settings import Settings

KEEPALIVE_S = 60.0
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
        columns = await there.service.decisions.decide_columns("bench", [f"u{i}" for i in range(5_000)], None)
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
    await there.service.node.tail.wait_for_end("bench")
    spent_ns = time.process_time_ns() - began_ns
    assert there.answers.last.startswith(b"HTTP/1.1 200"), there.answers.last
    n = len(requests)
    return Whole(received_ns / n, (spent_ns - received_ns) / n)
