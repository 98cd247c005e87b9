"""Grammar of bad requests: valid ones with one or more changes, for any route of the service."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgpack

from bandit_serve.server.route import Route

WEIRD_NUMBERS = [
    0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e79, 1e80, 1e100, 1.7e308, -1.7e308, 2**31, 2**53, 2**63, 2**64 - 1,
    -(2**63), 10_001,
]  # fmt: skip
WEIRD_TEXTS = [
    "", " ", "\n", "\0", "\x1f", "\x7f", "\x85", "a\n", "a b", "ü", "日本", "💥", "\ud800", "\udfff\ud800",
    "x" * 129, "x" * 257, "é" * 129, "../..", "%2f", "%00", "${jndi:ldap://x}", "'; DROP TABLE", "null",
    "NaN", "1e5", "-", ".", "__proto__", "1h", "0s", "999999999d", "10ms", "1h\n", "x" * 5_000,
]  # fmt: skip
WEIRD_PATHS = [
    "%2f", "%2F..%2F", "%00", "%0a", "%0d%0aX:1", "%", "%zz", "%ff", "%ed%a0%80", "%F0%9F%92%A5",
    "ü".encode().hex(), ".", "..", "a%20b", "*", "{experiment}", "x" * 129, "x" * 3_000, "a;b=c", "a,b",
    "~", "-", "0", "%25", "a%3Fb%23c", "",
]  # fmt: skip
WEIRD_TYPES = [
    "application/json", "application/msgpack", "application/json; charset=latin-1", "APPLICATION/JSON",
    "text/plain", "", "application/x-msgpack", "multipart/form-data", "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=", "multipart/mixed; boundary=" + "b" * 100,
    "application/json, application/msgpack", ";", "a/b/c", "\xff\xfe", "x" * 2_000,
]  # fmt: skip
WEIRD_HEADERS = [
    ("Accept", "application/msgpack"), ("Accept", "*/*"), ("Accept", "\xff"),
    ("Accept", "msgpack;q=0, json;;;,"), ("If-Match", '"1"'), ("If-Match", "*"),
    ("If-Match", '"' + "9" * 40 + '"'), ("If-Match", "\xb2"), ("If-Match", ""), ("If-Match", 'W/"1", "2"'),
    ("Content-Encoding", "gzip"), ("Content-Encoding", "deflate"), ("Content-Encoding", "x"),
    ("Expect", "100-continue"), ("Expect", "nothing"), ("Cookie", "a=" + "b" * 3_000),
    ("Range", "bytes=0-1"), ("Authorization", "Bearer \x80"),
    ("X-Forwarded-For", "1.1.1.1, \x00".replace("\x00", "")), ("Host", "other"), ("Upgrade", "websocket"),
    ("Connection", "upgrade"), ("Transfer-Encoding", "gzip, chunked"), ("Content-Length", "-1"),
    ("X" * 300, "y"), ("Sec-WebSocket-Key", "x"), ("Accept-Encoding", "gzip;q=zero"), ("TE", "trailers"),
]  # fmt: skip
BROKEN_JSON = [
    b"", b" ", b"{", b"[", b'"', b"nul", b"{}{}", b'{"a":}', b"{'a':1}", b'{"a":1,}', b"\xef\xbb\xbf{}",
    b"\xff\xfe{\0}\0", b'{"unit":"\xff"}', b'{"unit":"\\ud800"}', b'{"unit":"\\u0000"}', b'{"value":NaN}',
    b'{"value":-Infinity}', b'{"value":1e999}', b'{"value":' + b"9" * 5_000 + b"}", b'{"value":0x10}',
    b'{"a":1,"a":2}', b"[" * 50_000, b'{"a":' * 20_000, b'{"unit":"' + b"x" * 100_000, b"\x00",
    b"\x1f\x8b\x08\x00", b"<?xml version='1.0'?>", b"a=b&c=d",
]  # fmt: skip
BROKEN_MSGPACK = [
    b"", b"\xc1", b"\x81", b"\x81\xa4unit", b"\x81\xa4unit\xa2\xff\xfe", b"\x81\xa4unit\xa3\xed\xa0\x80",
    b"\x91" * 50_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\x81\xa7rewards\xdd\x7f\xff\xff\xff", b"\x81\x01\x02", b"\x81\xc0\xc0", b"\x80\x80",
    b"\xc7\x05\x01abcde", b"\xd6\xff\0\0\0\0", b"\x81\x90\x01", b"\x81\xa5value\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\x81\xa5value\xca\x7f\x80\0\0", b"\xde\x00\x02\xa4unit\xa1u\xa4unit\xa1u",
]  # fmt: skip


def packed(document: Any) -> bytes:
    """Encodes as MessagePack, lone surrogates included; 2**64 - 1 stands in for larger integers."""
    try:
        content: bytes = msgpack.packb(document, unicode_errors="surrogatepass")
    except OverflowError:
        return b"\x81\xa5value\xcf" + b"\xff" * 8
    return content


class BadRequestGrammar:
    """Random requests. `bodies` maps a handler to valid bodies, `names` a path parameter to existing names."""

    def __init__(
        self,
        routes: Sequence[Route],
        bodies: Mapping[str, Sequence[Any]],
        names: Mapping[str, Sequence[str]],
        artifact: bytes,
        seed: int,
    ) -> None:
        self._routes = routes
        self._bodies = bodies
        self._names = names
        self._artifact = artifact
        self._random = random.Random(seed)

    def known_path(self, route: Route, **named: str) -> str:
        """Fills a route's path with `named` names, and with existing ones otherwise."""
        names = {parameter: known[0] for parameter, known in self._names.items()} | named
        return re.sub(r"\{(\w+)\}", lambda match: quote(names[match[1]]), route.path)

    def request(self) -> bytes:
        """Makes a request: a request line, headers, and as many bytes of body as they declare."""
        chance = self._random
        route = chance.choice(self._routes)
        path = re.sub(r"\{(\w+)\}", lambda match: self._name(match[1]), route.path)
        if chance.random() < 0.05:
            path += chance.choice(["?", "?a=b&a=%ff", "/", "//", "#x", "/%2e%2e/", "?" + "q" * 3_000])
        method = (
            route.method
            if chance.random() < 0.95
            else chance.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", "X"])
        )
        content_type, body = self._body(route)
        headers = [("Host", "localhost")]
        if content_type:
            headers.append(("Content-Type", content_type))
        headers += chance.choices(WEIRD_HEADERS, k=chance.choice([0, 0, 0, 1, 1, 2]))
        if not {"Content-Length", "Transfer-Encoding"} & {name for name, _ in headers}:
            body = self._framed(headers, body)
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace") + body

    def _framed(self, headers: list[tuple[str, str]], body: bytes) -> bytes:
        if not body or self._random.random() < 0.9:
            headers.append(("Content-Length", str(len(body))))
            return body
        headers.append(("Transfer-Encoding", "chunked"))
        step = self._random.choice([1, 7, 1_000]) if len(body) < 2_000 else 10_000
        chunks = [body[i : i + step] for i in range(0, len(body), step)]
        return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"

    def _name(self, parameter: str) -> str:
        if self._random.random() < 0.7:
            return quote(self._random.choice(self._names[parameter]))
        return self._random.choice(WEIRD_PATHS)

    def _body(self, route: Route) -> tuple[str, bytes]:
        chance = self._random
        if route.takes is None:
            return ("", b"") if chance.random() < 0.7 else ("application/json", chance.choice(BROKEN_JSON))
        if "multipart/form-data" in route.media and chance.random() < 0.8:
            return self._upload()
        kind = chance.random()
        if kind < 0.15:
            broken = chance.choice(
                [("application/json", BROKEN_JSON), ("application/msgpack", BROKEN_MSGPACK)]
            )
            return broken[0], chance.choice(broken[1])
        valid = chance.choice(self._bodies.get(route.handler, [{}]))
        document = valid if kind < 0.3 else self._anything(3) if kind < 0.4 else self._bent(valid)
        if len(route.media) == 2 and chance.random() < 0.5:
            content_type, body = "application/msgpack", packed(document)
        else:
            content_type, body = "application/json", self._written(document)
        spoiled = chance.random()
        if spoiled < 0.05:
            body = body[: chance.randrange(len(body) + 1)]
        elif spoiled < 0.1 and body:
            place = chance.randrange(len(body))
            body = body[:place] + bytes([chance.randrange(256)]) + body[place + 1 :]
        if chance.random() < 0.05:
            content_type = chance.choice(WEIRD_TYPES)
        return content_type, body

    def _written(self, document: Any) -> bytes:
        return json.dumps(document, ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass")

    def _bent(self, document: Any) -> Any:
        """Copies a document with one to three random changes."""
        bent = json.loads(json.dumps(document))
        for _ in range(self._random.choice([1, 1, 1, 2, 3])):
            bent = self._bend(bent)
        return bent

    def _bend(self, node: Any) -> Any:
        chance = self._random
        if isinstance(node, dict) and node and chance.random() < 0.9:
            key = chance.choice(sorted(node))
            way = chance.random()
            if way < 0.1:
                del node[key]
            elif way < 0.15:
                node[chance.choice(WEIRD_TEXTS)] = node.pop(key)
            elif way < 0.2:
                node[chance.choice(["extra", "kind", "role", "low", "high", "missing", "prior"])] = (
                    self._anything(2)
                )
            else:
                node[key] = self._bend(node[key])
            return node
        if isinstance(node, list) and node and chance.random() < 0.9:
            place, way = chance.randrange(len(node)), chance.random()
            if way < 0.1:
                del node[place]
            elif way < 0.25:
                node.append(node[place])
            elif way < 0.27:
                node *= 10_001 // len(node) + 1
            else:
                node[place] = self._bend(node[place])
            return node
        return self._anything(2)

    def _anything(self, depth: int) -> Any:
        chance = self._random
        kind = chance.randrange(9 if depth else 6)
        if kind == 0:
            return chance.choice([None, True, False])
        if kind in (1, 2):
            return chance.choice(
                [*WEIRD_NUMBERS, chance.random(), chance.uniform(-5, 5), chance.randrange(10)]
            )
        if kind == 3:
            return chance.choice([math.nan, math.inf, -math.inf, 10**40])
        if kind in (4, 5):
            return chance.choice(WEIRD_TEXTS)
        if kind == 6:
            return [self._anything(depth - 1) for _ in range(chance.randrange(4))]
        return {chance.choice(WEIRD_TEXTS): self._anything(depth - 1) for _ in range(chance.randrange(4))}

    def _upload(self) -> tuple[str, bytes]:
        chance = self._random
        parts = []
        for _ in range(chance.choice([0, 1, 2, 2, 2, 3])):
            name = chance.choice(
                ["metadata", "metadata", "artifact", "artifact", "other", "", "\xff", "a" * 300]
            )
            content = self._part(name)
            disposition = chance.choice(
                [f'form-data; name="{name}"'] * 8 + ["", "form-data", "x", f"form-data; name={name}"]
            )
            head = f"Content-Disposition: {disposition}\r\n"
            if chance.random() < 0.2:
                head += chance.choice(["Content-Type: x\r\n", "Content-Transfer-Encoding: base64\r\n", "nonsense\r\n",
                                       "Content-Type: multipart/mixed; boundary=c\r\n", "Content-Encoding: gzip\r\n",
                                       "Content-Length: 3\r\n", "X: " + "y" * 9_000 + "\r\n"])  # fmt: skip
            parts.append(b"--b\r\n" + head.encode("latin-1") + b"\r\n" + content + b"\r\n")
        end = chance.choice([b"--b--\r\n"] * 6 + [b"", b"--b", b"--c--\r\n"])
        kind = chance.choice(["multipart/form-data; boundary=b"] * 9 + WEIRD_TYPES[7:9])
        return kind, b"".join(parts) + end

    def _part(self, name: str) -> bytes:
        chance = self._random
        if name == "metadata":
            valid = {
                "version": f"v{chance.randrange(10**6)}",
                "metrics": {"rmse": 0.9},
                "metadata": {"a": [1]},
            }
            return chance.choice(
                [self._written(self._bent(valid)), self._written(valid), chance.choice(BROKEN_JSON)]
            )
        artifact = bytearray(self._artifact)
        if chance.random() < 0.9:
            for _ in range(chance.randrange(1, 5)):
                artifact[chance.choice([chance.randrange(8), chance.randrange(len(artifact))])] = (
                    chance.randrange(256)
                )
        return bytes(artifact[: chance.randrange(len(artifact))] if chance.random() < 0.2 else artifact)
