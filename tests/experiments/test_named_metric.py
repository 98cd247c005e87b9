"""Metrics that a document only names: the whole definition is filled in, or it is said what is missing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.experiments.named_metric import Definitions, filled_experiment, filled_metric
from bandit_serve.experiments.spec import MAX_METRICS, Experiment
from bandit_serve.server.handlers.experiments import MetricRequest
from bandit_serve.server.wire import JSON_FORM, PATIENT_BYTES, Body

CATALOGUE: Definitions = {
    "paid": MetricDefinition("binary", description="what", owner="who"),
    "revenue": MetricDefinition("continuous", cap=500.0, covariate="before"),
    "stars": MetricDefinition("bounded", low=1.0, high=5.0),
}
BODY = Body(Experiment, timeout_s=1.0)
METRIC_BODY = Body(MetricRequest, timeout_s=1.0)


def document(*metrics: Any, **more: Any) -> bytes:
    arms = [{"name": "a"}, {"name": "b", "payload": {"n": 1.5, "deep": [None, {"x": "ü"}]}}]
    attribution = {"missing": "zero"}
    return json.dumps(
        {"id": "e", "arms": arms, "metrics": metrics, "attribution": attribution, **more}
    ).encode()


def decoded(body: bytes, definitions: Definitions = CATALOGUE) -> Experiment:
    return BODY.decode(JSON_FORM, body, fill=lambda content: filled_experiment(content, definitions))


def errors_of(body: bytes, definitions: Definitions = CATALOGUE) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        decoded(body, definitions)
    return {error.at: error.detail for error in refused.value.errors}


def test_all_of_the_definition_is_filled_in_and_nothing_else() -> None:
    part = {"role": "guardrail", "margin": {"relative": 0.5}, "on_harm": "stop"}
    named = decoded(document({"name": "paid"}, {"name": "revenue", **part}, {"name": "stars"}))
    whole = [
        {"name": "paid", "kind": "binary"},
        {"name": "revenue", "kind": "continuous", "cap": 500, "covariate": "before", **part},
        {"name": "stars", "kind": "bounded", "low": 1, "high": 5},
    ]
    assert named == msgspec.json.decode(document(*whole), type=Experiment)


def test_a_metric_with_a_kind_is_the_experiment_s_own() -> None:
    own = decoded(document({"name": "paid", "kind": "count"}, {"name": "stars"}))
    assert [metric.kind for metric in own.metrics] == ["count", "bounded"]


def test_what_is_valid_as_it_came_is_not_looked_at_again() -> None:
    def never(content: bytes) -> Any:
        raise AssertionError("a valid body was filled in")

    BODY.decode(JSON_FORM, document({"name": "own", "kind": "count"}), fill=never)


def test_a_name_that_is_not_there_says_both_ways_out() -> None:
    errors = errors_of(document({"name": "payd"}, {"name": "stars"}))
    assert list(errors) == ["metrics[0].kind"]
    for words in ("did you mean paid?", "no metric 'payd'", "give one here", "PUT /v1/metrics/{name}"):
        assert words in errors["metrics[0].kind"]


@pytest.mark.parametrize(
    "field", ["goal", "low", "high", "source", "cap", "quantile", "covariate", "numerator"]
)
def test_another_field_without_a_kind_is_a_mistake_at_that_field(field: str) -> None:
    errors = errors_of(document({"name": "stars"}, {"name": "paid", field: None}))
    assert list(errors) == [f"metrics[1].{field}"]
    assert "leave it out" in errors[f"metrics[1].{field}"]


def test_all_mistakes_are_told_at_once() -> None:
    errors = errors_of(
        document({"name": "none"}, {"name": "paid", "cap": 1}, {"name": "stars", "rol": "x"}, unt="user")
    )
    assert set(errors) == {"metrics[0].kind", "metrics[1].cap", "metrics[2].rol", "unt"}
    assert "did you mean role?" in errors["metrics[2].rol"]


def test_a_misspelt_kind_is_told_as_such() -> None:
    errors = errors_of(document({"name": "paid", "knd": "binary"}))
    assert list(errors) == ["metrics[0].knd"]
    assert "did you mean kind?" in errors["metrics[0].knd"]


def test_large_bodies_are_filled_in_too() -> None:
    text = "x" * (PATIENT_BYTES + 1)
    made = decoded(document({"name": "paid"}, hypothesis="h", arms=[{"name": "a", "payload": text}]))
    assert (made.metrics[0].kind, made.arms[0].payload) == ("binary", text)
    errors = errors_of(document({"name": "none"}, arms=[{"name": "a", "payload": text}]))
    assert "no metric 'none'" in errors["metrics[0].kind"]
    errors = errors_of(document({"name": "paid"}, arms=[{"name": "a", "payload": text}], unt=1))
    assert list(errors) == ["unt"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"metrics": {}}',
        b'{"metrics": [1, null, [], {}, {"name": 3}, {"kind": null, "name": "paid"}]}',
        b'{"metrics": [{"name": "paid"}',
        b'{"metrics": [{"name": "\xff"}]}',
        b"\xff",
        json.dumps({"metrics": [{"name": "paid"}] * (MAX_METRICS + 1)}).encode(),
    ],
)
def test_what_names_no_metric_is_left_as_it_is(body: bytes) -> None:
    filled = filled_experiment(body, CATALOGUE)
    assert filled.body is body
    assert not filled.errors


def test_a_metric_alone() -> None:
    def read(body: bytes) -> MetricRequest:
        return METRIC_BODY.decode(JSON_FORM, body, fill=lambda content: filled_metric(content, CATALOGUE))

    asked = read(b'{"name": "revenue", "reason": "why", "role": "secondary"}')
    assert (asked.reason, asked.metric.cap, asked.role) == ("why", 500.0, "secondary")
    for body, at in (
        (b'{"name": "none"}', "kind"),
        (b'{"name": "paid", "cap": 3}', "cap"),
        (b'{"name": "paid", "x": 3}', "x"),
        (b'{"reason": "why"}', "name"),
    ):
        with pytest.raises(InvalidInput) as refused:
            read(body)
        assert refused.value.errors[0].at == at


def test_a_guess_is_made_once_and_only_among_few() -> None:
    errors = errors_of(document({"name": "payd"}, {"name": "star"}))
    assert ["did you mean" in detail for detail in errors.values()] == [True, False]
    many = {f"metric-{i}": MetricDefinition("binary") for i in range(1_000)}
    errors = errors_of(document({"name": "metric-x"}), many)
    assert "did you mean" not in errors["metrics[0].kind"]


TEXTS = st.sampled_from(["paid", "stars", "revenue", "none", "name", "kind", "role", "cap", "x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
METRICS = st.fixed_dictionaries(
    {"name": TEXTS}, optional=dict.fromkeys(["kind", "role", "cap", "low", "margin", "x"], VALUES)
)


@given(st.lists(METRICS | VALUES, max_size=4), VALUES)
def test_whatever_comes_only_metrics_without_a_kind_are_changed(metrics: list[Any], rest: Any) -> None:
    body = msgspec.json.encode({"metrics": metrics, "rest": rest})
    filled = filled_experiment(body, CATALOGUE)
    after = msgspec.json.decode(filled.body)
    assert after["rest"] == msgspec.json.decode(body)["rest"]
    for before, now in zip(msgspec.json.decode(body)["metrics"], after["metrics"], strict=True):
        if before == now:
            continue
        assert "kind" not in before
        defined = msgspec.to_builtins(CATALOGUE[before["name"]])
        assert now["kind"] == defined["kind"]
        for field in now:
            assert now[field] == (defined[field] if field in defined else before[field])
