"""Access log: a record for each request, with what the JSON log has as fields of their own."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger

from bandit_serve.server.forwarded import client_of
from bandit_serve.server.wire import TAGS, TENANT


class AccessLog(AbstractAccessLogger):
    """Writer of records such as `10.0.0.7 "GET /v1/stats HTTP/1.1" 200 769 3.1 ms "-" "curl/8"`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        tags = request.get(TAGS)
        info = request.match_info if isinstance(request, web.Request) else None
        resource = None if info is None else info.route.resource
        self.logger.info(
            '%s "%s %s HTTP/%d.%d" %d %d %.1f ms "%s" "%s"',
            client_of(request),
            request.method,
            request.path_qs,
            *request.version,
            response.status,
            response.body_length,
            time * 1000,
            request.headers.get(hdrs.REFERER, "-"),
            request.headers.get(hdrs.USER_AGENT, "-"),
            extra={
                "tenant": request.get(TENANT),
                "route": None if resource is None else resource.canonical,
                "status": response.status,
                "duration_ms": round(time * 1000, 3),
                "request_id": None if tags is None else tags.request_id,
                "trace_id": None if tags is None else tags.trace_id,
            },
        )
