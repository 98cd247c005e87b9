"""Commands that requests wait for, over connections that are kept open between calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from hiredis import pack_command
from redis.exceptions import ResponseError

from bandit_serve.store.connection import open_pool, renew
from bandit_serve.store.url import Address, StoreUrl

MAX_IDLE_S = 0.1
"""How long an unused connection is kept before it goes back to the pool."""
MAX_KEPT_CONNECTIONS = 4


class RunsCommands(Protocol):
    """Calls to the server that a command belongs to: the only one, the master, or the one that has the key."""

    async def execute_command(self, *command: Any) -> Any:
        """Sends one command and returns its reply. Raises redis-py's errors, and TimeoutError."""

    async def execute_before(self, following: tuple[Any, ...], *command: Any) -> tuple[Any, Any]:
        """Sends a command and, in the same write, one that follows it on the same connection; returns both replies."""

    async def execute_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends commands with one write for each server; returns their replies or errors, in order."""


class _Kept(NamedTuple):
    connection: Any
    used_s: float


class Calls:
    """Replaces `Redis.execute_command` for the calls that requests wait for, at about half its cost.

    redis-py's pool checks each connection that it hands out, which takes as long as the call itself. So up to
    `MAX_KEPT_CONNECTIONS` are kept for the next calls. One that was unused for `MAX_IDLE_S` goes back to the pool,
    whose check notices an outage in between. One timeout covers sending and reply; redis-py would need a task for that.
    """

    def __init__(self, url: str | StoreUrl, *, timeout_s: float, node: Address | None = None) -> None:
        self._timeout_s = timeout_s
        # Any: redis-py's connections have no types.
        self._pool: Any = open_pool(url, timeout_s=timeout_s, reply_timeout_s=None, node=node)
        self._kept: list[_Kept] = []

    @property
    def n_open(self) -> int:
        """Number of calls under way."""
        return len(self._pool._in_use_connections) - len(self._kept)

    async def close(self) -> None:
        await self._pool.aclose()

    async def renew(self) -> None:
        """Renews connections, as `connection.renew`."""
        while self._kept:
            await self._pool.release(self._kept.pop().connection)
        await renew(self._pool)

    async def execute_command(self, *command: Any) -> Any:
        """Sends one command and returns its reply. Raises redis-py's errors, and TimeoutError after `timeout_s`."""
        async with asyncio.timeout(self._timeout_s):
            connection = await self._connection()
            try:
                await connection.send_packed_command(pack_command(command))
                return await connection.read_response()
            finally:
                await self._give_back(connection)

    async def execute_before(self, following: tuple[Any, ...], *command: Any) -> tuple[Any, Any]:
        """Sends two commands in one write, as `RunsCommands.execute_before`."""
        async with asyncio.timeout(self._timeout_s):
            first, second = await self.exchange(pack_command(command) + pack_command(following), 2)
            return first, second

    async def execute_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends commands in one write, as `RunsCommands.execute_all`. Raises where none may have been executed."""
        packed = b"".join(map(pack_command, commands))
        async with asyncio.timeout(self._timeout_s):
            return await self.exchange(packed, len(commands), in_place=True)

    async def exchange(self, commands: bytes, n_replies: int, *, in_place: bool = False) -> list[Any]:
        """Sends packed commands in one write and returns their replies, without a limit of time.

        Raises the first error among the replies and gives up the connection if more would follow; with `in_place`,
        errors are among the replies.
        """
        connection = await self._connection()
        replies: list[Any] = []
        try:
            await connection.send_packed_command(commands)
            while len(replies) < n_replies:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
                    if not in_place:
                        raise
            return replies
        finally:
            if len(replies) < n_replies:
                await connection.disconnect(nowait=True)
            await self._give_back(connection)

    async def _connection(self) -> Any:
        fresh_s = time.monotonic() - MAX_IDLE_S
        while self._kept:
            connection, used_s = self._kept.pop()
            if used_s > fresh_s:
                return connection
            await self._pool.release(connection)
        return await self._pool.get_connection()

    async def _give_back(self, connection: Any) -> None:
        # redis-py disconnects a connection that was left in the middle of a reply.
        fit = connection.is_connected and not connection.should_reconnect()
        if fit and len(self._kept) < MAX_KEPT_CONNECTIONS:
            self._kept.append(_Kept(connection, time.monotonic()))
        else:
            await self._pool.release(connection)
