"""Definition of a metric: what an experiment would refuse is refused, at the field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.definition import DEFINED, MetricDefinition, checked
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.metrics import METRIC_KINDS


def definition(**fields: Any) -> MetricDefinition:
    return msgspec.convert(fields, MetricDefinition)


def test_it_has_every_field_of_a_metric_that_is_no_experiment_s_own() -> None:
    ours = {field.name: field for field in msgspec.structs.fields(MetricDefinition)}
    theirs = {field.name: field for field in msgspec.structs.fields(Metric)}
    assert set(theirs) - set(ours) == {"name", "role", "margin", "on_harm"}
    assert set(ours) - set(theirs) == {"description", "owner"}
    assert set(DEFINED) == set(ours) & set(theirs)
    for name in DEFINED:
        assert (ours[name].type, ours[name].default) == (theirs[name].type, theirs[name].default), name


WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    ("stars", {"kind": "bounded"}, [""]),
    ("stars", {"kind": "bounded", "low": 5, "high": 1}, ["high"]),
    ("stars", {"kind": "bounded", "low": 1, "high": 5, "cap": 1}, ["cap"]),
    ("paid", {"kind": "binary", "low": 0}, [""]),
    ("paid", {"kind": "binary", "cap": 1}, ["cap"]),
    ("paid", {"kind": "count", "quantile": 0.5}, ["quantile"]),
    ("paid", {"kind": "continuous", "quantile": 0.5, "cap": 3}, ["quantile"]),
    ("paid", {"kind": "binary", "source": "served"}, ["source"]),
    ("error", {"kind": "binary", "source": "served"}, ["source"]),
    ("latency_ms", {"kind": "count", "source": "served", "goal": "minimize"}, ["source"]),
    ("basket", {"kind": "ratio"}, [""]),
    ("basket", {"kind": "ratio", "numerator": "a", "denominator": "a"}, ["denominator"]),
    ("basket", {"kind": "ratio", "numerator": "basket", "denominator": "a"}, ["numerator"]),
    ("basket", {"kind": "ratio", "numerator": "a", "denominator": "b", "covariate": "x"}, ["covariate"]),
    ("paid", {"kind": "count", "numerator": "a"}, ["numerator"]),
    ("paid", {"kind": "binary", "cap": 1, "quantile": 0.5}, ["cap", "quantile"]),
]


@pytest.mark.parametrize(("name", "fields", "places"), WRONG)
def test_what_is_wrong_is_told_at_its_field(name: str, fields: dict[str, Any], places: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(name, definition(**fields))
    assert [error.at for error in refused.value.errors] == places
    assert repr(name) in str(refused.value)


RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("a", {"kind": "binary"}),
    ("b", {"kind": "ratio", "numerator": "a", "denominator": "c"}),
    ("error", {"kind": "binary", "goal": "minimize", "source": "served"}),
    ("latency_ms", {"kind": "continuous", "goal": "minimize", "source": "served", "quantile": 0.95}),
    ("revenue", {"kind": "continuous", "cap": 500, "covariate": "before"}),
    ("stars", {"kind": "bounded", "low": 1, "high": 5, "description": "given", "owner": "us"}),
]


@pytest.mark.parametrize(("name", "fields"), RIGHT)
def test_what_is_right_is_logged_as_it_is(name: str, fields: dict[str, Any]) -> None:
    assert checked(name, definition(**fields)) == definition(**fields)


def test_a_default_that_is_given_leaves_no_trace() -> None:
    assert checked("a", definition(kind="binary", source="client", goal="maximize")) == definition(
        kind="binary"
    )


NUMBERS = st.sampled_from([None, -1.0, 0.0, 0.5, 1.0, 5.0])
SOMETIMES = {
    "cap": st.sampled_from([-1.0, 0.0, 0.5, 9.0]),
    "quantile": st.sampled_from([0.05, 0.5]),
    "covariate": st.just("before"),
    "source": st.sampled_from(["client", "served"]),
    "numerator": st.sampled_from(["m", "n", "o"]),
    "denominator": st.sampled_from(["m", "n", "o"]),
}
DEFINITIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([*METRIC_KINDS]),
        "goal": st.sampled_from(["maximize", "minimize"]),
        "low": NUMBERS,
        "high": NUMBERS,
    },
    optional=SOMETIMES,
)


@given(DEFINITIONS, st.sampled_from(["m", "error", "latency_ms"]))
def test_it_is_taken_where_an_experiment_takes_its_metric(fields: dict[str, Any], name: str) -> None:
    """As one that is not the objective, with unit `user` and the parts of a ratio."""
    made = definition(**fields)
    metric = made.metric(name)
    parts = {part for part in (metric.numerator, metric.denominator) if part is not UNSET} - {name}
    experiment = Experiment(
        id="e",
        arms=(Arm("a"), Arm("b")),
        metrics=(Metric("first", "binary"), metric, *(Metric(part, "continuous") for part in sorted(parts))),
        unit="user",
        attribution=Attribution(missing="zero"),
    )
    try:
        taken = validated(experiment).metrics[1]
    except InvalidInput:
        with pytest.raises(InvalidInput):
            checked(name, made)
    else:
        logged = checked(name, made)
        assert logged.defines(taken)
        assert MetricDefinition.of(taken) == logged
