"""Request ids and traces over HTTP: answered by every way, handed to upstreams, and written into the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from http_calls import new_name, running
from services import Answer, ThrowawayService
from stores import wait_until
from upstreams import ThrowawayUpstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TAGS = {"X-Request-ID": "req-7", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "v=1"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThrowawayUpstream]:
    with ThrowawayUpstream() as running:
        yield running


@pytest.fixture(scope="module", params=["lane", "ordinary"])
def service(
    request: pytest.FixtureRequest, upstream: ThrowawayUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThrowawayService]:
    """Without an access log hot routes are answered in the lane, and with one as the others are."""
    flags = ["--upstreams", upstream.base]
    if request.param == "ordinary":
        flags += ["--access-log", "--log-format", "json"]
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags) as running_service:
        yield running_service


def check_tags(answer: Answer) -> str:
    """Span of the answer, which has the caller's id and trace."""
    assert answer.headers["X-Request-ID"] == "req-7"
    assert answer.headers["tracestate"] == "v=1"
    match = re.fullmatch(rf"00-{TRACE}-([0-9a-f]{{16}})-01", answer.headers["traceparent"])
    assert match is not None
    assert match[1] != "00f067aa0ba902b7"
    return match[1]


def asked(service: ThrowawayService, path: str, body: Any = None, **headers: str) -> Answer:
    method = "GET" if body is None else "POST"
    return service.call(method, path, body, headers or TAGS)


def test_every_answer_has_the_tags_of_its_request(service: ThrowawayService) -> None:
    name = running(service)
    spans = [
        check_tags(asked(service, path, body))
        for path, body in (
            (f"/v1/experiments/{name}/decide", {"unit": "u"}),
            (f"/v1/experiments/{name}/decide", {"unit": 7}),
            (f"/v1/experiments/{name}/decide?x=1", {}),
            ("/v1/experiments/none/decide", {}),
            ("/v1/rewards", {"rewards": []}),
            ("/v1/rewards", {"decision_id": "none", "value": 1.0}),
            ("/v1/stats", None),
            ("/nothing", None),
        )
    ]
    assert len(set(spans)) == len(spans)


def test_a_request_without_tags_gets_none(service: ThrowawayService) -> None:
    name = running(service)
    path = f"/v1/experiments/{name}/decide"
    assert check_tags(asked(service, path, {"unit": "u"}))
    for answer in (service.call("POST", path, {"unit": "u"}), service.call("GET", "/v1/stats")):
        assert not {"X-Request-ID", "traceparent", "tracestate"} & set(answer.headers)
    wrong = asked(service, path, {"unit": "u"}, **{"X-Request-ID": "a b", "traceparent": "00-x"})
    assert wrong.status == 200
    assert not {"X-Request-ID", "traceparent"} & set(wrong.headers)


def test_an_upstream_gets_the_tags_of_the_question(
    service: ThrowawayService, upstream: ThrowawayUpstream
) -> None:
    model = new_name("m")
    remote = {"url": upstream.url, "protocol": "json", "timeout": "5s"}
    made = service.call("POST", f"/v1/models/{model}/versions", {"version": "v1", "remote": remote})
    assert made.status == 201
    name = running(service, arms=[{"name": "a", "model": model, "version": "v1"}], control="a")
    path = f"/v1/experiments/{name}/predict"
    service.call("POST", path, {"user_id": "u", "item_id": "i"})
    upstream.asked.clear()
    span = check_tags(asked(service, path, {"user_id": "u", "item_id": "i"}))
    service.call("POST", path, {"user_id": "u", "item_id": "i"})
    tagged, plain = [question for question in upstream.asked if question.method == "POST"]
    sent = {key.lower(): value for key, value in tagged.headers.items()}
    assert sent["x-request-id"] == "req-7"
    assert sent["traceparent"] == f"00-{TRACE}-{span}-01"
    assert sent["tracestate"] == "v=1"
    assert not {"x-request-id", "traceparent"} & {key.lower() for key in plain.headers}


def test_the_log_in_json_has_a_line_for_each_request(service: ThrowawayService) -> None:
    if "--log-format" not in service._flags:
        assert not any(line.startswith("{") for line in service.output)
        return
    asked(service, "/v1/experiments/none/decide", {}, **{"X-Request-ID": "in-log"})

    def lines() -> list[dict[str, Any]]:
        said = [json.loads(line) for line in service.output if line.startswith("{")]
        return [each for each in said if each.get("request_id") == "in-log"]

    wait_until(lambda: bool(lines()))
    (line,) = lines()
    assert line["route"] == "/v1/experiments/{experiment}/decide"
    assert (line["status"], line["logger"], line["level"]) == (404, "bandit_serve.access", "info")
    assert line["worker"] in map(str, service.worker_pids())
    # The event loop counts whole milliseconds.
    assert 0.0 <= line["duration_ms"] < 60_000.0
    assert '"POST /v1/experiments/none/decide HTTP/1.1" 404 ' in line["message"]
    others = [line for line in service.output if not line.startswith("{")]
    assert [line for line in others if not line.startswith("bandit-serve is ready")] == []
