"""Crash of all processes at once, or of the supervisor: state survives, no process is orphaned, a restart works."""

from __future__ import annotations

import os
import signal
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
from services import ThrowawayService
from stores import gone, wait_until

WORKERS = 2
UNITS = [f"unit {i}" for i in range(200)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path, workers=WORKERS) as running:
        yield running


def processes(service: ThrowawayService) -> list[int]:
    """Supervisor, workers, private server."""
    with private_store(service) as client:
        store = client.info("server")["process_id"]
    return [service.process.pid, *service.worker_pids(), store]


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def arms_of(service: ThrowawayService, name: str) -> list[int]:
    answer = service.call("POST", f"/v1/experiments/{name}/decide/batch", {"units": UNITS})
    assert answer.status == 200, answer.body
    arms: list[int] = answer.body["arms"]
    return arms


def newest_append_only_file(service: ThrowawayService) -> Path:
    """The one that was written last: Redis 7 keeps several, those before it one."""
    files = [path for path in (service.data / "store").rglob("appendonly.aof*") if path.suffix == ".aof"]
    return max(files, key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("torn", [b"", b"*3\r\n$3\r\nSET\r\n$5\r\nto"], ids=["whole", "torn"])
def test_state_survives_the_death_of_everything(service: ThrowawayService, torn: bytes) -> None:
    wait_until_all_serve(service, WORKERS)
    make_experiment(service, "survivor")
    make_experiment(service, "sticky", unit="user", policy={"kind": "fixed_split"})
    before = arms_of(service, "sticky")
    assert set(before) == {0, 1}
    with Load(service.port, "survivor") as load:
        for _ in range(scaled(1, 4)):
            load.wait_for_visits(200)
            pids = processes(service)
            kill_all(pids)
            service.kill()
            wait_until(lambda pids=pids: all(map(gone, pids)))
            with newest_append_only_file(service).open("ab") as file:
                file.write(torn)
            service.start()
        load.wait_for_visits(200)
    assert arms_of(service, "sticky") == before
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:
        assert_counted(service, client, "survivor", load.tally)
        assert_states_equal_replay(client, "survivor", WORKERS)
        assert_states_equal_replay(client, "sticky", WORKERS)
    assert counted_in(service, "survivor") == len(load.tally.acknowledged)


def test_nothing_outlives_the_supervisor_and_a_new_one_starts_at_once(service: ThrowawayService) -> None:
    wait_until_all_serve(service, WORKERS)
    make_experiment(service, "orphaned")
    with Load(service.port, "orphaned") as load:
        for _ in range(scaled(1, 4)):
            load.wait_for_visits(200)
            pids = processes(service)
            assert len(pids) == 2 + WORKERS
            service.kill()
            service.start()
            wait_until(lambda pids=pids: all(map(gone, pids)))
            assert not set(pids) & set(processes(service))
        load.wait_for_visits(200)
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:
        assert_counted(service, client, "orphaned", load.tally)
        assert_states_equal_replay(client, "orphaned", WORKERS)
