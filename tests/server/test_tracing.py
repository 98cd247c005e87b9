"""Spans: what a collector gets of requests, and what it can not do to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collectors import ReceivedSpan, ThrowawayCollector
from http_calls import new_name, running
from multidict import CIMultiDict, CIMultiDictProxy
from services import ThrowawayService, clean_environment
from stores import wait_until
from upstreams import ThrowawayUpstream

from bandit_serve.base.spans import child_span, record_into
from bandit_serve.errors import NotInstalled, UsageError
from bandit_serve.server import tracing as module
from bandit_serve.server.metrics import Counters
from bandit_serve.server.tracing import Collector, Tracing, collector_of, resource_attributes
from bandit_serve.settings import Settings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "req-7"}
UNSAMPLED = {"traceparent": f"00-{'a' * 32}-{PARENT}-00"}


@pytest.fixture(scope="module")
def collector() -> Iterator[ThrowawayCollector]:
    with ThrowawayCollector() as running:
        yield running


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThrowawayUpstream]:
    with ThrowawayUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    collector: ThrowawayCollector, upstream: ThrowawayUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThrowawayService]:
    """A service that sends the spans of its callers' traces only."""
    flags = ("--otel-endpoint", collector.url, "--otel-share", "0", "--upstreams", upstream.base)
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags) as running_service:
        yield running_service


@pytest.fixture(autouse=True)
def _well(collector: ThrowawayCollector) -> None:
    collector.status = 200
    collector.spans.clear()


def received(collector: ThrowawayCollector, n: int) -> list[ReceivedSpan]:
    wait_until(lambda: len(collector.spans) >= n)
    assert len(collector.spans) == n
    return list(collector.spans)


def test_a_decision_in_the_lane_is_a_span_of_its_callers_trace(
    service: ThrowawayService, collector: ThrowawayCollector
) -> None:
    name = running(service)
    assert service.call("POST", f"/v1/experiments/{name}/decide", {}, UNSAMPLED).status == 200
    answer = service.call("POST", f"/v1/experiments/{name}/decide", {"unit": "u"}, SAMPLED)
    (span,) = received(collector, 1)
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert answer.headers["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
    assert (span.name, span.kind, span.failed) == ("POST /v1/experiments/{experiment}/decide", 2, False)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/experiments/{experiment}/decide",
        "http.response.status_code": 200,
        "http.request.header.x-request-id": "req-7",
        "bandit_serve.experiment": name,
    }
    assert 0 < span.seconds < 60
    assert span.resource["service.name"] == "bandit-serve"


def test_a_reward_has_its_append_below_it(service: ThrowawayService, collector: ThrowawayCollector) -> None:
    name = running(service)
    token = service.call("POST", f"/v1/experiments/{name}/decide", {}).body["decision_id"]
    assert service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}, SAMPLED).status == 200
    append, request = sorted(received(collector, 2), key=lambda span: span.kind, reverse=True)
    assert (append.name, append.kind) == ("append rewards", 3)
    assert (append.trace_id, append.parent_id) == (TRACE, request.span_id)
    assert append.attributes == {"db.system.name": "redis", "bandit_serve.experiment": name}
    assert append.seconds <= request.seconds
    assert (request.name, request.parent_id) == ("POST /v1/rewards", PARENT)


def test_an_upstream_goes_on_below_the_question_that_it_was_asked(
    service: ThrowawayService, collector: ThrowawayCollector, upstream: ThrowawayUpstream
) -> None:
    model = new_name("remote")
    remote: dict[str, Any] = {"url": upstream.url, "protocol": "json", "timeout": "5s"}
    made = service.call("POST", f"/v1/models/{model}/versions", {"version": "v1", "remote": remote})
    assert made.status == 201, made
    name = running(service, arms=[{"name": "a", "model": model, "version": "v1"}], control="a")
    body = {"user_id": "u", "item_id": "i"}
    answer = service.call("POST", f"/v1/experiments/{name}/predict", body, SAMPLED)
    assert answer.status == 200, answer
    question, request = sorted(received(collector, 2), key=lambda span: span.kind, reverse=True)
    assert (question.kind, question.parent_id) == (3, request.span_id)
    assert question.attributes == {"server.address": "127.0.0.1"}
    headers = {key.lower(): value for key, value in upstream.asked[-1].headers.items()}
    assert headers["traceparent"] == f"00-{TRACE}-{question.span_id}-01"


