"""Middleware for ASGI applications, such as those of Starlette and FastAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bandit_serve_client.client import Client
from bandit_serve_client.middleware import TIMEOUT_S, current
from bandit_serve_client.middleware.decisions import Decisions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ASGIMiddleware:
    """Application around `app` in whose requests `decisions()` works.

    unit : called with the scope of a request in which something is decided; None where the experiments need no unit.
    timeout : seconds that a request waits for a decision before the default is served.
    """

    def __init__(
        self, app: App, client: Client, *, unit: Callable[[Scope], str | None], timeout: float = TIMEOUT_S
    ) -> None:
        self._app = app
        self._client = client
        self._unit = unit
        self._timeout_s = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        decisions = Decisions(self._client, lambda: self._unit(scope), self._timeout_s)
        token = current.set(decisions)
        try:
            await self._app(scope, receive, send)
        finally:
            current.reset(token)
            decisions.answered()
