"""Facts that a store reports of itself: what an acknowledged write survives, and whether the store may be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from bandit_serve.errors import StoreRefused
from bandit_serve.store.failures import READ_ONLY, translate_errors

MIN_REDIS_VERSION = (6, 2)
UNKNOWN = "unknown"
REPLICA = re.compile(r"slave\d+")
SURVIVES_CRASH = "A 200 survives a crash of the store's process"


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """One reading of a store's facts. Texts are the store's own words (`yes`, `everysec`, `master`), or "unknown"."""

    name: str
    """`redis` or `valkey`."""
    version: tuple[int, ...]
    maxmemory: int
    """Bytes; 0 means no limit."""
    maxmemory_policy: str
    used_memory: int
    """Bytes."""
    appendonly: str
    appendfsync: str
    save: str
    """Schedule of snapshots; empty means none."""
    role: str
    replicas: int
    cluster_enabled: bool
    online_replicas: int = 0
    """Those of the replicas that have the data and follow."""
    min_replicas: str = "0"
    """Its min-replicas-to-write."""
    is_sentinel: bool = False

    @property
    def durability(self) -> str:
        """Sentence that says what an acknowledged write survives on this store."""
        return self.on_this_node + (
            "; a failover may lose what no replica had yet." if self.replicas else "."
        )

    @property
    def on_this_node(self) -> str:
        """What an acknowledged write survives without a failover; a sentence without its full stop."""
        if self.appendonly == "no":
            if self.save == "":
                return "A 200 means in memory only: a crash or a restart of the store loses everything"
            return "A 200 means in memory only: a crash of the store loses what came after its last snapshot"
        if self.appendonly != "yes":
            return "Whether a 200 means on disk is unknown: the store does not say how it persists"
        match self.appendfsync:
            case "always":
                return "A 200 means on that node's disk"
            case "everysec":
                return f"{SURVIVES_CRASH}; a power cut may lose up to about two seconds"
            case "no":
                return f"{SURVIVES_CRASH}; a power cut may lose what the system wrote late, some 30 seconds"
            case _:
                return f"{SURVIVES_CRASH}; what a power cut may lose is unknown, as it hides its appendfsync"


async def inspect(client: Redis) -> StoreFacts:
    """Reads a server's facts, with one INFO and three CONFIG GET.

    Where CONFIG is forbidden, as on many managed stores, what it would tell is "unknown".
    Raises StoreUnavailable or StoreRefused.
    """
    with translate_errors():
        info = await client.info()
        config: dict[str, str] = {}
        try:
            for option in ("appendfsync", "save", "min-replicas-to-write"):
                config |= {str(name): str(value) for name, value in (await client.config_get(option)).items()}
        except ResponseError:
            config = {}
    return _facts(info, config)


def check(facts: StoreFacts, *, in_cluster: bool = False) -> None:
    """Raises StoreRefused where rewards could be lost or count twice on this server; the sentence says what to change.

    For a replica the error's `what` is `store_read_only`: after a failover it may be the primary in a moment.
    in_cluster: the server was named as a node of a cluster.
    """
    if facts.name == "redis" and facts.version < MIN_REDIS_VERSION:
        raise StoreRefused(
            f"The store is Redis {_dotted(facts.version)}: {_dotted(MIN_REDIS_VERSION)} or later, or Valkey, is needed."
        )
    if facts.is_sentinel:
        raise StoreRefused(
            "The store is a sentinel: name it as redis+sentinel://host:port,host:port/SERVICE."
        )
    if facts.role not in ("master", UNKNOWN):
        raise StoreRefused("The store is a read-only replica: name the primary instead.", what=READ_ONLY)
    if facts.cluster_enabled and not in_cluster:
        raise StoreRefused(
            "The store is a node of a Redis Cluster: name it as redis+cluster://host:port,host:port."
        )
    if facts.maxmemory_policy != "noeviction":
        raise StoreRefused(
            f"The store may evict what it holds (maxmemory-policy is {facts.maxmemory_policy}), and rewards "
            "would then be lost or count twice: run `CONFIG SET maxmemory-policy noeviction` on it and put "
            "the same in its configuration, or choose noeviction in the managed store's parameters."
        )


def _facts(info: Mapping[str, Any], config: Mapping[str, str]) -> StoreFacts:
    valkey = "valkey_version" in info
    return StoreFacts(
        name="valkey" if valkey else "redis",
        # Valkey's redis_version is the version of Redis that it is compatible with, not its own.
        version=_parsed(str(info["valkey_version" if valkey else "redis_version"])),
        maxmemory=int(info.get("maxmemory", 0)),
        maxmemory_policy=str(info.get("maxmemory_policy", UNKNOWN)),
        used_memory=int(info.get("used_memory", 0)),
        appendonly={0: "no", 1: "yes"}.get(info.get("aof_enabled", -1), UNKNOWN),
        appendfsync=config.get("appendfsync", UNKNOWN),
        save=config.get("save", UNKNOWN),
        role=str(info.get("role", UNKNOWN)),
        replicas=int(info.get("connected_slaves", 0)),
        cluster_enabled=bool(info.get("cluster_enabled", 0)),
        online_replicas=sum(_is_online(about) for name, about in info.items() if REPLICA.fullmatch(name)),
        min_replicas=config.get("min-replicas-to-write", UNKNOWN),
        is_sentinel="sentinel" in (info.get("redis_mode"), info.get("server_mode")),
    )


def _is_online(replica: Any) -> bool:
    return isinstance(replica, Mapping) and replica.get("state") == "online"


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
