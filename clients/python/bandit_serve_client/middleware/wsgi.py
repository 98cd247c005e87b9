"""Middleware for WSGI applications, such as those of Flask and Django."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bandit_serve_client.middleware import TIMEOUT_S, sync_current
from bandit_serve_client.middleware.sync_decisions import SyncDecisions
from bandit_serve_client.sync_client import SyncClient

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class WSGIMiddleware:
    """Application around `app` in whose requests `sync_decisions()` works.

    unit : called with the environ of a request in which something is decided; None where the experiments need no unit.
    timeout : seconds that a request waits for a decision before the default is served.
    """

    def __init__(
        self,
        app: App,
        client: SyncClient,
        *,
        unit: Callable[[Environ], str | None],
        timeout: float = TIMEOUT_S,
    ) -> None:
        self._app = app
        self._client = client
        self._unit = unit
        self._timeout_s = timeout

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        decisions = SyncDecisions(self._client, lambda: self._unit(environ), self._timeout_s)
        context = contextvars.copy_context()
        context.run(sync_current.set, decisions)
        try:
            content = context.run(self._app, environ, start_response)
        except BaseException:
            decisions.answered()
            raise
        return _Response(content, context, decisions)


class _Response:
    """Content of a response, made in the request's context; the server closes it when all of it is sent."""

    def __init__(
        self, content: Iterable[bytes], context: contextvars.Context, decisions: SyncDecisions
    ) -> None:
        self._content = content
        self._parts = context.run(iter, content)
        self._context = context
        self._decisions = decisions

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._parts)

    def close(self) -> None:
        try:
            close = getattr(self._content, "close", None)
            if close is not None:
                self._context.run(close)
        finally:
            self._decisions.answered()
