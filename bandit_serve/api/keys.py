"""Keys of callers as HTTP and the command line take and show them."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.base.durations import Duration
from bandit_serve.base.names import Name
from bandit_serve.registry.api_keys import ApiKey, Scope


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Key to be made. `name` is what the history calls its caller, `expires` how long it is valid, as `30d`.

    A tenant's admin makes keys of that tenant; others leave `tenant` out for a key of the service itself.
    """

    scope: Scope
    name: Name | UnsetType = UNSET
    tenant: Name | UnsetType = UNSET
    expires: Duration | UnsetType = UNSET


class CreatedKey(Struct, frozen=True):
    """New key. `key` is what its holder sends; it is shown once and kept nowhere."""

    id: str
    key: str


class KeyView(Struct, frozen=True):
    """Key of a caller, without its secret."""

    id: str
    name: str
    scope: Scope
    tenant: str | None
    status: Literal["valid", "expired", "revoked"]
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    revoked_by: str | None


class KeyList(Struct, frozen=True):
    """Keys; `after` is there if there are more, and is the query for the next page."""

    keys: list[KeyView]
    after: str | UnsetType = UNSET


def key_view(key: ApiKey, now_ms: int) -> KeyView:
    ended: Literal["expired", "revoked"] = "expired" if key.revoked_ms is None else "revoked"
    return KeyView(
        key.id,
        key.name,
        key.scope,
        key.tenant or None,
        "valid" if key.is_valid(now_ms) else ended,
        rfc3339(key.created_ms),
        key.created_by,
        None if key.expires_ms is None else rfc3339(key.expires_ms),
        None if key.revoked_ms is None else rfc3339(key.revoked_ms),
        key.revoked_by,
    )
