"""Keys of callers as the command line shows them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from bandit_serve.base.clock import rfc3339
from bandit_serve.registry.api_keys import ApiKey, Scope


class CreatedKey(Struct, frozen=True):
    """New key. `key` is what its holder sends; it is shown once and kept nowhere."""

    id: str
    key: str


class KeyView(Struct, frozen=True):
    """Key of a caller, without its secret."""

    id: str
    name: str
    scope: Scope
    status: Literal["valid", "expired", "revoked"]
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    revoked_by: str | None


class KeyList(Struct, frozen=True):
    keys: list[KeyView]


def key_view(key: ApiKey, now_ms: int) -> KeyView:
    ended: Literal["expired", "revoked"] = "expired" if key.revoked_ms is None else "revoked"
    return KeyView(
        key.id,
        key.name,
        key.scope,
        "valid" if key.is_valid(now_ms) else ended,
        rfc3339(key.created_ms),
        key.created_by,
        None if key.expires_ms is None else rfc3339(key.expires_ms),
        None if key.revoked_ms is None else rfc3339(key.revoked_ms),
        key.revoked_by,
    )
