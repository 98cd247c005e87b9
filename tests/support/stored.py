"""A store's keys in a file: logs and snapshots of an earlier build, to be read by this one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import redis

FOLDER = Path(__file__).parents[1] / "stored"
# Keys that end by the store's clock: workers, leases, caches.
PASSING = ("workers", "lease", "loaded", "clock")


def stored_files() -> list[Path]:
    return sorted(FOLDER.glob("*.keys"))


def keys_of(client: redis.Redis) -> Iterator[tuple[bytes, str, Any]]:
    """Every key that lasts: its name, its type and what it holds."""
    for key in sorted(client.scan_iter(count=1_000)):
        if key.decode().rpartition(":")[2] in PASSING:
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


def save(path: Path, client: redis.Redis, expected: dict[str, Any]) -> None:
    """Writes every key of a store, and what its logs are expected to give."""
    content = {"keys": list(keys_of(client)), "expected": expected}
    path.write_bytes(zlib.compress(msgpack.packb(content), level=9))


def restore(path: Path, client: redis.Redis) -> dict[str, Any]:
    """Fills an empty store with the keys of a file; what their logs are expected to give."""
    content: dict[str, Any] = msgpack.unpackb(zlib.decompress(path.read_bytes()))
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
