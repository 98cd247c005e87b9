"""Application: the routes, and the middleware that they share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from msgspec import UNSET

from bandit_serve.base.log_fields import LOG_FIELDS
from bandit_serve.base.mistakes import MAX_MISTAKES, expected_one_of
from bandit_serve.base.request_tags import tagged
from bandit_serve.errors import (
    FieldError,
    InvalidInput,
    LimitReached,
    NotBegun,
    RateExceeded,
    StateFault,
    TooLarge,
)
from bandit_serve.server.admission import READS, Admission
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.connection import Connection
from bandit_serve.server.cors import CrossOrigin
from bandit_serve.server.dialects import error_response
from bandit_serve.server.forwarded import FORWARDED, NOTHING
from bandit_serve.server.gate import RequestGate
from bandit_serve.server.route import HtmlPage, Route
from bandit_serve.server.routes import OPEN_PATHS, ROUTES, UNMATCHED
from bandit_serve.server.routes.pages import PAGES
from bandit_serve.server.site import Handler, Site
from bandit_serve.server.tenants import Tenants
from bandit_serve.server.tracing import Tracing
from bandit_serve.server.visitor import failure_response, wants_page
from bandit_serve.server.wire import CALLER, MAX_BODY, TAGS, TENANT, in_wanted_form, tags_of

# After these the rest of the body may still come, or never: no other request can follow it.
BODY_ABANDONED = frozenset({408, 413})
# What is in these folders is a program's, even if it was written into a browser.
API_FOLDERS = frozenset(route.path.split("/")[1] for route in ROUTES if route.answers is not HtmlPage)


def make_app(
    own: Site,
    tenants: Tenants,
    admission: Admission,
    authentication: Authentication,
    tracing: Tracing | None = None,
) -> web.Application:
    """Makes the application of the worker's own site and those of its tenants."""
    routes: dict[web.AbstractRoute, Route] = {}
    app = web.Application(
        middlewares=[_shared(own, tenants, admission, authentication, routes, tracing)],
        client_max_size=own.service.settings.max_body,
    )
    for route in (*ROUTES, *PAGES):
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        for method in methods:
            routes[app.router.add_route(method, route.path, own.handlers[route.label])] = route
    return app


def _shared(
    own: Site,
    tenants: Tenants,
    admission: Admission,
    authentication: Authentication,
    routes: dict[web.AbstractRoute, Route],
    tracing: Tracing | None,
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Middleware of all routes: errors become problems, requests are counted, a draining worker closes connections.

    A request with a tenant's key goes to the handler of that tenant's site.
    """
    cross_origin = CrossOrigin(own.service.settings)
    read_tags = tags_of if tracing is None else tracing.tags_of

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        tags = read_tags(request.headers)
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
        is_page = route is not None and route.answers is HtmlPage
        site, logged = own, None
        response: web.StreamResponse
        try:
            forwarded = NOTHING
            if admission.proxies:
                forwarded = request[FORWARDED] = admission.proxies.read(request.remote, request.headers)
            admission.check(request.method, request.headers, forwarded.host)
            preflight = cross_origin.preflight(request)
            if preflight is None and request.path not in OPEN_PATHS:
                if _is_crowded(request):
                    raise NotBegun("This worker has as many connections as it can have.")
                if not own.service.ready:
                    raise NotBegun("The first state is not loaded yet.")
            if preflight is None and own.service.ready:
                needed = "any" if route is None else route.needs
                key = authentication.caller(needed, request.headers, request.method, host=forwarded.host)
                if key is not None:
                    request[CALLER] = key.name
                elif is_page:
                    # A form asks for the key itself, and is its tenant's all the same.
                    key = authentication.holder(request.headers)
                if key is not None and key.tenant is not UNSET:
                    _note_tenant(request, key.tenant)
                    logged = LOG_FIELDS.set({"tenant": key.tenant})
                    site = await tenants.site(key.tenant)
                    if site.service.gate is not None:
                        site.service.gate.admit()
                    handler = handler if route is None else site.handlers[route.label]
            if route is not None:
                if request.query_string:
                    _check_query(route, request)
                if route.max_body is not None:
                    request[MAX_BODY] = route.max_body
            response = preflight or await _answered(route, handler, request)
        except Exception as error:
            if isinstance(error, LimitReached) and site.service.gate is not None:
                await _refuse(request, site.service.gate, error)
            for_people = is_page or _may_be_mistyped(route, request)
            fails = failure_response if for_people and wants_page(request) else error_response
            response = fails(request, error)
        cross_origin.mark(request, response)
        if (
            site.service.draining
            or _is_crowded(request)
            or response.status in BODY_ABANDONED
            or request.content.exception() is not None
        ):
            response.force_close()
        label, elapsed_s = UNMATCHED if route is None else route.label, time.perf_counter() - started
        site.service.counters.request(label, response.status, elapsed_s)
        tags = None if tracing is None else request.get(TAGS)
        if tracing is not None and tags is not None:
            experiment = request.match_info.get("experiment")
            tracing.request(tags, label, response.status, elapsed_s, experiment)
        if logged is not None:
            # The connection's next request may be another's.
            LOG_FIELDS.reset(logged)
        return response

    return answer


async def _answered(route: Route | None, handler: Handler, request: web.Request) -> web.StreamResponse:
    """Answer of a route, in the form that the request wants.

    A route that takes nothing from its caller cannot have been given anything invalid: then the fault is ours. What we
    have to say may still be too much for one answer.
    """
    try:
        response = await handler(request)
    except TooLarge:
        raise
    except InvalidInput as error:
        if route is None or route.takes is not None or route.query:
            raise
        raise StateFault("What we know can not be read; the service's log says why.") from error
    if route is not None and route.negotiates:
        await in_wanted_form(request, response)
    return response


async def _refuse(request: web.Request, gate: RequestGate, error: LimitReached) -> None:
    """Counts a refusal, and waits before it is answered if there are many."""
    gate.count(error)
    pause_s = gate.pause_s() if isinstance(error, RateExceeded) else 0.0
    if not pause_s:
        return
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.paused = True
    try:
        await gate.pause(pause_s)
    finally:
        connection.paused = False


def _note_tenant(request: web.Request, tenant: str) -> None:
    request[TENANT] = tenant
    if isinstance(request.protocol, Connection):
        request.protocol.tenant = tenant


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


def _may_be_mistyped(route: Route | None, request: web.Request) -> bool:
    """Whether a path that is none was meant for a page."""
    return route is None and request.method in READS and request.path.split("/")[1] not in API_FOLDERS
