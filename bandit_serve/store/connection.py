"""Connections to a named store.

Nothing is sent twice. By default redis-py re-sends a command whose reply was lost, and a write could then count twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as TooLong

from bandit_serve.errors import NotBuilt, UsageError
from bandit_serve.store.facts import check, inspect

TIMEOUT_S = 1.0
MAX_CONNECTIONS = 32
DEFAULT_PORT = 6379
SCHEMES = "redis://, rediss:// or unix://"
NOT_BUILT = {"redis+cluster": "Redis Cluster", "redis+sentinel": "Redis Sentinel"}
# The only query arguments that are allowed: redis-py would take any of its own from the URL, retries among them.
CREDENTIALS = ("username", "password")
TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
CERT_REQS = ("none", "optional", "required")
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class _Cancellable:
    """Connection of redis-py that can be cancelled while it sends.

    It would send under `asyncio.wait_for`, which loses a cancellation in Python 3.11 when what it waits for has just
    ended. Ctrl-C was lost so.
    """

    socket_timeout: Any

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        limit_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit_s):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except TimeoutError:
            raise TooLong("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit_s


class _Tcp(_Cancellable, Connection):
    pass


class _Tls(_Cancellable, SSLConnection):
    pass


class _Unix(_Cancellable, UnixDomainSocketConnection):
    pass


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Address and credentials of a store. Neither `str` nor `repr` shows the password."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: tuple[tuple[str, str | bool], ...] = ()

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.db}"

    def connection(self) -> dict[str, Any]:
        """Address and credentials as arguments for redis-py's connection pools."""
        where: dict[str, Any]
        if self.scheme == "unix":
            where = {"connection_class": _Unix, "path": self.path}
        else:
            where = {
                "connection_class": _Tls if self.scheme == "rediss" else _Tcp,
                "host": self.host,
                "port": self.port,
                "socket_keepalive": True,
                **dict(self.tls),
            }
        return {**where, "db": self.db, "username": self.username, "password": self.password}


def parse_store_url(url: str) -> StoreUrl:
    """Reads `redis://[user:password@]host[:port][/db]`, `rediss://` (TLS) or `unix:///path[?db=n&password=…]`.

    Query arguments: `db`, `username`, `password` and, with rediss://, redis-py's `ssl_*` files and checks.
    Raises UsageError, or NotBuilt for redis+cluster:// and redis+sentinel://. No message quotes the URL: in a malformed
    one, any piece may belong to the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(
            "The store's URL cannot be read: write special characters in a password as %xx, "
            "and the port as a number."
        ) from None
    if parts.scheme in NOT_BUILT:
        raise NotBuilt(
            f"{NOT_BUILT[parts.scheme]} ({parts.scheme}://) is not supported yet: name a single node."
        )
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise UsageError(f"The store's URL must begin with {SCHEMES}.")
    if parts.fragment:
        raise UsageError("The store's URL has a '#' in it: write it as %23.")
    query = _query(parts.scheme, parts.query)
    username = query.pop("username", None) or unquote(parts.username or "") or None
    password = query.pop("password", None) or unquote(parts.password or "") or None
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.startswith("/"):
            raise UsageError("A unix:// store is named by an absolute path: unix:///path/to/store.sock.")
        return StoreUrl(
            "unix",
            path=unquote(parts.path),
            db=_database(query.get("db", "0")),
            username=username,
            password=password,
        )
    return StoreUrl(
        parts.scheme,
        host=unquote(parts.hostname or "localhost"),
        port=port if port is not None else DEFAULT_PORT,
        db=_database(query.pop("db", "") or parts.path.strip("/") or "0"),
        username=username,
        password=password,
        tls=tuple(sorted((name, _tls_value(name, value)) for name, value in query.items())),
    )


def open_client(
    url: str | StoreUrl, *, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS
) -> Redis:
    """Makes a client for commands that answer at once; it connects when first used.

    `timeout_s` bounds each of: waiting for a free connection, connecting, sending, and the reply.
    Replies are bytes. Close it with `aclose()`.
    """
    return _client(url, reply_timeout_s=timeout_s, timeout_s=timeout_s, max_connections=max_connections)


def open_waiting_client(url: str | StoreUrl, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """Makes a client as `open_client`, without a limit on sending and reply, for callers that have their own."""
    return _client(url, reply_timeout_s=None, timeout_s=timeout_s, max_connections=MAX_CONNECTIONS)


def open_tail_client(url: str | StoreUrl, *, block_s: float, timeout_s: float = TIMEOUT_S) -> Redis:
    """Makes a client with one connection, for reads that block in the store for up to `block_s`."""
    return _client(url, reply_timeout_s=block_s + timeout_s, timeout_s=timeout_s, max_connections=1)


async def connect(
    url: str | StoreUrl, *, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS
) -> Redis:
    """Makes a client as `open_client` does, and checks that the store answers and may be used.

    Raises StoreUnavailable, StoreRefused, UsageError or NotBuilt.
    """
    client = open_client(url, timeout_s=timeout_s, max_connections=max_connections)
    try:
        check(await inspect(client))
    except BaseException:
        await client.aclose()
        raise
    return client


async def renew(client: Redis) -> None:
    """Replaces every connection of a client before its next use; a call under way finishes first.

    After a failover the store's name or virtual address leads to another node, but an open connection does not.
    """
    # Any: redis-py has no types for it.
    pool: Any = client.connection_pool
    await pool.update_active_connections_for_reconnect()
    await pool.disconnect(inuse_connections=False)


def _client(
    url: str | StoreUrl, *, reply_timeout_s: float | None, timeout_s: float, max_connections: int
) -> Redis:
    where = parse_store_url(url) if isinstance(url, str) else url
    pool = BlockingConnectionPool(
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=reply_timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        # Protocol 3 is no faster and costs two more round trips for each connection (HELLO, maintenance notifications).
        protocol=2,
        **where.connection(),
    )
    return Redis.from_pool(pool)


def _query(scheme: str, text: str) -> dict[str, str]:
    allowed = ("db", *CREDENTIALS, *(TLS if scheme == "rediss" else ()))
    query: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in allowed:
            raise UsageError(f"The store's URL has an argument other than {', '.join(allowed)}.")
        query[name] = value
    return query


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError("The database in the store's URL must be a number.")
    return int(text)


def _tls_value(name: str, value: str) -> str | bool:
    if name == "ssl_check_hostname":
        if value.lower() not in BOOLEANS:
            raise UsageError(f"{name} in the store's URL must be true or false.")
        return BOOLEANS[value.lower()]
    if name == "ssl_cert_reqs" and value not in CERT_REQS:
        raise UsageError(f"{name} in the store's URL must be one of {', '.join(CERT_REQS)}.")
    return value
