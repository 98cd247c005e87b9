"""Failovers and a slot that moves, under a load of decisions and rewards: what was acknowledged is counted, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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


class Services:
    """Two services on one store, which a load of several experiments is given to in turn."""

    def __init__(self, directory: Path, replicas: int, store: str) -> None:
        flags = ("--store-replicas", str(replicas))
        self._all = [
            ThrowawayService(directory / name, *flags, store=store, workers=WORKERS)
            for name in ("first", "second")
        ]
        self.n_workers = WORKERS * len(self._all)

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            for service in self._all:
                starting.enter_context(service)
                wait_until_all_serve(service, WORKERS)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.__exit__(kind, error, trace)

    def of(self, i: int) -> ThrowawayService:
        return self._all[i % len(self._all)]

    def are_well(self) -> bool:
        return all(service.call("GET", "/health/ready").body["status"] == "ready" for service in self._all)

    def under_load(self, disturb: Callable[[list[Load]], None]) -> dict[str, Tally]:
        """Disturbs the store while experiments take decisions and rewards; returns what their clients saw."""
        pids = [pid for service in self._all for pid in service.worker_pids()]
        loads = [Load(self.of(i).port, name, clients=4, pause_s=0.01, seed=i) for i, name in enumerate(NAMES)]
        for load in loads:
            load.__enter__()
        try:
            for load in loads:
                load.wait_for_visits(20)
            since_s = time.monotonic()
            disturb(loads)
            until_s = time.monotonic()
            wait_until(self.are_well)
            for load in loads:
                load.wait_for_visits(20)
        finally:
            for load in loads:
                load.__exit__(None, None, None)
        for load in loads:
            took_ms = load.tally.decision_p99_ms(since_s, until_s)
            print(f"p99 of a decision in {until_s - since_s:.1f} s of failovers: {took_ms:.1f} ms")
        now = [pid for service in self._all for pid in service.worker_pids()]
        print("workers replaced:", len(set(pids) - set(now)))
        return {name: load.tally for name, load in zip(NAMES, loads, strict=True)}

    def assert_all_is_counted(self, client: Any, tallies: dict[str, Tally], keys: Keys) -> None:
        for service in self._all:
            wait_until_all_serve(service, WORKERS)
            assert not any("a background task ended" in line for line in service.output)
        assert any(tally.statuses[503] for tally in tallies.values())
        for name, tally in tallies.items():
            unanswered = [reply for _, _, reply in tally.rewards if reply.status == 503]
            assert all(int(reply.headers["retry-after"]) >= 1 for reply in unanswered)
            assert_states_equal_replay(client, name, self.n_workers, keys)
            for service in self._all:
                assert_counted(service, client, name, tally, keys)
                assert counted_in(service, name) == len(tally.acknowledged)


@pytest.mark.timeout(900)
def test_a_cluster_fails_over_and_moves_a_slot_under_load(tmp_path: Path) -> None:
    keys = Keys(layout=BY_BUCKET)
    with ThrowawayCluster() as cluster, Services(tmp_path, 1, cluster.url) as services:
        for name in NAMES:
            make_experiment(services.of(0), name)

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
                    load.wait_for_visits(scaled(20, 200))
            cluster.move_slot(keys.log(NAMES[0]), pause_s=0.02, batch=2)

        tallies = services.under_load(disturb)
        with redis.RedisCluster(host="127.0.0.1", port=cluster.alive()[0].port) as client:
            services.assert_all_is_counted(client, tallies, keys)


@pytest.mark.timeout(900)
def test_sentinels_fail_over_under_load(tmp_path: Path) -> None:
    keys = Keys(layout=BY_EXPERIMENT)
    # Any of the two replicas may be promoted: where both have confirmed a reward, the new master has it.
    with ThrowawaySentinels() as servers, Services(tmp_path, 2, servers.url) as services:
        for name in NAMES:
            make_experiment(services.of(0), name)

        def disturb(loads: list[Load]) -> None:
            for _ in range(scaled(2, 10)):
                servers.revive(servers.fail_over())
                for load in loads:
                    load.wait_for_visits(scaled(20, 200))

        tallies = services.under_load(disturb)
        servers.wait_until_whole()
        with servers.master().client() as client:
            services.assert_all_is_counted(client, tallies, keys)
