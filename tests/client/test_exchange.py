"""HTTP of the client without sockets: where the service is, requests as bytes, answers out of bytes."""

from __future__ import annotations

import pytest
from bandit_serve_client import __version__
from bandit_serve_client.errors import NoAnswer, UnexpectedAnswer, Unsendable, problem_of
from bandit_serve_client.http import MAX_ANSWER_BYTES, Answer, Exchange, Origin, Request

URL = "http://127.0.0.1:8000"
PLAIN = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nETag: "3"\r\n\r\n{"a": 1}'
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n5\r\n": 1}\r\n0\r\n\r\n'
TO_THE_END = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"a": 1}'


def asked(url: str = URL, key: str | None = None) -> Exchange:
    exchange = Exchange(Origin.of(url, key))
    exchange.send(Request("GET", "/x"))
    return exchange


def answer_of(data: bytes, pieces: int) -> Answer:
    exchange = asked()
    for start in range(0, len(data), pieces):
        answer = exchange.receive(data[start : start + pieces])
        if answer is not None:
            return answer
    answer = exchange.receive(b"")
    assert answer is not None
    return answer


@pytest.mark.parametrize("data", [PLAIN, CHUNKED, TO_THE_END])
@pytest.mark.parametrize("pieces", [1, 2, 7, 1_000])
def test_an_answer_is_the_same_however_it_is_cut(data: bytes, pieces: int) -> None:
    answer = answer_of(data, pieces)
    assert answer.status == 200
    assert answer.json() == {"a": 1}


def test_names_of_headers_are_small() -> None:
    assert answer_of(PLAIN, 1_000).headers["etag"] == '"3"'


@pytest.mark.parametrize(
    ("data", "again"),
    [(PLAIN, True), (CHUNKED, True), (TO_THE_END, False), (PLAIN.replace(b"1.1", b"1.0", 1), False)],
)
def test_a_connection_is_used_again_when_both_sides_keep_it(data: bytes, again: bool) -> None:
    exchange = asked()
    if exchange.receive(data) is None:
        exchange.receive(b"")
    assert exchange.is_reusable() is again
    if again:
        exchange.send(Request("POST", "/y", b"{}"))
        assert exchange.receive(PLAIN) is not None


@pytest.mark.parametrize("more", [b"x", b"\r\n", PLAIN, PLAIN[:10]])
@pytest.mark.parametrize("data", [PLAIN, CHUNKED])
def test_a_connection_with_more_than_the_answer_is_not_used_again(data: bytes, more: bytes) -> None:
    """What came too soon would be the answer to the next request, which may be another caller's."""
    exchange = asked()
    answer = exchange.receive(data + more)
    assert answer is not None
    assert answer.json() == {"a": 1}
    assert not exchange.is_reusable()


@pytest.mark.parametrize("n", range(len(PLAIN)))
def test_an_end_in_the_middle_is_no_answer(n: int) -> None:
    exchange = asked()
    if n:
        assert exchange.receive(PLAIN[:n]) is None
    with pytest.raises(NoAnswer):
        exchange.receive(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_other_things_than_http_are_unexpected(data: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        asked().receive(data)


def test_an_answer_without_an_end_has_a_bound() -> None:
    exchange = asked()
    exchange.receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    part = b"x" * 2**20
    for _ in range(MAX_ANSWER_BYTES // len(part)):
        assert exchange.receive(part) is None
    with pytest.raises(UnexpectedAnswer, match="bytes"):
        exchange.receive(b"x")


def test_an_answer_that_is_no_json_is_unexpected() -> None:
    with pytest.raises(UnexpectedAnswer, match="<html>"):
        Answer(200, {}, b"<html>").json()


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "/x"),
        ("http://bandits.example", "bandits.example", "/x"),
        ("https://bandits.example/team/", "bandits.example", "/team/x"),
        ("https://bandits.example:80", "bandits.example:80", "/x"),
        ("http://[::1]:8000", "[::1]:8000", "/x"),
        ("http://bandits.example/a b/%20ü", "bandits.example", "/a%20b/%20%C3%BC/x"),
    ],
)
def test_a_request_names_the_service(url: str, host: str, target: str) -> None:
    sent = Exchange(Origin.of(url, "bs_k")).send(Request("POST", "/x", b"{}", (("A", "b"),)))
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        f"POST {target} HTTP/1.1".encode(),
        f"Host: {host}".encode(),
        f"User-Agent: bandit-serve-client/{__version__}".encode(),
        b"Accept: application/json",
        b"Authorization: Bearer bs_k",
        b"A: b",
        b"Content-Length: 2",
    ]
    assert body == b"{}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://h",
        "http://",
        "http://h/?q=1",
        "http://h/#f",
        "http://user:secret@h",
        "http://h:99999",
        "http://bändits.example",
        "http://a..b",
        "http://.a",
        f"http://{'a' * 64}.example",
        "http://a\0b",
        "http://a b",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"url|Port|port"):
        Origin.of(url, None)


@pytest.mark.parametrize("key", ["", " k", "k\r\nX: y", "kä", "k\0"])
def test_keys_that_no_header_can_have_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        Origin.of(URL, key)


@pytest.mark.parametrize("etag", ["a\nb", "a\r\nX: y", "\0", "ä"])
def test_headers_that_http_does_not_have_are_refused(etag: str) -> None:
    with pytest.raises(Unsendable):
        Exchange(Origin.of(URL, None)).send(Request("POST", "/x", b"", (("If-Match", etag),)))


def test_the_key_is_in_no_text_about_the_service() -> None:
    origin = Origin.of("https://bandits.example", "bs_secret")
    assert "secret" not in f"{origin!r} {origin}"


def test_a_problem_need_not_be_a_document() -> None:
    problem = problem_of(502, b"<html>bad gateway", "Wed, 21 Oct 2026 07:28:00 GMT")
    assert (problem.status, problem.detail, problem.retry_after) == (502, "<html>bad gateway", None)
    assert problem_of(418, b"[]").errors == ()
    assert problem_of(400, b'{"errors": [1, {"at": "a", "detail": "d"}]}').errors[0].at == "a"
    assert problem_of(503, b"{}", "7").retry_after == 7.0
    assert problem_of(503, b"[" * 100_000 + b"]" * 100_000).detail == "[" * 200
