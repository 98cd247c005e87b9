"""HTTP requests byte by byte, as no well-behaved client sends them, over kept connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

ANSWER_S = 30.0


class RawAnswer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class RawConnection:
    """Connection for one request at a time. If the service closes it after an answer, the next request reconnects."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> RawAnswer | None:
        """Sends a request; returns the answer, or None if the service closed the connection without one."""
        kept = self._streams is not None
        answer = await self._ask(request)
        if answer is None and kept:
            # The kept connection may have been closed because of an earlier request.
            return await self._ask(request)
        return answer

    async def _ask(self, request: bytes) -> RawAnswer | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            async with asyncio.timeout(ANSWER_S):
                answer = await _read_answer(reader, request.startswith(b"HEAD "))
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.close()
            return None
        if answer.headers.get("connection") == "close" or answer.headers["version"] == "HTTP/1.0":
            await self.close()
        return answer

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader, headless: bool) -> RawAnswer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, status = head[0].split(" ")[:2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    if status == "100":
        return await _read_answer(reader, headless)
    length = 0 if headless else int(headers.get("content-length", "0"))
    return RawAnswer(int(status), {**headers, "version": version}, await reader.readexactly(length))


async def send_all(
    port: int,
    make: Callable[[int], bytes],
    n_requests: int,
    check: Callable[[bytes, RawAnswer | None], None],
    in_flight: int = 8,
) -> None:
    """Sends `make(0)` … `make(n_requests − 1)`, `in_flight` at a time, and has each answer checked."""
    numbers = iter(range(n_requests))

    async def send() -> None:
        connection = RawConnection(port)
        try:
            for number in numbers:
                request = make(number)
                check(request, await connection.ask(request))
        finally:
            await connection.close()

    await asyncio.gather(*(send() for _ in range(in_flight)))


def post(path: str, body: object = None, *headers: str, version: str = "1.1") -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def read_answer(reading: BinaryIO) -> tuple[int, dict[str, str], dict[str, Any]]:
    status = int(reading.readline().split()[1])
    headers = {}
    while line := reading.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, json.loads(reading.read(int(headers["content-length"])))
