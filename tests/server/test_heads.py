"""Known heads (`server/heads.py`): where the parser stands, and what a connection answers without it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from commands import bandit_serve
from http_calls import decide, running
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from raw_http import post, read_answer
from services import ThrowawayService
from stores import wait_until

from bandit_serve.server.heads import (
    END,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADS,
    Head,
    Heads,
    stands_after,
)
from bandit_serve.server.wire_form import form_of

REQUESTS = {
    "small": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    "empty": b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "no length": b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n",
    "body like a head": b"POST /d HTTP/1.1\r\nHost: h\r\nContent-Length: 25\r\n\r\n\r\n\r\nPOST /x HTTP/1.1\r\n\r\n\r",
    "chunked": b"POST /e HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "blank lines before": b"\r\n\r\nPOST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
    "gzip": b"POST /g HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nno",
    "upgrade": b"GET /h HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}
UNKNOWN_AFTER = {"chunked", "blank lines before", "upgrade", "gzip"}


def new_parser(loop: asyncio.AbstractEventLoop) -> Any:
    return HttpRequestParser(BaseProtocol(loop), loop, 2**16)


@given(
    names=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
@settings(max_examples=500, deadline=None)
def test_where_the_parser_stands_is_known_or_said_to_be_unknown(names: list[str], cuts: list[int]) -> None:
    """Whatever the pieces are, `owed` bytes after what was fed there is the end of a request."""
    stream = b"".join(REQUESTS[name] for name in names)
    ends = {0, *itertools.accumulate(len(REQUESTS[name]) for name in names)}
    loop = asyncio.new_event_loop()
    try:
        parser, owed, at = new_parser(loop), 0, 0
        for stop in sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)}):
            piece, at = stream[at:stop], stop
            try:
                messages = [message for message, _ in parser.feed_data(piece)[0]]
            except HttpProcessingError:
                return  # a body that its encoding does not allow: the connection ends there
            known, heads = stands_after(piece, messages, owed)
            for text, message, _ in heads:
                assert text.endswith(END)
                assert text in stream
                assert text.split(b" ")[1].decode() == message.path
            if known is None:
                return
            owed = known
            assert at + owed in ends
        if not UNKNOWN_AFTER & set(names) and not cuts:
            assert owed == 0
    finally:
        loop.close()


def test_whole_requests_are_always_told_apart() -> None:
    loop = asyncio.new_event_loop()
    plain = [REQUESTS[name] for name in REQUESTS if name not in UNKNOWN_AFTER]
    parser = new_parser(loop)
    messages = [message for message, _ in parser.feed_data(b"".join(plain))[0]]
    owed, heads = stands_after(b"".join(plain), messages, 0)
    assert owed == 0
    assert [text for text, _, _ in heads] == [each[: each.index(END) + 4] for each in plain]
    assert [n_bytes for _, _, n_bytes in heads] == [len(each) - each.index(END) - 4 for each in plain]
    loop.close()


def test_a_head_that_is_not_told_by_its_bytes_is_not_kept() -> None:
    """The words of a parser that takes a bare line feed for the end of a line would be those of another request."""
    data = b"POST /a HTTP/1.1\nHost: h\nContent-Length: 3\n\nabcPOST /b HTTP/1.1\r\n\r\n"
    message = SimpleNamespace(method="POST", upgrade=False, chunked=False, headers={"Content-Length": "3"})
    assert stands_after(data, [message], 0) == (None, [])


def test_there_are_never_more_heads_than_there_is_room_for() -> None:
    heads, headers = Heads(), CIMultiDictProxy(CIMultiDict())
    form = form_of(headers)
    heads.keep(Head(b"x" * (MAX_HEAD_BYTES + 1), "/", headers, form, 0))
    heads.keep(Head(b"y", "/", headers, form, MAX_BODY_BYTES + 1))
    assert heads.get(b"y") is None
    for i in range(MAX_HEADS):
        heads.keep(Head(b"%d" % i, "/", headers, form, 0))
    assert sum(heads.get(b"%d" % i) is not None for i in range(MAX_HEADS)) == MAX_HEADS
    heads.keep(Head(b"new", "/", headers, form, 0))
    assert heads.get(b"new") is not None
    assert heads.get(b"0") is None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data")) as running:
        yield running


class Kept:
    """Connection whose first request was answered already."""

    def __init__(self, service: ThrowawayService) -> None:
        self._socket = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reading = self._socket.makefile("rb")
        assert self.ask(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200

    def ask(self, *pieces: bytes, pause_s: float = 0.0) -> tuple[int, dict[str, str], dict[str, Any]]:
        self.send(*pieces, pause_s=pause_s)
        return self.answer()

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        for piece in pieces:
            self._socket.sendall(piece)
            time.sleep(pause_s)

    def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        return read_answer(self._reading)

    def end_of_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._reading.close()
        self._socket.close()


def halves(request: bytes) -> tuple[bytes, bytes]:
    """Head and body, as a client of Python's standard library sends them."""
    end = request.index(END) + len(END)
    return request[:end], request[end:]


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 2.5])
def test_a_request_that_comes_in_pieces_is_answered_as_one_that_does_not(
    service: ThrowawayService, pause_s: float
) -> None:
    name = running(service)
    request = post(f"/v1/experiments/{name}/decide", {"unit": "somebody"})
    head, body = halves(request)
    with Kept(service) as connection:
        for pieces in [
            (request,),
            (head, body),
            (head + body[:3], body[3:]),
            (head[:9], head[9:], body),
            (request,),
        ]:
            status, _, document = connection.ask(*pieces, pause_s=pause_s if len(pieces) > 1 else 0.0)
            assert (status, document["experiment"]) == (200, name)


