"""OpenTelemetry collectors for tests: an aiohttp server in a thread that decodes what it gets."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as protocol


class ReceivedSpan(NamedTuple):
    """Span as the collector got it; ids are hexadecimal, `parent_id` empty for a root."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    seconds: float
    attributes: dict[str, Any]
    failed: bool
    resource: dict[str, Any]


class ThrowawayCollector:
    """Collector in a `with` block. `status` is what it answers; 0 lets a request hang. `headers` are the last ones."""

    def __init__(self) -> None:
        self.status = 200
        self.spans: list[ReceivedSpan] = []
        self.headers: dict[str, str] = {}
        self.n_requests = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers = dict(request.headers)
        self.n_requests += 1
        if self.status == 0:
            await asyncio.sleep(3_600)
        if self.status != 200:
            return web.Response(status=self.status)
        sent = protocol.ExportTraceServiceRequest.FromString(body)
        for of_resource in sent.resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]
        answer = protocol.ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)


def _received(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        _attributes(span.attributes),
        span.status.code == 2,
        resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
