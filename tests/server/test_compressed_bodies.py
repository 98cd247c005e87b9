"""Compressed bodies of a connection: others have their turns while a small one inflates to a very large one."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from bandit_serve.server.arrival import parts_in_turns
from bandit_serve.server.connection import Connection
from bandit_serve.server.wire import read_bytes

N_BYTES = 48 * 2**20
MAX_PIECE_BYTES = 512 * 2**10
Handle = Callable[[web.Request], Awaitable[Any]]


class Counted:
    """Iterations of the event loop, and bytes that were inflated, while requests are answered."""

    def __init__(self) -> None:
        self.iterations = 0
        self.inflated = 0

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.iterations += 1


class Taking:
    """Connections that have room for all."""

    def take_in(self, connection: Connection) -> bool:
        return True

    def forget(self, connection: Connection) -> None:
        pass


async def played(handle: Handle, body: bytes, headers: str, linger_s: float = 5.0) -> tuple[Counted, bytes]:
    """Sends one request, reads to the end of the connection, and returns what was counted meanwhile."""
    counted, loop = Counted(), asyncio.get_running_loop()
    contents: list[Any] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        contents.append(request.content)
        made = web.Request(
            request._message,
            request.content,
            request._protocol,
            request._payload_writer,
            request._task,
            loop,
            client_max_size=2**30,
            state={},
        )
        await handle(made)
        response = web.Response(text="read")
        response.force_close()
        return response

    server = web.Server(answer)
    options = {"loop": loop, "lingering_time": linger_s, "access_log": None}
    listening = await loop.create_server(
        lambda: Connection(Taking(), server, **options),  # type: ignore[arg-type]
        "127.0.0.1",
        0,
    )
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    head = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    writer.write(head.encode() + body)
    counting = asyncio.create_task(counted.count())
    answered = await reader.read()
    counting.cancel()
    counted.inflated = contents[0].total_bytes
    writer.close()
    listening.close()
    await server.shutdown()
    return counted, answered


async def read_all(request: web.Request) -> None:
    assert await read_bytes(request, 60.0) == b" " * N_BYTES


async def read_nothing(request: web.Request) -> None:
    """The rest is read by the connection, so that its sender gets to read the answer."""


async def read_parts(request: web.Request) -> None:
    with pytest.raises(ValueError, match="boundary"):
        await (await parts_in_turns(request)).next()


@pytest.mark.parametrize("handle", [read_all, read_nothing])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_each_piece_is_inflated_in_a_turn_of_its_own(handle: Handle, encoding: str) -> None:
    content = b" " * N_BYTES
    body = gzip.compress(content, 9) if encoding == "gzip" else zlib.compress(content, 9)
    assert len(body) < MAX_PIECE_BYTES
    counted, answered = asyncio.run(played(handle, body, f"Content-Encoding: {encoding}\r\n"))
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert counted.inflated == N_BYTES
    assert counted.iterations >= N_BYTES // MAX_PIECE_BYTES


def test_so_it_is_where_parts_are_looked_for() -> None:
    lines = (b"x" * 998 + b"\r\n") * (N_BYTES // 1_000)
    headers = "Content-Encoding: gzip\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    counted, answered = asyncio.run(played(read_parts, gzip.compress(lines, 9), headers))
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert counted.inflated == len(lines)
    assert counted.iterations >= len(lines) // MAX_PIECE_BYTES


def test_short_lines_give_way_within_a_piece() -> None:
    """A piece has some hundred thousand of them."""
    lines = b"\n" * 2**19
    headers = "Content-Encoding: gzip\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    counted, answered = asyncio.run(played(read_parts, gzip.compress(lines, 9), headers))
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert counted.inflated == len(lines)
    assert counted.iterations >= 100
