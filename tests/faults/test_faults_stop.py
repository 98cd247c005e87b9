"""SIGTERM under load: accepted requests are answered, by a service that stops and by a worker that is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    make_experiment,
    private_store,
    wait_until_all_serve,
)
from load import Load, ReconnectingClients
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, gone, wait_until

WORKERS = 2
REWARD = "POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path, workers=WORKERS) as running:
        yield running


@pytest.mark.timeout(600)
def test_a_service_that_stops_answers_every_request_that_it_accepted(service: ThrowawayService) -> None:
    make_experiment(service, "restarted")
    with Load(service.port, "restarted", strict=True, clients=16, pause_s=0.004) as load:
        for _ in range(scaled(3, 12)):
            load.wait_for_visits(200)
            assert service.stop() == 0
            service.start()
        load.wait_for_visits(200)
    assert not load.tally.failures, load.tally.failures[:5]
    wait_until_all_serve(service, WORKERS)
    with private_store(service) as client:
        assert_counted(service, client, "restarted", load.tally)
        assert_states_equal_replay(client, "restarted", WORKERS)


@pytest.mark.timeout(600)
def test_a_worker_that_is_told_to_leave_fails_no_request(service: ThrowawayService) -> None:
    make_experiment(service, "replaced")
    chance = random.Random(7)
    with Load(service.port, "replaced", strict=True, clients=16, pause_s=0.004) as load:
        for _ in range(scaled(3, 12)):
            load.wait_for_visits(200)
            leaver = chance.choice(service.worker_pids())
            os.kill(leaver, signal.SIGTERM)
            wait_until(lambda leaver=leaver: gone(leaver))
            wait_until_all_serve(service, WORKERS)
        load.wait_for_visits(200)
    assert load.tally.refused == 0
    assert not load.tally.failures, load.tally.failures[:5]
    with private_store(service) as client:
        assert_counted(service, client, "replaced", load.tally)


@pytest.mark.timeout(600)
def test_nobody_who_could_connect_is_reset_when_a_service_stops(service: ThrowawayService) -> None:
    with ReconnectingClients(service.port) as clients:
        for _ in range(scaled(2, 12)):
            clients.wait_for_answers(500)
            assert service.stop() == 0
            service.start()
        clients.wait_for_answers(500)
    assert not clients.dropped, f"{len(clients.dropped)} dropped: {clients.dropped[:5]}"


def test_rewards_that_wait_for_the_store_are_answered_when_the_service_stops(
    tmp_path: Path, store: ThrowawayStore
) -> None:
    with ThrowawayService(tmp_path, store=store.url) as service, socket.socket() as connection:
        make_experiment(service, "waiting")
        decided = service.call("POST", "/v1/experiments/waiting/decide", {"unit": "u"})
        body = json.dumps({"decision_id": decided.body["decision_id"], "value": 1.0}).encode()
        head = f"{REWARD}Content-Length: {len(body)}\r\n\r\n"
        connection.settimeout(20)
        connection.connect(("127.0.0.1", service.port))
        store.pause()
        try:
            connection.sendall(head.encode() + body)
            service.process.send_signal(signal.SIGTERM)
            assert connection.recv(4_096).startswith(b"HTTP/1.1 503 ")
        finally:
            store.resume()
        assert service.stop() == 0


def test_workers_that_leave_slowly_are_replaced_and_do_no_harm(tmp_path: Path, store: ThrowawayStore) -> None:
    """Each still waits for half a body when the next is told to leave: more leave than have a place."""
    left: set[int] = set()

    def ready(service: ThrowawayService) -> set[int]:
        pids = {worker["pid"] for worker in service.call("GET", "/v1/stats").body["workers"]}
        return pids & set(service.worker_pids()) - left

    flags = ("--drain", "2s", "--idle-grace", "100ms")
    with ThrowawayService(tmp_path, *flags, store=store.url) as service, contextlib.ExitStack() as open_:
        for _ in range(4):
            wait_until(lambda: bool(ready(service)))
            connection = open_.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(f"{REWARD}Content-Length: 9\r\n\r\n{{".encode())
            (worker,) = ready(service)
            os.kill(worker, signal.SIGTERM)
            left.add(worker)
        wait_until(lambda: all(map(gone, left)))
        wait_until_all_serve(service, 1)
        assert service.process.poll() is None


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_service_that_is_ended_while_it_starts_leaves_at_once_and_nothing_behind(tmp_path: Path) -> None:
    """From its first lines on, which is before the modules are loaded; each time at a later moment."""
    data = tmp_path / "data"
    command = [sys.executable, "-m", "bandit_serve", "serve", "--port", "0", "--data", str(data)]
    caught_first = False
    for pause_s in (0.0, 0.2, 0.5, 1.0, 1.5, 2.0):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment()
        ) as process:
            assert process.stdout is not None
            wait_until(lambda pid=process.pid: catches_sigterm(pid))
            caught_first |= "msgspec" not in Path(f"/proc/{process.pid}/maps").read_text()
            time.sleep(pause_s)
            process.send_signal(signal.SIGTERM)
            said = process.stdout.read()
            assert process.wait(60) == 0, said
        assert "Traceback" not in said
        stores = [pid for pid in os.listdir("/proc") if pid.isdigit() and str(data) in command_of(pid)]
        wait_until(lambda stores=stores: all(gone(int(pid)) for pid in stores))
    assert caught_first, "nothing was loaded yet"
    with ThrowawayService(data) as service:
        assert service.call("GET", "/health/ready").status == 200


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
