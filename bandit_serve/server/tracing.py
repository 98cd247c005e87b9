"""Sending of spans to an OpenTelemetry collector: OTLP over HTTP, in protobuf, from a thread of its own.

A request pays for a tuple in a bounded queue. Whatever the collector does, requests do not wait for it: spans that find
no room, or no collector, are counted and dropped.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from multidict import CIMultiDictProxy

from bandit_serve import __version__
from bandit_serve.base.extras import require
from bandit_serve.base.request_tags import RequestTags
from bandit_serve.base.secrets import know_secrets
from bandit_serve.base.spans import Attributes, Span, SpanKind, record_into
from bandit_serve.errors import NotInstalled, UsageError
from bandit_serve.server.metrics import Counters
from bandit_serve.server.wire import tags_of
from bandit_serve.settings import Settings

log = logging.getLogger(__name__)

MAX_WAITING_SPANS = 8_192
MAX_SENT_SPANS = 512
"""Spans that are sent at a time."""
SEND_EVERY_S = 1.0
SEND_TIMEOUT_S = 10.0
LAST_TIMEOUT_S = 2.0
SAID_EVERY_S = 60.0
TRACES = "/v1/traces"
KINDS: Mapping[SpanKind, int] = {"internal": 1, "server": 2, "client": 3}
"""Numbers of OTLP."""
FAILED = 2


class Collector(NamedTuple):
    """Where spans go: a URL, headers (which may be secrets), a CA file, and the share of the new traces."""

    url: str
    headers: Mapping[str, str]
    ca_file: str | None
    share: float


def collector_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> Collector | None:
    """Collector of the settings, or else of OpenTelemetry's own variables; None where neither names one.

    Raises `NotInstalled` where the settings name one and the extra is missing. Variables alone are often set for all
    programs of a cluster, and then it is only said. Raises `UsageError` for a variable that is malformed.
    """
    base = settings.otel_endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""
    url = base.rstrip("/") + TRACES if base and not base.endswith(TRACES) else base
    if settings.otel_endpoint is None:
        url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or url
        if not url or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
    if not url.startswith(("http://", "https://")):
        raise UsageError("OTEL_EXPORTER_OTLP_ENDPOINT is wrong; expected a URL of OTLP over HTTP.")
    try:
        require("opentelemetry.proto.trace.v1.trace_pb2", "otel")
    except NotInstalled as error:
        if settings.otel_endpoint is not None:
            raise
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is not heeded, and no spans are sent: %s", error)
        return None
    headers = _headers(
        environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS") or ""
    )
    return Collector(url, headers, environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE"), _share(settings, environ))


def _share(settings: Settings, environ: Mapping[str, str]) -> float:
    if settings.otel_share is not None:
        return settings.otel_share
    sampler = environ.get("OTEL_TRACES_SAMPLER", "")
    if sampler.endswith("always_off"):
        return 0.0
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "") if sampler.endswith("traceidratio") else ""
    try:
        share = float(text) if text else 1.0
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise UsageError("OTEL_TRACES_SAMPLER_ARG is wrong; expected a number from 0 to 1.")
    return share


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, _, value = pair.partition("=")
        headers[name.strip()] = unquote(value.strip())
    know_secrets(*headers.values())
    return headers


class Tracing:
    """Spans of a worker's requests. The trace of a caller goes on, sampled or not as its caller says; other requests
    begin one, for `share` of them.
    """

    def __init__(self, collector: Collector, counters: Counters) -> None:
        self._share = collector.share
        self._counters = counters
        self._collector = collector
        self._waiting: deque[Span] = deque()
        self._stopping = threading.Event()
        self._said_s = -SAID_EVERY_S
        self._trust = ssl.create_default_context(cafile=collector.ca_file)
        self._protocol = require("opentelemetry.proto.collector.trace.v1.trace_service_pb2", "otel")
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def start(self) -> None:
        record_into(self.record)
        self._thread.start()

    def stop(self) -> None:
        """Sends what waits, within `LAST_TIMEOUT_S`."""
        record_into(None)
        self._stopping.set()
        self._thread.join(LAST_TIMEOUT_S)

    def tags_of(self, headers: CIMultiDictProxy[str]) -> RequestTags | None:
        """Tags of a request, with a new trace where it has none and a draw takes it."""
        tags = tags_of(headers)
        if (tags is not None and tags.trace_id is not None) or random.random() >= self._share:
            return tags
        request_id = None if tags is None else tags.request_id
        return RequestTags(request_id, secrets.token_hex(16), secrets.token_hex(8), "01", None)

    def request(
        self, tags: RequestTags, label: str, status: int, seconds: float, experiment: str | None
    ) -> None:
        """Records the span of a request that was answered now, and took so many seconds."""
        if not tags.sampled:
            return
        assert tags.trace_id is not None
        assert tags.span_id is not None
        method, _, route = label.partition(" ")
        attributes: dict[str, str | int | bool] = {"http.response.status_code": status}
        if route:
            attributes |= {"http.request.method": method, "http.route": route}
        if experiment:
            attributes["bandit_serve.experiment"] = experiment[:128]
        if tags.request_id is not None:
            attributes["http.request.header.x-request-id"] = tags.request_id
        ended_ns = time.time_ns()
        began_ns = ended_ns - round(seconds * 1e9)
        self.record(
            Span(
                label,
                "server",
                tags.trace_id,
                tags.span_id,
                tags.parent_id,
                began_ns,
                ended_ns,
                attributes,
                status >= 500,
            )
        )

    def record(self, span: Span) -> None:
        if len(self._waiting) < MAX_WAITING_SPANS:
            self._waiting.append(span)
        else:
            self._counters.add("spans_dropped")

    def _run(self) -> None:
        while not self._stopping.wait(SEND_EVERY_S):
            while self._waiting and self._send(SEND_TIMEOUT_S):
                pass
        if self._waiting:
            self._send(LAST_TIMEOUT_S)

    def _send(self, timeout_s: float) -> bool:
        """Sends some spans; False where the collector did not take them. It is asked once: what waits is newer."""
        spans = [self._waiting.popleft() for _ in range(min(MAX_SENT_SPANS, len(self._waiting)))]
        try:
            body = self._encoded(spans)
            self._post(body, timeout_s)
        except Exception as error:
            self._counters.add("spans_dropped", len(spans))
            self._say(error)
            return False
        self._counters.add("spans_sent", len(spans))
        return True

    def _post(self, body: bytes, timeout_s: float) -> None:
        headers = {
            "User-Agent": f"bandit-serve/{__version__}",
            **self._collector.headers,
            "Content-Type": "application/x-protobuf",
        }
        request = urllib.request.Request(self._collector.url, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=timeout_s, context=self._trust) as answer:
            answer.read(65_536)

    def _say(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= SAID_EVERY_S:
            self._said_s = now_s
            log.warning("spans are dropped, as the collector does not take them: %s", error)

    def _encoded(self, spans: Iterable[Span]) -> bytes:
        request = self._protocol.ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        _put(of_resource.resource.attributes, resource_attributes())
        scope = of_resource.scope_spans.add()
        scope.scope.name, scope.scope.version = "bandit_serve", __version__
        for span in spans:
            made = scope.spans.add(
                trace_id=bytes.fromhex(span.trace_id),
                span_id=bytes.fromhex(span.span_id),
                parent_span_id=b"" if span.parent_id is None else bytes.fromhex(span.parent_id),
                name=span.name,
                kind=KINDS[span.kind],
                start_time_unix_nano=span.began_ns,
                end_time_unix_nano=span.ended_ns,
            )
            _put(made.attributes, span.attributes)
            if span.failed:
                made.status.code = FAILED
        encoded: bytes = request.SerializeToString()
        return encoded


def resource_attributes(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Attributes of this service, by its own knowledge and by OpenTelemetry's variables, which prevail."""
    attributes = {"service.name": "bandit-serve", "service.version": __version__}
    for pair in filter(None, map(str.strip, environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))):
        name, _, value = pair.partition("=")
        attributes[name.strip()] = unquote(value.strip())
    if environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = environ["OTEL_SERVICE_NAME"]
    return attributes


def _put(place: Any, attributes: Attributes) -> None:
    for name, value in attributes.items():
        pair = place.add(key=name)
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = value
