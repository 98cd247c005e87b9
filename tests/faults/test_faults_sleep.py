"""Workers that sleep while logs are trimmed and leases expire, and windows that close across restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from consistency_checks import (
    KEYS,
    assert_states_equal_replay,
    counted_in,
    make_experiment,
    private_store,
    replay,
    wait_until_all_serve,
)
from load import Load
from scale import scaled
from services import ThrowawayService
from stores import gone, wait_until

from bandit_serve.log.offset import Offset

WORKERS = 2
TRIM_S = 40.0
END = Offset(2**62, 0)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    flags = ("--retention-time", "1s", "--snapshot-every", "1s")
    with ThrowawayService(tmp_path, *flags, workers=WORKERS) as running:
        yield running


def trimmed(client: redis.Redis, name: str) -> Offset:
    return Offset.parse(client.get(KEYS.trimmed(name)) or b"0-0")  # type: ignore[arg-type]


def last(client: redis.Redis, name: str) -> Offset:
    return Offset.parse(client.xinfo_stream(KEYS.log(name))["last-generated-id"])


def lease_holder(service: ThrowawayService, client: redis.Redis) -> int:
    """The worker, by its process id."""

    def held() -> bool:
        return client.get(KEYS.lease) is not None

    wait_until(held)
    holder = client.get(KEYS.lease).decode()  # type: ignore[union-attr]
    workers = service.call("GET", "/v1/stats").body["workers"]
    return next(worker["pid"] for worker in workers if worker["id"] == holder)


@pytest.mark.timeout(300)
def test_a_worker_that_slept_through_a_trim_has_the_right_state(service: ThrowawayService) -> None:
    wait_until_all_serve(service, WORKERS)
    make_experiment(service, "sleepy")
    with private_store(service) as client, Load(service.port, "sleepy") as load:
        for round_ in range(scaled(1, 4)):
            load.wait_for_visits(200)
            holder = lease_holder(service, client)
            (other,) = set(service.worker_pids()) - {holder}
            # In the odd rounds the one that trims sleeps, and another takes its place.
            sleeper = holder if round_ % 2 else other
            os.kill(sleeper, signal.SIGSTOP)
            try:
                asleep = last(client, "sleepy")
                wait_until(lambda asleep=asleep: trimmed(client, "sleepy") > asleep, TRIM_S)
            finally:
                os.kill(sleeper, signal.SIGCONT)
            load.wait_for_visits(200)
            wait_until_all_serve(service, WORKERS)
            assert_states_equal_replay(client, "sleepy", WORKERS)
        os.kill(sleeper, signal.SIGKILL)
        wait_until(lambda: gone(sleeper))
        wait_until_all_serve(service, WORKERS)
        assert_states_equal_replay(client, "sleepy", WORKERS)
    n = len(load.tally.acknowledged)
    assert not load.tally.failures, load.tally.failures[:5]
    results = service.call("GET", "/v1/experiments/sleepy/results").body
    assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == n
    assert counted_in(service, "sleepy") == n


@pytest.mark.timeout(300)
def test_windows_close_once_across_restarts(service: ThrowawayService) -> None:
    wait_until_all_serve(service, WORKERS)
    make_experiment(service, "closing", window="1s", missing="zero")
    with Load(service.port, "closing", strict=True, rewarded=0.5, may_be_late=True) as load:
        for _ in range(scaled(1, 6)):
            load.wait_for_visits(100)
            assert service.stop() == 0
            service.start()
        load.wait_for_visits(100)
    assert not load.tally.failures, load.tally.failures[:5]
    n_decisions, n_ones = len(load.tally.decisions), sum(load.tally.acknowledged.values())
    assert len(load.tally.acknowledged) < 0.7 * n_decisions
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:

        def closed() -> bool:
            pending = replay(client, "closing", END).pending
            return pending is not None and pending.next_close_ms() is None

        wait_until(closed, TRIM_S)
        policy = replay(client, "closing", END).policy.state()
        assert_states_equal_replay(client, "closing", WORKERS)
    results = service.call("GET", "/v1/experiments/closing/results").body
    clicks = [arm["metrics"]["click"] for arm in results["arms"]]
    assert sum(click["n"] for click in clicks) == n_decisions
    assert sum(click["n"] * click["mean"] for click in clicks) == pytest.approx(n_ones)
    assert results["pending"] == 0
    assert sum(arm["exposures"] for arm in results["arms"]) == n_decisions
    assert sum(policy["statistics"]["n"]) == n_decisions
    assert sum(policy["statistics"]["total"]) == n_ones
