"""Bounds of a request's cost, checked before its work begins, on the product of its parts."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from builders import experiment
from http_calls import call_msgpack, check_problem, draft, new_name, running
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect
from services import ThrowawayService
from stores import wait_until

from bandit_serve.api.decisions import (
    MAX_BATCH,
    MAX_BATCH_ITEMS,
    MAX_CONTEXT,
    DecideBatch,
    DecideRequest,
    PredictBatch,
    RawBatch,
)
from bandit_serve.base.documents import MAX_DOCUMENT_BYTES
from bandit_serve.changes.experiments import servable
from bandit_serve.errors import MAX_FIELD_ERRORS, FieldError, InvalidInput, TooLarge
from bandit_serve.experiments.policy import context_features
from bandit_serve.experiments.spec import MAX_ARMS, Experiment
from bandit_serve.policies.context import MAX_FEATURES, MAX_FIELDS, ContextField
from bandit_serve.policies.features import Features, n_features_of
from bandit_serve.server.route import MULTIPART
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.wire import JSON_FORM, LARGE_BYTES, MAX_ANSWER_BYTES, MAX_VALUES, Body, Responses
from bandit_serve.server.wire_form import form_of


def lists_and_mappings(
    kind: Any, path: str, within: frozenset[type] = frozenset()
) -> Iterator[tuple[str, Any]]:
    match kind:
        case inspect.StructType() if kind.cls not in within:
            for field in kind.fields:
                inside = within | {kind.cls}
                yield from lists_and_mappings(field.type, f"{path}.{field.encode_name}", inside)
        case inspect.ListType() | inspect.VarTupleType():
            yield path, kind
            yield from lists_and_mappings(kind.item_type, f"{path}[]", within)
        case inspect.DictType():
            yield path, kind
            yield from lists_and_mappings(kind.value_type, f"{path}{{}}", within)
        case inspect.UnionType():
            for each in kind.types:
                yield from lists_and_mappings(each, path, within)
        case inspect.Metadata():
            yield from lists_and_mappings(kind.type, path, within)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.takes], ids=lambda route: route.label)
def test_every_list_and_mapping_that_comes_in_is_bounded(route: Any) -> None:
    assert route.takes is not None
    for path, kind in lists_and_mappings(inspect.type_info(route.takes), "$"):
        assert kind.max_length is not None, path


def test_every_route_with_a_body_takes_no_more_than_it_needs_or_is_a_batch() -> None:
    """A new route has to say how much it takes, or be one of those that take as much as the service does."""
    unbounded = {route.label for route in ROUTES if route.takes and route.max_body is None}
    assert unbounded == {
        "POST /v1/rewards",
        "POST /v1/experiments/{experiment}/decide/batch",
        "POST /v1/experiments/{experiment}/predict/batch",
        "POST /v1/experiments",
        "PUT /v1/experiments/{experiment}",
        "PUT /v1/experiments/{experiment}/covariates",
        "POST /v1/models/{model}/versions",
        "POST /v1/exposures",
        "POST /v2/models/{model}/infer",
        "POST /v2/models/{model}/versions/{version}/infer",
    }
    assert {route.label for route in ROUTES if route.media == MULTIPART} <= unbounded


def buckets(name: str, n: int, *interactions: str) -> dict[str, Any]:
    return {"name": name, "kind": "categorical", "buckets": n, "interactions": list(interactions)}


def test_features_are_counted_before_any_is_named() -> None:
    names = [f"f{i}" for i in range(8)]
    context = [buckets(name, 1_000, *names[i + 1 :]) for i, name in enumerate(names)]
    assert len(msgspec.json.encode(context)) < 900
    made = msgspec.convert(
        {
            "id": "e",
            "arms": [{"name": "a"}],
            "metrics": [{"name": "m", "kind": "continuous"}],
            "policy": {"kind": "lin_ucb"},
            "context": context,
        },
        Experiment,
    )
    context_features(experiment(context=[buckets("small", 2)]))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=f"at most {MAX_FEATURES} features in all, not 28064037"):
            servable(made)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@st.composite
def contexts(draw: st.DrawFn) -> list[ContextField]:
    names = [f"f{i}" for i in range(draw(st.integers(0, 6)))]
    fields = []
    for name in names:
        others = [other for other in names if other != name]
        interactions = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
        how = draw(st.sampled_from(["numeric", "values", "buckets"]))
        width = draw(st.integers(1, 6))
        if how == "numeric":
            fields.append(ContextField(name, "numeric", interactions=interactions))
        elif how == "values":
            values = [str(i) for i in range(width)]
            fields.append(ContextField(name, "categorical", values=values, interactions=interactions))
        else:
            fields.append(ContextField(name, "categorical", buckets=width, interactions=interactions))
    return fields


@settings(max_examples=200, deadline=None)
@given(contexts())
def test_the_count_is_that_of_the_features_that_are_made(fields: list[ContextField]) -> None:
    n = Features(fields).n_features
    assert n_features_of(fields) == n
    assert Features(fields, most=n).n_features == n
    with pytest.raises(InvalidInput, match=f"not {n}"):
        Features(fields, most=n - 1)


def test_only_the_first_of_many_errors_are_told() -> None:
    few = [FieldError(f"a[{i}]", "no") for i in range(MAX_FIELD_ERRORS)]
    assert InvalidInput("no", few).errors == tuple(few)
    more = InvalidInput("no", [*few, *few, *few]).errors
    assert more == (*few, FieldError("", f"and {2 * MAX_FIELD_ERRORS} more"))
    fields = [
        ContextField(f"f{i}", "numeric", interactions=[f"g{j}" for j in range(MAX_FIELDS)])
        for i in range(MAX_FIELDS)
    ]
    with pytest.raises(InvalidInput) as refused:
        Features(fields)
    assert len(refused.value.errors) == MAX_FIELD_ERRORS + 1
    assert refused.value.errors[-1].detail == f"and {MAX_FIELDS**2 - MAX_FIELD_ERRORS} more"


@pytest.fixture(scope="module")
def heavy(service: ThrowawayService) -> str:
    """An experiment with the largest payload there may be."""
    payload = "x" * (MAX_DOCUMENT_BYTES - 2)
    return running(service, arms=[{"name": "control", "payload": payload}, {"name": "plain"}])


def exposures(service: ThrowawayService, name: str) -> float:
    counts = service.call("GET", "/v1/stats").body["experiments"][name]["exposures"]
    return float(sum(counts.values()))


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_batch_whose_answer_could_be_too_large_decides_nothing(
    service: ThrowawayService, heavy: str, form: str
) -> None:
    path, before = f"/v1/experiments/{heavy}/decide/batch", exposures(service, heavy)
    call = service.call if form == "json" else lambda _, *rest: call_msgpack(service, *rest)
    fits = MAX_ANSWER_BYTES // (MAX_DOCUMENT_BYTES + 2_048)
    refused = call("POST", path, {"requests": [{}] * (fits + 200)})
    check_problem(refused, 413)
    assert str(MAX_ANSWER_BYTES) in refused.body["detail"]
    assert call("POST", path, {"requests": [{}] * fits}).status == 200
    wait_until(lambda: exposures(service, heavy) >= before + fits)
    # What is decided later is logged later: were there more, they would be in front of this one.
    call("POST", path, {"requests": [{}]})
    wait_until(lambda: exposures(service, heavy) > before + fits)
    assert exposures(service, heavy) == before + fits + 1


@pytest.mark.parametrize("asked", [{"k": 101}, {"item_ids": ["i"] * 101}])
def test_a_batch_that_asks_for_too_many_items_is_refused(
    service: ThrowawayService, heavy: str, asked: dict[str, Any]
) -> None:
    n = MAX_BATCH_ITEMS // 100
    body = {"requests": [{"user_id": "u", **asked}] * n}
    refused = service.call("POST", f"/v1/experiments/{heavy}/predict/batch", body)
    check_problem(refused, 413)
    assert str(MAX_BATCH_ITEMS) in refused.body["detail"]


def test_a_body_with_too_many_values_is_refused_unread(service: ThrowawayService, heavy: str) -> None:
    for path in (f"/v1/experiments/{heavy}/decide/batch", "/v1/rewards", "/v1/experiments"):
        refused = service.call("POST", path, b'{"requests":[' + b"{}," * (MAX_VALUES + 1) + b"{}]}")
        check_problem(refused, 413)
        assert str(MAX_VALUES) in refused.body["detail"]


def test_values_are_counted_in_large_bodies_only() -> None:
    read = Body(DecideBatch, timeout_s=1.0).decode
    with pytest.raises(TooLarge):
        read(JSON_FORM, b"," * (MAX_VALUES + 1) + b" " * LARGE_BYTES)
    with pytest.raises(InvalidInput, match="can not be read") as refused:
        read(JSON_FORM, b"," * LARGE_BYTES)
    assert not isinstance(refused.value, TooLarge)


@pytest.mark.parametrize("kind", [DecideBatch, RawBatch, PredictBatch])
def test_what_messagepack_claims_is_refused_before_room_is_made_for_it(kind: type[Any]) -> None:
    field = kind.__struct_fields__[0]
    claims = b"\x81" + msgspec.msgpack.encode(field) + b"\xdd\xff\xff\xff\xff"
    with pytest.raises(InvalidInput, match=f"length <= {MAX_BATCH}"):
        Body(kind, timeout_s=1.0, flat=True).decode(form_of({"Content-Type": "application/msgpack"}), claims)


def test_one_decision_names_at_most_all_arms_and_a_thousand_values() -> None:
    read = Body(DecideRequest, timeout_s=1.0).decode
    assert read(JSON_FORM, msgspec.json.encode({"eligible": ["a"] * MAX_ARMS})).eligible == ["a"] * MAX_ARMS
    for body in (
        {"eligible": ["a"] * (MAX_ARMS + 1)},
        {"context": {str(i): i for i in range(MAX_CONTEXT + 1)}},
    ):
        with pytest.raises(InvalidInput, match="length <= 1000"):
            read(JSON_FORM, msgspec.json.encode(body))


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_large_batch_is_read_entry_by_entry_to_the_same_answers(
    service: ThrowawayService, heavy: str, form: str
) -> None:
    name = running(service, context=[{"name": "n", "kind": "numeric"}])
    call = service.call if form == "json" else lambda _, *rest: call_msgpack(service, *rest)
    path, long = f"/v1/experiments/{name}/decide/batch", "u" * 256
    wishes: list[Any] = [{"unit": long, "context": {"n": i}} for i in range(1_500)]
    wishes[7] = {"unit": long, "eligible": "no list"}
    answer = call("POST", path, {"requests": wishes})
    assert answer.status == 200
    responses = answer.body["responses"]
    assert [i for i, each in enumerate(responses) if "decision_id" not in each] == [7]
    assert responses[7]["status"] == 400
    columns = {"units": [long] * 1_500, "contexts": [{"n": i} for i in range(1_500)]}
    assert len(call("POST", path, columns).body["decision_ids"]) == 1_500
    columns["contexts"][9] = {"n": [1]}
    refused = call("POST", path, columns)
    check_problem(refused, 400)
    few = {name: column[9:10] for name, column in columns.items()}
    for wrong in ({"n": [1]}, {"n": {}}, 7):
        columns["contexts"][9] = few["contexts"][0] = wrong
        at_once, in_turns = (call("POST", path, each).body["errors"] for each in (few, columns))
        assert in_turns == [{**at_once[0], "at": at_once[0]["at"].replace("[0]", "[9]", 1)}]


@pytest.mark.parametrize("n", [1, 1_500])
@pytest.mark.parametrize("more", [{"units": ["u"]}, {"contexts": [None]}, {"units": 7}, {"more": 1}])
def test_a_batch_of_both_forms_is_refused_whatever_its_size(
    service: ThrowawayService, n: int, more: dict[str, Any]
) -> None:
    path = f"/v1/experiments/{running(service)}/decide/batch"
    refused = service.call("POST", path, {"requests": [{"unit": "u" * 256}] * n, **more})
    check_problem(refused, 400)
    assert refused.body["errors"][0]["at"] in ("", *more)


def test_answers_to_a_batch_are_those_of_the_whole_encoded_at_once() -> None:
    for headers, decode in (
        ({}, msgspec.json.decode),
        ({"Accept": "application/msgpack"}, msgspec.msgpack.decode),
    ):
        for n in (0, 1, 15, 16, 70_000):
            responses = Responses(form_of(headers))
            for i in range(n):
                responses.add({"i": i})
            assert decode(responses.reply().body) == {"responses": [{"i": i} for i in range(n)]}
    responses = Responses(form_of({}))
    for _ in range(4):
        responses.add("x" * (MAX_ANSWER_BYTES // 4 - 2))
    with pytest.raises(TooLarge):
        responses.add("")


def test_experiments_are_listed_page_by_page(service: ThrowawayService, heavy: str) -> None:
    names = sorted([new_name("page") for _ in range(5)])
    for name in names:
        running(service, id=name)
    everything = [each["id"] for each in service.call("GET", "/v1/experiments").body["experiments"]]
    assert everything == sorted(everything)
    assert set(names) <= set(everything)
    paged: list[str] = []
    after: str | None = ""
    while after is not None:
        page = service.call("GET", f"/v1/experiments?limit=2&after={after}").body
        assert len(page["experiments"]) <= 2
        paged += [each["id"] for each in page["experiments"]]
        after = page.get("after")
    assert paged == everything
    for query in ("limit=0", "limit=1001", "limit=x", "limit=", "first=2"):
        check_problem(service.call("GET", f"/v1/experiments?{query}"), 400)
        check_problem(service.call("GET", f"/v1/models?{query}"), 400)


def test_a_list_that_is_too_large_says_how_to_ask_for_less(service: ThrowawayService) -> None:
    payload = "x" * (MAX_DOCUMENT_BYTES - 2)
    arms = [{"name": f"a{i}", "payload": payload} for i in range(15)]
    for _ in range(MAX_ANSWER_BYTES // (15 * MAX_DOCUMENT_BYTES) + 1):
        draft(service, arms=arms)
    refused = service.call("GET", "/v1/experiments")
    check_problem(refused, 413)
    assert "limit" in refused.body["detail"]
    assert service.call("GET", "/v1/experiments?limit=1").status == 200
