"""Throwaway Redis Clusters: three real masters and three real replicas in a `with` block."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot
from stores import ThrowawayStore, TlsFiles, wait_until

N_MASTERS = 3
RANGES = ((0, 5460), (5461, 10922), (10923, 16383))
NODE_TIMEOUT_MS = 2_000
PORTS = (20_000, 32_000)


def free_ports(n: int) -> list[int]:
    """Different ports that nobody listens on, below those that the system gives to clients."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < n:
            port = random.randrange(*PORTS)
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


class ThrowawayCluster:
    """Three masters and `replicas` for each. Servers that were killed can be started again."""

    def __init__(
        self,
        *,
        binary: Path | None = None,
        replicas: int = 1,
        appendfsync: str = "everysec",
        options: Mapping[str, str] | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.nodes = []
        self._port_is = "port" if tls is None else "tls-port"
        n_nodes = N_MASTERS * (1 + replicas)
        ports = free_ports(2 * n_nodes)
        for port, bus_port in zip(ports[:n_nodes], ports[n_nodes:], strict=True):
            cluster_options = {
                "cluster-enabled": "yes",
                "cluster-port": str(bus_port),
                "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                "repl-diskless-sync-delay": "0",
                **({} if tls is None else {"tls-cluster": "yes"}),
                **(options or {}),
            }
            node = ThrowawayStore(
                binary=binary, port=port, appendfsync=appendfsync, options=cluster_options, tls=tls
            )
            self.nodes.append(node)

    @property
    def url(self) -> str:
        scheme = "redis+cluster" if self._port_is == "port" else "rediss+cluster"
        return f"{scheme}://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    def ask(self, node: ThrowawayStore, *command: Any) -> Any:
        """Reply of one node to one command."""
        with node.client() as client:
            return client.execute_command(*command)

    def alive(self) -> list[ThrowawayStore]:
        return [node for node in self.nodes if node.answers()]

    def slots_of(self, node: ThrowawayStore) -> dict[tuple[int, int], int]:
        """Port of the master of each range of slots, as a node sees it."""
        with node.client() as client:
            told = client.execute_command("CLUSTER SHARDS")
        shards = [{_text(k): v for k, v in _pairs(shard)} for shard in told]
        found = {}
        for shard in shards:
            members = [{_text(k): v for k, v in _pairs(member)} for member in shard["nodes"]]
            master = next(
                (m for m in members if _text(m["role"]) == "master" and _text(m["health"]) == "online"), None
            )
            bounds = [int(bound) for bound in shard["slots"]]
            if master is not None:
                for first, last in zip(bounds[::2], bounds[1::2], strict=True):
                    found[first, last] = int(master[self._port_is])
        return found

    def master_of(self, key_or_slot: str | int) -> ThrowawayStore:
        slot = key_or_slot if isinstance(key_or_slot, int) else key_slot(key_or_slot.encode())
        for node in self.alive():
            for (first, last), port in self.slots_of(node).items():
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"No live node knows a master of the slot {slot}.")

    def masters(self) -> list[ThrowawayStore]:
        return [self.master_of(first) for first, _ in RANGES]

    def wait_until_whole(self, *, replicas: bool = True) -> None:
        """Returns when all live nodes agree that all slots are served, and with `replicas` all of them follow."""
        wait_until(lambda: self._is_whole(replicas))

    def _is_whole(self, replicas: bool) -> bool:
        alive = self.alive()
        try:
            infos = [self._info(node) for node in alive]
            views = {tuple(sorted(self.slots_of(node).items())) for node in alive}
        except redis.RedisError:
            return False
        if not all(info["state"] == "ok" for info in infos) or len(views) != 1:
            return False
        online = sum(info["online"] for info in infos)
        return not replicas or online == len(alive) - N_MASTERS

    def _info(self, node: ThrowawayStore) -> dict[str, Any]:
        with node.client() as client:
            replication: Any = client.info("replication")
            state = _text(client.execute_command("CLUSTER", "INFO")).split("cluster_state:")[1].split()[0]
        following = [about for about in replication.values() if isinstance(about, dict)]
        online = sum(about.get("state") == "online" for about in following)
        return {"state": state, "online": online if replication["role"] == "master" else 0}

    def fail_over(self, key_or_slot: str | int) -> ThrowawayStore:
        """Kills the master of a slot; returns it when another has taken over."""
        master = self.master_of(key_or_slot)
        master.kill()
        wait_until(lambda: self._is_whole(False) and self._is_followed(master))
        return master

    def _is_followed(self, master: ThrowawayStore) -> bool:
        """Whether all slots have masters, of which it is none. A node may learn of its death between two looks."""
        try:
            return master not in self.masters()
        except LookupError:
            return False

    def is_bare(self, key: str) -> bool:
        """Whether the master of a key has no replica."""
        with self.master_of(key).client() as client:
            replication: Any = client.info("replication")
        return bool(replication["connected_slaves"] == 0)

    def revive(self, node: ThrowawayStore) -> None:
        """Starts a server that was killed; returns when all replicas follow."""
        node.start()
        self.wait_until_whole()

    def move_slot(self, key: str, pause_s: float = 0.0, batch: int = 5) -> None:
        """Moves a key's slot to another master, `batch` keys at a time with a pause after each."""
        slot = key_slot(key.encode())
        source = self.master_of(slot)
        target = next(master for master in self.masters() if master.port != source.port)
        ids = {node.port: _text(self.ask(node, "CLUSTER", "MYID")) for node in (source, target)}
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        pause = threading.Event()
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, batch):
            self.ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
            pause.wait(pause_s)
        for node in (target, source, *self.masters()):
            self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])

    def __enter__(self) -> Self:
        starting = [threading.Thread(target=node.start) for node in self.nodes]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            self.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.ask(first, "CLUSTER", "MEET", "127.0.0.1", node.port, node.options["cluster-port"])
        for node, (low, high) in zip(self.nodes, RANGES, strict=False):
            self.ask(node, "CLUSTER", "ADDSLOTSRANGE", low, high)
        for number, node in enumerate(self.nodes[N_MASTERS:]):
            master_id = _text(self.ask(self.nodes[number % N_MASTERS], "CLUSTER", "MYID"))
            wait_until(lambda node=node, master_id=master_id: self._follows(node, master_id))
        self.wait_until_whole()
        return self

    def _follows(self, node: ThrowawayStore, master_id: str) -> bool:
        try:
            self.ask(node, "CLUSTER", "REPLICATE", master_id)
        except redis.ResponseError:  # it has not heard of that node yet
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.__exit__(kind, error, trace)


def _pairs(told: Any) -> list[tuple[Any, Any]]:
    return list(told.items()) if isinstance(told, dict) else list(zip(told[::2], told[1::2], strict=True))


def _text(told: Any) -> str:
    return told.decode() if isinstance(told, bytes) else str(told)
