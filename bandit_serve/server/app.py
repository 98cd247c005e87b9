"""The map: every route, what answers it, and what all routes share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from bandit_serve.errors import Unavailable
from bandit_serve.server.handlers.decisions import DecisionHandlers
from bandit_serve.server.handlers.experiments import ExperimentHandlers
from bandit_serve.server.handlers.models import ModelHandlers
from bandit_serve.server.handlers.operations import OperationHandlers
from bandit_serve.server.handlers.rewards import RewardHandlers
from bandit_serve.server.problems import problem_response
from bandit_serve.server.service import Service

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNMATCHED = "unmatched"
ALWAYS_OPEN = ("/health/live", "/health/ready")
# After these the rest of the body may still come, or never: no other request can follow it.
BODY_ABANDONED = frozenset({408, 413})

# The hot ones first: aiohttp tries the routes of a prefix in their order.
ROUTES: tuple[tuple[str, str, str], ...] = (
    ("POST", "/v1/rewards", "rewards.reward"),
    ("POST", "/v1/experiments/{experiment}/decide", "decisions.decide"),
    ("POST", "/v1/experiments/{experiment}/predict", "decisions.predict"),
    ("POST", "/v1/experiments/{experiment}/decide/batch", "decisions.decide_batch"),
    ("POST", "/v1/experiments/{experiment}/predict/batch", "decisions.predict_batch"),
    ("POST", "/v1/models/{model}/predict", "decisions.score"),
    ("POST", "/v1/models/{model}/versions/{version}/predict", "decisions.score"),
    ("GET", "/health/live", "operations.live"),
    ("GET", "/health/ready", "operations.ready"),
    ("GET", "/metrics", "operations.metrics"),
    ("GET", "/v1/stats", "operations.stats"),
    ("POST", "/v1/experiments", "experiments.create"),
    ("GET", "/v1/experiments", "experiments.list_all"),
    ("GET", "/v1/experiments/{experiment}", "experiments.show"),
    ("DELETE", "/v1/experiments/{experiment}", "experiments.not_built"),
    ("PUT", "/v1/experiments/{experiment}/policy", "experiments.change_policy"),
    ("POST", "/v1/experiments/{experiment}/arms", "experiments.not_built"),
    ("DELETE", "/v1/experiments/{experiment}/arms/{arm}", "experiments.not_built"),
    ("POST", "/v1/experiments/{experiment}/start", "experiments.start"),
    ("POST", "/v1/experiments/{experiment}/pause", "experiments.pause"),
    ("POST", "/v1/experiments/{experiment}/stop", "experiments.stop"),
    ("GET", "/v1/experiments/{experiment}/results", "experiments.results"),
    ("GET", "/v1/experiments/{experiment}/history", "experiments.history"),
    ("GET", "/v1/models", "models.list_all"),
    ("GET", "/v1/models/{model}", "models.show"),
    ("POST", "/v1/models/{model}/rollback", "models.rollback"),
    ("POST", "/v1/models/{model}/versions", "models.register"),
    ("GET", "/v1/models/{model}/versions/{version}", "models.show_version"),
    ("PATCH", "/v1/models/{model}/versions/{version}", "models.patch"),
    ("POST", "/v1/models/{model}/versions/{version}/status", "models.set_status"),
    ("POST", "/v1/models/{model}/versions/{version}/load", "models.load"),
    ("GET", "/openapi.json", "operations.not_built"),
    ("GET", "/", "operations.not_built"),
)
ROUTE_LABELS: tuple[str, ...] = (*(f"{method} {path}" for method, path, _ in ROUTES), UNMATCHED)


def make_app(service: Service) -> web.Application:
    groups = {
        "decisions": DecisionHandlers(service),
        "rewards": RewardHandlers(service),
        "experiments": ExperimentHandlers(service),
        "models": ModelHandlers(service),
        "operations": OperationHandlers(service),
    }
    labels: dict[web.AbstractRoute, str] = {}
    app = web.Application(middlewares=[_shared(service, labels)], client_max_size=service.settings.max_body)
    for method, path, handler in ROUTES:
        group, name = handler.split(".")
        route = app.router.add_route(method, path, getattr(groups[group], name))
        labels[route] = f"{method} {path}"
    return app


def _shared(
    service: Service, labels: dict[web.AbstractRoute, str]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Errors become problems, requests are counted, and a draining worker closes what it has answered."""
    counters = service.counters

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        response: web.StreamResponse
        try:
            if not service.ready and request.path not in ALWAYS_OPEN:
                raise Unavailable("The first state is not loaded yet.")
            response = await handler(request)
        except Exception as error:
            response = problem_response(error)
        if service.draining or response.status in BODY_ABANDONED:
            response.force_close()
        label = labels.get(request.match_info.route, UNMATCHED)
        counters.request(label, response.status, time.perf_counter() - started)
        return response

    return answer
