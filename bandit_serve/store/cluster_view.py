"""View that one node has of its Redis Cluster: which master has which slots, and which replicas follow it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bandit_serve.store.url import Address

N_SLOTS = 16_384


class Shard(NamedTuple):
    """Master, its replicas, and its ranges of slots, each with its first and its last."""

    master: Address
    replicas: tuple[Address, ...]
    ranges: tuple[tuple[int, int], ...]

    @property
    def n_slots(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)


class ClusterView(NamedTuple):
    """Shards as a node knows them. `whole`: it finds all slots served; `epoch` counts the changes that it knows of."""

    whole: bool
    epoch: int
    shards: tuple[Shard, ...]

    @property
    def addresses(self) -> Iterator[Address]:
        for shard in self.shards:
            yield shard.master
            yield from shard.replicas

    @classmethod
    def of(cls, info: bytes, slots: list[Any], asked: Address) -> ClusterView:
        """Reads the replies of `asked` to CLUSTER INFO and CLUSTER SLOTS. A node that names no host means its own."""
        told = dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
        ranges: dict[Address, list[tuple[int, int]]] = {}
        replicas: dict[Address, tuple[Address, ...]] = {}
        for first, last, *nodes in slots:
            master, *followers = [_address(node, asked) for node in nodes]
            ranges.setdefault(master, []).append((int(first), int(last)))
            replicas[master] = tuple(followers)
        shards = tuple(
            Shard(master, replicas[master], tuple(held)) for master, held in sorted(ranges.items())
        )
        epoch = int(told.get("cluster_current_epoch", 0))
        return cls(told.get("cluster_state") == "ok", epoch, shards)


def _address(node: list[Any], asked: Address) -> Address:
    host = (node[0] or b"").decode()
    return Address(asked.host if host in ("", "?") else host, int(node[1]))
