"""Tenants of a real service: keys of each scope, and calls with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from commands import bandit_serve
from services import Answer, ThrowawayService

SCOPES = ("serve", "read", "admin")


class Made(NamedTuple):
    id: str
    key: str


def make(data: Path, *flags: str) -> Made:
    """Makes a key on the data directory."""
    ran = bandit_serve("keys", "create", *flags, "--data", data, "--json")
    assert ran.status == 0, ran.err
    return Made(**ran.document)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Caller(NamedTuple):
    """Caller with one key. It has the interface of a service, so helpers for services take it, too."""

    service: ThrowawayService
    made: Made

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:
        return self.service.call(method, path, body, {**bearer(self.made.key), **(headers or {})}, timeout_s)


def keys_of(root: Caller, tenant: str | None) -> dict[str, Made]:
    """A key of each scope, named after tenant and scope: of a tenant, or of the service itself for None.

    `root` is an admin of the service.
    """
    of = {} if tenant is None else {"tenant": tenant}
    made = {}
    for scope in SCOPES:
        answer = root.call("POST", "/v1/keys", {"scope": scope, "name": f"{tenant or 'root'}-{scope}", **of})
        assert answer.status == 201, answer
        made[scope] = Made(**answer.body)
    return made
