"""Bodies in and out: which form comes in, which goes out, and how what is wrong is named."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from bandit_serve.decisions.messages import DecideRequest
from bandit_serve.errors import InvalidInput, TooLarge, TooSlow, UnsupportedMedia
from bandit_serve.experiment import Experiment
from bandit_serve.server.wire import JSON, MSGPACK, SENT_BY_ANY_PAGE, Body, answer, negotiated, revision

IN_JSON = msgspec.json.encode({"unit": "u"})
IN_MSGPACK = msgspec.msgpack.encode({"unit": "u"})


def asked(headers: dict[str, str], body: bytes | None = b"", max_size: int = 1 << 20) -> web.Request:
    """A request whose body has come; with None, one whose body never comes."""
    protocol = BaseProtocol(asyncio.get_running_loop())
    protocol.transport = asyncio.Transport()
    stream = StreamReader(protocol, 2**16)
    if body is not None:
        stream.feed_data(body)
        stream.feed_eof()
    return make_mocked_request("POST", "/", headers=headers, payload=stream, client_max_size=max_size)


def read(body: bytes | None, content_type: str | None, kind: Any = DecideRequest, **options: Any) -> Any:
    async def run() -> Any:
        headers = {} if content_type is None else {"Content-Type": content_type}
        max_size = options.pop("max_size", 1 << 20)
        route: Body[Any] = Body(kind, **{"timeout_s": 5.0, "msgpack": True, **options})
        return await route.read(asked(headers, body, max_size))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (IN_JSON, JSON),
        (IN_JSON, "application/json; charset=utf-8"),
        (IN_JSON, "Application/JSON"),
        (IN_MSGPACK, MSGPACK),
        (IN_MSGPACK, "application/msgpack; x=y"),
    ],
)
def test_the_content_type_says_what_comes_in(body: bytes, content_type: str | None) -> None:
    assert read(body, content_type) == DecideRequest(unit="u")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "", "application/jsonx", "application/x-msgpack"]
)
def test_other_content_types_are_not_spoken(content_type: str) -> None:
    with pytest.raises(UnsupportedMedia, match=r"application/json or application/msgpack"):
        read(IN_JSON, content_type)


def test_a_body_needs_a_content_type() -> None:
    for optional in (False, True):
        with pytest.raises(UnsupportedMedia, match="there is none"):
            read(IN_JSON, None, optional=optional)


def test_messagepack_is_spoken_only_where_the_contract_says_so() -> None:
    with pytest.raises(UnsupportedMedia):
        read(IN_MSGPACK, MSGPACK, msgpack=False)


def test_a_body_is_optional_only_where_it_is_said() -> None:
    assert read(b"", None, optional=True) == DecideRequest()
    for content_type in (JSON, MSGPACK, "application/octet-stream"):
        assert read(b"", content_type, optional=True) == DecideRequest()
    for content_type in SENT_BY_ANY_PAGE:
        with pytest.raises(UnsupportedMedia):
            read(b"", f"{content_type}; charset=utf-8", optional=True)
    with pytest.raises(InvalidInput):
        read(b"", JSON)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", JSON),
        (b"\xff\xfe", JSON),
        (b'{"unit": "\\ud800"}', JSON),
        (b'{"unit": "\xff"}', JSON),
        (b"[" * 100_000, JSON),
        (b'{"unit": NaN}', JSON),
        (b"\xc1", MSGPACK),
        (b"\x81\xa4unit", MSGPACK),
        (b"\x91" * 100_000, MSGPACK),
    ],
)
def test_what_can_not_be_read_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidInput):
        read(body, content_type)


@pytest.mark.parametrize(
    ("body", "kind", "at"),
    [
        ({"unit": 1}, DecideRequest, "unit"),
        ({"eligible": ["a", 2]}, DecideRequest, "eligible[1]"),
        ({"context": {"x": []}}, DecideRequest, "context[...]"),
        ({"id": "e", "arms": [{"name": "a"}, {"name": "?"}], "metrics": []}, Experiment, "arms[1].name"),
        ({"id": "e", "arms": []}, Experiment, "arms"),
        ([], DecideRequest, ""),
        ({"x": 1}, DecideRequest, "x"),
        ({"id": "e", "arms": [{"name": "a"}, {"name": "b", "weight": 1}]}, Experiment, "arms[1].weight"),
        ({"id": "e", "arms": [{"name": "a"}, {"payload": 1}]}, Experiment, "arms[1].name"),
        ({"id": "e", "arms": [{"name": "a"}]}, Experiment, "metrics"),
    ],
)
@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_the_field_that_is_wrong_is_named(body: Any, kind: Any, at: str, form: str) -> None:
    encoded = msgspec.json.encode(body) if form == JSON else msgspec.msgpack.encode(body)
    with pytest.raises(InvalidInput) as refused:
        read(encoded, form, kind)
    assert [error.at for error in refused.value.errors] == [at]
    assert str(refused.value).startswith(at)


def test_a_body_that_is_too_large_is_refused() -> None:
    with pytest.raises((TooLarge, web.HTTPRequestEntityTooLarge)):
        read(b" " * 2_000 + IN_JSON, JSON, max_size=1_000)


def test_a_body_that_does_not_come_times_out() -> None:
    with pytest.raises(TooSlow):
        read(None, JSON, timeout_s=0.02)


@pytest.mark.parametrize(
    ("accept", "content_type", "form"),
    [
        (None, None, JSON),
        (None, JSON, JSON),
        (None, MSGPACK, MSGPACK),
        ("*/*", JSON, JSON),
        ("*/*", MSGPACK, MSGPACK),
        (JSON, MSGPACK, JSON),
        (MSGPACK, JSON, MSGPACK),
        (MSGPACK, None, MSGPACK),
        ("application/json, application/msgpack", MSGPACK, JSON),
        ("application/msgpack, application/json", JSON, MSGPACK),
        ("application/json;q=0.9, */*", MSGPACK, JSON),
        ("text/html", JSON, JSON),
        ("text/html", MSGPACK, MSGPACK),
    ],
)
def test_accept_says_what_goes_out(accept: str | None, content_type: str | None, form: str) -> None:
    wishes = {"Accept": accept, "Content-Type": content_type}
    headers = CIMultiDict({name: value for name, value in wishes.items() if value is not None})
    reply = negotiated(headers, {"a": [1, 2.5, None]})
    assert reply.content_type == form
    decode = msgspec.json.decode if form == JSON else msgspec.msgpack.decode
    assert decode(reply.body) == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("*", None),
        ('"5"', 5),
        (' "5" ', 5),
        ("5", 5),
        ('W/"5"', 5),
        ('"x"', -1),
        ('"-5"', -1),
        ('""', -1),
        ('"5", "6"', -1),
        ('"' + "9" * 30 + '"', -1),
        ('"²"', -1),
    ],
)
def test_if_match_is_the_etag_that_was_given(header: str | None, expected: int | None) -> None:
    async def run() -> None:
        assert revision(asked({} if header is None else {"If-Match": header})) == expected
        if expected is not None and expected >= 0:
            given = answer(asked({}), {}, etag=expected).headers["ETag"]
            assert revision(asked({"If-Match": given})) == expected

    asyncio.run(run())


def test_an_answer_without_a_revision_has_no_etag() -> None:
    async def run() -> None:
        response = answer(asked({}), {"a": 1}, status=201)
        assert response.status == 201
        assert "ETag" not in response.headers
        assert response.body == b'{"a":1}'

    asyncio.run(run())
