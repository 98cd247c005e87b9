"""Arrival of bodies. Only the reading runs inside, so every error there is the sender's and becomes a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from aiohttp import MultipartReader, StreamReader, web

from bandit_serve.base.turns import Turn
from bandit_serve.errors import InvalidInput, TooSlow

T = TypeVar("T")

SLOWEST_BYTES_PER_S = 16 * 2**10


@asynccontextmanager
async def arriving(timeout_s: float) -> AsyncIterator[None]:
    """Context for reading a body. Raises `TooSlow` after `timeout_s`, `InvalidInput` if the connection is lost."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise TooSlow("The request's body did not arrive in time.") from None
    except ConnectionResetError:
        raise InvalidInput("The connection was lost before the whole body had come.") from None


class LinesInTurns:
    """Body whose lines are read in turns of the event loop: many short ones come in one piece."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._turn = Turn()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def readline(self, **options: int) -> bytes:
        line = await self._content.readline(**options)
        if self._turn.over:
            await self._turn.give_way()
        return line


async def parts_in_turns(request: web.Request) -> MultipartReader:
    """Makes the reader of a multipart body's parts. Raises ValueError for a Content-Type without a boundary."""
    return MultipartReader(request.headers, cast(StreamReader, LinesInTurns(request.content)))


class Multipart:
    """Time-outs for a multipart body that is read part by part.

    Each step has `timeout_s`. The whole body has `timeout_s` and the time that its bytes take at `SLOWEST_BYTES_PER_S`.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._left_s = timeout_s

    async def next(self, coming: Awaitable[T]) -> T:
        """Awaits `coming` and returns its result. Raises `TooSlow`, or `InvalidInput` if it is no valid multipart."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with arriving(max(0.0, min(self._timeout_s, self._left_s))):
                received = await coming
        except (ValueError, RuntimeError) as error:
            raise InvalidInput(f"The upload is not well-formed multipart: {error}.") from None
        self._left_s -= loop.time() - began_s
        if isinstance(received, bytes | bytearray):
            self._left_s += len(received) / SLOWEST_BYTES_PER_S
        return received
