"""Clusters with a node whose clock is wrong, and with two services at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import redis
from clusters import ThrowawayCluster
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    counted_in,
    log,
    make_experiment,
    wait_until_all_serve,
)
from load import Load, Tally
from scale import scaled
from services import ThrowawayService
from stores import server_binaries, wait_until
from wall_clock import WallClock, needs_faketime

from bandit_serve.log.times import CLOCK_TOLERANCE_MS
from bandit_serve.store.keys import BY_BUCKET, COMMON, Keys

KEYS = Keys(layout=BY_BUCKET)
WORKERS = 2
HOUR_S = 3_600
VISITS = scaled(40, 2_000)


def client_of(cluster: ThrowawayCluster) -> Any:
    return redis.RedisCluster(host="127.0.0.1", port=cluster.alive()[0].port)


def name_on(cluster: ThrowawayCluster, number: int, stem: str = "e") -> str:
    """Name of an experiment whose keys are on the master with this number."""
    port = cluster.nodes[number].port
    names = (f"{stem}{i}" for i in range(10_000))
    return next(name for name in names if cluster.master_of(KEYS.log(name)).port == port)


def common_node(cluster: ThrowawayCluster) -> int:
    port = cluster.master_of(KEYS.log(COMMON)).port
    return next(number for number, node in enumerate(cluster.nodes) if node.port == port)


def assert_at_log_time(client: Any, name: str, began_ms: float) -> None:
    """All entries are of the time that the test took, by the clock of the common keys' master, which is right."""
    times = [entry.offset.time_ms for entry in log(client, name, KEYS)]
    assert times == sorted(times)
    assert began_ms - CLOCK_TOLERANCE_MS <= times[0]
    assert times[-1] <= time.time() * 1000 + CLOCK_TOLERANCE_MS


@needs_faketime
@pytest.mark.timeout(600)
@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_one_node_has_a_wrong_clock(tmp_path: Path, step_s: int) -> None:
    """Its experiments are logged at log time and their windows close on time, before and after it fails over."""
    wall = WallClock(tmp_path, step_s)
    cluster = ThrowawayCluster(appendfsync="no")
    # Another master has the common keys, whose clock log time is.
    wrong = 0
    cluster.nodes[wrong].binary = wall.wrapped(server_binaries()[0])
    with cluster:
        assert common_node(cluster) != wrong
        names = (name_on(cluster, wrong), name_on(cluster, 1))
        assert (tmp_path / "wall-clock").read_text().strip() == f"{step_s:+d}"
        began_ms = time.time() * 1000
        with ThrowawayService(tmp_path / "d", store=cluster.url, workers=WORKERS) as service:
            wait_until_all_serve(service, WORKERS)
            for name in names:
                make_experiment(service, name)
            make_experiment(service, quick := name_on(cluster, wrong, "quick"), missing="zero", window="2s")
            loads = [Load(service.port, name, clients=3, seed=i) for i, name in enumerate(names)]
            for load in loads:
                load.__enter__()
            try:
                decided = service.call("POST", f"/v1/experiments/{quick}/decide", {"unit": "u"})
                assert decided.status == 200
                for load in loads:
                    load.wait_for_visits(VISITS)
                dead = cluster.fail_over(KEYS.log(names[0]))
                for load in loads:
                    load.wait_for_visits(VISITS)
                cluster.revive(dead)
            finally:
                for load in loads:
                    load.__exit__(None, None, None)
            # The decision without a reward counts as zero once its window has closed.
            wait_until(lambda: counted(service, quick) == 1)
            wait_until_all_serve(service, WORKERS)
            with client_of(cluster) as client:
                for name, load in zip(names, loads, strict=True):
                    check(service, client, name, load.tally)
                    assert_at_log_time(client, name, began_ms)
                assert_at_log_time(client, quick, began_ms)


def counted(service: ThrowawayService, name: str) -> int:
    results = service.call("GET", f"/v1/experiments/{name}/results")
    assert results.status == 200, results
    return sum(arm["metrics"]["click"]["n"] for arm in results.body["arms"])


def check(service: ThrowawayService, client: Any, name: str, tally: Tally) -> None:
    assert_counted(service, client, name, tally, KEYS)
    assert_states_equal_replay(client, name, WORKERS, KEYS)


@pytest.mark.timeout(900)
def test_two_services_at_once_on_a_cluster(tmp_path: Path) -> None:
    """Both take decisions and rewards of the same experiments through failovers: all is counted once, by both alike."""
    with (
        ThrowawayCluster() as cluster,
        ThrowawayService(
            tmp_path / "a", "--store-replicas", "1", store=cluster.url, workers=WORKERS
        ) as first,
        ThrowawayService(
            tmp_path / "b", "--store-replicas", "1", store=cluster.url, workers=WORKERS
        ) as second,
    ):
        for service in (first, second):
            wait_until_all_serve(service, WORKERS)
        names = ("checkout", "landing")
        for name in names:
            make_experiment(first, name)
        loads = {
            (service.port, name): Load(service.port, name, clients=3, pause_s=0.02, seed=i)
            for i, (service, name) in enumerate((s, n) for s in (first, second) for n in names)
        }
        for load in loads.values():
            load.__enter__()
        try:
            for number in range(scaled(2, 10)):
                cluster.revive(cluster.fail_over(KEYS.log(names[0] if number % 2 == 0 else COMMON)))
                for load in loads.values():
                    load.wait_for_visits(20)
        finally:
            for load in loads.values():
                load.__exit__(None, None, None)
        for service in (first, second):
            wait_until_all_serve(service, WORKERS)
        with client_of(cluster) as client:
            for name in names:
                both = Tally()
                for service in (first, second):
                    tally = loads[service.port, name].tally
                    both.acknowledged.update(tally.acknowledged)
                    both.failures += tally.failures
                for service in (first, second):
                    assert_counted(service, client, name, both, KEYS)
                    wait_until(lambda s=service, n=name, b=both: counted_in(s, n) == len(b.acknowledged))  # type: ignore[misc]
                assert_states_equal_replay(client, name, 2 * WORKERS, KEYS)
        # What one changes, the other one knows.
        assert second.call("POST", f"/v1/experiments/{names[1]}/pause").status == 200
        assert first.call("GET", f"/v1/experiments/{names[1]}").body["status"] == "paused"
