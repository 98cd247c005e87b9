"""Admission of requests. Pages of other sites and requests under foreign host names are refused.

A browser says where a request comes from: in `Origin` for requests that may change something, in `Sec-Fetch-Site` for
all. After DNS rebinding, an attacker's page and this service are one site to the browser; then `Host` still has the
attacker's name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import hdrs
from multidict import istr

from bandit_serve.errors import Forbidden
from bandit_serve.server.forwarded import Proxies
from bandit_serve.server.wire import SENT_BY_ANY_PAGE
from bandit_serve.server.wire_form import essence
from bandit_serve.settings import Settings

# A name of this type costs a quarter to look up, as it is not folded each time.
SEC_FETCH_SITE = istr("Sec-Fetch-Site")
# OPTIONS is how a browser asks; it has no body, and so no type.
READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Admission:
    """Check of requests by their headers.

    `loopback`: the service is bound to an address that only this machine reaches.
    """

    def __init__(self, settings: Settings, *, loopback: bool) -> None:
        self.proxies = Proxies(settings)
        self._loopback = loopback
        self._hosts = frozenset(settings.allowed_host_names)
        self._origins = frozenset(settings.allowed_origins)

    def check(self, method: str, headers: Mapping[str, str], forwarded_host: str | None = None) -> None:
        """Raises `Forbidden` for a request from a page of another site, or under a foreign host name.

        `forwarded_host` is the name that the page knows where a proxy that is believed says another than its own. After
        DNS rebinding a page can send the proxy's headers, too, so the `Host` must be ours all the same.
        """
        host = headers.get(hdrs.HOST)
        for name in (host, forwarded_host):
            if name is not None and not self.knows(name):
                raise Forbidden(
                    f"The Host {name[:128]!r} is not of this machine; "
                    "the setting allowed_hosts names those that are ours."
                )
        host = forwarded_host or host
        origin, site = headers.get(hdrs.ORIGIN), headers.get(SEC_FETCH_SITE)
        if origin is None and site is None:
            return
        if origin is not None:
            if origin in self._origins:
                if method not in READS and essence(headers.get(hdrs.CONTENT_TYPE, "")) in (
                    "",
                    *SENT_BY_ANY_PAGE,
                ):
                    raise Forbidden("A page may send JSON or MessagePack here, with its Content-Type.")
                return
            if not is_own(origin, host):
                raise Forbidden(
                    f"A page of {origin[:128]!r} may not talk to this service; "
                    "the setting cors_origins names those that may."
                )
        elif site == "same-site" and method not in READS:
            raise Forbidden("A page of another port or host name may not change anything here.")
        if site == "cross-site":
            raise Forbidden("A page of another site may not talk to this service.")

    def knows(self, host: str) -> bool:
        """Whether a `Host` is a name of this service. Any name is, if other machines can reach the service."""
        if not self._loopback:
            return True
        name = _host_name(host)
        return name in self._hosts or host.lower() in self._hosts or is_loopback(name)


def is_loopback(name: str) -> bool:
    """Whether a host's name or address, without a port, can only mean this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_own(origin: str, host: str | None) -> bool:
    """Whether the page came from this service. `https` counts as well, for a proxy that ends TLS."""
    scheme, _, rest = origin.lower().partition("://")
    return host is not None and scheme in ("http", "https") and rest == host.lower()


def _host_name(host: str) -> str:
    """Name in a `Host`, without its port and the dot at its end; empty for a malformed one."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""
