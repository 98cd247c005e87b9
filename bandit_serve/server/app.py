"""Application: the handlers of the routes, and the middleware that they share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from bandit_serve.base.mistakes import MAX_MISTAKES, expected_one_of
from bandit_serve.base.request_tags import tagged
from bandit_serve.errors import FieldError, InvalidInput, NotBegun, StateFault, TooLarge
from bandit_serve.server.admission import Admission
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.connection import Connection
from bandit_serve.server.cors import CrossOrigin
from bandit_serve.server.dialects import error_response
from bandit_serve.server.handlers.covariates import CovariateHandlers
from bandit_serve.server.handlers.decisions import DecisionHandlers
from bandit_serve.server.handlers.definitions import DefinitionHandlers
from bandit_serve.server.handlers.experiments import ExperimentHandlers
from bandit_serve.server.handlers.flags import FlagHandlers
from bandit_serve.server.handlers.inference import InferenceHandlers
from bandit_serve.server.handlers.models import ModelHandlers
from bandit_serve.server.handlers.operations import OperationHandlers
from bandit_serve.server.handlers.plans import PlanHandlers
from bandit_serve.server.handlers.rewards import RewardHandlers
from bandit_serve.server.lane import Endpoint, Lane
from bandit_serve.server.openapi import document
from bandit_serve.server.route import Route
from bandit_serve.server.routes import OPEN_PATHS, ROUTES, UNMATCHED
from bandit_serve.server.service import Service
from bandit_serve.server.wire import CALLER, MAX_BODY, TAGS, Reply, read_bytes, tags_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# After these the rest of the body may still come, or never: no other request can follow it.
BODY_ABANDONED = frozenset({408, 413})


def make_app(
    service: Service, admission: Admission, authentication: Authentication
) -> tuple[web.Application, Lane]:
    """Makes the application, and the lane for its hot routes."""
    groups = {
        "decisions": DecisionHandlers(service),
        "rewards": RewardHandlers(service),
        "flags": FlagHandlers(service),
        "inference": InferenceHandlers(service),
        "experiments": ExperimentHandlers(service),
        "definitions": DefinitionHandlers(service),
        "covariates": CovariateHandlers(service),
        "models": ModelHandlers(service),
        "plans": PlanHandlers(service),
        "operations": OperationHandlers(service, document(ROUTES)),
    }
    routes: dict[web.AbstractRoute, Route] = {}
    lane = Lane(service, admission, authentication)
    service.node.replica.on_deleted(lane.forget)
    app = web.Application(
        middlewares=[_shared(service, admission, authentication, routes)],
        client_max_size=service.settings.max_body,
    )
    for route in ROUTES:
        group, name = route.handler.split(".")
        endpoint = getattr(groups[group], name)
        if route.hot:
            max_body = min(route.max_body or service.settings.max_body, service.settings.max_body)
            lane.add(route, endpoint, max_body)
            endpoint = _ordinary(endpoint, service.settings.seconds("body_timeout"))
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        for method in methods:
            routes[app.router.add_route(method, route.path, endpoint)] = route
    return app, lane


def _ordinary(endpoint: Endpoint, timeout_s: float) -> Handler:
    """Wraps a hot endpoint as an ordinary handler, for requests that the lane leaves to the application."""

    async def handle(request: web.Request) -> web.Response:
        body = await read_bytes(request, timeout_s)
        reply = endpoint(request.match_info.get("experiment", ""), request.headers, body)
        if not isinstance(reply, Reply):
            reply = await reply
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    return handle


def _shared(
    service: Service,
    admission: Admission,
    authentication: Authentication,
    routes: dict[web.AbstractRoute, Route],
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Middleware of all routes: errors become problems, requests are counted, a draining worker closes connections."""
    counters, cross_origin = service.counters, CrossOrigin(service.settings)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        tags = tags_of(request.headers)
        if tags is None:
            return await answer_untagged(request, handler)
        request[TAGS] = tags
        with tagged(tags):
            response = await answer_untagged(request, handler)
        response.headers.update(tags.headers())
        return response

    async def answer_untagged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        route = routes.get(request.match_info.route)
        response: web.StreamResponse
        try:
            admission.check(request.method, request.headers)
            preflight = cross_origin.preflight(request)
            if preflight is None and request.path not in OPEN_PATHS:
                if _is_crowded(request):
                    raise NotBegun("This worker has as many connections as it can have.")
                if not service.ready:
                    raise NotBegun("The first state is not loaded yet.")
            if preflight is None and service.ready:
                key = authentication.caller("any" if route is None else route.needs, request.headers)
                if key is not None:
                    request[CALLER] = key.name
            if route is not None:
                if request.query_string:
                    _check_query(route, request)
                if route.max_body is not None:
                    request[MAX_BODY] = route.max_body
            response = preflight or await _answered(route, handler, request)
        except Exception as error:
            response = error_response(request, error)
        cross_origin.mark(request, response)
        if (
            service.draining
            or _is_crowded(request)
            or response.status in BODY_ABANDONED
            or request.content.exception() is not None
        ):
            response.force_close()
        counters.request(
            UNMATCHED if route is None else route.label, response.status, time.perf_counter() - started
        )
        return response

    return answer


async def _answered(route: Route | None, handler: Handler, request: web.Request) -> web.StreamResponse:
    """A route that takes nothing from its caller cannot have been given anything invalid: then the fault is ours.

    What we have to say may still be too much for one answer.
    """
    if route is None or route.takes is not None or route.query:
        return await handler(request)
    try:
        return await handler(request)
    except TooLarge:
        raise
    except InvalidInput as error:
        raise StateFault("What we know can not be read; the service's log says why.") from error


def _check_query(route: Route, request: web.Request) -> None:
    known = [parameter.name for parameter in route.query]
    unknown = list(dict.fromkeys(name for name in request.query if name not in known))[:MAX_MISTAKES]
    if unknown:
        errors = [
            FieldError(
                name[:60], expected_one_of(name, known) if known else "expected no parameters in the query"
            )
            for name in unknown
        ]
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)


def _is_crowded(request: web.Request) -> bool:
    return isinstance(request.protocol, Connection) and request.protocol.crowded
