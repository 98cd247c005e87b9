"""SIGKILL of workers and of the private server under rewards by event: every sum is the ledger's, to the last bit."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import (
    assert_states_equal_replay,
    logged_values,
    private_store,
    wait_until_all_serve,
)
from event_load import METRICS, Decision, EventLoad
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import gone, wait_until

WORKERS = 2
KILLED_WORKERS, KILLED_STORES = scaled(2, 30), scaled(1, 10)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path, workers=WORKERS) as running:
        yield running


def make_experiment(service: ThrowawayService, name: str, unit: str) -> None:
    described = {
        "id": name,
        "arms": [{"name": "control"}, {"name": "challenger"}],
        "unit": unit,
        "policy": {"kind": "thompson", "min_share": 0.1},
        "metrics": METRICS,
        "attribution": {"window": "1h", "missing": "ignore"},
    }
    assert service.call("POST", "/v1/experiments", described).status == 201
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200


def assert_as_ledger(service: ThrowawayService, name: str, unit: str, load: EventLoad) -> None:
    ledger = load.ledger
    assert not load.tally.failures, load.tally.failures[:5]
    assert load.repeated <= load.tally.dropped + load.tally.statuses[503]
    assert {"accepted", "corrected", "retracted", "duplicate", "conflict", "unmatched"} <= set(
        load.tally.verdicts
    )
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:
        values = logged_values(client, name)
        assert set(values) == ledger.places
        expected = {place: ledger.value(*place) for place in values}
        assert {place: repr(value) for place, value in values.items()} == {
            place: repr(value) for place, value in expected.items()
        }
        assert_states_equal_replay(client, name, WORKERS)
    print(
        len(values),
        "values",
        dict(load.tally.verdicts),
        "repeated",
        load.repeated,
        "dropped",
        load.tally.dropped,
    )
    assert_results(service, name, unit, load, expected)
    finished = subprocess.run(
        [sys.executable, "-m", "bandit_serve", "replay", name, "--data", str(service.data), "--json"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    (replayed,) = json.loads(finished.stdout)["experiments"]
    assert replayed["equal"] is True


def assert_results(
    service: ThrowawayService,
    name: str,
    unit: str,
    load: EventLoad,
    expected: dict[tuple[Decision, int], float],
) -> None:
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    for metric, described in enumerate(METRICS):
        # A unit keeps its first arm, for which a decision whose exposure was lost with its worker counts as well.
        of_one: dict[object, list[float]] = defaultdict(list)
        for (decision, m), value in expected.items():
            if m == metric and not math.isnan(value):
                of_one[load.units[decision] if unit == "user" else decision].append(value)
        merged = max if described["kind"] == "binary" else math.fsum
        total = math.fsum(merged(values) for values in of_one.values())
        shown = [arm["metrics"][described["name"]] for arm in arms]
        assert sum(each["n"] for each in shown) == len(of_one), described
        sums = math.fsum(each["n"] * (each["mean"] or 0.0) for each in shown)
        assert math.isclose(sums, total, rel_tol=1e-9, abs_tol=1e-6), described


@pytest.mark.timeout(900)
@pytest.mark.parametrize("unit", ["request", "user"])
def test_events_count_once_while_workers_are_killed(service: ThrowawayService, unit: str) -> None:
    make_experiment(service, "killed", unit)
    chance = random.Random(7)
    with EventLoad(service.port, "killed", by_unit=unit == "user", pause_s=0.05) as load:
        for _ in range(KILLED_WORKERS):
            load.wait_for_visits(100)
            victim = chance.choice(service.worker_pids())
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim))
            wait_until_all_serve(service, WORKERS)
        load.wait_for_visits(100)
    assert load.tally.dropped > 0
    assert_as_ledger(service, "killed", unit, load)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("unit", ["request", "user"])
def test_events_count_once_while_the_private_server_is_killed(service: ThrowawayService, unit: str) -> None:
    make_experiment(service, "served", unit)
    with EventLoad(service.port, "served", by_unit=unit == "user", pause_s=0.05) as load:
        for _ in range(KILLED_STORES):
            load.wait_for_visits(100)
            with private_store(service) as client:
                victim = client.info("server")["process_id"]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim))
        load.wait_for_visits(100)
    assert load.tally.statuses[503] > 0
    assert_as_ledger(service, "served", unit, load)
