"""Health, statistics, metrics, limits and refusals over HTTP."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from http_calls import check_problem, decide_many, experiment, reward_many, running
from services import ThrowawayService, clean_environment
from stores import wait_until

from bandit_serve.server.dialects import PROBLEMS, dialect_of
from bandit_serve.server.route import MULTIPART
from bandit_serve.server.routes import ROUTES

MAX_BODY_BYTES = 2_000_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    flags = ("--body-timeout", "300ms", "--max-body", str(MAX_BODY_BYTES))
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags, workers=2) as running:
        yield running


def say(service: ThrowawayService, content: bytes) -> bytes:
    """Sends bytes on one connection; returns all bytes until the service closes it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def metrics(service: ThrowawayService) -> dict[str, float]:
    text = service.call("GET", "/metrics").body.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def test_health(service: ThrowawayService) -> None:
    assert service.call("GET", "/health/live").status == 200
    ready = service.call("GET", "/health/ready")
    assert (ready.status, ready.body) == (200, {"status": "ready"})


def test_statistics(service: ThrowawayService) -> None:
    name = running(service)
    columns = decide_many(service, name, [f"u{i}" for i in range(50)])
    reward_many(service, columns["decision_ids"], [1.0] * 50)
    answer = service.call("GET", "/v1/stats")
    assert answer.status == 200
    assert {"version", "status", "workers", "store", "experiments", "models", "decisions", "rewards"} <= set(
        answer.body
    )
    assert sorted(worker["pid"] for worker in answer.body["workers"]) == sorted(service.worker_pids())
    assert answer.body["decisions"] >= 50
    assert answer.body["rewards"]["accepted"] >= 50
    assert answer.body["store"]["available"] is True
    assert set(answer.body["experiments"][name]["means"]) == set(answer.body["experiments"][name]["shares"])
    assert 1.0 in answer.body["experiments"][name]["means"].values()
    assert answer.body["experiments"][name]["alarms"] == []
    wait_until(
        lambda: sum(service.call("GET", "/v1/stats").body["experiments"][name]["exposures"].values()) == 50
    )


