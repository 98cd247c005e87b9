"""HTTP addresses: one canonical form, and whether one address lies below another.

What is compared is what is sent. An address that different programs may read differently is none.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple, Self
from urllib.parse import quote, unquote_to_bytes

MAX_ADDRESS_CHARS = 2_048
MAX_HOST_CHARS = 253
PORTS = {"http": 80, "https": 443}

_address = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9._~!$&'()*+=:%-]*)*)",
    re.IGNORECASE,
)
_percent = re.compile(r"%(?![0-9A-Fa-f]{2})")
_label = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# Programs read a name that ends so as an IPv4 address, in one of many spellings.
_number = re.compile(r"[0-9]+|0x[0-9a-f]*")
_plain = re.compile(rb"[\x21-\x7e]+")
_SAFE = "~!$&'()*+=:"


class HttpAddress(NamedTuple):
    """Scheme, host, port and decoded path segments of an address; `slash` if its path ends with one.

    `host` is in lower case, that of an IPv6 address in its shortest form and in brackets.
    """

    scheme: str
    host: str
    port: int
    segments: tuple[str, ...]
    slash: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Address of `text`. Raises `ValueError`, whose text says what was expected.

        There is no user, no query, no fragment, no empty segment and none of dots, and no segment has an encoded
        slash, percent sign or control character.
        """
        match = _address.fullmatch(text) if len(text) <= MAX_ADDRESS_CHARS else None
        if match is None:
            raise ValueError(
                "expected a URL such as https://models.internal:8080/v1, without user, query or fragment"
            )
        scheme = match["scheme"].lower()
        port = int(match["port"]) if match["port"] is not None else PORTS[scheme]
        if not 1 <= port <= 65_535:
            raise ValueError("expected a port from 1 to 65535")
        host = _ipv6(match["ipv6"]) if match["ipv6"] is not None else _host(match["host"].lower())
        path = match["path"].removeprefix("/")
        slash = path.endswith("/") or match["path"] == "/"
        segments = tuple(map(_segment, path.removesuffix("/").split("/"))) if path else ()
        return cls(scheme, host, port, segments, slash)

    def __str__(self) -> str:
        return (
            self.place
            + "".join(f"/{quote(segment, safe=_SAFE)}" for segment in self.segments)
            + ("/" if self.slash else "")
        )

    @property
    def place(self) -> str:
        """Address without its path; without a port where that is the scheme's own."""
        return f"{self.scheme}://{self.host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    def below(self, *segments: str) -> str:
        """Address of further segments, which need no encoding, below this one."""
        return "/".join([str(self).removesuffix("/"), *segments])

    def covers(self, other: HttpAddress) -> bool:
        """Whether `other` has the same scheme, host and port, and a path that begins with all segments of this one."""
        n = len(self.segments)
        return self[:3] == other[:3] and other.segments[:n] == self.segments


def _ipv6(text: str) -> str:
    try:
        return f"[{IPv6Address(text).compressed}]"
    except AddressValueError:
        raise ValueError("expected an IPv6 address in brackets") from None


def _host(host: str) -> str:
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(map(_label.fullmatch, labels)):
        raise ValueError("expected a host name or an IP address")
    if _number.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise ValueError("expected an IPv4 address of four decimal numbers") from None
    return host


def _segment(text: str) -> str:
    if _percent.search(text):
        raise ValueError("expected two hexadecimal digits after each percent sign of the path")
    decoded = unquote_to_bytes(text)
    if decoded in (b"", b".", b"..") or not _plain.fullmatch(decoded) or re.search(rb"[/\\%?#;,@]", decoded):
        raise ValueError("expected a path of plain segments: none empty or of dots, none with a slash in it")
    return decoded.decode("ascii")
