"""Failovers and a slot that moves, under a load of decisions and rewards: what was acknowledged is counted, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from clusters import ThrowawayCluster
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    counted_in,
    make_experiment,
    wait_until_all_serve,
)
from load import Load, Tally
from scale import scaled
from sentinel_sets import ThrowawaySentinels
from services import ThrowawayService
from stores import wait_until

from bandit_serve.store.keys import BY_BUCKET, BY_EXPERIMENT, Keys

WORKERS = 2
NAMES = ("checkout", "landing", "search")
CONFIRMING = ("--store-replicas", "1")


def is_well(service: ThrowawayService) -> bool:
    return bool(service.call("GET", "/health/ready").body["status"] == "ready")


def under_load(
    service: ThrowawayService, names: tuple[str, ...], disturb: Callable[[list[Load]], None]
) -> dict[str, Tally]:
    """Disturbs the store while each experiment takes decisions and rewards; returns what its clients saw."""
    loads = [Load(service.port, name, clients=4, pause_s=0.01, seed=i) for i, name in enumerate(names)]
    for load in loads:
        load.__enter__()
    try:
        for load in loads:
            load.wait_for_visits(20)
        since_s = time.monotonic()
        disturb(loads)
        until_s = time.monotonic()
        wait_until(lambda: is_well(service))
        for load in loads:
            load.wait_for_visits(20)
    finally:
        for load in loads:
            load.__exit__(None, None, None)
    for load in loads:
        took_ms = load.tally.decision_p99_ms(since_s, until_s)
        print(f"p99 of a decision in {until_s - since_s:.1f} s of failovers: {took_ms:.1f} ms")
    return {name: load.tally for name, load in zip(names, loads, strict=True)}


def assert_all_is_counted(
    service: ThrowawayService, client: Any, tallies: dict[str, Tally], keys: Keys
) -> None:
    wait_until_all_serve(service, WORKERS)
    for name, tally in tallies.items():
        unanswered = [reply for _, _, reply in tally.rewards if reply.status == 503]
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in unanswered)
        assert_counted(service, client, name, tally, keys)
        assert_states_equal_replay(client, name, WORKERS, keys)
        assert counted_in(service, name) == len(tally.acknowledged)


@pytest.mark.timeout(900)
def test_a_cluster_fails_over_and_moves_a_slot_under_load(tmp_path: Path) -> None:
    keys = Keys(layout=BY_BUCKET)
    with (
        ThrowawayCluster() as cluster,
        ThrowawayService(tmp_path, *CONFIRMING, store=cluster.url, workers=WORKERS) as service,
    ):
        wait_until_all_serve(service, WORKERS)
        for name in NAMES:
            make_experiment(service, name)
        pids = service.worker_pids()

        def disturb(loads: list[Load]) -> None:
            for i in range(scaled(2, 10)):
                # In turn an experiment's shard and that of the common keys.
                log_of = NAMES[i // 2 % len(NAMES)] if i % 2 == 0 else ".common"
                dead = cluster.fail_over(keys.log(log_of))
                for name, load in zip(NAMES, loads, strict=True):
                    # With one replica a shard, that of the dead master has none left to confirm rewards.
                    load.wait_for_visits(0 if cluster.is_bare(keys.log(name)) else 20)
                cluster.revive(dead)
                for load in loads:
                    load.wait_for_visits(20)
            cluster.move_slot(keys.log(NAMES[0]), pause_s=0.02, batch=2)

        tallies = under_load(service, NAMES, disturb)
        assert any(tally.statuses[503] for tally in tallies.values())
        assert not any("a background task ended" in line for line in service.output)
        print("workers replaced:", len(set(pids) - set(service.worker_pids())))
        with redis.RedisCluster(host="127.0.0.1", port=cluster.alive()[0].port) as client:
            assert_all_is_counted(service, client, tallies, keys)


@pytest.mark.timeout(900)
def test_sentinels_fail_over_under_load(tmp_path: Path) -> None:
    keys = Keys(layout=BY_EXPERIMENT)
    with (
        ThrowawaySentinels() as servers,
        ThrowawayService(tmp_path, *CONFIRMING, store=servers.url, workers=WORKERS) as service,
    ):
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "checkout")
        pids = service.worker_pids()

        def disturb(loads: list[Load]) -> None:
            for _ in range(scaled(2, 10)):
                dead = servers.fail_over()
                loads[0].wait_for_visits(20)
                servers.revive(dead)

        tallies = under_load(service, ("checkout",), disturb)
        assert tallies["checkout"].statuses[503]
        assert not any("a background task ended" in line for line in service.output)
        print("workers replaced:", len(set(pids) - set(service.worker_pids())))
        with servers.master().client() as client:
            assert_all_is_counted(service, client, tallies, keys)
