"""Fast lane of hot requests (`server/lane.py`): sequences of requests on one connection."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_calls import decide, running
from raw_http import post, read_answer
from services import ThrowawayService

MAX_BODY_BYTES = 300_000
# More than aiohttp's parser lets wait on one connection (32).
MANY = 400


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), "--max-body", str(MAX_BODY_BYTES)) as running:
        yield running


def say(
    service: ThrowawayService, content: bytes, n_answers: int
) -> list[tuple[int, dict[str, str], dict[str, Any]]]:
    """Sends bytes on one idle connection; returns the first `n_answers` as status, headers and document."""
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection,
        connection.makefile("rb") as reading,
    ):
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(reading)[0] == 200
        connection.sendall(content)
        return [read_answer(reading) for _ in range(n_answers)]


def test_requests_sent_together_are_all_answered_in_order(service: ThrowawayService) -> None:
    names = [running(service), running(service), running(service)]
    asked = [names[i % 3] for i in range(MANY)]
    answers = say(service, b"".join(post(f"/v1/experiments/{name}/decide") for name in asked), MANY)
    assert [document["experiment"] for _, _, document in answers] == asked


def test_rewards_and_decisions_sent_together_are_answered_in_order(service: ThrowawayService) -> None:
    name = running(service)
    tokens = [decide(service, name)["decision_id"] for _ in range(MANY // 2)]
    pairs = [
        post("/v1/rewards", {"decision_id": token, "value": 1}) + post(f"/v1/experiments/{name}/decide")
        for token in tokens
    ]
    answers = say(service, b"".join(pairs), MANY)
    assert ["accepted" in document for _, _, document in answers] == [True, False] * (MANY // 2)
    assert sum(document["accepted"] for _, _, document in answers[::2]) == len(tokens)


@pytest.mark.parametrize("size", [100_000, 140_000, 200_000, 270_000, 290_000])
def test_what_comes_behind_a_large_body_is_answered_behind_it(service: ThrowawayService, size: int) -> None:
    name = running(service)
    token = decide(service, name)["decision_id"]
    many = post(f"/v1/experiments/{name}/decide/batch", {"units": ["u" * 96] * (size // 100)})
    content = post("/v1/rewards", {"decision_id": token, "value": 1}) + many
    content += post(f"/v1/experiments/{name}/decide") * 3
    answers = say(service, content, 5)
    assert ["arm_names" in document for _, _, document in answers] == [False, True, False, False, False]
    assert ["arm" in document for _, _, document in answers] == [False, False, True, True, True]


def test_a_body_over_the_limit_is_refused_also_when_it_waited(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, "--max-body", "2048") as small:
        name = running(small)
        token = decide(small, name)["decision_id"]
        large = post(
            f"/v1/experiments/{name}/decide", {"unit": "u", "context": None, "eligible": ["a"] * 1_000}
        )
        alone = say(small, large, 1)
        behind = say(small, post("/v1/rewards", {"decision_id": token, "value": 1}) + large, 2)
    assert [status for status, _, _ in alone] == [413]
    assert [status for status, _, _ in behind] == [200, 413]


def test_an_old_client_is_told_whether_its_connection_stays(service: ThrowawayService) -> None:
    path = f"/v1/experiments/{running(service)}/decide"
    kept, closed = (
        say(service, post(path, None, *headers, version="1.0"), 1)[0][1]
        for headers in (["Connection: keep-alive"], [])
    )
    assert kept.get("connection") == "keep-alive"
    assert closed.get("connection") in (None, "close")


@pytest.mark.parametrize(
    "sent",
    [
        b"this is no HTTP\r\n\r\n",
        b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_is_a_problem_and_no_news(service: ThrowawayService, sent: bytes) -> None:
    n_lines = len(service.output)
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert b"application/problem+json" in head
    assert json.loads(body)["detail"].startswith("The request is not valid HTTP: ")
    assert service.call("GET", "/health/live").status == 200
    assert service.output[n_lines:] == []
