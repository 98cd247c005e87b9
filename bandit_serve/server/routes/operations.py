"""Routes of health, metrics, the description and the list of experiments."""

from __future__ import annotations

from bandit_serve.server.handlers.operations import Health, Stats
from bandit_serve.server.route import JSON_ONLY, HtmlPage, Route
from bandit_serve.server.routes.pages import LIST

OPERATIONS: tuple[Route, ...] = (
    Route(
        "GET",
        "/health/live",
        "operations.live",
        "Whether this worker runs.",
        "nothing",
        answers=Health,
        media=JSON_ONLY,
        open=True,
        operation="checkLive",
    ),
    Route(
        "GET",
        "/health/ready",
        "operations.ready",
        "Whether this worker can serve.",
        "nothing",
        answers=Health,
        media=JSON_ONLY,
        refuses=(503,),
        open=True,
        operation="checkReady",
    ),
    Route(
        "GET",
        "/metrics",
        "operations.metrics",
        "Counters for Prometheus.",
        "read",
        answers=str,
        media=JSON_ONLY,
        operation="getMetrics",
    ),
    Route(
        "GET",
        "/v1/stats",
        "operations.stats",
        "The service in one page.",
        "read",
        answers=Stats,
        refuses=(413,),
        operation="getStats",
    ),
    Route(
        "GET",
        "/openapi.json",
        "operations.openapi",
        "This description.",
        "read",
        answers=dict,
        media=JSON_ONLY,
        operation="getOpenapi",
    ),
    Route(
        "GET",
        "/",
        "pages.overview",
        "The dashboard: a page that lists experiments.",
        "read",
        answers=HtmlPage,
        query=LIST,
        operation="getDashboard",
    ),
)
