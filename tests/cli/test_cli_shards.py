"""`bandit-serve doctor` on a real cluster and on servers behind real sentinels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clusters import ThrowawayCluster
from commands import Finished, bandit_serve
from sentinel_sets import ThrowawaySentinels


def checks(ran: Finished, name: str) -> list[dict[str, Any]]:
    return [each for each in ran.document["checks"] if each["name"] == name]


def test_a_cluster_is_named_with_its_shards_and_what_a_failover_may_lose(tmp_path: Path) -> None:
    with ThrowawayCluster() as cluster:
        where = ("--json", "--store", cluster.url, "--data", tmp_path)
        ran = bandit_serve("doctor", *where)
        assert ran.status == 0, ran
        assert "cluster" in checks(ran, "store")[0]["detail"]
        shards = checks(ran, "shard")
        assert len(shards) == 3
        for shard, master in zip(
            shards, sorted(cluster.masters(), key=lambda node: str(node.port)), strict=True
        ):
            assert f"127.0.0.1:{master.port}, 1 replica" in shard["detail"]
        (failover,) = checks(ran, "failover")
        assert failover["verdict"] == "warning"
        assert "min-replicas-to-write 1" in failover["advice"]
        for node in cluster.nodes:
            cluster.ask(node, "CONFIG", "SET", "min-replicas-to-write", "1")
        (guarded,) = checks(bandit_serve("doctor", *where, "--store-replicas", "1"), "failover")
        assert guarded["verdict"] == "ok"
        assert "loses no acknowledged reward" in guarded["detail"]
        too_many = bandit_serve("doctor", *where, "--store-replicas", "2")
        assert too_many.status == 1
        assert checks(too_many, "failover")[0]["verdict"] == "problem"
        evicting = cluster.masters()[1]
        cluster.ask(evicting, "CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
        refused = bandit_serve("doctor", *where)
        assert refused.status == 1
        assert f"127.0.0.1:{evicting.port}" in checks(refused, "store")[0]["advice"]
        node = bandit_serve(
            "doctor", "--json", "--store", f"redis://127.0.0.1:{evicting.port}", "--data", tmp_path
        )
        assert "redis+cluster://" in checks(node, "store")[0]["advice"]


def test_sentinels_are_named_and_counted(tmp_path: Path) -> None:
    with ThrowawaySentinels() as servers:
        ran = bandit_serve("doctor", "--json", "--store", servers.url, "--data", tmp_path)
        assert ran.status == 0, ran
        assert "behind sentinel" in checks(ran, "store")[0]["detail"]
        (shard,) = checks(ran, "shard")
        assert "2 replicas, watched by 3 sentinels" in shard["detail"]
        assert len(checks(ran, "failover")) == 1
