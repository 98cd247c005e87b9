"""Site: a service, its handlers of all routes, and its lane. There is one of the worker's own, and one a tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from bandit_serve.server.admission import Admission
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.handlers.covariates import CovariateHandlers
from bandit_serve.server.handlers.decisions import DecisionHandlers
from bandit_serve.server.handlers.definitions import DefinitionHandlers
from bandit_serve.server.handlers.deployments import DeploymentHandlers
from bandit_serve.server.handlers.experiments import ExperimentHandlers
from bandit_serve.server.handlers.flags import FlagHandlers
from bandit_serve.server.handlers.inference import InferenceHandlers
from bandit_serve.server.handlers.keys import KeyHandlers
from bandit_serve.server.handlers.models import ModelHandlers
from bandit_serve.server.handlers.operations import OperationHandlers
from bandit_serve.server.handlers.page_forms import FormHandlers
from bandit_serve.server.handlers.pages import PageHandlers
from bandit_serve.server.handlers.plans import PlanHandlers
from bandit_serve.server.handlers.promotions import PromotionHandlers
from bandit_serve.server.handlers.rewards import RewardHandlers
from bandit_serve.server.handlers.simulator import SimulatorHandlers
from bandit_serve.server.lane import Endpoint, Lane
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.routes.pages import PAGES
from bandit_serve.server.service import Service
from bandit_serve.server.tracing import Tracing
from bandit_serve.server.wire import Reply, read_bytes
from bandit_serve.server.wire_form import form_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site(NamedTuple):
    """`handlers` are by the label of their route."""

    service: Service
    handlers: Mapping[str, Handler]
    lane: Lane


def make_site(
    service: Service,
    admission: Admission,
    authentication: Authentication,
    description: dict[str, Any],
    tracing: Tracing | None = None,
) -> Site:
    """Makes a site. `description` is what `/openapi.json` answers with."""
    groups = {
        "decisions": DecisionHandlers(service),
        "rewards": RewardHandlers(service),
        "flags": FlagHandlers(service),
        "inference": InferenceHandlers(service),
        "experiments": ExperimentHandlers(service),
        "definitions": DefinitionHandlers(service),
        "covariates": CovariateHandlers(service),
        "models": ModelHandlers(service),
        "promotions": PromotionHandlers(service),
        "plans": PlanHandlers(service),
        "deployments": (deployments := DeploymentHandlers(service)),
        "keys": KeyHandlers(service),
        "operations": (operations := OperationHandlers(service, description)),
        "pages": (pages := PageHandlers(service, authentication, operations, deployments)),
        "simulator": SimulatorHandlers(service, authentication),
        "forms": FormHandlers(service, authentication, pages),
    }
    handlers: dict[str, Handler] = {}
    lane = Lane(service, admission, authentication, tracing)
    service.node.replica.on_deleted(lane.forget)
    for route in (*ROUTES, *PAGES):
        group, name = route.handler.split(".")
        endpoint = getattr(groups[group], name)
        if route.hot:
            max_body = min(route.max_body or service.settings.max_body, service.settings.max_body)
            lane.add(route, endpoint, max_body)
            endpoint = _ordinary(endpoint, service.settings.seconds("body_timeout"))
        handlers[route.label] = endpoint
    return Site(service, handlers, lane)


def _ordinary(endpoint: Endpoint, timeout_s: float) -> Handler:
    """Wraps a hot endpoint as an ordinary handler, for requests that the lane leaves to the application."""

    async def handle(request: web.Request) -> web.Response:
        body = await read_bytes(request, timeout_s)
        reply = endpoint(request.match_info.get("experiment", ""), form_of(request.headers), body)
        if not isinstance(reply, Reply):
            reply = await reply
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    return handle
