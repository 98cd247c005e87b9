"""MessagePack on every route of `/v1`: the same documents go in and out as in JSON, with the same errors."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pytest
from http_calls import (
    MSGPACK,
    PROBLEM,
    check_problem,
    decide_many,
    draft,
    experiment,
    new_name,
    reward_many,
    running,
)
from services import Answer, ThrowawayService

from bandit_serve.base.nesting import MAX_LEVELS, TOO_DEEP
from bandit_serve.errors import InvalidInput, TooLarge
from bandit_serve.server.examples import EXAMPLES
from bandit_serve.server.messagepack import (
    NO_TEXT,
    NOT_FINITE,
    NOT_IN_JSON,
    PIECE_BYTES,
    json_of,
    messagepack_of,
)
from bandit_serve.server.repeated import DETAIL
from bandit_serve.server.route import REASON_BYTES, HtmlPage, Route
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.wire import EITHER, MAX_VALUES
from bandit_serve.server.wire_form import JSON

V1 = [route for route in ROUTES if route.path.startswith("/v1/")]
WITH_BODY = [route for route in V1 if route.takes is not None]
READS = [route for route in V1 if route.method == "GET"]
# What they log or answer is an entry's, or different each time.
FLAT = ("decisions.", "rewards.")
ORDINARY = [route for route in WITH_BODY if not route.handler.startswith(FLAT)]
ENGINE = ("deployments.",)
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
FLAGS = ("--upstreams", "http://127.0.0.1:9/")
REMOTE = {"url": "http://127.0.0.1:9/", "protocol": "open-inference", "timeout": "200ms"}


def label(route: Route) -> str:
    return route.label


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), *FLAGS) as running:
        yield running


@pytest.fixture(scope="module")
def names(service: ThrowawayService) -> dict[str, str]:
    """Names for paths: an experiment with data, a model with a version, a metric."""
    name = running(service, metrics=[{"name": "revenue", "kind": "continuous"}])
    tokens = decide_many(service, name, [f"u{i}" for i in range(400)])["decision_ids"]
    reward_many(service, tokens, [float(i % 7) for i in range(400)])
    model = new_name("model")
    for version in ("v1", "v2"):
        made = service.call("POST", f"/v1/models/{model}/versions", {"version": version, "remote": REMOTE})
        assert made.status == 201, made
    made = service.call("PUT", "/v1/metrics/revenue", {"kind": "continuous"})
    assert made.status in (200, 201), made
    return {
        "experiment": name,
        "model": model,
        "version": "v1",
        "arm": "challenger",
        "metric": "revenue",
        "key": "0" * 16,
        "deployment": "nothing",
        "promotion": "p1",
    }


def call(
    service: ThrowawayService,
    method: str,
    path: str,
    content: bytes | None,
    content_type: str | None = None,
    accept: str | None = None,
) -> Answer:
    """Sends bytes; an answer in MessagePack is decoded, with any kind of key."""
    headers = {"Content-Type": content_type or JSON, **({"Accept": accept} if accept else {})}
    answer = service.call(method, path, content, headers)
    if answer.headers.get("Content-Type") == MSGPACK:
        return answer._replace(body=msgpack.unpackb(answer.body, strict_map_key=False))
    return answer


def both(service: ThrowawayService, route: Route, path: str, document: Any) -> tuple[Answer, Answer]:
    """Answers to one document that is sent in JSON, and then in MessagePack."""
    return (
        call(service, route.method, path, json.dumps(document).encode()),
        call(service, route.method, path, msgpack.packb(document), MSGPACK),
    )


def example(route: Route) -> Any:
    kind = route.plain or route.takes
    return next(iter(EXAMPLES[kind].values()))


def query_of(route: Route) -> str:
    return "?a=v1&b=v2" if route.handler == "models.compare" else ""


def test_every_route_of_v1_speaks_both_forms_and_no_other_route() -> None:
    for route in ROUTES:
        is_v1 = route.path.startswith("/v1/")
        assert route.negotiates == is_v1, route.label
        if route.answers is not HtmlPage:
            assert (route.spoken == EITHER) == is_v1, route.label
    assert len(WITH_BODY) > 30
    assert len(READS) > 20


@pytest.mark.parametrize("route", WITH_BODY, ids=label)
def test_errors_are_the_same_in_both_forms(
    service: ThrowawayService, names: dict[str, str], route: Route
) -> None:
    """Of valid bodies for what is not there, and of invalid ones."""
    there = route.path.format(**names)
    nothing = re.sub(r"\{\w+\}", "nothing-of-this-name", route.path)
    valid = example(route)
    cases: list[tuple[str, Any]] = [(there, {**valid, "zz": 1}), (there, []), (there, None), (there, "text")]
    cases += [(there, {**valid, field: {"zz": [[]]}, "zz": 1}) for field in valid]
    if "{" in route.path and not route.makes:
        cases.append((nothing, valid))
    for path, document in cases:
        in_json, in_messagepack = both(service, route, path, document)
        assert in_messagepack.status == in_json.status, (document, in_json, in_messagepack)
        assert in_messagepack.body == in_json.body
        if in_json.status >= 400:
            assert in_json.headers["Content-Type"] == in_messagepack.headers["Content-Type"] == PROBLEM


def without(document: Any, *volatile: str) -> Any:
    """Document without times and what is different each time it is read."""
    if isinstance(document, dict):
        return {key: without(each, *volatile) for key, each in document.items() if key not in volatile}
    if isinstance(document, list):
        return [without(each, *volatile) for each in document]
    return "time" if isinstance(document, str) and TIME.fullmatch(document) else document


@pytest.mark.parametrize("route", READS, ids=label)
def test_answers_are_the_same_in_both_forms(
    service: ThrowawayService, names: dict[str, str], route: Route
) -> None:
    path = route.path.format(**names) + query_of(route)
    in_json = call(service, "GET", path, None, accept=JSON)
    for content_type, accept in ((None, MSGPACK), (MSGPACK, None), (JSON, f"{JSON};q=0.5, {MSGPACK}")):
        packed = call(service, "GET", path, None, content_type, accept)
        assert packed.status == in_json.status
        volatile = ("uptime_s", "workers", "store", "elapsed_s", "loaded")
        assert without(packed.body, *volatile) == without(in_json.body, *volatile)
        if in_json.status < 400:
            assert in_json.headers["Content-Type"] == JSON
            assert packed.headers["Content-Type"] == MSGPACK
            assert packed.headers.get("ETag") == in_json.headers.get("ETag")
            assert "Accept" in packed.headers["Vary"].split(", ")
            assert packed.headers["Vary"] == in_json.headers["Vary"]
        else:
            assert packed.headers["Content-Type"] == PROBLEM
    missing = {"promotions.show", "models.agreement"}
    assert in_json.status == 200 or route.handler in missing or route.handler.startswith(ENGINE), in_json


def lived(service: ThrowawayService, form: str) -> list[Any]:
    """Answers to changes of an experiment, a model, a metric and a key, sent and answered in one form."""
    encode = msgpack.packb if form == MSGPACK else lambda document: json.dumps(document).encode()
    kept, answers = {"e": new_name("life"), "m": new_name("life"), "metric": new_name("life")}, []
    e, m = f"/v1/experiments/{kept['e']}", f"/v1/models/{kept['m']}"
    body = experiment(
        id=kept["e"],
        metrics=[
            {"name": "click", "kind": "binary"},
            {"name": "before", "kind": "continuous", "covariate": "x"},
        ],
        unit="user",
        policy={"kind": "fixed_split", "shares": {"control": 3, "challenger": 1.5}},
    )
    body["arms"][1]["payload"] = {
        "text": "é\x00\n",
        "numbers": [0, -1, 2**64 - 1, -(2**63), 0.1, 1e300, None],
    }
    columns = {"unit": ["u", "v"], "covariates": {"x": [1, 2.5]}}
    steps: list[tuple[str, str, Any]] = [
        ("POST", "/v1/plan", {"baseline": {"rate": 0.1}, "effect": {"relative": 0.05}, "traffic": 4_000}),
        ("PUT", f"/v1/metrics/{kept['metric']}", {"kind": "continuous", "cap": 500}),
        ("POST", "/v1/experiments", body),
        ("PUT", e, {**body, "owner": "somebody"}),
        ("PUT", f"{e}/covariates", columns),
        ("PUT", f"{e}/policy", {"kind": "thompson", "half_life": "7d"}),
        ("POST", f"{e}/start", {"reason": "now"}),
        ("POST", f"{e}/arms", {"name": "third", "ramp": {"from": 0.01, "over": "2h"}}),
        ("POST", f"{e}/metrics", {"name": kept["metric"], "reason": "asked for"}),
        ("POST", f"{e}/arms/third/pause", {}),
        ("POST", f"{e}/arms/third/resume", {"reason": None}),
        ("DELETE", f"{e}/arms/third", {"reason": "bad"}),
        ("POST", f"{e}/pause", {}),
        ("POST", f"{e}/stop", {"winner": "challenger"}),
        ("DELETE", e, {"reason": "over"}),
        ("POST", f"{m}/versions", {"version": "v1", "remote": REMOTE, "metadata": {"n": [1, 2.0, "é"]}}),
        ("PATCH", f"{m}/versions/v1", {"metrics": {"rmse": 0.5}, "metadata": {"note": "of March"}}),
        ("POST", f"{m}/versions/v1/status", {"status": "retired", "reason": "worse"}),
        ("POST", f"{m}/rollback", {}),
        ("POST", "/v1/keys", {"scope": "admin", "name": kept["m"]}),
    ]
    for method, path, document in steps:
        answer = call(service, method, path, encode(document), form)
        assert answer.status < 300 or path.endswith("rollback"), (path, answer)
        if answer.status < 300 and answer.status != 204:
            assert answer.headers["Content-Type"] == form
        body = without(answer.body, "key") if answer.status != 204 else None
        told = json.dumps([answer.status, body, answer.headers.get("ETag")])
        for stands_for, name in kept.items():
            told = told.replace(name, stands_for)
        if path == "/v1/keys":
            told = re.sub(r'"id": "\w+"', '"id": ""', told)
        answers.append(json.loads(told))
    return answers


def test_changes_are_the_same_in_both_forms(tmp_path_factory: pytest.TempPathFactory) -> None:
    lives = []
    for form in EITHER:
        # The first key closes a service to callers without one.
        with ThrowawayService(tmp_path_factory.mktemp("data"), *FLAGS) as service:
            lives.append(lived(service, form))
    for in_json, packed in zip(*lives, strict=True):
        assert packed == in_json


HOSTILE = {
    "nothing": b"\xc1",
    "cut off": b"\x81\xa1a",
    "a text that is cut off": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "a list that is claimed": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "an object that is claimed": b"\xdf\xff\xff\xff\xff",
    "lists that are claimed": b"\xdd\x00\x01\x00\x00" * 90,
    "bytes behind it": b"\x80\x80",
    "no UTF-8": b"\x81\xa1a\xa2\xff\xfe",
    "a surrogate": b"\x81\xa1a\xa3\xed\xa0\x80",
    "a number as key": b"\x81\x01\x02",
    "nil as key": b"\x81\xc0\x02",
    "a list as key": b"\x81\x90\x01",
    "bytes as key": b"\x81\xc4\x01a\x01",
    "bytes": b"\x81\xa1a\xc4\x03abc",
    "bytes that are cut off": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "an extension": b"\x81\xa1a\xc7\x05\x01abcde",
    "a time": b"\x81\xa1a\xd6\xff\0\0\0\0",
    "not a number": b"\x81\xa1a\xcb\x7f\xf8" + bytes(6),
    "infinity": b"\x81\xa1a\xca\x7f\x80\0\0",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "deep": b"\x91" * 100_000,
    "deep objects": b"\x81\xa1a" * 20_000,
}


@pytest.mark.parametrize("route", ORDINARY, ids=label)
def test_hostile_bodies_are_refused(service: ThrowawayService, names: dict[str, str], route: Route) -> None:
    path = route.path.format(**names)
    for content in HOSTILE.values():
        answer = call(service, route.method, path, content, MSGPACK)
        assert answer.status in (400, 413), (content[:40], answer)
        check_problem(answer, answer.status)


@pytest.mark.parametrize("route", ORDINARY, ids=label)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_at_their_fields(
    service: ThrowawayService, names: dict[str, str], route: Route, number: float
) -> None:
    path, valid = route.path.format(**names), example(route)
    for field in valid:
        content = msgpack.packb({**valid, field: number})
        problem = check_problem(call(service, route.method, path, content, MSGPACK), 400, field)
        assert problem["errors"][0]["detail"] == NOT_FINITE
    content = msgpack.packb({"zz": [{"a": number}, 1, {"b": number}]}, use_single_float=True)
    check_problem(call(service, route.method, path, content, MSGPACK), 400, "zz[0].a", "zz[2].b")


def refusal(content: bytes, max_values: int = MAX_VALUES, max_bytes: int = 2**20) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        asyncio.run(json_of(content, max_values, max_bytes))
    return refused.value


@pytest.mark.parametrize(
    ("document", "at", "detail"),
    [
        ({"a": [1, b"x"]}, "a[1]", NOT_IN_JSON),
        ({"a": {"b": msgpack.ExtType(5, b"xyz")}}, "a.b", NOT_IN_JSON),
        ({"a": {"b": msgpack.Timestamp(1, 0)}}, "a.b", NOT_IN_JSON),
        ({"a": [{}, {1: 2}]}, "a[1]", NO_TEXT),
        ({None: 2}, "", NO_TEXT),
        ([[math.nan]], "[0][0]", NOT_FINITE),
        (b"x", "", NOT_IN_JSON),
    ],
)
def test_what_json_has_not_is_refused_where_it_is(document: Any, at: str, detail: str) -> None:
    errors = refusal(msgpack.packb(document)).errors
    assert [(each.at, each.detail) for each in errors] == [(at, detail)]


def test_what_json_has_is_said_in_json_and_back() -> None:
    numbers = [0, 127, 128, 2**8, 2**16, 2**32, 2**64 - 1, -1, -32, -33, -(2**7) - 1, -(2**15) - 1, -(2**63)]
    texts = ["", "a" * 31, "a" * 32, "é" * 200, "x" * 70_000, '\x00\x1f"\\\x7f\u2028💥' * 9_000]
    lists = [[], [1] * 15, [1] * 16, [[]] * 70_000]
    objects = [{str(i): i for i in range(n)} for n in (0, 15, 16, 70_000)]
    floats = [0.0, -0.0, 0.1, 5e-324, 1.7e308, 3.0]
    large = {"a": [{"b": [None, True, False, 0.5, "text"]}] * 9_000, "c": {"d": "x" * PIECE_BYTES * 2}}
    for document in (*numbers, *texts, *lists, *objects, *floats, large):
        for packed in (msgpack.packb(document), msgspec.msgpack.encode(document)):
            text = asyncio.run(json_of(packed, MAX_VALUES, 2**24))
            assert text == msgspec.json.encode(document)
        assert msgspec.msgpack.decode(asyncio.run(messagepack_of(text))) == document
    single = msgpack.packb(0.5, use_single_float=True)
    assert asyncio.run(json_of(single, MAX_VALUES, 2**24)) == b"0.5"
    assert asyncio.run(messagepack_of(msgspec.json.encode([math.nan, math.inf]))) == msgpack.packb(
        [None, None]
    )


def test_repeated_keys_and_what_is_too_deep_are_refused_as_in_json(service: ThrowawayService) -> None:
    path = f"/v1/experiments/{draft(service)}/policy"
    twice = b"\x82\xa4kind\xabfixed_split\xa4kind\xabfixed_split"
    problem = check_problem(call(service, "PUT", path, twice, MSGPACK), 400, "kind")
    assert problem["errors"][0]["detail"] == DETAIL
    for levels in (MAX_LEVELS, MAX_LEVELS + 1, 5_000):
        deep = '{"kind": "fixed_split", "zz": {"a": ' + "[" * levels + "]" * levels + "}}"
        packed = b"\x82\xa4kind\xabfixed_split\xa2zz\x81\xa1a" + b"\x91" * (levels - 1) + b"\x90"
        in_json = call(service, "PUT", path, deep.encode())
        in_messagepack = call(service, "PUT", path, packed, MSGPACK)
        assert in_messagepack.body == in_json.body
        assert in_json.body["errors"][0]["detail"] == TOO_DEEP


def test_bytes_and_values_are_bounded_as_in_json(service: ThrowawayService) -> None:
    assert isinstance(refusal(msgpack.packb([1] * 12), max_values=10), TooLarge)
    assert isinstance(refusal(msgpack.packb([[], [[[]]], [[[]]]]), max_values=6), TooLarge)
    assert asyncio.run(json_of(msgpack.packb([1] * 11), 10, 100)) == b"[" + b",".join([b"1"] * 11) + b"]"
    for large in ("\x00" * 2**20, ["\x00" * 2_000] * 200, [0.1 + 0.2] * 90_000):
        assert isinstance(refusal(msgpack.packb(large)), TooLarge)
    path = f"/v1/experiments/{running(service)}/pause"
    for reason in ("x" * REASON_BYTES, "\x00" * (REASON_BYTES // 6)):
        for answer in both(service, next(each for each in V1 if each.method == "POST"), path, {"r": reason}):
            check_problem(answer, 413)
    name = draft(service, unit="user", metrics=[{"name": "m", "kind": "continuous", "covariate": "x"}])
    columns = {"unit": [f"u{i}" for i in range(100_002)], "covariates": {"x": [1] * 100_002}}
    put = next(each for each in V1 if each.handler == "covariates.put")
    for answer in both(service, put, f"/v1/experiments/{name}/covariates", columns):
        check_problem(answer, 413)


def test_an_optional_body_may_be_empty_and_if_match_is_heeded(service: ThrowawayService) -> None:
    name = draft(service)
    path = f"/v1/experiments/{name}"
    etag = call(service, "GET", path, None, accept=MSGPACK).headers["ETag"]
    headers = {"Content-Type": MSGPACK, "If-Match": etag}
    started = service.call("POST", f"{path}/start", b"", headers)
    assert (started.status, started.headers["Content-Type"]) == (200, MSGPACK)
    assert started.headers["ETag"] == call(service, "GET", path, None).headers["ETag"] != etag
    check_problem(service.call("POST", f"{path}/pause", b"\x80", headers), 412)
    in_json = service.call("POST", f"{path}/pause", b"\x80", {"Content-Type": MSGPACK, "Accept": JSON})
    assert (in_json.status, in_json.body["id"]) == (200, name)


def test_large_answers_are_the_same_in_both_forms(service: ThrowawayService) -> None:
    """A view that is packed in turns, and a list that is made in turns."""
    arms = [
        {"name": f"a{i}", "payload": {"text": "é" * 500, "numbers": [i / 7] * 300, "none": None}}
        for i in range(120)
    ]
    name = draft(service, arms=arms)
    for path in (f"/v1/experiments/{name}", "/v1/experiments", "/v1/experiments?limit=1"):
        in_json = call(service, "GET", path, None)
        packed = call(service, "GET", path, None, accept=MSGPACK)
        assert packed.status == 200
        assert packed.headers["Content-Type"] == MSGPACK
        assert packed.body == in_json.body
    head = service.call("HEAD", f"/v1/experiments/{name}", headers={"Accept": MSGPACK})
    assert head.headers["Content-Type"] == MSGPACK


def test_standards_health_and_the_description_stay_as_they_are(service: ThrowawayService) -> None:
    for path in ("/v2", "/health/ready", "/openapi.json"):
        answer = call(service, "GET", path, None, accept=MSGPACK)
        assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
        assert "Vary" not in answer.headers
    for path, status in (("/ofrep/v1/evaluate/flags", 400), ("/v2/repository/index", 415)):
        assert call(service, "POST", path, b"\x80", MSGPACK).status == status
