"""SIGKILL of workers and of the private server under rewards by unit: every sum is the ledger's, to the last bit."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import assert_states_equal_replay, private_store, wait_until_all_serve
from logged_values import values_by_unit
from scale import scaled
from services import ThrowawayService
from stores import gone, wait_until
from unit_load import METRICS, UnitLoad

WORKERS = 2


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    # Snapshots and trims go on meanwhile.
    with ThrowawayService(tmp_path, "--snapshot-every", "1s", workers=WORKERS) as running:
        described = {
            "id": "shop",
            "arms": [{"name": "control"}, {"name": "challenger"}],
            "unit": "user",
            "policy": {"kind": "fixed_split"},
            "metrics": METRICS,
            "attribution": {"window": "1h", "missing": "ignore"},
        }
        assert running.call("POST", "/v1/experiments", described).status == 201
        assert running.call("POST", "/v1/experiments/shop/start").status == 200
        yield running


def assert_as_ledger(service: ThrowawayService, load: UnitLoad) -> None:
    assert not load.tally.failures, load.tally.failures[:5]
    assert {"accepted", "corrected", "retracted"} <= set(load.tally.verdicts)
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:
        values = sorted(values_by_unit(client, "shop").values())
        assert_states_equal_replay(client, "shop", WORKERS)
    expected = load.sums
    assert list(map(repr, values)) == list(map(repr, sorted(expected.values())))
    arms = service.call("GET", "/v1/experiments/shop/results").body["arms"]
    assert sum(arm["metrics"]["spend"]["n"] for arm in arms) == len(expected)
    print(len(values), "units", dict(load.tally.verdicts), dict(load.tally.statuses), load.tally.dropped)


@pytest.mark.timeout(900)
def test_rewards_by_unit_count_once_while_workers_are_killed(service: ThrowawayService) -> None:
    chance = random.Random(7)
    with UnitLoad(service.port, "shop") as load:
        for _ in range(scaled(3, 30)):
            load.wait_for_visits(100)
            victim = chance.choice(service.worker_pids())
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim))
            wait_until_all_serve(service, WORKERS)
        load.wait_for_visits(100)
    assert load.tally.dropped > 0
    assert_as_ledger(service, load)


@pytest.mark.timeout(900)
def test_rewards_by_unit_count_once_while_the_private_server_is_killed(service: ThrowawayService) -> None:
    with UnitLoad(service.port, "shop") as load:
        for _ in range(scaled(2, 10)):
            load.wait_for_visits(100)
            with private_store(service) as client:
                victim = client.info("server")["process_id"]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim))
        load.wait_for_visits(100)
    assert load.tally.statuses[503] > 0
    assert_as_ledger(service, load)
