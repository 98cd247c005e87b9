"""Keys of a store in a file: logs and snapshots of an earlier build, for tests of this one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import redis

FOLDER = Path(__file__).parents[1] / "stored"
# Keys that end by the store's clock: workers, leases, caches, and who has applied a change.
PASSING = ("workers", "lease", "loaded", "clock", "measurements")


def stored_files() -> list[Path]:
    return sorted(FOLDER.glob("*.keys"))


def keys_of(client: redis.Redis) -> Iterator[tuple[bytes, str, Any]]:
    """Yields every key without expiry: its name, its type and its content."""
    for key in sorted(client.scan_iter(count=1_000)):
        name = key.decode()
        if name.rpartition(":")[2] in PASSING or ":heard:" in name:
            continue
        kind = client.type(key).decode()
        match kind:
            case "stream":
                held = [[offset, sorted(fields.items())] for offset, fields in client.xrange(key)]
            case "hash":
                held = sorted(client.hgetall(key).items())
            case "zset":
                held = client.zrange(key, 0, -1, withscores=True)
            case "string":
                held = client.get(key)
            case _:
                raise AssertionError(f"{key!r} is a {kind}")
        yield key, kind, held


def save(path: Path, client: redis.Redis, expected: dict[str, Any], key: str = "") -> None:
    """Writes every key of a store to a file, with the expected folds of its logs.

    `key` is that of an admin, for a store whose service wants one.
    """
    content = {"keys": list(keys_of(client)), "expected": expected, "key": key}
    path.write_bytes(zlib.compress(msgpack.packb(content), level=9))


def content_of(path: Path) -> dict[str, Any]:
    """Content of a file: `keys`, each with its name, its type and what it holds, what is `expected`, and a `key`."""
    content: dict[str, Any] = msgpack.unpackb(zlib.decompress(path.read_bytes()))
    return content


def restore(path: Path, client: redis.Redis) -> dict[str, Any]:
    """Fills an empty store from a file; returns the expected folds of its logs."""
    content = content_of(path)
    for key, kind, held in content["keys"]:
        match kind:
            case "stream":
                for offset, fields in held:
                    client.xadd(key, dict(fields), id=offset)
            case "hash":
                client.hset(key, mapping=dict(held))
            case "zset":
                client.zadd(key, dict(held))
            case "string":
                client.set(key, held)
    expected: dict[str, Any] = content["expected"]
    return expected
