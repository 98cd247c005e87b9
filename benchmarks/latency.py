"""Latencies of one address over HTTP: of callers that wait for each answer, or of requests at a fixed rate.

At a fixed rate a request's time begins when it was to be sent, also where no connection was free then. The load sleeps
between two of them, so that what is measured has the processors: `p50` has the time in which a sleeper wakes.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
LAST_CHUNK = b"0\r\n\r\n"


class Latencies(NamedTuple):
    """Answers of 2xx a second, the others, and quantiles of the time to an answer in milliseconds."""

    per_s: float
    errors: int
    p50_ms: float
    p99_ms: float
    p999_ms: float


def is_whole(received: bytes) -> bool:
    """Whether an answer has arrived to its end."""
    head, separator, rest = received.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    if not separator:
        return False
    if length is not None:
        return len(rest) >= int(length[1])
    return CHUNKED.search(head) is None or rest.endswith(LAST_CHUNK)


def is_well(received: bytes) -> bool:
    """Whether the status of an answer is 2xx."""
    return received.split(b" ", 2)[1].startswith(b"2")


def _quantiles(took_s: Sequence[float], seconds: float, errors: int) -> Latencies:
    if not took_s:
        return Latencies(0.0, max(1, errors), *[float("nan")] * 3)
    p50_ms, p99_ms, p999_ms = np.quantile(np.array(took_s) * 1e3, [0.5, 0.99, 0.999])
    return Latencies(len(took_s) / seconds, errors, float(p50_ms), float(p99_ms), float(p999_ms))


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
        if is_whole(self._received):
            received, self._received = self._received, b""
            self._run.answered(self, is_well(received), self._since_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost()


class _Run:
    """Requests in turn over some connections, each when the last is answered."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._next = 0
        self._open = True
        self.took_s: list[float] = []
        self.errors = 0

    def answered(self, connection: _Connection, well: bool, since_s: float) -> None:
        now_s = time.perf_counter()
        if well:
            self.took_s.append(now_s - since_s)
        else:
            self.errors += 1
        if self._open:
            self._send(connection, now_s)

    def lost(self) -> None:
        self.errors += self._open

    def _send(self, connection: _Connection, since_s: float) -> None:
        connection.send(self._requests[self._next % len(self._requests)], since_s)
        self._next += 1

    async def go(self, connections: list[_Connection], seconds: float) -> None:
        began_s = time.perf_counter()
        for connection in connections:
            self._send(connection, began_s)
        await asyncio.sleep(seconds)
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
    address = urlsplit(url)
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {content_type}\r\n"
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    at = (cast(str, address.hostname), cast(int, address.port))
    if rate is None:
        return uvloop.run(_measured(at, requests, seconds, connections))
    return _at_rate(at, requests, seconds, connections, rate)


async def _measured(at: tuple[str, int], requests: Sequence[bytes], seconds: float, n: int) -> Latencies:
    run, loop, connections = _Run(requests), asyncio.get_running_loop(), []
    for _ in range(n):
        _, connection = await loop.create_connection(lambda: _Connection(run), *at)
        connections.append(connection)
    await run.go(connections, seconds)
    for connection in connections:
        connection.transport.abort()
    return _quantiles(run.took_s, seconds, run.errors)


def _at_rate(
    at: tuple[str, int], requests: Sequence[bytes], seconds: float, n: int, rate: float
) -> Latencies:
    every = [socket.create_connection(at) for _ in range(n)]
    for connection in every:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # In turn: a server closes a connection that was never used.
    free = deque(every)
    # By connection, what came of its answer, and when its request was to be sent.
    asked: dict[socket.socket, tuple[bytes, float]] = {}
    waiting: deque[float] = deque()
    took_s: list[float] = []
    n_due = n_sent = errors = 0
    began_s = time.perf_counter()
    while (now_s := time.perf_counter()) < began_s + seconds and every:
        while began_s + n_due / rate <= now_s:
            waiting.append(began_s + n_due / rate)
            n_due += 1
        while waiting and free:
            connection = free.popleft()
            connection.sendall(requests[n_sent % len(requests)])
            asked[connection] = b"", waiting.popleft()
            n_sent += 1
        pause_s = max(0.0, began_s + n_due / rate - time.perf_counter())
        # Of select alone, the time is as fine as the clock.
        for connection in select.select(asked, [], [], pause_s)[0]:
            received, since_s = asked[connection]
            received += (came := connection.recv(2**16))
            if came and not is_whole(received):
                asked[connection] = received, since_s
                continue
            del asked[connection]
            if came and is_well(received):
                took_s.append(time.perf_counter() - since_s)
            else:
                errors += 1
            if came:
                free.append(connection)
            else:
                every.remove(connection)
    # What was not answered has taken that long at least.
    now_s = time.perf_counter()
    took_s += [now_s - since_s for since_s in (*waiting, *(since_s for _, since_s in asked.values()))]
    for connection in every:
        connection.close()
    return _quantiles(took_s, seconds, errors)
