"""Whom a proxy asks for: the client, scheme and host in `Forwarded` (RFC 7239) or `X-Forwarded-For`, `-Proto`, `-Host`.

Anybody can send these headers, so they are read only from proxies that the settings name, and of each list only what
those proxies wrote themselves: its right end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from bandit_serve.settings import Settings

log = logging.getLogger(__name__)

X_FOR, X_PROTO, X_HOST = istr("X-Forwarded-For"), istr("X-Forwarded-Proto"), istr("X-Forwarded-Host")
MAX_FORWARDED_CHARS = 4_096
MAX_HOPS = 32
RESOLVED_EVERY_S = 60.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_host = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
_pair = re.compile(r"""[ \t]*([A-Za-z]{1,16})=(?:"((?:[^"\\]|\\.)*)"|([^";,\s]*))[ \t]*([;,]?)""")


class Forwarded(NamedTuple):
    """What the proxies say of a request; None where they do not. `client` is an address."""

    client: str | None = None
    proto: str | None = None
    host: str | None = None


NOTHING = Forwarded()
FORWARDED: web.RequestKey[Forwarded] = web.RequestKey("forwarded", Forwarded)


class _Hop(NamedTuple):
    """Element of a list that proxies write, as its text says."""

    client: str | None = None
    proto: str | None = None
    host: str | None = None


class Proxies:
    """Proxies that are believed, by network and by name. Names are looked up at the start, and again each minute."""

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.proxy_networks
        self._names = settings.proxy_names
        self._of_names: frozenset[Address] = frozenset()
        self._unknown: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._networks or self._names)

    def trusts(self, address: str | None) -> bool:
        return address is not None and self._trusted(_address(address))

    def read(self, peer: str | None, headers: CIMultiDictProxy[str]) -> Forwarded:
        """Reads the headers of a request that came from `peer`; nothing from a peer that is not trusted.

        The client is the right-most address that is no proxy of ours. Where both kinds of headers are there and name
        different clients, a proxy passed on what its caller wrote, and neither is believed.
        """
        if not self.trusts(peer):
            return NOTHING
        ours = [self._last(hops) for hops in (_of_x_headers(headers), _of_forwarded(headers)) if hops]
        if not ours or any(each.client != ours[0].client for each in ours):
            return NOTHING
        first = ours[0]
        return first if len(ours) == 1 else Forwarded(first.client, *_agreed(*ours))

    async def run(self) -> None:
        """Looks up the names again and again. One that is unknown is said when it becomes so."""
        while True:
            await self._look_up()
            await asyncio.sleep(RESOLVED_EVERY_S)

    async def _look_up(self) -> None:
        found: set[Address] = set()
        loop = asyncio.get_running_loop()
        for name in self._names:
            try:
                answers = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except OSError as error:
                if name not in self._unknown:
                    log.warning("the proxy %s of forwarded_allow is unknown: %s", name, error.strerror)
                self._unknown.add(name)
                continue
            self._unknown.discard(name)
            found.update(each for answer in answers if (each := _address(str(answer[4][0]))) is not None)
        self._of_names = frozenset(found)

    def _trusted(self, address: Address | None) -> bool:
        return address is not None and (
            address in self._of_names or any(address in network for network in self._networks)
        )

    def _last(self, hops: Sequence[_Hop]) -> Forwarded:
        """The hop of the client: the last that is not of a proxy of ours, or the first of all."""
        client, place = None, len(hops)
        for place in range(len(hops) - 1, -1, -1):
            address = _address(hops[place].client)
            if address is None:
                break
            client = str(address)
            if not self._trusted(address):
                break
        hop = hops[place]
        return Forwarded(client, _proto(hop.proto), _valid_host(hop.host))


def client_of(request: web.BaseRequest) -> str:
    """Address of a request's client, as far as it is known; `unix` for a socket without addresses."""
    return request.get(FORWARDED, NOTHING).client or request.remote or "unix"


def scheme_of(request: web.BaseRequest) -> str:
    return request.get(FORWARDED, NOTHING).proto or request.scheme


def host_of(request: web.BaseRequest) -> str | None:
    return request.get(FORWARDED, NOTHING).host or _valid_host(request.headers.get(hdrs.HOST))


def _of_x_headers(headers: CIMultiDictProxy[str]) -> list[_Hop]:
    """Hops of `X-Forwarded-…`, of which the last may be of several proxies. Empty where there are none."""
    clients, protos, hosts = (_listed(headers, name) for name in (X_FOR, X_PROTO, X_HOST))
    n = max(len(clients), 1 if protos or hosts else 0)

    def of(values: Sequence[str], place: int) -> str | None:
        # A proxy that sets a header anew leaves one value for all hops.
        return values[-min(n - place, len(values))] if values else None

    return [
        _Hop(clients[place] if clients else None, of(protos, place), of(hosts, place)) for place in range(n)
    ]


def _listed(headers: CIMultiDictProxy[str], name: str) -> list[str]:
    """Elements at the right end of a list, `MAX_HOPS` at most."""
    text = ",".join(headers.getall(name, ()))
    if not text.strip():
        return []
    elements = [each.strip() for each in text[-MAX_FORWARDED_CHARS:].split(",")[-MAX_HOPS:]]
    # The first may have been cut.
    return elements[1:] if len(text) > MAX_FORWARDED_CHARS and len(elements) < MAX_HOPS else elements


def _of_forwarded(headers: CIMultiDictProxy[str]) -> list[_Hop]:
    """Hops of `Forwarded`; one that says nothing where it is too long or malformed. Empty where there is none."""
    text = ",".join(headers.getall(hdrs.FORWARDED, ()))
    if not text.strip():
        return []
    if len(text) > MAX_FORWARDED_CHARS:
        return [_Hop()]
    hops: list[dict[str, str]] = [{}]
    place = 0
    while place < len(text):
        match = _pair.match(text, place)
        if match is None or (match[4] == "" and match.end() < len(text)) or len(hops) > MAX_HOPS:
            return [_Hop()]
        name, value = match[1].lower(), match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        if name in hops[-1]:
            return [_Hop()]
        hops[-1][name] = value
        if match[4] == ",":
            hops.append({})
        place = match.end()
    return [_Hop(hop.get("for"), hop.get("proto"), hop.get("host")) for hop in hops]


def _agreed(one: Forwarded, other: Forwarded) -> tuple[str | None, str | None]:
    """Scheme and host of which at least one of two says something, and the other nothing else."""
    proto, host = (
        mine if theirs is None or mine == theirs else theirs if mine is None else None
        for mine, theirs in ((one.proto, other.proto), (one.host, other.host))
    )
    return proto, host


def _address(text: str | None) -> Address | None:
    """Address of a text such as `10.0.0.7`, `10.0.0.7:80`, `::1`, `[::1]:80`; None for anything else."""
    if text is None or len(text) > 64:
        return None
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not re.fullmatch(r":[0-9]{1,5}", port):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not re.fullmatch(r"[0-9]{1,5}", port):
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _proto(text: str | None) -> str | None:
    lower = None if text is None else text.lower()
    return lower if lower in ("http", "https") else None


def _valid_host(text: str | None) -> str | None:
    return text if text is not None and _host.fullmatch(text) else None
