"""Latencies of one address over HTTP: of callers that wait for each answer, or of requests at a fixed rate.

At a fixed rate a request's time begins when it was to be sent, also where no connection was free then.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

TICK_S = 0.0005
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
LAST_CHUNK = b"0\r\n\r\n"


class Latencies(NamedTuple):
    """Answers of 2xx a second, the others, and quantiles of the time to an answer in milliseconds."""

    per_s: float
    errors: int
    p50_ms: float
    p99_ms: float


class _Connection(asyncio.Protocol):
    """Connection for one request at a time; `done` is called with each."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self._since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, since_s: float) -> None:
        self._since_s = since_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = LENGTH.search(head)
        if length is not None:
            if len(rest) < int(length[1]):
                return
        elif not CHUNKED.search(head) or not rest.endswith(LAST_CHUNK):
            return
        self._received = b""
        self._run.answered(self, head.split(b" ", 2)[1].startswith(b"2"), self._since_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost()


class _Run:
    """Requests in turn over some connections, at a `rate` or, without one, each when the last is answered."""

    def __init__(self, requests: Sequence[bytes], rate: float | None) -> None:
        self._requests = requests
        self._rate = rate
        self._next = 0
        self._waiting: deque[float] = deque()
        self._free: list[_Connection] = []
        self._open = True
        self.took_s: list[float] = []
        self.errors = 0

    def answered(self, connection: _Connection, is_well: bool, since_s: float) -> None:
        now_s = time.perf_counter()
        if is_well:
            self.took_s.append(now_s - since_s)
        else:
            self.errors += 1
        if not self._open:
            return
        if self._rate is None:
            self._send(connection, now_s)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self) -> None:
        self.errors += self._open

    def _send(self, connection: _Connection, since_s: float) -> None:
        connection.send(self._requests[self._next % len(self._requests)], since_s)
        self._next += 1

    async def go(self, connections: list[_Connection], seconds: float) -> None:
        began_s = time.perf_counter()
        if self._rate is None:
            for connection in connections:
                self._send(connection, began_s)
            await asyncio.sleep(seconds)
        else:
            self._free = connections.copy()
            n_due = 0
            while (now_s := time.perf_counter()) < began_s + seconds:
                while (due_s := began_s + n_due / self._rate) <= now_s:
                    n_due += 1
                    if self._free:
                        self._send(self._free.pop(), due_s)
                    else:
                        self._waiting.append(due_s)
                await asyncio.sleep(TICK_S)
        self._open = False


def measure(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    seconds: float,
    *,
    connections: int = 32,
    rate: float | None = None,
) -> Latencies:
    """POSTs the bodies in turn for some seconds, `rate` a second or as fast as answers come."""
    return uvloop.run(_measured(url, bodies, content_type, seconds, connections, rate))


async def _measured(
    url: str, bodies: Sequence[bytes], content_type: str, seconds: float, n: int, rate: float | None
) -> Latencies:
    address = urlsplit(url)
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {content_type}\r\n"
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    run, loop, connections = _Run(requests, rate), asyncio.get_running_loop(), []
    for _ in range(n):
        _, connection = await loop.create_connection(lambda: _Connection(run), address.hostname, address.port)
        connections.append(connection)
    await run.go(connections, seconds)
    for connection in connections:
        connection.transport.abort()
    if not run.took_s:
        return Latencies(0.0, max(1, run.errors), float("nan"), float("nan"))
    p50_ms, p99_ms = np.quantile(np.array(run.took_s) * 1e3, [0.5, 0.99])
    return Latencies(len(run.took_s) / seconds, run.errors, float(p50_ms), float(p99_ms))
