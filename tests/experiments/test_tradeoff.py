"""Weights and constraints of an experiment: what is taken, and where the rest is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from builders import description, experiment

from bandit_serve.changes.experiments import servable
from bandit_serve.errors import InvalidInput
from bandit_serve.evaluation.candidates import of_policy
from bandit_serve.evaluation.learning import LearningPolicy
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.tradeoff import traded, tradeoff_of
from bandit_serve.policies.mixtures import Bound

CLICK = {"name": "click", "kind": "binary", "role": "objective"}
LATENCY = {"name": "latency_ms", "kind": "continuous", "goal": "minimize"}
STARS = {"name": "stars", "kind": "bounded", "low": 1, "high": 5}
USERS = {"unit": "user"}
RATIO = [
    {"name": "p", "kind": "count"},
    {"name": "q", "kind": "count"},
    {"name": "ratio", "kind": "ratio", "numerator": "p", "denominator": "q"},
]


def made(**fields: Any) -> Experiment:
    return experiment(**{"metrics": [LATENCY, CLICK, STARS], **fields})


def mistakes(**fields: Any) -> dict[str, str]:
    document = description(**{"metrics": [LATENCY, CLICK, STARS], **fields})
    with pytest.raises(InvalidInput) as refused:
        servable(msgspec.convert(document, Experiment))
    return {error.at: error.detail for error in refused.value.errors}


def constrained(**constraint: Any) -> dict[str, Any]:
    return {"constraints": [{"metric": "latency_ms", "at_most": 250.0, **constraint}]}


def test_the_objective_comes_first() -> None:
    several = made(
        constraints=[{"metric": "stars", "at_least": 3.0}, {"metric": "latency_ms", "at_most": 250.0}],
        weights={"latency_ms": -0.001},
    )
    assert traded(several) == (1, 0, 2)
    weights, bounds = tradeoff_of(several, of_utilities=False)
    np.testing.assert_array_equal(weights, [1.0, -0.001, 0.0])
    assert bounds == (Bound(2, -1.0, 3.0), Bound(1, 1.0, 250.0))


def test_an_objective_to_be_minimized_weighs_less_than_nothing() -> None:
    error = {"name": "error", "kind": "binary", "goal": "minimize", "role": "objective"}
    several = experiment(metrics=[error, LATENCY], weights={"latency_ms": -0.001, "error": -2.0})
    assert tradeoff_of(several, of_utilities=False).weights.tolist() == [-2.0, -0.001]
    assert tradeoff_of(several, of_utilities=True).weights.tolist() == [2.0, -0.001]


def test_what_is_not_given_is_not_written() -> None:
    written = msgspec.to_builtins(made())
    assert "weights" not in written
    assert "constraints" not in written
    again = msgspec.convert(msgspec.to_builtins(made(**constrained())), Experiment)
    assert again == made(**constrained())


@pytest.mark.parametrize(
    ("at", "detail", "fields"),
    [
        ("constraints[0].metric", "latency_ms", constrained(metric="latency")),
        ("constraints[0].metric", "another metric", constrained(metric="click", at_most=0.5)),
        ("constraints[0]", "not both", constrained(at_least=1.0)),
        ("constraints[0]", "not both", {"constraints": [{"metric": "latency_ms"}]}),
        ("constraints[0].at_most", "from 1 to below 5", constrained(metric="stars", at_most=5.0)),
        ("constraints[0].at_most", "from 1 to below 5", constrained(metric="stars", at_most=0.5)),
        ("constraints[0].at_least", "up to 5", {"constraints": [{"metric": "stars", "at_least": 1.0}]}),
        ("constraints[1].metric", "once", {"constraints": constrained()["constraints"] * 2}),
        ("constraints", "at least one", {"constraints": []}),
        ("weights.latency_ms", "below 0", {"weights": {"latency_ms": 0.001}}),
        ("weights.stars", "above 0", {"weights": {"stars": -1.0}}),
        ("weights.stars", "above 0", {"weights": {"stars": 0.0}}),
        ("weights.stars", "1e-12", {"weights": {"stars": 1e-13}}),
        ("weights.star", "stars", {"weights": {"star": 1.0}}),
        ("weights", "beside the objective", {"weights": {"click": 1.0}}),
        ("weights", "beside the objective", {"weights": {}}),
        ("policy.kind", "thompson", {**constrained(), "policy": {"kind": "ucb1"}}),
        ("policy.kind", "thompson", {**constrained(), "policy": {"kind": "fixed_split"}}),
        (
            "policy.kind",
            "thompson",
            {
                **constrained(),
                "policy": {"kind": "lin_ts"},
                "context": [{"name": "hour", "kind": "numeric"}],
            },
        ),
        ("arms", "at most 300", {**constrained(), "arms": [{"name": f"a{k}"} for k in range(301)]}),
        ("stopping.rule", "objective alone", {**constrained(), "stopping": {"rule": "winner"}}),
        ("stopping.promote_winner", "false", {**constrained(), "stopping": {"promote_winner": True}}),
        (
            "constraints[0].metric",
            "quantile",
            {**constrained(), "metrics": [LATENCY | {"quantile": 0.9}, CLICK]},
        ),
        (
            "constraints[0].metric",
            "ratio",
            {**constrained(metric="ratio", at_most=1.0), **USERS, "metrics": [CLICK, *RATIO]},
        ),
        (
            "constraints[0].metric",
            "value 0",
            {**constrained(metric="stars", at_most=3.0), "attribution": {"missing": "zero"}},
        ),
        (
            "weights.stars",
            "value 0",
            {"weights": {"stars": 1.0}, "attribution": {"missing": "zero"}},
        ),
    ],
)
def test_the_rest_is_refused_at_its_field(at: str, detail: str, fields: dict[str, Any]) -> None:
    found = mistakes(**fields)
    assert list(found) == [at], found
    assert detail in found[at]


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes(
        constraints=[{"metric": "stars", "at_most": 9.0}, {"metric": "star", "at_least": 2.0}],
        weights={"latency_ms": 1.0, "stars": -1.0},
        policy={"kind": "exp3"},
        stopping={"rule": "winner", "promote_winner": True},
    )
    assert sorted(found) == [
        "constraints[0].at_most",
        "constraints[1].metric",
        "policy.kind",
        "stopping.promote_winner",
        "stopping.rule",
        "weights.latency_ms",
        "weights.stars",
    ]


def test_a_mistake_that_a_policy_finds_is_told_beside_its_kind() -> None:
    found = mistakes(**constrained(), policy={"kind": "exp3", "min_share": 0.9, "gamma": 0.5})
    assert sorted(found) == ["policy.kind", "policy.min_share"]


@pytest.mark.parametrize("kind", ["ucb1", "thompson", "fixed_split"])
def test_other_policies_are_evaluated_on_the_objective_alone(kind: str) -> None:
    several = made(**constrained(), weights={"stars": 0.1})
    spec = PolicySpec(kind=kind)
    assert of_policy("other", spec, several).about["kind"] == kind
    assert not LearningPolicy("other", spec, several).experiment.trades
