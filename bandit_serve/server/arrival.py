"""Bodies on their way in: what goes wrong there is the sender's, who is told so; nothing of ours runs inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from bandit_serve.errors import InvalidInput, TooSlow

T = TypeVar("T")

SLOWEST_BYTES_PER_S = 16 * 2**10


@asynccontextmanager
async def arriving(timeout_s: float) -> AsyncIterator[None]:
    """Around the reading of a body: `TooSlow` after `timeout_s`, `InvalidInput` where the connection is lost."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise TooSlow("The request's body did not arrive in time.") from None
    except ConnectionResetError:
        raise InvalidInput("The connection was lost before the whole body had come.") from None


class Multipart:
    """A multipart body that is read part by part: no step takes longer than `timeout_s`, and in all it comes no slower
    than `SLOWEST_BYTES_PER_S` after that.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._left_s = timeout_s

    async def next(self, coming: Awaitable[T]) -> T:
        """Result of `coming`. `TooSlow`, or `InvalidInput` for what is not multipart."""
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