def test_known_and_unknown_heads_on_one_connection_are_answered_in_order(service: ThrowawayService) -> None:
    names = [running(service) for _ in range(3)]
    known, new, other = (post(f"/v1/experiments/{name}/decide") for name in names)
    token = decide(service, names[0])["decision_id"]
    reward = post("/v1/rewards", {"decision_id": token, "value": 1})
    with Kept(service) as connection:
        for _ in range(2):
            assert connection.ask(known)[2]["experiment"] == names[0]
        get = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.send(known + new + reward + known + get + reward + other + known)
        told = [connection.answer()[2] for _ in range(8)]
    assert [each.get("experiment", sorted(each)[0]) for each in told] == [
        names[0], names[1], "accepted", names[0], "status", "accepted", names[2], names[0],
    ]  # fmt: skip
    assert [each["verdicts"] for each in told if "verdicts" in each] == [["accepted"], ["duplicate"]]


def test_the_rest_of_a_body_that_never_comes_has_a_time_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ThrowawayService(tmp_path_factory.mktemp("data"), "--body-timeout", "1s") as impatient:
        request = post(f"/v1/experiments/{running(impatient)}/decide", {"unit": "somebody"})
        with Kept(impatient) as connection:
            assert connection.ask(request)[0] == 200
            assert connection.ask(request[:-3])[0] == 408


def test_a_known_request_that_stops_within_is_refused_behind_one_that_was_whole(
    service: ThrowawayService,
) -> None:
    request = post(f"/v1/experiments/{running(service)}/decide", {"unit": "somebody"})
    with Kept(service) as connection:
        assert connection.ask(request)[0] == 200
        connection.send(request + request[:-3])
        assert connection.answer()[0] == 200
        connection.end_of_sending()
        status, _, document = connection.answer()
        assert status == 400
        assert "connection was lost" in document["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Origin: http://other.example"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Accept: application/msgpack", "Origin: null"], 403),
        (["Connection: close"], 200),
        (["X-Request-Id: r1"], 200),
        (["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], 200),
    ],
)
def test_what_is_asked_of_a_head_is_asked_each_time(
    service: ThrowawayService, headers: list[str], status: int
) -> None:
    name = running(service)
    request = post(f"/v1/experiments/{name}/decide", {"unit": "u"}, *headers)
    for _ in range(3):
        with Kept(service) as connection:
            answered, sent, _ = connection.ask(request)
            assert answered == status
            assert ("x-request-id" in sent) == (headers[0].startswith("X-Request-Id"))


def test_a_foreign_host_is_refused_each_time(service: ThrowawayService) -> None:
    name = running(service)
    path, body = f"/v1/experiments/{name}/decide", b"{}"
    foreign = (
        f"POST {path} HTTP/1.1\r\nHost: other.example\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with Kept(service) as connection:
        assert [connection.ask(foreign)[0] for _ in range(3)] == [403] * 3


def test_an_experiment_that_is_gone_and_a_key_that_is_revoked_are_noticed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("data")
    with ThrowawayService(directory) as service:
        name = running(service)
        request = post(f"/v1/experiments/{name}/decide", {"unit": "u"})
        with Kept(service) as connection:
            assert [connection.ask(request)[0] for _ in range(2)] == [200, 200]
            made = bandit_serve("keys", "create", "--scope", "admin", "--json", "--data", directory).document
            key = made["key"]
            wait_until(lambda: connection.ask(request)[0] == 401)
            with_key = post(f"/v1/experiments/{name}/decide", {"unit": "u"}, f"Authorization: Bearer {key}")
            assert [connection.ask(with_key)[0] for _ in range(2)] == [200, 200]
            other = bandit_serve(
                "keys", "create", "--scope", "admin", "--json", "--data", directory
            ).document  # so that the service does not become open
            assert bandit_serve("keys", "revoke", made["id"], "--data", directory).status == 0
            wait_until(lambda: connection.ask(with_key)[0] == 401)
            with_other = post(
                f"/v1/experiments/{name}/decide", {"unit": "u"}, f"Authorization: Bearer {other['key']}"
            )
            assert [connection.ask(with_other)[0] for _ in range(2)] == [200, 200]
