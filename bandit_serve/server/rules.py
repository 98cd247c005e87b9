"""What fields may be together, in JSON Schema: what the types of single fields can not say.

What a schema can not say either stands in `BEYOND`. Each rule is also checked where the request is looked at;
tests/test_schema_rules.py holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from bandit_serve.decisions.messages import DecideBatch, PredictRequest, ScoreRequest
from bandit_serve.experiment import (
    Arm,
    ContextField,
    Experiment,
    Metric,
    Policy,
    Stopping,
)
from bandit_serve.policies import POLICIES, ContextualPolicy, Thompson
from bandit_serve.policies.thompson import LIKELIHOODS
from bandit_serve.rewards.messages import RewardsRequest
from bandit_serve.server.handlers.experiments import ArmRequest

Schema = dict[str, Any]

# As what a field is, where it stands alone: `{"type": "null"}` is no type to some readers.
NULL: Schema = {"enum": [None]}
EMPTY: Schema = {"type": "array", "items": {"type": "string"}, "maxItems": 0}


class Form(NamedTuple):
    """One of several that a body may have.

    `needs` are the fields that it has beside those that all forms have, `without` those that it has not, and `only`
    says what else others may be.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    without: tuple[str, ...] = ()
    only: Mapping[str, Schema] = {}


def _asking(stem: str) -> tuple[Form, ...]:
    return (
        Form(f"{stem}Item", "One item.", ("item_id",), only={"item_ids": NULL, "k": NULL, "exclude": EMPTY}),
        Form(
            f"{stem}Items",
            "Several items.",
            ("item_ids",),
            only={"item_id": NULL, "k": NULL, "exclude": EMPTY},
        ),
        Form(f"{stem}TopK", "The k best items.", ("k",), only={"item_id": NULL, "item_ids": NULL}),
    )


FORMS: Mapping[type, tuple[Form, ...]] = {
    ScoreRequest: _asking("Score"),
    PredictRequest: _asking("Predict"),
    RewardsRequest: (
        Form(
            "Reward",
            "`metric` is the objective unless it is given.",
            ("decision_id", "value"),
            without=("rewards",),
        ),
        Form(
            "Rewards",
            "Many rewards. One that is not valid is answered `invalid` in its place, and costs the others nothing.",
            ("rewards",),
            without=("decision_id", "value", "metric"),
        ),
    ),
    DecideBatch: (
        Form(
            "DecideRequests",
            "Entries. One that is not valid is answered by a problem in its place, and costs the others nothing.",
            ("requests",),
            without=("units",),
            only={"contexts": NULL},
        ),
        Form(
            "DecideColumns", "Columns: `contexts` has as many as `units`.", ("units",), without=("requests",)
        ),
    ),
}


def given(*names: str) -> Schema:
    """These fields are there, and not null."""
    return {"required": list(names), "properties": {name: {"not": NULL} for name in names}}


def absent(*names: str) -> Schema:
    """These fields are not there, or null."""
    return {"properties": dict.fromkeys(names, NULL)}


def having(**fields: Schema) -> Schema:
    """These fields, where they are there, fit these schemas."""
    return {"properties": fields}


def one_of(values: Collection[str]) -> Schema:
    return {"enum": sorted(values)}


def where(name: str, rule: Schema) -> Schema:
    """`rule`, where `name` is given."""
    return {name: {"anyOf": [absent(name), rule]}}


def _kinds(condition: Any) -> list[str]:
    return [kind for kind, policy in POLICIES.items() if condition(policy)]


def _takers(parameter: str) -> Schema:
    return having(kind=one_of(_kinds(lambda policy: parameter in policy.parameters)))


CONTEXTUAL = _kinds(lambda policy: issubclass(policy, ContextualPolicy))
JUMPING = _kinds(lambda policy: policy.jumps)
OWN = ("shares", "epsilon", "decay", "temperature", "beta", "alpha", "gamma", "sigma", "scale", "optimism")
PRIORS = sorted({name for likelihood in LIKELIHOODS.values() for name in likelihood.prior})

