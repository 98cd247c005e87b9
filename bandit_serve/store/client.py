"""Clients of a store: redis-py's command methods, whatever its kind."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from bandit_serve.errors import UsageError
from bandit_serve.store.calls import RunsCommands
from bandit_serve.store.connection import MAX_CONNECTIONS, TIMEOUT_S, open_pool
from bandit_serve.store.facts import check, inspect
from bandit_serve.store.url import StoreUrl, parse_store_url


class CommandMethods(Redis):
    """Command methods of redis-py over calls of ours, for commands whose first argument is their key.

    Pipelines and transactions are not among them. Closing it does not close the calls.
    """

    def __init__(self, calls: RunsCommands, url: StoreUrl) -> None:
        # redis-py reads its options from a pool; nothing connects over this one.
        super().__init__(connection_pool=open_pool(url, reply_timeout_s=None))
        self._calls = calls

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await self._calls.execute_command(*args[0].split(), *args[1:])
        options.pop("keys", None)
        callback = self.response_callbacks.get(args[0])
        return reply if callback is None else callback(reply, **options)


def open_client(
    url: str | StoreUrl, *, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS
) -> Redis:
    """Makes a client of a single server, or of the master behind sentinels, for commands that answer at once.

    It connects when first used. `timeout_s` bounds each of: waiting for a free connection, connecting, sending, and the
    reply. Replies are bytes. Close it with `aclose()`. Raises UsageError for a cluster, which no single client reaches.
    """
    url = parse_store_url(url) if isinstance(url, str) else url
    if url.kind == "cluster":
        raise UsageError("A Redis Cluster is reached through `bandit_serve.store.store.Store`.")
    pool = open_pool(url, timeout_s=timeout_s, reply_timeout_s=timeout_s, max_connections=max_connections)
    return Redis.from_pool(pool)


def open_tail_client(url: str | StoreUrl, *, block_s: float, timeout_s: float = TIMEOUT_S) -> Redis:
    """Makes a client as `open_client`, with one connection, for reads that block in the store for up to `block_s`."""
    return Redis.from_pool(
        open_pool(url, timeout_s=timeout_s, reply_timeout_s=block_s + timeout_s, max_connections=1)
    )


async def connect(
    url: str | StoreUrl, *, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS
) -> Redis:
    """Makes a client as `open_client` does, and checks that the store answers and may be used.

    Raises StoreUnavailable, StoreRefused or UsageError.
    """
    client = open_client(url, timeout_s=timeout_s, max_connections=max_connections)
    try:
        check(await inspect(client))
    except BaseException:
        await client.aclose()
        raise
    return client
