"""TLS contexts of connections to stores, each made once for its files."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import Any

from redis.asyncio.connection import RedisSSLContext

MAX_CONTEXTS = 8
FILES = ("keyfile", "certfile", "ca_certs")
OPTIONS = (*FILES, "cert_reqs", "ca_path", "ca_data", "check_hostname", "min_version", "ciphers", "password")


def shared_context(wanted: RedisSSLContext) -> ssl.SSLContext:
    """Context with the options of `wanted`, read anew when one of its files has changed.

    redis-py makes one for each connection, which reads all authorities of the system: that takes tens of milliseconds,
    in which the loop does nothing else. Behind sentinels there would be four for every new connection.
    """
    options = tuple((name, getattr(wanted, name)) for name in OPTIONS)
    return _context(options, tuple(_changed_ns(getattr(wanted, name)) for name in FILES))


@lru_cache(maxsize=MAX_CONTEXTS)
def _context(options: tuple[tuple[str, Any], ...], changed_ns: tuple[int, ...]) -> ssl.SSLContext:
    return RedisSSLContext(**dict(options)).get()


def _changed_ns(file: str | None) -> int:
    if file is None:
        return 0
    try:
        return os.stat(file).st_mtime_ns
    except OSError:  # whoever reads it says so
        return 0
