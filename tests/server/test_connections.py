"""Connections that keep a worker waiting: others are served meanwhile, and in the end they are closed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_calls import check_problem, running
from raw_http import post, read_answer
from services import ThrowawayService
from stores import wait_until

from bandit_serve.server.connections import raise_file_limit

MANY = 2_000
FILES = 512
SHORT = ("--header-timeout", "2s", "--keepalive-timeout", "2s", "--body-timeout", "2s")
HALF_A_HEAD = b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HALF_A_BODY = post("/v1/rewards", {"decision_id": "x"})[:-5]
KINDS = (b"", HALF_A_HEAD, HALF_A_BODY)


@contextlib.contextmanager
def connections(service: ThrowawayService, n: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as open_:
        made = []
        for _ in range(n):
            connection = open_.enter_context(
                socket.create_connection(("127.0.0.1", service.port), timeout=60)
            )
            made.append(connection)
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
        yield made


@pytest.fixture(scope="module", autouse=True)
def _files() -> None:
    raise_file_limit()


def n_files(service: ThrowawayService) -> int:
    return sum(1 for pid in service.worker_pids() for _ in Path(f"/proc/{pid}/fd").iterdir())


def series(service: ThrowawayService, name: str) -> float:
    text = service.call("GET", "/metrics").body.decode()
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), *SHORT) as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    """A service with room for 64 connections."""
    flags = ("--max-connections", "64", "--header-timeout", "60s", "--body-timeout", "60s")
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags) as running:
        yield running


def test_many_that_wait_leave_room_and_are_gone_in_the_end(patient: ThrowawayService) -> None:
    name = running(patient)
    before = n_files(patient)
    with contextlib.ExitStack() as open_:
        made = [open_.enter_context(connections(patient, MANY // 3, sent)) for sent in KINDS]
        for _ in range(20):
            assert patient.call("GET", "/health/ready").status == 200
            assert patient.call("POST", f"/v1/experiments/{name}/decide", {}).status == 200
        idle, *begun = ([each.makefile("rb").read() for each in kind] for kind in made)
    assert idle == [b""] * (MANY // 3)
    for answers in begun:
        assert len(answers) == MANY // 3
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert b"application/problem+json" in answer
            assert b"Connection: close" in answer
    wait_until(lambda: n_files(patient) <= before + 2)
    # Silent ones and those with half a head; bodies are answered by those who read them.
    assert series(patient, 'bandit_serve_connections_ended_total{why="late"}') == 2 * (MANY // 3)
    wait_until(lambda: series(patient, "bandit_serve_connections") < 5)


def test_a_head_that_comes_a_byte_at_a_time_has_no_more_time_than_others(patient: ThrowawayService) -> None:
    assert drip(patient, b"GET ").startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("what", ["body", "metadata", "artifact"])
def test_a_body_that_comes_a_byte_at_a_time_has_no_more_time_than_others(
    patient: ThrowawayService, what: str
) -> None:
    if what == "body":
        head = post("/v1/rewards", {"decision_id": "x" * 1_000})[:-1_000]
    else:
        part = f'--b\r\nContent-Disposition: form-data; name="{what}"; filename="f"\r\n\r\n'
        lines = ["POST /v1/models/m/versions HTTP/1.1", "Host: localhost", "Content-Length: 100000"]
        head = "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=b", "", part]).encode()
    assert drip(patient, head).startswith(b"HTTP/1.1 408 ")


def drip(service: ThrowawayService, head: bytes) -> bytes:
    """The answer to `head` and a byte every fifth of a second after it, of which it takes less than a hundred."""
    with connections(service, 1, head) as (connection,):
        connection.settimeout(0.2)
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                return connection.recv(65_536)
            connection.sendall(b"/")
    raise AssertionError("it never ends")


def test_a_kept_connection_has_the_time_for_a_head_from_its_first_byte_on(patient: ThrowawayService) -> None:
    path, answer = f"/v1/experiments/{running(patient)}/decide", b""
    # On a busy machine it may have been closed for being idle before the byte came.
    while not answer:
        with connections(patient, 1, post(path)) as (connection,), connection.makefile("rb") as reading:
            assert read_answer(reading)[0] == 200
            with contextlib.suppress(ConnectionError):
                connection.sendall(HALF_A_HEAD)
                answer = reading.readline()
    assert answer == b"HTTP/1.1 408 Request Timeout\r\n"


def test_an_idle_connection_is_closed_without_a_word(patient: ThrowawayService) -> None:
    path = f"/v1/experiments/{running(patient)}/decide"
    for request in (post(path), b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with connections(patient, 1, request) as (connection,), connection.makefile("rb") as reading:
            assert read_answer(reading)[0] == 200
            assert reading.read() == b""


def test_who_does_not_read_is_closed_and_who_reads_slowly_is_not(patient: ThrowawayService) -> None:
    path = f"/v1/experiments/{running(patient)}/decide/batch"
    request = post(path, {"requests": [{"unit": f"u{i}"} for i in range(10_000)]})
    whole = len(patient.call("POST", path, request.partition(b"\r\n\r\n")[2]).body["responses"])
    before = n_files(patient)
    with socket.socket() as deaf, socket.socket() as slow:
        for connection in (deaf, slow):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", patient.port))
            connection.sendall(request * 3)
        with slow.makefile("rb", buffering=1_024) as reading:
            for _ in range(3):
                assert len(read_answer(reading)[2]["responses"]) == whole
        wait_until(lambda: n_files(patient) <= before + 2)
        with contextlib.suppress(ConnectionError):
            while deaf.recv(65_536):
                pass
        assert patient.call("GET", "/health/live").status == 200


@pytest.mark.parametrize("sent", KINDS, ids=["idle", "head", "body"])
def test_one_too_many_takes_the_place_of_one_that_waits(small: ThrowawayService, sent: bytes) -> None:
    name = running(small)
    with connections(small, 300, sent):
        for _ in range(50):
            assert small.call("GET", "/health/live").status == 200
            assert small.call("POST", f"/v1/experiments/{name}/decide", {}).status == 200
        assert n_files(small) < 64 + 64
    assert series(small, 'bandit_serve_connections_ended_total{why="crowded"}') >= 300 - 64


def test_when_all_are_at_work_others_are_told_and_health_is_answered(tmp_path: Path) -> None:
    """Rewards that wait for a store that is stopped are no callers' fault: none of them is closed."""
    flags = ("--max-connections", "16", "--store-timeout", "20s")
    with ThrowawayService(tmp_path, *flags) as service:
        name = running(service)
        tokens = [
            service.call("POST", f"/v1/experiments/{name}/decide", {}).body["decision_id"] for _ in range(16)
        ]
        (store,) = store_pids(service)
        os.kill(store, signal.SIGSTOP)
        try:
            with contextlib.ExitStack() as open_:
                rewarding = [open_.enter_context(connections(service, 1, b""))[0] for _ in tokens]
                for connection, token in zip(rewarding, tokens, strict=True):
                    connection.sendall(post("/v1/rewards", {"decision_id": token, "value": 1}))
                wait_until(lambda: service.call("POST", f"/v1/experiments/{name}/decide", {}).status == 503)
                for _ in range(20):
                    refused = service.call("POST", f"/v1/experiments/{name}/decide", {})
                    check_problem(refused, 503)
                    assert refused.body["type"].endswith(":not-begun")
                    assert refused.headers["Retry-After"]
                    assert service.call("GET", "/health/live").status == 200
                    assert service.call("GET", "/health/ready").status == 200
                with connections(service, 600, b""):
                    for _ in range(20):
                        assert service.call("GET", "/health/live").status == 200
                    assert n_files(service) < 16 + 256 + 64
                os.kill(store, signal.SIGCONT)
                for connection in rewarding:
                    with connection.makefile("rb") as reading:
                        assert read_answer(reading)[2]["accepted"] == 1
        finally:
            os.kill(store, signal.SIGCONT)
        wait_until(lambda: service.call("POST", f"/v1/experiments/{name}/decide", {}).status == 200)


def store_pids(service: ThrowawayService) -> list[int]:
    children = Path(f"/proc/{service.process.pid}/task").glob("*/children")
    pids = {int(pid) for path in children for pid in path.read_text().split()}
    return sorted(pids - set(service.worker_pids()))


def test_it_never_has_more_files_than_it_may(tmp_path: Path) -> None:
    """With a low limit of open files, which bounds what is accepted whatever the setting says."""
    with ThrowawayService(tmp_path) as service:
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (FILES // 2, FILES))
        (former,) = service.worker_pids()
        os.kill(former, signal.SIGTERM)
        wait_until(lambda: service.worker_pids() not in ([], [former]))
        service.wait_for_workers(1)
        name = running(service)
        with contextlib.ExitStack() as open_:
            for sent in KINDS:
                open_.enter_context(connections(service, MANY // 3, sent))
                for _ in range(20):
                    assert service.call("GET", "/health/ready").status == 200
                    assert service.call("POST", f"/v1/experiments/{name}/decide", {}).status == 200
                assert n_files(service) < FILES
        token = service.call("POST", f"/v1/experiments/{name}/decide", {}).body["decision_id"]
        assert service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200
        assert not [line for line in service.output if "Too many open files" in line]