def test_metrics_count_for_all_workers(service: ThrowawayService) -> None:
    content = service.call("GET", "/metrics")
    assert (content.status, content.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    series = 'bandit_serve_requests_total{outcome="4xx",route="POST /v1/experiments/{experiment}/decide"}'
    metric_names = metrics(service)
    key = next(
        each
        for each in metric_names
        if set(re.findall(r'"[^"]*"', each)) == set(re.findall(r'"[^"]*"', series))
    )
    for _ in range(20):
        service.call("POST", "/v1/experiments/nobody/decide", {})
    assert metrics(service)[key] == metric_names[key] + 20


def test_one_hundred_thousand_random_names_leave_the_series_as_they_were(service: ThrowawayService) -> None:
    sticky, fickle = running(service, unit="user"), running(service)
    for name in (sticky, fickle):
        decide_many(service, name, ["first"])
    experiments = service.call("GET", "/v1/stats").body["experiments"]
    measured = {f'bandit_serve_log_bytes{{experiment="{name}"}}' for name in experiments}
    before: set[str] = set()

    def is_measured() -> bool:
        before.clear()
        before.update(metrics(service))
        return measured <= before

    wait_until(is_measured)
    counter = itertools.count()
    names = [f"id-{next(counter):x}-{i % 97}" for i in range(100_000)]
    assert len(set(names)) == 100_000
    decide_many(service, sticky, names[:50_000])
    decide_many(service, fickle, names[50_000:98_000])
    reward_many(service, names[98_000:99_800], [1.0] * 1_800)
    for name in names[99_800:]:
        assert service.call("POST", f"/v1/experiments/{name}/decide", {"unit": name}).status == 404
        assert service.call("GET", f"/v1/models/{name}").status == 404
        assert service.call("GET", f"/{name}").status == 404
    wait_until(lambda: set(metrics(service)) == before)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_does_not_exist_is_404(service: ThrowawayService, method: str) -> None:
    for path in (
        "/v1",
        "/v1/experiment",
        "/v3/rewards",
        "/v1/rewards/",
        "//",
        "/v1/experiments/a/decide/batch/x",
    ):
        check_problem(service.call(method, path), 404)


def test_another_method_is_405_and_says_which_it_takes(service: ThrowawayService) -> None:
    for method, path, allowed in [
        ("GET", "/v1/rewards", {"POST"}),
        ("DELETE", "/v1/experiments", {"GET", "POST"}),
        ("PATCH", "/v1/experiments/a", {"GET", "PUT", "DELETE"}),
        ("POST", "/health/live", {"GET"}),
        ("GET", "/v1/experiments/a/decide", {"POST"}),
    ]:
        answer = service.call(method, path)
        check_problem(answer, 405)
        assert {each.strip() for each in answer.headers["Allow"].split(",")} - {"HEAD"} == allowed


def test_a_body_above_the_limit_is_413(service: ThrowawayService) -> None:
    for route in ROUTES:
        if route.takes is None or route.media == MULTIPART:
            continue
        path = re.sub(r"\{\w+\}", "a", route.path)
        most = min(route.max_body or MAX_BODY_BYTES, MAX_BODY_BYTES)
        largest = b" " * (most - 2) + b"{}"
        taken = (200, 400, 404) if route.optional else (400, 404)
        if route.path.startswith("/v1/deployments"):
            taken = (*taken, 501)
        assert service.call(route.method, path, largest).status in taken, route.label
        refused = service.call(route.method, path, largest + b" ")
        dialect = dialect_of(path)
        if dialect is PROBLEMS:
            check_problem(refused, 413)
        else:
            assert (refused.status, refused.headers["Content-Type"]) == (413, dialect.media), route.label
        sentence = refused.body.get("detail") or refused.body["error"]
        assert str(most) in sentence, route.label
    announced = say(service, head("/v1/rewards", f"Content-Length: {10**12}"))
    assert announced.startswith(b"HTTP/1.1 413 ")
    chunks = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    assert say(service, head("/v1/rewards", "Transfer-Encoding: chunked") + chunks * 32).startswith(
        b"HTTP/1.1 413 "
    )


def head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    "content",
    [
        head("/v1/rewards", "Content-Length: 100") + b'{"decision_id"',
        head("/v1/rewards", "Transfer-Encoding: chunked") + b"5\r\n{",
        head("/v1/experiments", "Content-Length: 2"),
        b"POST /v1/models/m/versions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 1000\r\n\r\n--b\r\nContent-Disp",
        b"POST /v1/models/m/versions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b'Content-Length: 1000\r\n\r\n--b\r\nContent-Disposition: form-data; name="artifact"\r\n\r\nabc',
        b"POST /v1/models/m/versions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b'Content-Length: 1000\r\n\r\n--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"a',
    ],
    ids=["body", "chunked", "nothing", "multipart head", "artifact", "metadata"],
)
def test_a_slow_body_is_408_and_the_connection_closes(service: ThrowawayService, content: bytes) -> None:
    answered = say(service, content)
    assert answered.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answered
    assert b"Connection: close" in answered
    assert answered.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_garbled_encoding_is_400(service: ThrowawayService, encoding: str) -> None:
    answer = service.call("POST", "/v1/rewards", b"hello", {"Content-Encoding": encoding})
    check_problem(answer, 400)


def test_what_one_worker_made_the_other_knows(service: ThrowawayService) -> None:
    """Each call is a connection of its own, which either of the two workers takes."""
    for _ in range(15):
        body = experiment()
        name = body["id"]
        assert service.call("POST", "/v1/experiments", body).status == 201
        listed = service.call("GET", "/v1/experiments").body["experiments"]
        assert name in [each["id"] for each in listed]
        assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
        assert service.call("POST", f"/v1/experiments/{name}/decide", {}).status == 200
        listed = service.call("GET", "/v1/experiments").body["experiments"]
        assert {each["id"]: each["status"] for each in listed}[name] == "running"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_an_address_that_others_reach_is_refused(
    host: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = [sys.executable, "-m", "bandit_serve", "serve", "--host", host, "--port", "0"]
    command += ["--data", str(tmp_path_factory.mktemp("data"))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False
    )
    assert done.returncode == 2
    assert "--insecure" in done.stderr
    assert "ready" not in done.stdout


def test_told_so_it_serves_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("data")
    with ThrowawayService(data, "--host", "0.0.0.0", "--insecure") as running:
        running.url = f"http://127.0.0.1:{running.port}"
        assert running.call("GET", "/health/ready").status == 200
