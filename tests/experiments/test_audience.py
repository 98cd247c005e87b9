"""Audiences: what a rule means, whatever it is compiled to, and which rules are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.experiments.audience import (
    MAX_DEPTH,
    MAX_LISTED_VALUES,
    MAX_RULES,
    AudienceRule,
    audience_errors,
    condition,
    fields_of,
)
from bandit_serve.policies.context import ContextField

Document = dict[str, Any]


def rule(document: Document) -> AudienceRule:
    return msgspec.convert(document, AudienceRule)


def kind_of(value: Any) -> str:
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def equal(one: Any, other: Any) -> bool:
    return kind_of(one) == kind_of(other) and one == other


def fits(document: Document, context: Mapping[str, Any]) -> bool:
    """What the documents say of a rule, word by word."""
    if "all" in document:
        return all(fits(each, context) for each in document["all"])
    if "any" in document:
        return any(fits(each, context) for each in document["any"])
    if "not" in document:
        return not fits(document["not"], context)
    value = context.get(document["field"])
    if "exists" in document:
        return (value is not None) == document["exists"]
    if value is None:
        return False
    is_number = kind_of(value) == "number"
    meanings = {
        "in": lambda asked: any(equal(value, each) for each in asked),
        "eq": lambda asked: equal(value, asked),
        "ne": lambda asked: not equal(value, asked),
        "lt": lambda asked: is_number and value < asked,
        "le": lambda asked: is_number and value <= asked,
        "gt": lambda asked: is_number and value > asked,
        "ge": lambda asked: is_number and value >= asked,
    }
    return all(meanings[name](asked) for name, asked in document.items() if name != "field")


NAMES = ["country", "age", "staff"]
VALUES = st.sampled_from(["de", "at", "1", "", 0, 1, 1.0, 17, 18, 18.5, -3, True, False])
NUMBERS = st.sampled_from([0, 1, 17, 18, 18.5])
OPERATORS = {
    "in": st.lists(VALUES, min_size=1, max_size=4),
    "eq": VALUES,
    "ne": VALUES,
    **dict.fromkeys(["lt", "le", "gt", "ge"], NUMBERS),
}
LEAVES = st.one_of(
    st.fixed_dictionaries({"field": st.sampled_from(NAMES)}, optional=OPERATORS).filter(lambda d: len(d) > 1),
    st.fixed_dictionaries({"field": st.sampled_from(NAMES), "exists": st.booleans()}),
)
RULES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=6,
)
CONTEXTS = st.dictionaries(st.sampled_from(NAMES), st.one_of(VALUES, st.none()))


@settings(max_examples=400)
@given(document=RULES, context=CONTEXTS)
def test_a_compiled_rule_means_what_is_written(document: Document, context: Document) -> None:
    compiled = rule(document)
    assert condition(compiled)(context) is fits(document, context)
    assert fields_of(compiled) <= set(NAMES)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(compiled), type=AudienceRule)
    assert condition(again)(context) is fits(document, context)


def test_examples() -> None:
    matches = condition(
        rule({"all": [{"field": "country", "in": ["de"]}, {"not": {"field": "age", "lt": 18}}]})
    )
    assert matches({"country": "de", "age": 18.0})
    assert matches({"country": "de"}), "a field that is missing is not less"
    assert not matches({"country": "de", "age": 17.0})
    assert not matches({"age": 30.0})
    assert condition(rule({"field": "n", "eq": 1}))({"n": 1.0})
    assert not condition(rule({"field": "n", "eq": 1}))({"n": True}), "a truth value is no number"
    assert not condition(rule({"field": "n", "in": ["a", "b"]}))({"n": ["a"]}), "a column of several values"
    assert not condition(rule({"field": "n", "ne": "a"}))({}), "of a field that is missing nothing holds"


def within(depth: int) -> Document:
    document: Document = {"field": "a", "exists": True}
    for _ in range(depth - 1):
        document = {"not": document}
    return document


CONTEXT = [ContextField("hour", "numeric"), ContextField("device", "categorical", ["ios"])]
REFUSED = [
    ({}, "audience", "expected one of all, any, not and field"),
    ({"all": [{"field": "a", "eq": 1}], "field": "b", "eq": 1}, "audience", "not all and field together"),
    ({"field": "a"}, "audience", "expected an operator"),
    ({"not": {"field": "a", "eq": 1}, "eq": 2}, "audience.eq", "goes with field"),
    (
        {"any": [{"field": "a", "eq": 1}, {"field": "a", "exists": True, "eq": 1}]},
        "audience.any[1].exists",
        "alone",
    ),
    (within(MAX_DEPTH + 1), "audience" + ".not" * MAX_DEPTH, "depth of at most 8"),
    ({"all": [{"field": "a", "eq": 1}] * MAX_RULES}, "audience", "at most 100 rules"),
    (
        {"any": [{"field": "a", "in": [1] * 600}, {"field": "b", "in": [1] * 600}]},
        "audience",
        f"at most {MAX_LISTED_VALUES} values",
    ),
    ({"field": "hour", "in": [1, "nine"]}, "audience.in[1]", "hour is numeric"),
    ({"field": "device", "lt": 3}, "audience.lt", "device is categorical"),
]


@pytest.mark.parametrize(("document", "at", "detail"), REFUSED)
def test_what_is_refused(document: Document, at: str, detail: str) -> None:
    errors = audience_errors(rule(document), CONTEXT)
    assert [(error.at, detail in error.detail) for error in errors] == [(at, True)]


@pytest.mark.parametrize(
    ("document", "at"),
    [
        ({"field": "no name!", "eq": 1}, "audience.field"),
        ({"all": []}, "audience.all"),
        ({"field": "a", "lt": "ten"}, "audience.lt"),
        ({"all": [{"field": "a", "eq": None}]}, "audience.all[0].eq"),
        ({"field": "a", "is": 1}, "audience.is"),
        ({"field": "a", "eq": "x" * 257}, "audience.eq"),
        ({"field": "a", "eq": 1e300}, "audience.eq"),
    ],
)
def test_what_is_of_a_wrong_type_is_told_at_its_place(document: Document, at: str) -> None:
    experiment = {
        "id": "e",
        "arms": [{"name": "a"}],
        "metrics": [{"name": "m", "kind": "continuous"}],
        "audience": document,
    }
    assert [mistake.at for mistake in every_mistake(experiment)] == [at]


def test_what_is_as_large_as_may_be() -> None:
    assert audience_errors(rule(within(MAX_DEPTH)), ()) == []
    assert audience_errors(rule({"all": [{"field": "a", "eq": 1}] * (MAX_RULES - 1)}), ()) == []
