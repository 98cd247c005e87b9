"""Middleware that carries decisions through a request: the present request's decisions, for its handlers."""

from __future__ import annotations

from contextvars import ContextVar

from bandit_serve_client.middleware.decisions import Decisions
from bandit_serve_client.middleware.sync_decisions import SyncDecisions

TIMEOUT_S = 0.25
"""Seconds that a request waits for a decision, unless the middleware is given others."""

current: ContextVar[Decisions] = ContextVar("bandit_serve_decisions")
sync_current: ContextVar[SyncDecisions] = ContextVar("bandit_serve_sync_decisions")


def decisions() -> Decisions:
    """Returns those of the present request, under ASGI or aiohttp. Raises LookupError outside of one."""
    return current.get()


def sync_decisions() -> SyncDecisions:
    """Returns those of the present request, under WSGI. Raises LookupError outside of one."""
    return sync_current.get()
