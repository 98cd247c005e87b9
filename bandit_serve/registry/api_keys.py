"""Keys of callers in the registry: whose each is, what it may do, until when, and a digest of its secret.

A key reads `bsk_ID_SECRET`. ID finds it; SECRET has 256 random bits, so that a plain keyed hash protects it, and no
slow one is needed. The digest is BLAKE2b with a salt of the key's own: those of two stores say nothing of each other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.names import Name
from bandit_serve.errors import Conflict, NotFound, UnreadableEntry

Scope = Literal["serve", "read", "admin"]

MAX_KEYS = 1_000
"""Keys that are valid at a time."""
MAX_ENDED_KEYS = 1_000
"""Keys that are remembered after they were revoked or have expired, the latest."""
MAX_TENANTS = 250
"""Tenants that have valid keys at a time."""
MAX_TENANT_KEYS = 100
"""Keys of one tenant that are valid at a time, so that one leaves room for the others'."""

PREFIX = "bsk_"
ID_CHARS = 16
SECRET_CHARS = 43
KEY_CHARS = len(PREFIX) + ID_CHARS + 1 + SECRET_CHARS
SALT_BYTES = 16
_PERSON = b"bandit_serve key"
_NO_DIGEST = bytes(32)


class ApiKey(Struct, frozen=True, forbid_unknown_fields=True):
    """Key of a caller. Times are Unix times; `expires_ms` and `revoked_ms` are None where there is no such time.

    `name` is what the history calls its caller. Several keys may have one name, as the old and the new one do while a
    caller goes over. A key without a `tenant` is of the service itself.
    """

    id: str
    name: Name
    scope: Scope
    salt: bytes
    digest: bytes
    created_ms: int
    created_by: str
    expires_ms: int | None = None
    revoked_ms: int | None = None
    revoked_by: str | None = None
    tenant: Name | UnsetType = UNSET

    def is_valid(self, now_ms: int) -> bool:
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


class KeyCreated(Struct, frozen=True, forbid_unknown_fields=True):
    """Key that its holder may use from now on."""

    id: str
    name: Name
    scope: Scope
    salt: bytes
    digest: bytes
    expires_ms: int | None
    who: str
    tenant: Name | UnsetType = UNSET


class KeyRevoked(Struct, frozen=True, forbid_unknown_fields=True):
    """Key that is refused from now on."""

    id: str
    who: str


class NewKey(NamedTuple):
    """Key that was just made. `text` is for its holder alone, and is nowhere else."""

    text: str
    event: KeyCreated


Keys = dict[str, ApiKey]
"""Keys by id, oldest first."""


def new_key(
    name: str | None, scope: Scope, expires_ms: int | None, who: str, tenant: str | None = None
) -> NewKey:
    """Makes a key; without a `name` it is called as its id."""
    id = base64.b32encode(secrets.token_bytes(ID_CHARS * 5 // 8)).decode().lower()
    secret, salt = secrets.token_urlsafe(32), secrets.token_bytes(SALT_BYTES)
    digest = _digest(secret, salt)
    event = KeyCreated(id, name or id, scope, salt, digest, expires_ms, who, tenant or UNSET)
    return NewKey(f"{PREFIX}{id}_{secret}", event)


def key_of(keys: Mapping[str, ApiKey], text: str, now_ms: int) -> ApiKey | None:
    """Valid key with this text; None for any other text.

    It takes as long for an unknown id as for a wrong secret.
    """
    if len(text) != KEY_CHARS or not text.startswith(PREFIX) or not text.isascii():
        return None
    id, secret = text[len(PREFIX) : -SECRET_CHARS - 1], text[-SECRET_CHARS:]
    key = keys.get(id)
    salt, expected = (bytes(SALT_BYTES), _NO_DIGEST) if key is None else (key.salt, key.digest)
    is_right = hmac.compare_digest(_digest(secret, salt), expected)
    has_form = text[-SECRET_CHARS - 1] == "_"
    return key if is_right and has_form and key is not None and key.is_valid(now_ms) else None


def created(keys: Mapping[str, ApiKey], event: KeyCreated, at_ms: int) -> Keys:
    """Keys after one was created. Those that ended long ago are forgotten."""
    if event.id in keys:
        raise UnreadableEntry(f"The log holds a second key {event.id!r}.")
    ended = [each.id for each in keys.values() if not each.is_valid(at_ms)]
    forgotten = set(ended[: max(len(ended) - MAX_ENDED_KEYS, 0)])
    kept = {id: each for id, each in keys.items() if id not in forgotten}
    return {
        **kept,
        event.id: ApiKey(
            event.id,
            event.name,
            event.scope,
            event.salt,
            event.digest,
            at_ms,
            event.who,
            event.expires_ms,
            tenant=event.tenant,
        ),
    }


def revoked(keys: Mapping[str, ApiKey], event: KeyRevoked, at_ms: int) -> Keys:
    """Keys after one was revoked. One that was revoked before stays as it is."""
    key = keys.get(event.id)
    if key is None:
        raise UnreadableEntry(f"The log revokes a key that it does not have: {event.id!r}.")
    if key.revoked_ms is not None:
        return dict(keys)
    return {**keys, key.id: msgspec.structs.replace(key, revoked_ms=at_ms, revoked_by=event.who)}


def require_sound(keys: Keys) -> None:
    """Raises `ValueError` for keys that no events lead to."""
    if any(id != key.id or len(key.salt) != SALT_BYTES or len(key.digest) != 32 for id, key in keys.items()):
        raise ValueError("a key of a caller is not as keys are made")


def tenants_of(keys: Mapping[str, ApiKey], now_ms: int) -> set[str]:
    """Tenants that have a valid key."""
    return {each.tenant for each in keys.values() if each.tenant is not UNSET and each.is_valid(now_ms)}


def creation(keys: Mapping[str, ApiKey], made: KeyCreated, now_ms: int) -> KeyCreated:
    """Event that adds a key. Raises `Conflict` where there is no room."""
    valid = [each for each in keys.values() if each.is_valid(now_ms)]
    if len(valid) >= MAX_KEYS:
        raise Conflict(f"There are {MAX_KEYS} valid keys already, and no room for more; revoke one first.")
    if made.tenant is not UNSET:
        if sum(each.tenant == made.tenant for each in valid) >= MAX_TENANT_KEYS:
            raise Conflict(f"A tenant has at most {MAX_TENANT_KEYS} valid keys; revoke one first.")
        tenants = tenants_of(keys, now_ms)
        if len(tenants) >= MAX_TENANTS and made.tenant not in tenants:
            raise Conflict(f"There are {MAX_TENANTS} tenants with valid keys already, and no room for more.")
    return made


def revocation(keys: Mapping[str, ApiKey], id: str, who: str, tenant: str | None = None) -> KeyRevoked | None:
    """Event that revokes a key; None if it is revoked already.

    Raises `NotFound`, where a `tenant` is named also for a key that is not of that one.
    """
    key = keys.get(id)
    if key is None or (tenant is not None and key.tenant != tenant):
        raise NotFound(f"There is no key {id[:64]!r}.")
    return None if key.revoked_ms is not None else KeyRevoked(id, who)


def _digest(secret: str, salt: bytes) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32, key=salt, person=_PERSON).digest()
