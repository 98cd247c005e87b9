"""SIGKILL of workers and of the private server under load: every acknowledged reward counts, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    counted_in,
    make_experiment,
    private_store,
    wait_until_all_serve,
)
from load import Load
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import gone, wait_until

WORKERS = 2


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path, workers=WORKERS) as running:
        yield running


def assert_nothing_lost_or_doubled(service: ThrowawayService, name: str, load: Load) -> None:
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:
        assert_counted(service, client, name, load.tally)
        assert_states_equal_replay(client, name, WORKERS)
    assert counted_in(service, name) == len(load.tally.acknowledged)
    finished = subprocess.run(
        [sys.executable, "-m", "bandit_serve", "replay", name, "--data", str(service.data), "--json"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    (replayed,) = json.loads(finished.stdout)["experiments"]
    assert replayed["equal"] is True
    assert [worker["result"] for worker in replayed["workers"]].count("equal") == WORKERS


@pytest.mark.timeout(600)
def test_rewards_count_once_while_workers_are_killed(service: ThrowawayService) -> None:
    make_experiment(service, "killed")
    chance = random.Random(7)
    killed = set()
    with Load(service.port, "killed") as load:
        for _ in range(scaled(3, 30)):
            load.wait_for_visits(100)
            victim = chance.choice(service.worker_pids())
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            wait_until(lambda victim=victim: gone(victim))
            wait_until_all_serve(service, WORKERS)
        load.wait_for_visits(100)
    assert len(killed) == scaled(3, 30)
    assert load.tally.dropped > 0
    assert_nothing_lost_or_doubled(service, "killed", load)


@pytest.mark.timeout(600)
def test_rewards_count_once_while_the_private_server_is_killed(service: ThrowawayService) -> None:
    make_experiment(service, "served")
    with Load(service.port, "served") as load:
        for _ in range(scaled(2, 10)):
            load.wait_for_visits(100)
            with private_store(service) as client:
                victim = client.info("server")["process_id"]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim))
        load.wait_for_visits(100)
    assert load.tally.statuses[503] > 0
    assert_nothing_lost_or_doubled(service, "served", load)
