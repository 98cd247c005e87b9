"""HTTP/1.1 without sockets: where the service is, requests as bytes, and answers out of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import h11

from bandit_serve_client.errors import NoAnswer, UnexpectedAnswer, Unsendable
from bandit_serve_client.reading import from_json
from bandit_serve_client.version import __version__

MAX_ANSWER_BYTES = 64 * 2**20
"""More than a service answers; what listens in its place might never end."""
MAX_HEAD_BYTES = 64 * 2**10
PORTS = {"http": 80, "https": 443}


class Request(NamedTuple):
    """Request, ready to be sent; `path` begins with a slash and is quoted."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """Answer, complete; names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        """Decodes the content. Raises `UnexpectedAnswer` where it is no JSON."""
        return from_json(self.content)


@dataclass(frozen=True, slots=True)
class Origin:
    """Place of a service, from its URL, and the headers that every request has."""

    host: str
    port: int
    is_tls: bool
    prefix: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def of(cls, url: str, key: str | None) -> Origin:
        """Reads a URL, `http` or `https`, with or without a path. Raises ValueError for another or a broken key."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"url: expected http://host:port or https://host:port, not {url!r}")
        if not parts.hostname.isascii():
            raise ValueError("url: expected a host in ASCII, such as xn--…")
        if not _can_be_looked_up(parts.hostname):
            raise ValueError(
                f"url: expected a host with labels of 1 to 63 characters, not {parts.hostname!r}"
            )
        if parts.username is not None:
            raise ValueError("url: expected no user or password; give the key as key=…")
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
            raise ValueError("key: expected printable ASCII")
        host, port = parts.hostname, parts.port or PORTS[parts.scheme]
        name = f"[{host}]" if ":" in host else host
        shown = name if port == PORTS[parts.scheme] else f"{name}:{port}"
        headers = [
            ("Host", shown),
            ("User-Agent", f"bandit-serve-client/{__version__}"),
            ("Accept", "application/json"),
        ]
        if key is not None:
            headers.append(("Authorization", f"Bearer {key}"))
        return cls(
            host, port, parts.scheme == "https", quote(parts.path.rstrip("/"), safe="/%"), tuple(headers)
        )

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _can_be_looked_up(host: str) -> bool:
    """Whether the resolver, and TLS, can be asked for a name in ASCII; both raise other errors than OSError."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and " " not in host


class Exchange:
    """State of one connection: one request and its answer after the other."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._content: list[bytes] = []
        self._size = 0

    def send(self, request: Request) -> bytes:
        """Begins a request; returns its bytes. Raises `Unsendable` for headers that HTTP does not have."""
        origin = self._origin
        headers = [*origin.headers, *request.headers, ("Content-Length", str(len(request.body)))]
        try:
            head = h11.Request(method=request.method, target=origin.prefix + request.path, headers=headers)
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise Unsendable(f"The call can not be written as HTTP: {error}.") from None
        sent = [self._state.send(head)]
        if request.body:
            sent.append(self._state.send(h11.Data(data=request.body)))
        sent.append(self._state.send(h11.EndOfMessage()))
        self._headers, self._content, self._size = {}, [], 0
        return b"".join(part for part in sent if part)

    def receive(self, data: bytes) -> Answer | None:
        """Takes what came, empty at the end of the connection; returns the answer when it is complete.

        Raises `NoAnswer` where the connection ends too early, `UnexpectedAnswer` for what is no HTTP or has no end.
        """
        try:
            self._state.receive_data(data)
            while True:
                event = self._state.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.Response):
                    self._status = event.status_code
                    self._headers = {
                        name.decode("ascii"): value.decode("latin-1") for name, value in event.headers
                    }
                elif isinstance(event, h11.Data):
                    self._take(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return Answer(self._status, self._headers, b"".join(self._content))
                elif isinstance(event, h11.ConnectionClosed):
                    raise NoAnswer("The connection was closed without an answer.")
        except h11.RemoteProtocolError as error:
            if not data:
                raise NoAnswer("The connection broke in the middle of an answer.") from None
            raise UnexpectedAnswer(f"The answer is no HTTP: {error}.") from None

    def is_reusable(self) -> bool:
        """Makes the connection ready for another request, if both sides keep it open.

        Not where more came than the answer: it would be taken for that to the next request.
        """
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        if self._state.trailing_data != (b"", False):
            return False
        self._state.start_next_cycle()
        return True

    def _take(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            raise UnexpectedAnswer(f"The answer has more than {MAX_ANSWER_BYTES} bytes.")
        self._content.append(data)
