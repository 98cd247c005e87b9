"""Routes of keys."""

from __future__ import annotations

from bandit_serve.api.keys import CreatedKey, KeyList, KeyRequest
from bandit_serve.server.page import PAGE
from bandit_serve.server.route import Route

KEY_BYTES = 16 * 1024

KEYS: tuple[Route, ...] = (
    Route(
        "GET",
        "/v1/keys",
        "keys.list_all",
        "All keys of callers, or a page of them, without their secrets; to a tenant, its own.",
        "read",
        answers=KeyList,
        query=PAGE,
        refuses=(413,),
        operation="listKeys",
    ),
    Route(
        "POST",
        "/v1/keys",
        "keys.create",
        "Makes a key, which is in this answer and nowhere else.",
        "admin",
        KeyRequest,
        CreatedKey,
        status=201,
        refuses=(404, 409),
        max_body=KEY_BYTES,
        operation="createKey",
    ),
    Route(
        "DELETE",
        "/v1/keys/{key}",
        "keys.revoke",
        "Ends a key: all workers refuse it from now on.",
        "admin",
        status=204,
        refuses=(404,),
        operation="revokeKey",
    ),
)
