"""Description of an upstream, as the registry keeps it, and its checks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from bandit_serve.base.durations import Duration, parse_duration_ms
from bandit_serve.base.http_address import HttpAddress
from bandit_serve.base.names import Name
from bandit_serve.errors import Conflict, FieldError, InvalidInput

MIN_TIMEOUT_MS, MAX_TIMEOUT_MS = 1, 60_000
MAX_HEADERS = 32

UpstreamProtocol = Literal["open-inference", "json"]
HeaderSource = Annotated[
    str,
    Meta(
        max_length=4_096,
        description='place of a header\'s value: "env:NAME", a variable, or "file:/PATH"; never the value itself',
    ),
]

_header_name = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_source = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,255}|file:/[^\x00-\x1f\x7f]+")
# Headers that say how a message is sent, which the connection's own code decides.
_OURS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OWN_VARIABLES = "BANDIT_SERVE_"


class Upstream(Struct, frozen=True, forbid_unknown_fields=True):
    """Service that answers for a version.

    `url`: with `json`, what questions are posted to; with `open-inference`, what `/v2/…` is below. `model` is the
    model's name there, by default its name here. `timeout` bounds one question. `headers` names the places of their
    values.
    """

    url: Annotated[str, Meta(max_length=2_048)]
    protocol: UpstreamProtocol
    model: Name | None = None
    timeout: Duration = "200ms"
    headers: Annotated[dict[str, HeaderSource], Meta(max_length=MAX_HEADERS)] = {}

    @property
    def timeout_s(self) -> float:
        return parse_duration_ms(self.timeout) / 1000

    @property
    def address(self) -> HttpAddress:
        """Address of a checked upstream."""
        return HttpAddress.parse(self.url)


class AllowedUpstreams:
    """Addresses below which upstreams may be called, as the setting `upstreams` lists them; none without one."""

    def __init__(self, prefixes: Sequence[HttpAddress]) -> None:
        self._prefixes = tuple(prefixes)

    def allow(self, address: HttpAddress) -> bool:
        """Whether an address lies below one of the prefixes."""
        return any(prefix.covers(address) for prefix in self._prefixes)

    def require(self, upstream: Upstream, whose: str) -> HttpAddress:
        """Address to be called. Raises `Conflict` where the operator does not, or no longer, allow it."""
        try:
            address = upstream.address
        except ValueError:
            address = None
        if address is None or not self.allow(address):
            raise not_allowed(whose)
        return address

    def checked(self, upstream: Upstream) -> Upstream:
        """Upstream with its address in canonical form. Raises `InvalidInput` with all that is wrong with it."""
        errors = [*self._url_errors(upstream.url), *_timeout_errors(upstream), *_header_errors(upstream)]
        if upstream.model is not None and upstream.protocol == "json":
            errors.append(
                FieldError("remote.model", 'expected only with "open-inference": in json, the url names it')
            )
        if errors:
            raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)
        return msgspec.structs.replace(upstream, url=str(upstream.address))

    def _url_errors(self, url: str) -> list[FieldError]:
        try:
            address = HttpAddress.parse(url)
        except ValueError as error:
            return [FieldError("remote.url", str(error))]
        if self.allow(address):
            return []
        if not self._prefixes:
            detail = "no upstream is allowed: the operator lists their addresses in the setting upstreams"
        else:
            detail = "expected a URL below one of the addresses in the setting upstreams"
        return [FieldError("remote.url", detail)]


def not_allowed(whose: str) -> Conflict:
    """Error of an upstream that must not be called."""
    return Conflict(f"The upstream of {whose} is not below any address in the setting upstreams.")


def _timeout_errors(upstream: Upstream) -> list[FieldError]:
    if MIN_TIMEOUT_MS <= parse_duration_ms(upstream.timeout) <= MAX_TIMEOUT_MS:
        return []
    return [FieldError("remote.timeout", 'expected a duration from "1ms" to "60s"')]


def _header_errors(upstream: Upstream) -> list[FieldError]:
    errors = []
    folded = [name.lower() for name in upstream.headers]
    for name, source in upstream.headers.items():
        at = f"remote.headers.{name}" if _header_name.fullmatch(name) else "remote.headers"
        if not _header_name.fullmatch(name):
            errors.append(FieldError(at, "expected names of headers, such as Authorization"))
        elif name.lower() in _OURS or name.lower().startswith("proxy-"):
            errors.append(FieldError(at, "this header is set by the service itself"))
        elif folded.count(name.lower()) > 1:
            errors.append(FieldError(at, "expected each header once"))
        elif not _source.fullmatch(source):
            detail = 'expected "env:NAME" or "file:/PATH", where the value is: what is registered is shown to readers'
            errors.append(FieldError(at, detail))
        elif source.startswith(f"env:{_OWN_VARIABLES}"):
            errors.append(FieldError(at, "expected a variable that is no setting of this service"))
    return errors