def test_other_routes_and_errors_are_spans_too(
    service: ThrowawayService, collector: ThrowawayCollector
) -> None:
    service.call("GET", "/v1/experiments/none", None, SAMPLED)
    service.call("GET", "/nothing/here", None, SAMPLED)
    known, unknown = sorted(received(collector, 2), key=lambda span: "http.route" not in span.attributes)
    assert known.name == "GET /v1/experiments/{experiment}"
    assert known.attributes["http.response.status_code"] == 404
    assert not known.failed
    assert unknown.attributes["http.response.status_code"] == 404


def metric(service: ThrowawayService, name: str) -> float:
    text = service.call("GET", "/metrics").body.decode()
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


@pytest.mark.parametrize("status", [500, 0])
def test_a_collector_that_fails_or_hangs_touches_no_request(
    service: ThrowawayService, collector: ThrowawayCollector, status: int
) -> None:
    dropped = metric(service, 'bandit_serve_spans_total{result="dropped"}')
    collector.status, asked_before = status, collector.n_requests
    name = running(service)
    for _ in range(50):
        assert service.call("POST", f"/v1/experiments/{name}/decide", {}, SAMPLED).status == 200
    wait_until(lambda: collector.n_requests > asked_before)
    assert service.call("GET", "/health/ready").body["status"] == "ready"
    wait_until(lambda: metric(service, 'bandit_serve_spans_total{result="dropped"}') > dropped)
    collector.status = 200
    wait_until(
        lambda: (
            service.call("GET", "/health/live", None, SAMPLED).status == 200
            and any("/health/live" in span.name for span in collector.spans)
        )
    )
    assert sum("spans are dropped" in line for line in service.output) == 1


def test_what_waits_is_sent_at_the_end(collector: ThrowawayCollector, tmp_path: Path) -> None:
    """With OpenTelemetry's own variables, and a trace for each request."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=a%20b",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    with pytest.MonkeyPatch.context() as patch, ThrowawayService(tmp_path) as service:
        service.stop()
        for name, value in variables.items():
            patch.setenv(name, value)
        service.start()
        answer = service.call("GET", "/v1/stats")
        assert service.stop() == 0
    (span,) = [span for span in collector.spans if span.name == "GET /v1/stats"]
    assert span.parent_id == ""
    assert answer.headers["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"
    assert span.resource["service.name"] == "shop"
    assert span.resource["deployment.environment.name"] == "test"
    assert {name.lower(): value for name, value in collector.headers.items()}["x-team"] == "a b"


def test_off_it_is_not_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from bandit_serve.server import worker, supervisor;"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.proto', 'google.protobuf'))])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=clean_environment()
    )
    assert ran.stdout == "[]\n", ran.stderr
    assert collector_of(Settings(), {}) is None
    assert (
        collector_of(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"})
        is None
    )
    with child_span("nothing", "client") as span:
        assert span.span_id is None


def test_the_variables_say_where_and_how_much() -> None:
    def of(**variables: str) -> Collector:
        made = collector_of(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318/", **variables})
        assert made is not None
        return made

    assert of().url == "http://a:4318/v1/traces"
    assert of(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://b/x").url == "http://b/x"
    assert of().share == 1.0
    assert of(OTEL_TRACES_SAMPLER="always_off").share == 0.0
    assert of(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25").share == 0.25
    with pytest.raises(UsageError, match="OTEL_TRACES_SAMPLER_ARG"):
        of(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="2")
    with pytest.raises(UsageError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        collector_of(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "file:///etc/passwd"})
    assert resource_attributes({"OTEL_SERVICE_NAME": "x"})["service.name"] == "x"


def test_without_the_extra_the_setting_is_refused_and_variables_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.trace.v1.trace_pb2", None)
    with pytest.raises(NotInstalled, match=r"bandit-serve\[otel\]"):
        collector_of(Settings(otel_endpoint="http://a:4318"), {})
    assert collector_of(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}) is None
    assert "pip install" in caplog.text


def test_the_queue_is_bounded_and_a_draw_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_SPANS", 10)
    counters = Counters(())
    tracing = Tracing(Collector("http://127.0.0.1:9", {}, None, 0.5), counters)
    nothing = CIMultiDictProxy(CIMultiDict())
    drawn = [tags for _ in range(2_000) if (tags := tracing.tags_of(nothing)) is not None]
    assert 850 < len(drawn) < 1_150
    assert len({tags.trace_id for tags in drawn}) == len(drawn)
    for tags in drawn[:25]:
        tracing.request(tags, "GET /a", 200, 0.1, None)
    assert counters.total("spans_dropped") == 15
    record_into(None)
