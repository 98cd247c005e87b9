"""Middleware for applications of aiohttp, which is imported with the first one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from bandit_serve_client.client import Client
from bandit_serve_client.middleware import TIMEOUT_S, current
from bandit_serve_client.middleware.decisions import Decisions

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def aiohttp_middleware(
    client: Client, *, unit: Callable[[web.Request], str | None], timeout: float = TIMEOUT_S
) -> Middleware:
    """Makes a middleware in whose requests `decisions()` works.

    unit : called with a request in which something is decided; None where the experiments need no unit.
    timeout : seconds that a request waits for a decision before the default is served.
    """
    from aiohttp import web

    @web.middleware
    async def carry(request: web.Request, handler: Handler) -> web.StreamResponse:
        decisions = Decisions(client, lambda: unit(request), timeout)
        token = current.set(decisions)
        try:
            return await handler(request)
        finally:
            current.reset(token)
            decisions.answered()

    return carry