POLICY: Schema = {
    "properties": {"kind": {"type": "string", "enum": list(POLICIES)}},
    "dependentSchemas": {
        **{name: rule for own in OWN for name, rule in where(own, _takers(own)).items()},
        **where(
            "prior",
            {
                "anyOf": [
                    having(
                        kind=one_of(_kinds(lambda policy: issubclass(policy, Thompson))),
                        prior={"propertyNames": one_of(PRIORS)},
                    ),
                    having(
                        kind=one_of(CONTEXTUAL),
                        prior={
                            "propertyNames": one_of(["precision"]),
                            "additionalProperties": {"type": "number"},
                        },
                    ),
                ]
            },
        ),
        **where(
            "pseudo_history",
            having(
                kind={"not": one_of(CONTEXTUAL)},
                pseudo_history={"required": ["n", "mean"], "propertyNames": one_of(["n", "mean", "std"])},
            ),
        ),
    },
}
# Guardrails are of the contract, and not built yet; so are the two of `STOPPING`.
ROLE: Schema = {"anyOf": [{"type": "string", "enum": ["objective", "secondary"]}, {"type": "null"}]}
METRIC: Schema = {
    "properties": {"role": ROLE},
    "dependentSchemas": {
        "kind": {
            "anyOf": [
                {"allOf": [having(kind={"const": "bounded"}), given("low", "high")]},
                {"allOf": [having(kind={"not": {"const": "bounded"}}), absent("low", "high")]},
            ]
        }
    },
}
FIELD: Schema = {
    "dependentSchemas": {
        "kind": {
            "anyOf": [
                {"allOf": [having(kind={"const": "numeric"}), absent("values", "buckets")]},
                {
                    "allOf": [
                        having(kind={"const": "categorical"}),
                        absent("mean", "std"),
                        {"oneOf": [given("values"), given("buckets")]},
                    ]
                },
            ]
        }
    },
}
ARM: Schema = {"dependentSchemas": {**where("model", given("version")), **where("version", given("model"))}}
STOPPING: Schema = {"properties": {"duration": NULL, "promote_winner": {"type": "boolean", "const": False}}}


OBJECTIVE: Schema = {"required": ["role"], **having(role={"const": "objective"})}
ABOVE_ZERO: Schema = {"required": ["low"], **having(low={"type": "number", "exclusiveMinimum": 0})}
BELOW_ZERO: Schema = {"required": ["high"], **having(high={"type": "number", "exclusiveMaximum": 0})}


def _objective(rule: Schema) -> Schema:
    """An experiment whose objective fits `rule`, as far as a schema can find it: by its role, or as the first."""
    first = {"prefixItems": [{"allOf": [absent("role"), rule]}], "not": {"contains": OBJECTIVE}}
    return {"anyOf": [having(metrics={"contains": {"allOf": [OBJECTIVE, rule]}}), having(metrics=first)]}


def _every_arm(rule: Schema) -> Schema:
    return having(arms={"items": rule})


def _excludes(policies: Collection[str], rule: Schema) -> Schema:
    """An experiment has none of these policies, or fits `rule`."""
    return {"anyOf": [having(policy=having(kind={"not": one_of(policies)})), rule]}


def _learnable() -> list[Schema]:
    """Which policies do not learn from which objectives; a count to be kept small is a continuous one to them."""
    rules = []
    for taken in {policy.objectives for policy in POLICIES.values()} - {frozenset(LIKELIHOODS)}:
        kinds = [kind for kind, policy in POLICIES.items() if policy.objectives == taken]
        others = having(kind=one_of(set(LIKELIHOODS) - taken))
        if "continuous" in taken:
            others["properties"]["goal"] = {"not": {"const": "minimize"}}
        rules.append(_excludes(kinds, {"not": _objective(others)}))
    return sorted(rules, key=repr)


EXPERIMENT: Schema = {
    "dependentSchemas": {
        "metrics": {
            "allOf": [
                having(metrics={"contains": having(role={"enum": ["objective", None]})}),
                having(metrics={"contains": OBJECTIVE, "minContains": 0, "maxContains": 1}),
                {
                    "anyOf": [
                        {"not": _objective(having(kind=one_of(["binary", "count"])))},
                        {"required": ["attribution"], **having(attribution=given("missing"))},
                    ]
                },
                {
                    "anyOf": [
                        having(attribution=having(missing={"not": {"const": "zero"}})),
                        {"not": _objective({"anyOf": [ABOVE_ZERO, BELOW_ZERO]})},
                    ]
                },
                _excludes(JUMPING, having(unit={"const": "request"})),
                _excludes(CONTEXTUAL, {"required": ["context"], **having(context={"minItems": 1})}),
                _excludes(
                    CONTEXTUAL, {"anyOf": [_every_arm(given("features")), _every_arm(absent("features"))]}
                ),
                *_learnable(),
            ]
        }
    },
}

RULES: Mapping[type, Schema] = {
    Policy: POLICY,
    Metric: METRIC,
    ContextField: FIELD,
    Arm: ARM,
    ArmRequest: ARM,
    Stopping: STOPPING,
    Experiment: EXPERIMENT,
}
