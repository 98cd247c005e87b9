"""Commands over connections that are kept at hand."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from hiredis import pack_command

from bandit_serve.store.connection import open_waiting_client, renew

KEPT_S = 0.1
MAX_KEPT_CONNECTIONS = 4


class _Kept(NamedTuple):
    connection: Any
    used_s: float


class Calls:
    """What `Redis.execute_command` does, for the calls that requests wait for.

    A pool checks each connection that it hands out, and takes as long for it as the call. So a few are kept after a
    call for the next one. One that was not used for `KEPT_S` goes back to the pool, whose check notices when the
    store has been away in between. And redis-py would time the sending and the reply apart, the former in a task.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._client = open_waiting_client(url, timeout_s=timeout_s)
        # Any: a connection's calls have no types.
        self._pool: Any = self._client.connection_pool
        self._kept: list[_Kept] = []

    async def close(self) -> None:
        await self._client.aclose()

    async def renew(self) -> None:
        """As `connection.renew`."""
        while self._kept:
            await self._pool.release(self._kept.pop().connection)
        await renew(self._client)

    async def execute_command(self, *command: Any) -> Any:
        """The reply to one command. Raises redis-py's errors, and TimeoutError `timeout_s` after it was called."""
        async with asyncio.timeout(self._timeout_s):
            connection = await self._connection()
            try:
                await connection.send_packed_command(pack_command(command))
                return await connection.read_response()
            finally:
                # redis-py disconnects one that is left in the middle of a reply.
                fit = connection.is_connected and not connection.should_reconnect()
                if fit and len(self._kept) < MAX_KEPT_CONNECTIONS:
                    self._kept.append(_Kept(connection, time.monotonic()))
                else:
                    await self._pool.release(connection)

    async def _connection(self) -> Any:
        fresh_s = time.monotonic() - KEPT_S
        while self._kept:
            connection, used_s = self._kept.pop()
            if used_s > fresh_s:
                return connection
            await self._pool.release(connection)
        return await self._pool.get_connection()
