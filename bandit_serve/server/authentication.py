"""Authentication of callers by keys, sent as `Authorization: Bearer KEY` (RFC 6750) and in no other way.

The keys are in this worker's copy of the registry, so that a request costs no look-up elsewhere: about a microsecond
for the digest of what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from aiohttp import hdrs
from multidict import CIMultiDictProxy

from bandit_serve.errors import Forbidden, Unauthenticated
from bandit_serve.folds.replica import Replica
from bandit_serve.registry.api_keys import ApiKey, Scope, key_of

Needed = Literal["nothing", "any", "serve", "read", "admin"]
"""What a route asks of its caller: a key of this scope, any key, or none at all."""

GRANTS: Mapping[Scope, frozenset[Needed]] = {
    "serve": frozenset({"nothing", "any", "serve"}),
    "read": frozenset({"nothing", "any", "read"}),
    "admin": frozenset({"nothing", "any", "serve", "read", "admin"}),
}


class Authentication:
    """Check of a request's key. Without any key in the registry the service is open, unless keys are `required`."""

    def __init__(self, replica: Replica, now_ms: Callable[[], int], *, required: bool) -> None:
        self._replica = replica
        self._now_ms = now_ms
        self._required = required

    @property
    def is_open(self) -> bool:
        """Whether no request needs a key."""
        return not self._replica.registry.keys and not self._required

    def caller(self, needed: Needed, headers: CIMultiDictProxy[str]) -> ApiKey | None:
        """Key of a request; None where it needs none.

        Raises `Unauthenticated` for no key, one that is not valid, or two; `Forbidden` for one of another scope.
        """
        if needed == "nothing" or self.is_open:
            return None
        key = self._key(headers)
        if key is None:
            raise Unauthenticated("This needs a valid key, sent as `Authorization: Bearer KEY`.")
        if needed not in GRANTS[key.scope]:
            raise Forbidden(f"This needs a key with the scope {needed}; yours has {key.scope}.")
        return key

    def _key(self, headers: CIMultiDictProxy[str]) -> ApiKey | None:
        sent = headers.getall(hdrs.AUTHORIZATION, ())
        if len(sent) != 1:
            return None
        scheme, _, text = sent[0].partition(" ")
        if scheme.lower() != "bearer":
            return None
        return key_of(self._replica.registry.keys, text.strip(" "), self._now_ms())
