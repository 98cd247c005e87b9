"""Heads of requests that were parsed before. Most callers send few heads again and again, and one that is known tells
all that its parsing would.

A head is known by its bytes alone, from its request line to its empty line. It is kept only if it is that of a hot
request in its plainest form, from a caller who may be here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import hdrs
from aiohttp.http import HttpVersion11, RawRequestMessage
from msgspec import Struct
from multidict import CIMultiDictProxy

from bandit_serve.server.wire_form import WireForm

END = b"\r\n\r\n"
MAX_HEADS = 1_024
MAX_HEAD_BYTES = 1_024
MAX_NEW = 16
"""Heads that a connection may send for the first time, one after the other: one whose heads differ each time goes on
with the parser alone.
"""
MAX_BODY_BYTES = 65_536
"""Of a request with a known head: the beginning of its body is kept until the rest is there."""


class Head(Struct, frozen=True):
    """Head of a request as it came, its path, headers and forms, and the number of bytes of its body."""

    text: bytes
    path: str
    headers: CIMultiDictProxy[str]
    form: WireForm
    n_bytes: int


class Heads:
    """Known heads, at most `MAX_HEADS`; then it begins anew."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.get = self._known.get

    def keep(self, head: Head) -> None:
        if len(head.text) > MAX_HEAD_BYTES or head.n_bytes > MAX_BODY_BYTES:
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        self._known[head.text] = head


def is_plain(message: Any) -> bool:
    """Whether a request that was parsed is a POST with nothing unusual but, maybe, its headers."""
    return (
        type(message) is RawRequestMessage
        and message.method == "POST"
        and message.version == HttpVersion11
        and not message.should_close
        and not message.upgrade
        and message.compression is None
        and hdrs.EXPECT not in message.headers
    )


def stands_after(
    data: bytes, messages: Iterable[Any], owed: int
) -> tuple[int | None, list[tuple[bytes, Any, int]]]:
    """Says where a parser stands that was owed so many bytes of a body, and has made messages of `data`.

    Returns the bytes of a body that it is owed now, None where that is not known; and the heads: the bytes of each, the
    message that they became, and the bytes of its body.
    """
    at = owed
    heads: list[tuple[bytes, Any, int]] = []
    for message in messages:
        found = data.find(END, at)
        if found < 0 or type(message) is not RawRequestMessage or message.upgrade:
            return None, heads
        text = data[at : found + len(END)]
        is_whole = text.startswith(f"{message.method} ".encode()) and text.count(b"\n") == text.count(b"\r\n")
        if not is_whole or message.chunked or hdrs.TRANSFER_ENCODING in message.headers:
            return None, heads
        n_bytes = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        heads.append((text, message, n_bytes))
        at = found + len(END) + n_bytes
    return (at - len(data) if at >= len(data) else None), heads
