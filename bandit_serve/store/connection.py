"""Connections to servers of a store, in pools.

Nothing is sent twice. By default redis-py re-sends a command whose reply was lost, and a write could then count twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as TooLong

from bandit_serve.store.sentinels import LeadsToMaster, Sentinels
from bandit_serve.store.tls_contexts import shared_context
from bandit_serve.store.url import Address, StoreUrl, parse_store_url

TIMEOUT_S = 1.0
MAX_CONNECTIONS = 32


class _Bounded:
    """Connection of redis-py that can be cancelled while it sends, and that is closed whatever the server does.

    It would send under `asyncio.wait_for`, which loses a cancellation in Python 3.11 when what it waits for has just
    ended. Ctrl-C was lost so. Its `disconnect` raises after a time-out, as over TLS where the server stands still. That
    error would stand in place of the outage.
    """

    socket_timeout: Any
    _writer: Any

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        limit_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit_s):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except TimeoutError:
            raise TooLong("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit_s

    async def disconnect(self, nowait: bool = False, *reason: Any, **named: Any) -> None:
        writer = self._writer
        try:
            await super().disconnect(nowait, *reason, **named)  # type: ignore[misc]
        except TooLong:
            nowait = True
        if nowait and writer is not None:
            writer.transport.abort()


class _Tcp(_Bounded, Connection):
    pass


class _Tls(_Bounded, SSLConnection):
    async def _connect(self) -> None:
        self.ssl_context.context = shared_context(self.ssl_context)
        await super()._connect()  # type: ignore[no-untyped-call]


class _Unix(_Bounded, UnixDomainSocketConnection):
    pass


class _TcpToMaster(LeadsToMaster, _Tcp):
    pass


class _TlsToMaster(LeadsToMaster, _Tls):
    pass


def open_pool(
    url: str | StoreUrl,
    *,
    timeout_s: float = TIMEOUT_S,
    reply_timeout_s: float | None,
    max_connections: int = MAX_CONNECTIONS,
    node: Address | None = None,
) -> Any:
    """Makes a pool of connections to a single server, to the master that sentinels name, or to a `node` of a cluster.

    `timeout_s` bounds each of: waiting for a free connection, connecting and sending; `reply_timeout_s` the reply.
    """
    url = parse_store_url(url) if isinstance(url, str) else url
    limits = _limits(timeout_s, reply_timeout_s)
    return BlockingConnectionPool(
        max_connections=max_connections, timeout=timeout_s, **limits, **_where(url, node, timeout_s)
    )


async def renew(pool: Any) -> None:
    """Replaces every connection of a pool before its next use; a call under way finishes first.

    After a failover the store's name or virtual address leads to another node, but an open connection does not.
    """
    await pool.update_active_connections_for_reconnect()
    await pool.disconnect(inuse_connections=False)


def sentinels_of(url: StoreUrl, timeout_s: float) -> Sentinels:
    """Sentinels that the URL names, asked over connections of their own: with TLS where the URL says so."""

    def opened(address: Address, username: str | None, password: str | None) -> Any:
        kind: Any = _Tls if url.encrypted else _Tcp
        options = {**_limits(timeout_s, timeout_s), **_tcp(url, address)}
        return kind(username=username, password=password, **options)

    return Sentinels(url, opened, timeout_s)


def _where(url: StoreUrl, node: Address | None, timeout_s: float) -> dict[str, Any]:
    """Address and credentials as arguments for redis-py's pools."""
    login = {"db": url.db, "username": url.username, "password": url.password}
    if url.scheme == "unix":
        return {"connection_class": _Unix, "path": url.path, **login}
    if url.kind == "sentinel":
        kind: type = _TlsToMaster if url.encrypted else _TcpToMaster
        login["sentinels"] = sentinels_of(url, timeout_s)  # type: ignore[assignment]
    else:
        kind = _Tls if url.encrypted else _Tcp
    return {"connection_class": kind, **_tcp(url, node or url.addresses[0]), **login}


def _tcp(url: StoreUrl, address: Address) -> dict[str, Any]:
    return {"host": address.host, "port": address.port, "socket_keepalive": True, **dict(url.tls)}


def _limits(timeout_s: float, reply_timeout_s: float | None) -> dict[str, Any]:
    return {
        "socket_timeout": reply_timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        # Protocol 3 is no faster and costs two more round trips for each connection (HELLO, maintenance notifications).
        "protocol": 2,
    }
