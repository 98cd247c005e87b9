"""Authentication of callers by keys, sent as `Authorization: Bearer KEY` (RFC 6750), or by a browser's session.

The keys are in this worker's copy of the registry, so that a request costs no look-up elsewhere: about a microsecond
for the digest of what was sent. A session stands for the key that it was made with. It reads; it changes something
only for pages of our own origin, which send its token.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from typing import Literal

from aiohttp import hdrs
from multidict import CIMultiDictProxy

from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import Forbidden, Unauthenticated
from bandit_serve.folds.replica import Replica
from bandit_serve.registry.api_keys import ApiKey, Scope, key_of
from bandit_serve.server.admission import READS, is_own
from bandit_serve.server.sessions import TOKEN_HEADER, BrowserSession, cookie_of, new_session, session_of

LOOK_EVERY_S = 1.0

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

    async def say_lack_of_keys(self, troubles: Troubles) -> None:
        """Says, in the log and health, while keys are required and there is none: then every request is refused."""
        while True:
            if self._required and not self._replica.registry.keys:
                troubles.begin(
                    "no_keys",
                    "Other machines can reach this service and there is no key, so all requests are refused: "
                    "make one with `bandit-serve keys create --scope admin`.",
                )
            else:
                troubles.end("no_keys")
            await asyncio.sleep(LOOK_EVERY_S)

    def caller(
        self,
        needed: Needed,
        headers: CIMultiDictProxy[str],
        method: str = hdrs.METH_POST,
        *,
        token: str | None = None,
        host: str | None = None,
    ) -> ApiKey | None:
        """Key of a request; None where it needs none.

        token: that of a session, where it did not come in a header. host: the name that a proxy says the caller used.
        Raises `Unauthenticated` for no key, one that is not valid, or two; `Forbidden` for one of another scope, and
        for a change by a session without its token.
        """
        if needed == "nothing" or self.is_open:
            return None
        key = self.key(headers)
        if key is None and hdrs.AUTHORIZATION not in headers:
            session = self.session(headers)
            if session is not None:
                if method not in READS:
                    _require_own_page(session, headers, token, host)
                key = session.key
        return self.require(needed, key)

    def holder(self, headers: CIMultiDictProxy[str]) -> ApiKey | None:
        """Key of whoever sent a request, by itself or by a session, whatever it allows."""
        if self.is_open:
            return None
        key, session = self.key(headers), self.session(headers)
        return key if session is None or hdrs.AUTHORIZATION in headers else session.key

    def require(self, needed: Needed, key: ApiKey | None) -> ApiKey:
        """Returns a key that is enough; raises as `caller`."""
        if key is None:
            raise Unauthenticated("This needs a valid key, sent as `Authorization: Bearer KEY`.")
        if needed not in GRANTS[key.scope]:
            raise Forbidden(f"This needs a key with the scope {needed}; yours has {key.scope}.")
        return key

    def key(self, headers: CIMultiDictProxy[str]) -> ApiKey | None:
        """Valid key that a request was sent with."""
        sent = headers.getall(hdrs.AUTHORIZATION, ())
        if len(sent) != 1:
            return None
        scheme, _, text = sent[0].partition(" ")
        if scheme.lower() != "bearer":
            return None
        return key_of(self._replica.registry.keys, text.strip(" "), self._now_ms())

    def sign_in(self, text: str) -> BrowserSession:
        """Session for the holder of a key. Raises `Unauthenticated`, or `Forbidden` for a key that can not read."""
        key = key_of(self._replica.registry.keys, text.strip(), self._now_ms())
        if key is None:
            raise Unauthenticated("This is no valid key.")
        if "read" not in GRANTS[key.scope]:
            raise Forbidden(f"The pages need a key with the scope read or admin; this one has {key.scope}.")
        return new_session(key, self._now_ms())

    def session(self, headers: CIMultiDictProxy[str]) -> BrowserSession | None:
        """Session that a request came with, if it is valid."""
        if hdrs.COOKIE not in headers:
            return None
        text = cookie_of("; ".join(headers.getall(hdrs.COOKIE, ())))
        return None if text is None else session_of(self._replica.registry.keys, text, self._now_ms())


def _require_own_page(
    session: BrowserSession, headers: CIMultiDictProxy[str], token: str | None, host: str | None
) -> None:
    """Raises Forbidden unless a change was sent by a page that the session's own request got."""
    sent = headers.get(TOKEN_HEADER, "") if token is None else token
    origin = headers.get(hdrs.ORIGIN)
    if origin is None or not is_own(origin, host or headers.get(hdrs.HOST)):
        raise Forbidden("A session changes something only from a page of this service.")
    if not hmac.compare_digest(sent.encode(), session.token.encode()):
        raise Forbidden("The page is of another session; load it again.")
