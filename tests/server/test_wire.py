"""Bodies: content types in and out, and errors that name the field."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bandit_serve.api.decisions import DecideRequest, PredictRequest
from bandit_serve.errors import InvalidInput, TooLarge, TooSlow, UnsupportedMedia
from bandit_serve.experiments.spec import Experiment
from bandit_serve.server.repeated import repeated_keys
from bandit_serve.server.wire import SENT_BY_ANY_PAGE, Body, answer, encoded, revision
from bandit_serve.server.wire_form import JSON, MSGPACK, form_of

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
        route: Body[Any] = Body(kind, **{"timeout_s": 5.0, "flat": True, **options})
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
    with pytest.raises(UnsupportedMedia, match="a Content-Type of application/json, not"):
        read(IN_MSGPACK, MSGPACK, flat=False, msgpack=False)
    assert read(IN_MSGPACK, MSGPACK, flat=False) == DecideRequest(unit="u")


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
        ({"context": {"x": []}}, DecideRequest, "context.x"),
        (
            {"id": "e", "arms": [{"name": "a"}, {"name": "?"}], "metrics": []},
            Experiment,
            "arms[1].name metrics",
        ),
        ({"id": "e", "arms": []}, Experiment, "arms metrics"),
        ([], DecideRequest, ""),
        ({"x": 1}, DecideRequest, "x"),
        (
            {"id": "e", "arms": [{"name": "a"}, {"name": "b", "weight": 1}]},
            Experiment,
            "arms[1].weight metrics",
        ),
        ({"id": "e", "arms": [{"name": "a"}, {"payload": 1}]}, Experiment, "arms[1].name metrics"),
        ({"id": "e", "arms": [{"name": "a"}]}, Experiment, "metrics"),
        (
            {"polcy": {}, "id": "e f", "arms": 3, "metrics": [{"name": "m", "kind": "binry"}], "unit": "usr"},
            Experiment,
            "polcy id arms metrics[0].kind unit",
        ),
        (
            {"policy": {"kind": "ucb1", "warmup": 2.5, "prior": {"a": "x"}, "alpa": 1}},
            Experiment,
            "policy.warmup id arms metrics policy.alpa policy.prior.a",
        ),
    ],
)
@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_the_field_that_is_wrong_is_named(body: Any, kind: Any, at: str, form: str) -> None:
    encoded = msgspec.json.encode(body) if form == JSON else msgspec.msgpack.encode(body)
    with pytest.raises(InvalidInput) as refused:
        read(encoded, form, kind)
    assert [error.at for error in refused.value.errors] == at.split(" ")
    assert str(refused.value).startswith(at.partition(" ")[0])


def test_what_is_allowed_is_listed_and_what_was_meant_is_guessed() -> None:
    body = {
        "id": "e",
        "arms": [{"name": "a", "modell": "m"}],
        "metrics": [{"name": "m", "kind": "binry"}],
        "attribution": {"missing": "none"},
    }
    with pytest.raises(InvalidInput) as refused:
        read(msgspec.json.encode(body), JSON, Experiment)
    details = {error.at: error.detail for error in refused.value.errors}
    assert details == {
        "arms[0].modell": "unknown field `modell`: did you mean model? expected one of name, model, version, "
        "payload, features",
        "metrics[0].kind": "did you mean binary? expected one of binary, bounded, count, continuous, ratio, not "
        "'binry'",
        "attribution.missing": "expected one of zero, ignore, not 'none'",
    }


WHOLE: list[tuple[Any, Any, Callable[[Any], Any]]] = [
    ({"user_id": "u", "k": "?"}, PredictRequest, lambda decoded: decoded.k),
    (
        {
            "id": "e",
            "arms": [{"name": "a"}],
            "metrics": [{"name": "m", "kind": "binary"}],
            "policy": {"kind": "ucb1", "warmup": "?"},
        },
        Experiment,
        lambda decoded: decoded.policy.warmup,
    ),
    (
        {
            "id": "e",
            "arms": [{"name": "a"}],
            "metrics": [{"name": "m", "kind": "binary"}],
            "context": [{"name": "c", "kind": "categorical", "buckets": "?"}],
        },
        Experiment,
        lambda decoded: decoded.context[0].buckets,
    ),
]


@given(
    st.integers(-(2**53), 2**53) | st.integers(-3, 1_001),
    st.sampled_from(WHOLE),
    st.sampled_from([JSON, MSGPACK]),
)
def test_a_whole_number_may_be_written_with_a_point(
    number: int, where: tuple[Any, Any, Callable[[Any], Any]], form: str
) -> None:
    """3.0 is read, or refused, as 3 is."""
    body, kind, value_in = where
    encode = msgspec.json.encode if form == JSON else msgspec.msgpack.encode

    def outcome(value: Any) -> Any:
        text = msgspec.json.encode(body).replace(b'"?"', msgspec.json.encode(value))
        try:
            decoded = value_in(read(encode(msgspec.json.decode(text)), form, kind))
        except InvalidInput as error:
            return [(each.at, each.detail) for each in error.errors]
        assert isinstance(decoded, int)
        return decoded

    assert outcome(float(number)) == outcome(number)
    if abs(number) < 2**40:
        refused = outcome(number + 0.5)
        assert isinstance(refused, list), refused


@pytest.mark.parametrize(
    "value",
    [{"unit": b"abc"}, {"unit": datetime.now(UTC)}, {"context": {1: 2}}, {"context": {None: 2}}, {1: 2}],
    ids=["bytes", "time", "number as key", "nil as key", "number as field"],
)
def test_what_json_has_no_type_for_is_refused_in_messagepack(value: Any) -> None:
    with pytest.raises(InvalidInput):
        read(msgspec.msgpack.encode(value), MSGPACK)


@pytest.mark.parametrize("depth", [10, 400, 600, 900])
@pytest.mark.parametrize(("head", "value", "tail"), [('{"a":', "1", "}"), ("[", "", "]")])
def test_a_deep_value_of_an_unknown_field_is_refused(head: str, value: str, tail: str, depth: int) -> None:
    body = '{"units":' + head * depth + value + tail * depth + "}"
    with pytest.raises(InvalidInput):
        read(body.encode(), JSON)


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
        ("application/json;q=0.9, */*", MSGPACK, MSGPACK),
        ("application/json;q=0.9, */*", JSON, MSGPACK),
        ("application/json;q=0.9, */*;q=0.1", MSGPACK, JSON),
        ("application/json;q=0.5, application/msgpack;q=0.8", JSON, MSGPACK),
        ("application/msgpack;q=0.5, application/json;q=0.8", MSGPACK, JSON),
        ("application/msgpack; q=0.5 , application/json", MSGPACK, JSON),
        ("application/json;q=0.8, application/msgpack;q=0.8", MSGPACK, JSON),
        ("application/msgpack;q=0.8, application/json;q=0.800", JSON, MSGPACK),
        ("application/msgpack;q=0, */*", MSGPACK, JSON),
        ("application/json;q=0, */*", JSON, MSGPACK),
        ("application/json;q=0", JSON, JSON),
        ("APPLICATION/MSGPACK;Q=1, application/json;q=0.9", JSON, MSGPACK),
        ("application/*", MSGPACK, MSGPACK),
        ("application/*;q=0.5, application/json;q=0.1", JSON, MSGPACK),
        ("text/html, application/msgpack;q=0.2", JSON, MSGPACK),
        ("text/html, */*;q=0.8", MSGPACK, MSGPACK),
        ("application/x-msgpack", JSON, MSGPACK),
        ("application/json;charset=utf-8;q=0.3, application/msgpack;q=0.2", MSGPACK, JSON),
        ("application/json;q=nonsense, application/msgpack;q=0.9", MSGPACK, JSON),
        ("application/problem+json, application/msgpack", JSON, MSGPACK),
        ("", MSGPACK, MSGPACK),
        (",;,", JSON, JSON),
        ("text/html", JSON, JSON),
        ("text/html", MSGPACK, MSGPACK),
    ],
)
def test_accept_says_what_goes_out(accept: str | None, content_type: str | None, form: str) -> None:
    wishes = {"Accept": accept, "Content-Type": content_type}
    headers = CIMultiDict({name: value for name, value in wishes.items() if value is not None})
    reply = encoded(form_of(headers), {"a": [1, 2.5, None]})
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


def test_a_key_that_is_given_twice_is_found_where_it_is():
    body = b'{"a": 1, "b": [{"c": 1e999, "d": {}, "c": 2}], "a": {"a": 1}, "x.y": {"z": 1, "z": 1, "z": 2}}'
    assert [error.at for error in repeated_keys(body)] == ["b[0].c", "a", "x.y.z"]
    assert next(error.at for error in repeated_keys(body, "metadata")) == "metadata.b[0].c"
    assert repeated_keys(b'{"a": {"b": 1}, "b": [{"b": 1}, {"b": 1}], "n": ' + b"9" * 9_000 + b"}") == []
    assert repeated_keys(b"[" * 100_000) == []
