"""Sessions of browsers: a cookie that names a key and says until when, sealed so that only this service can make it.

The seal is made with what the registry keeps of the key, so that every worker knows every session, after restarts,
too, and a session ends at once with its key. Nothing of the key itself is in it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import NamedTuple

from bandit_serve.registry.api_keys import ApiKey

COOKIE = "bandit_serve_session"
TOKEN_HEADER = "X-CSRF-Token"
LIFE_MS = 12 * 3_600_000
MAX_CHARS = 160
NONCE_BYTES = 12
_SEAL, _TOKEN = b"bandit_serve ses", b"bandit_serve tok"


class BrowserSession(NamedTuple):
    """Session of the holder of `key`: the cookie's text, and the token that its own pages send with a change."""

    key: ApiKey
    text: str
    token: str


def new_session(key: ApiKey, now_ms: int) -> BrowserSession:
    """Makes a session, for `LIFE_MS` or as long as the key is valid."""
    ends_ms = min(now_ms + LIFE_MS, key.expires_ms or now_ms + LIFE_MS)
    said = f"{key.id}.{ends_ms}.{secrets.token_urlsafe(NONCE_BYTES)}"
    text = f"{said}.{_mac(key, said, _SEAL)}"
    return BrowserSession(key, text, _mac(key, text, _TOKEN))


def session_of(keys: Mapping[str, ApiKey], text: str, now_ms: int) -> BrowserSession | None:
    """Session that a cookie holds; None unless we made it, and it and its key are still valid."""
    if len(text) > MAX_CHARS or not text.isascii():
        return None
    said, _, seal = text.rpartition(".")
    parts = said.split(".")
    if len(parts) != 3 or not parts[1].isdecimal():
        return None
    key = keys.get(parts[0])
    if key is None or not hmac.compare_digest(seal, _mac(key, said, _SEAL)):
        return None
    if now_ms >= int(parts[1]) or not key.is_valid(now_ms):
        return None
    return BrowserSession(key, text, _mac(key, text, _TOKEN))


def cookie_of(header: str) -> str | None:
    """Text of the session's cookie in a `Cookie` header; None where there is none, or more than one."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    found = [value for name, _, value in pairs if name == COOKIE]
    return found[0] if len(found) == 1 else None


def _mac(key: ApiKey, text: str, purpose: bytes) -> str:
    own = hashlib.blake2b(key=key.digest, person=purpose, digest_size=32).digest()
    return urlsafe_b64encode(hashlib.blake2b(text.encode(), key=own, digest_size=24).digest()).decode()
