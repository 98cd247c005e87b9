"""Throwaway stores behind sentinels: a real master, two real replicas and three real sentinels in a `with` block."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from stores import ThrowawayStore, TlsFiles, wait_until

from bandit_serve.processes.child import start_child

SERVICE = "bandits"
N_SENTINELS = 3
QUORUM = 2
DOWN_AFTER_MS = 1_000


class ThrowawaySentinel(ThrowawayStore):
    """Sentinel with a file of its own, which it rewrites."""

    def __init__(self, master: ThrowawayStore, *, binary: Path | None, lines: str = "") -> None:
        super().__init__(binary=binary, tcp=True, tls=master.tls)
        listens = {"port": str(self.port)} if self.tls is None else self.tls.options(self.port)
        opened = "".join(f"{name} {value}\n" for name, value in listens.items())
        self._file = self.directory / "sentinel.conf"
        watched = f"{SERVICE} 127.0.0.1 {master.port} {QUORUM}"
        self._file.write_text(
            f"{opened}bind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {watched}\nsentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 6000\nsentinel parallel-syncs {SERVICE} 1\n{lines}"
        )

    def start(self, *, wait: bool = True) -> None:
        with open(self.directory / "log", "ab") as log:
            command = [str(self.binary), str(self._file), "--sentinel"]
            self._process, self._keeper = start_child(command, output=log.fileno())
        if wait:
            wait_until(self._has_started)


class ThrowawaySentinels:
    """Service `bandits` of one master, two replicas and three sentinels. Servers that were killed can be revived."""

    def __init__(
        self,
        *,
        binary: Path | None = None,
        appendfsync: str = "everysec",
        options: Mapping[str, str] | None = None,
        sentinel_lines: str = "",
        tls: TlsFiles | None = None,
    ) -> None:
        common = {"repl-diskless-sync-delay": "0", **(options or {})}
        self.servers: list[ThrowawayStore] = []
        for _ in range(3):
            follows = {"replicaof": f"127.0.0.1 {self.servers[0].port}"} if self.servers else {}
            self.servers.append(
                ThrowawayStore(
                    binary=binary,
                    tcp=True,
                    appendfsync=appendfsync,
                    options={**common, **follows},
                    tls=tls,
                )
            )
        self.sentinels = [
            ThrowawaySentinel(self.servers[0], binary=binary, lines=sentinel_lines)
            for _ in range(N_SENTINELS)
        ]

    @property
    def url(self) -> str:
        scheme = "redis+sentinel" if self.servers[0].tls is None else "rediss+sentinel"
        return f"{scheme}://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}"

    def master(self) -> ThrowawayStore:
        """Server that the sentinel names which knows of most failovers."""
        _, port = max(self._named())
        return next(server for server in self.servers if server.port == port)

    def _named(self) -> list[tuple[int, int]]:
        """Of each sentinel, the number of failovers that it knows of, and the port of its master."""
        named = []
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                about: Any = client.sentinel_master(SERVICE)
                _, port = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
            named.append((int(about["config-epoch"]), int(port)))
        return named

    def wait_until_whole(self, n_replicas: int = 2) -> None:
        """Returns when the sentinels know each other and `n_replicas` replicas, which follow."""
        wait_until(lambda: self._is_whole(n_replicas))

    def _is_whole(self, n_replicas: int) -> bool:
        try:
            for sentinel in self.sentinels:
                with sentinel.client() as client:
                    about: Any = client.sentinel_master(SERVICE)
                if about["num-other-sentinels"] != N_SENTINELS - 1 or "down" in str(about["flags"]):
                    return False
                if about["num-slaves"] < 2:
                    return False
            if len(set(self._named())) > 1:
                return False
            with self.master().client() as client:
                replication: Any = client.info("replication")
        except redis.RedisError:
            return False
        following = [about for about in replication.values() if isinstance(about, dict)]
        return sum(about.get("state") == "online" for about in following) >= n_replicas

    def fail_over(self) -> ThrowawayStore:
        """Kills the master; returns it when the sentinels have made another."""
        old = self.master()
        old.kill()
        wait_until(lambda: self._has_other_master(old))
        return old

    def _has_other_master(self, old: ThrowawayStore) -> bool:
        new = self.master()
        try:
            with new.client() as client:
                replication: Any = client.info("replication")
        except redis.RedisError:
            return False
        return new is not old and replication["role"] == "master"

    def revive(self, server: ThrowawayStore) -> None:
        """Starts a server that was killed; returns when both replicas follow."""
        # It may have been a replica of a server that is none any more; sentinels tell it.
        server.start()
        self.wait_until_whole()

    def __enter__(self) -> Self:
        starting = [threading.Thread(target=server.start) for server in self.servers]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        for sentinel in self.sentinels:
            sentinel.start()
        self.wait_until_whole()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (*self.sentinels, *self.servers):
            server.__exit__(kind, error, trace)
