"""Half-closed connections (`shutdown(SHUT_WR)`): all answers arrive, and then the connection is closed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from http_calls import decide, running
from raw_http import post, read_answer
from services import ThrowawayService


@pytest.fixture(scope="module", params=[(), ("--access-log",)], ids=["lane", "application"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), *request.param) as running:
        yield running


def send_and_half_close(service: ThrowawayService, *parts: bytes) -> list[tuple[int, dict[str, object]]]:
    """Sends requests and half-closes the connection; returns all answers when the service has closed its side."""
    answers = []
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection,
        connection.makefile("rb") as reading,
    ):
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        while reading.peek(1):
            status, _, document = read_answer(reading)
            answers.append((status, document))
    return answers


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_each_kind_of_request_is_answered(service: ThrowawayService) -> None:
    name = running(service)
    decided = send_and_half_close(service, post(f"/v1/experiments/{name}/decide"))
    assert [status for status, _ in decided] == [200]
    token = decided[0][1]["decision_id"]
    rewarded = send_and_half_close(service, post("/v1/rewards", {"decision_id": token, "value": 1}))
    assert [document["accepted"] for _, document in rewarded] == [1]
    results = send_and_half_close(service, get(f"/v1/experiments/{name}/results"))
    assert [document["experiment"] for _, document in results] == [name]
    assert [status for status, _ in send_and_half_close(service, get("/nothing"))] == [404]


@pytest.mark.parametrize("n", [1, 2, 33, 200])
def test_requests_sent_together_are_all_answered_in_order(service: ThrowawayService, n: int) -> None:
    """More of them than the parser lets wait on one connection; every third waits for an append, every third is
    the application's.
    """
    name = running(service)
    requests, expected = [], []
    for i in range(n):
        if i % 3 == 0:
            token = decide(service, name)["decision_id"]
            requests.append(post("/v1/rewards", {"decision_id": token, "value": 1}))
        elif i % 3 == 1:
            requests.append(get(f"/v1/experiments/{name}"))
        else:
            requests.append(post(f"/v1/experiments/{name}/decide"))
        expected.append(("accepted", "revision", "decision_id")[i % 3])
    for sent in ([b"".join(requests)], requests):
        answers = send_and_half_close(service, *sent)
        assert [status for status, _ in answers] == [200] * n
        assert all(key in document for key, (_, document) in zip(expected, answers, strict=True))


def test_a_body_that_stops_within_is_refused_behind_what_was_whole(service: ThrowawayService) -> None:
    name = running(service)
    n_lines = len(service.output)
    whole = post(f"/v1/experiments/{name}/decide")
    half = post("/v1/experiments", {"id": "x" * 100})[:-20]
    chunked = (
        b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"
    )
    for broken in (half, chunked):
        for parts in ([whole + broken], [whole, broken], [broken]):
            answers = send_and_half_close(service, *parts)
            assert [status for status, _ in answers] == [200] * (len(b"".join(parts)) > len(broken)) + [400]
            assert "connection was lost" in str(answers[-1][1]["detail"])
    assert not [line for line in service.output[n_lines:] if "ERROR" in line]


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/rewards HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a head"]
)
def test_who_asks_nothing_is_closed(service: ThrowawayService, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_large_answer_comes_whole(service: ThrowawayService) -> None:
    name = running(service)
    body = {"units": [f"u{i}" for i in range(10_000)]}
    (answer,) = send_and_half_close(service, post(f"/v1/experiments/{name}/decide/batch", body))
    assert answer[0] == 200
    assert len(json.dumps(answer[1])) > 500_000
    assert len(answer[1]["decision_ids"]) == 10_000  # type: ignore[arg-type]
