"""Rules on several fields at once, in JSON Schema. The schemas that msgspec makes describe single fields only.

What a schema can not say either stands in `BEYOND`. Each rule is also checked where the request is looked at;
tests/http/test_schema_rules.py holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from bandit_serve.api.decisions import (
    DecideBatch,
    DecideRequest,
    PredictBatch,
    PredictRequest,
    ScoreRequest,
)
from bandit_serve.api.deployments import CanaryRequest
from bandit_serve.api.flags import EvaluationRequest
from bandit_serve.api.inference import InferenceRequest
from bandit_serve.api.rewards import MAX_REWARDS, RewardsRequest
from bandit_serve.experiments.audience import FORMS as FORMS_OF_RULES
from bandit_serve.experiments.audience import (
    MAX_DEPTH,
    MAX_LISTED_VALUES,
    MAX_RULES,
    OPERATORS,
    AudienceRule,
)
from bandit_serve.experiments.constraint import Constraint
from bandit_serve.experiments.definition import DEFINED, MetricDefinition
from bandit_serve.experiments.metric import SERVED, Margin, Metric
from bandit_serve.experiments.named_metric import NamedMetric
from bandit_serve.experiments.policy_spec import OWN, PolicySpec
from bandit_serve.experiments.slots import MAX_SLOTTED_ARMS
from bandit_serve.experiments.spec import MAX_METRICS, Arm, Experiment
from bandit_serve.experiments.stopping import MAX_TIME_YEAR, Stopping, StoppingRule
from bandit_serve.experiments.tradeoff import MAX_TRADED_ARMS
from bandit_serve.metrics import KINDS, MAX_VALUE, Ratio, names_of
from bandit_serve.policies import POLICIES, Exp3, FixedSplit, Thompson
from bandit_serve.policies.context import ContextField
from bandit_serve.policies.parameters import declared, property_schema
from bandit_serve.policies.policy import Policy
from bandit_serve.results.plan_request import Baseline, Effect, PlanRequest
from bandit_serve.server.handlers.experiments import ArmRequest, LayerRequest, MetricRequest, StopRequest
from bandit_serve.server.handlers.models import PatchRequest, Upload, VersionMetadata

Schema = dict[str, Any]

# As what a field is, where it stands alone: `{"type": "null"}` is no type to some readers.
NULL: Schema = {"enum": [None]}
EMPTY: Schema = {"type": "array", "items": {"type": "string"}, "maxItems": 0}


class Form(NamedTuple):
    """Alternative form of a body that has several; each becomes a component of its own.

    `needs` are the fields that only this form requires, and `without` the fields that it does not have. `only` has
    narrower schemas for fields. `ignored` are fields of other forms, which may be null here. `kind` is the value of the
    field `kind`, where that tells the forms apart.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    without: tuple[str, ...] = ()
    only: Mapping[str, Schema] = {}
    ignored: tuple[str, ...] = ()
    kind: str | None = None


ANSWERED_IN_PLACE = (
    "One that is not valid is answered by a problem in its place, and costs the others nothing."
)


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
        Form(
            f"{stem}Features",
            "No item: for models that score the features.",
            (),
            only={"item_id": NULL, "item_ids": NULL, "k": NULL, "exclude": EMPTY},
        ),
    )


def _of_kind(policy: type[Policy]) -> Form:
    """Form of a policy of one kind, with the parameters of that kind and no others."""
    own = declared(policy.Parameters)
    if not policy.contextual:
        own = {**own, "pseudo_history": declared(PolicySpec)["pseudo_history"]}
    foreign = tuple(name for name in (*OWN, "pseudo_history") if name not in own)
    return Form(
        f"{policy.__name__}Policy",
        policy.summary(),
        needs=("kind",),
        without=foreign,
        only={
            "kind": {"type": "string", "enum": [policy.kind]},
            **{name: property_schema(field) for name, field in own.items()},
        },
        ignored=foreign,
        kind=policy.kind,
    )


REWARD_FORMS: list[Schema] = [
    {"$ref": f"#/components/schemas/{name}"}
    for name in ("Reward", "Retraction", "UnitReward", "UnitRetraction")
]
BY_UNIT = ("experiment", "unit", "at")
FORMS: Mapping[type, tuple[Form, ...]] = {
    PolicySpec: tuple(_of_kind(policy) for policy in POLICIES.values()),
    ScoreRequest: _asking("Score"),
    PredictRequest: _asking("Predict"),
    RewardsRequest: (
        Form(
            "Reward",
            "`metric` is the objective unless it is given. With an `event_id` it is one of several events of a "
            "decision, whose values add up; the same `event_id` with another value corrects it.",
            ("decision_id", "value"),
            without=(*BY_UNIT, "rewards"),
        ),
        Form(
            "Retraction",
            "The event that `event_id` names is taken back.",
            ("decision_id", "value", "event_id"),
            without=(*BY_UNIT, "rewards"),
            only={"value": NULL},
        ),
        Form(
            "UnitReward",
            "By unit, where `unit` is `user`: it joins the decision that was in force for the unit at the time `at`, "
            "within the window, and is an event of that decision.",
            ("experiment", "unit", "value", "event_id"),
            without=("decision_id", "rewards"),
        ),
        Form(
            "UnitRetraction",
            "The event of the unit that `event_id` names is taken back.",
            ("experiment", "unit", "value", "event_id"),
            without=("decision_id", "rewards"),
            only={"value": NULL},
        ),
        Form(
            "Rewards",
            "Many rewards. One that is not valid is answered `invalid` in its place, and costs the others nothing.",
            ("rewards",),
            without=("decision_id", "value", "metric", "event_id", *BY_UNIT),
            only={"rewards": {"type": "array", "maxItems": MAX_REWARDS, "items": {"oneOf": REWARD_FORMS}}},
        ),
    ),
    Baseline: (
        Form("RateBaseline", "Rate of values 0 and 1.", ("rate",), ("mean", "sd"), ignored=("mean", "sd")),
        Form(
            "NumberBaseline",
            "Mean of any numbers, and their standard deviation.",
            ("mean", "sd"),
            ("rate",),
            ignored=("rate",),
        ),
    ),
    Effect: (
        Form(
            "AbsoluteEffect", "In the metric's own unit.", ("absolute",), ("relative",), ignored=("relative",)
        ),
        Form(
            "RelativeEffect", "A part of control's mean.", ("relative",), ("absolute",), ignored=("absolute",)
        ),
    ),
    PlanRequest: (
        Form(
            "PlanFromBaseline",
            "Before there is an experiment.",
            ("baseline",),
            ("experiment", "metric"),
            ignored=("experiment", "metric"),
        ),
        Form(
            "PlanFromExperiment",
            "With the baseline, the shares and the traffic of an experiment's own log.",
            ("experiment",),
            ("baseline",),
            ignored=("baseline",),
        ),
    ),
    DecideBatch: (
        Form(
            "DecideRequests",
            f"Entries. {ANSWERED_IN_PLACE}",
            ("requests",),
            without=("units",),
            only={"contexts": NULL},
        ),
        Form(
            "DecideColumns", "Columns: `contexts` has as many as `units`.", ("units",), without=("requests",)
        ),
    ),
    MetricRequest: (
        Form("OwnMetricRequest", "A metric of the experiment's own.", ("name", "kind")),
        Form("NamedMetricRequest", "A metric as the catalogue defines it.", ("name",), without=DEFINED),
    ),
}


def given(*names: str) -> Schema:
    """Schema: the fields are present and not null."""
    return {"required": list(names), "properties": {name: {"not": NULL} for name in names}}


def absent(*names: str) -> Schema:
    """Schema: the fields are absent or null."""
    return {"properties": dict.fromkeys(names, NULL)}


def having(**fields: Schema) -> Schema:
    """Schema: each field, if present, is valid for its own schema."""
    return {"properties": fields}


def one_of(values: Collection[str]) -> Schema:
    return {"enum": sorted(values)}


def among(values: Collection[str]) -> Schema:
    return one_of(values) if len(values) != 1 else {"const": next(iter(values))}


def where(name: str, rule: Schema) -> Schema:
    """Schema: `rule` holds if the field `name` is present."""
    return {name: {"anyOf": [absent(name), rule]}}


def _kinds(condition: Any) -> list[str]:
    return [kind for kind, policy in POLICIES.items() if condition(policy)]


def _number(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


CONTEXTUAL = _kinds(lambda policy: policy.contextual)
MOVING = _kinds(lambda policy: policy.kind != "fixed_split")
JUMPING = _kinds(lambda policy: policy.jumps)

LARGE = _number(-MAX_VALUE, MAX_VALUE)
GUARDRAIL: Schema = {"required": ["role"], **having(role={"const": "guardrail"})}
TWO_VALUED = names_of(lambda kind: kind.two_valued)
NOT_NEGATIVE = names_of(lambda kind: not kind.takes_bounds and kind().floor >= 0.0)
RATIO: Schema = {"const": Ratio.name}
NOT_THERE: Schema = {"not": {}}
WITH_BOUNDS = names_of(lambda kind: kind.takes_bounds)
SERVED_METRICS = [
    {"required": ["goal"], **having(name={"const": name}, kind={"const": kind}, goal={"const": "minimize"})}
    for name, kind in SERVED.items()
]
ALONE: Schema = {"properties": {"cap": NOT_THERE, "covariate": NOT_THERE}}
PART: Schema = {
    "role": {
        "anyOf": [
            having(role={"enum": ["objective", "secondary", None]}),
            {"required": ["margin"], **having(quantile=NOT_THERE)},
        ]
    },
    "margin": GUARDRAIL,
    "on_harm": GUARDRAIL,
}
QUANTITY: Schema = {
    "source": {"anyOf": [having(source={"const": "client"}), *SERVED_METRICS]},
    "cap": {
        "allOf": [
            having(kind={"not": one_of({*TWO_VALUED, Ratio.name})}),
            {"anyOf": [having(kind={"not": one_of(NOT_NEGATIVE)}), having(cap={"exclusiveMinimum": 0})]},
        ]
    },
    "quantile": {"allOf": [having(kind=among(names_of(lambda kind: kind.takes_quantile))), ALONE]},
    "kind": {
        "allOf": [
            {
                "anyOf": [
                    {
                        "required": ["low", "high"],
                        **having(kind=among(WITH_BOUNDS), low=LARGE, high=LARGE),
                    },
                    {"allOf": [having(kind={"not": among(WITH_BOUNDS)}), absent("low", "high")]},
                ]
            },
            {
                "anyOf": [
                    {"required": ["numerator", "denominator"], **having(kind=RATIO, covariate=NOT_THERE)},
                    having(kind={"not": RATIO}, numerator=NOT_THERE, denominator=NOT_THERE),
                ]
            },
        ]
    },
}
METRIC: Schema = {"dependentSchemas": {**PART, **QUANTITY}}
NAMED_METRIC: Schema = {"dependentSchemas": PART}
DEFINITION: Schema = {"dependentSchemas": QUANTITY}
FIELD: Schema = {
    "dependentSchemas": {
        "values": having(values={"uniqueItems": True}),
        "interactions": having(interactions={"uniqueItems": True}),
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
        },
    },
}
MARGIN: Schema = {"oneOf": [{"required": ["absolute"]}, {"required": ["relative"]}]}
ARM: Schema = {"dependentSchemas": {**where("model", given("version")), **where("version", given("model"))}}
STOPPING_RULE: Schema = {"minProperties": 1, "maxProperties": 1}
STOPPING: Schema = {
    "dependentSchemas": {
        "mode": {
            "anyOf": [
                having(mode={"const": "anytime"}),
                {"required": ["expected_samples"], **having(duration=NULL)},
            ]
        },
        "looks": {"required": ["mode"], **having(mode={"const": "horizon"})},
    },
}


AUDIENCE: Schema = {
    "oneOf": [{"required": [form]} for form in FORMS_OF_RULES.values()],
    "dependentSchemas": {
        **{operator: {"required": ["field"]} for operator in OPERATORS.values()},
        "field": {"anyOf": [{"required": [operator]} for operator in OPERATORS.values()]},
        "exists": {"required": ["field"], "maxProperties": 2},
    },
}

OBJECTIVE: Schema = {"required": ["role"], **having(role={"const": "objective"})}
ANOTHER: Schema = {"required": ["role"], **having(role={"enum": ["secondary", "guardrail"]})}
NOT_NAMED: Schema = having(role={"enum": ["secondary", "guardrail", None]})
ONE_NAMED: Schema = {"contains": OBJECTIVE, "maxContains": 1}
NONE_NAMED: Schema = {"allOf": [{"items": NOT_NAMED}, {"contains": having(role=NULL)}]}


def _objective_named(rule: Schema) -> Schema:
    """Schema: the metric whose role is `objective` is valid for `rule`."""
    return having(metrics={"items": {"anyOf": [NOT_NAMED, rule]}})


def _objective_first(rule: Schema) -> Schema:
    """Schema: the first metric, if it has no role, is valid for `rule`.

    Without roles the first metric is the objective. No schema can express this for one that comes later.
    """
    return having(metrics={"prefixItems": [{"anyOf": [ANOTHER, rule]}]})


def _every_arm(rule: Schema) -> Schema:
    return having(arms={"items": rule})


def _excludes(policies: Collection[str], rule: Schema) -> Schema:
    """Schema: the experiment has none of these policies, or is valid for `rule`."""
    return {"anyOf": [having(policy=having(kind={"not": one_of(policies)})), rule]}


def _with_zero() -> Schema:
    """Schema of metrics for which 0 is a valid reward."""
    without = names_of(lambda kind: not kind.takes_bounds and not kind().takes(0.0))
    bounds = having(low={"maximum": 0}, high={"minimum": 0})
    return {"allOf": [bounds, having(kind={"not": among(without)})]} if without else bounds


def _learned_from(kinds: Collection[str]) -> Schema:
    """Schema of metrics that a policy can learn from, if it takes objectives of these kinds."""
    mirrors = {name: kind.mirror.name for name, kind in KINDS.items() if kind.mirror is not None}
    larger = names_of(lambda kind: kind.name in kinds and mirrors.get(kind.name, kind.name) not in kinds)
    smaller = names_of(lambda kind: kind.name not in kinds and mirrors.get(kind.name) in kinds)
    fitting = [having(kind=one_of(set(kinds) - larger))]
    if larger:
        fitting.append(having(kind=among(larger), goal={"const": "maximize"}))
    if smaller:
        fitting.append({"required": ["goal"], **having(kind=among(smaller), goal={"const": "minimize"})})
    return fitting[0] if len(fitting) == 1 else {"anyOf": fitting}


def _of_objectives(objective: Callable[[Schema], Schema]) -> list[Schema]:
    """Rules that follow from the objective's kind."""
    rules = [
        objective(having(source={"const": "client"})),
        objective({"not": {"required": ["quantile"]}}),
        objective(having(kind={"not": RATIO})),
        {
            "anyOf": [
                having(mode={"const": "allocate"}),
                objective(having(kind=one_of(["binary", "count"]), goal={"const": "maximize"})),
            ]
        },
        {
            "anyOf": [
                objective(having(kind=one_of(names_of(lambda kind: not kind.asks_missing)))),
                {"required": ["attribution"], **having(attribution=given("missing"))},
            ]
        },
        {
            "anyOf": [
                having(attribution=having(missing={"not": {"const": "zero"}})),
                objective(_with_zero()),
            ]
        },
    ]
    for taken in sorted({tuple(sorted(policy.objectives)) for policy in POLICIES.values()}):
        if len(taken) < len(KINDS):
            kinds = [kind for kind, policy in POLICIES.items() if policy.objectives == set(taken)]
            rules.append(_excludes(kinds, objective(_learned_from(taken))))
    return rules


TRADING: Schema = {
    "required": ["policy"],
    **having(
        arms={"maxItems": MAX_TRADED_ARMS},
        policy=having(kind={"const": Thompson.kind}),
        stopping={"not": {"required": ["rule"]}, **having(promote_winner={"const": False})},
    ),
}
CONSTRAINT: Schema = {"oneOf": [{"required": ["at_most"]}, {"required": ["at_least"]}]}

SLOTTED: Schema = {
    "not": {"anyOf": [{"required": ["weights"]}, {"required": ["constraints"]}]},
    **having(
        arms={"minItems": 2, "maxItems": MAX_SLOTTED_ARMS},
        mode={"const": "allocate"},
        unit={"const": "request"},
        policy=having(kind={"not": {"const": Exp3.kind}}, holdout={"enum": [0, None]}),
        attribution=having(missing={"not": {"const": "zero"}}),
        metrics={"items": having(source={"const": "client"})},
        stopping=having(mode={"not": {"const": "horizon"}}),
    ),
}

INTERLEAVED: Schema = {
    "required": ["policy"],
    **having(
        arms={"minItems": 2, "maxItems": 2, "items": given("model")},
        unit={"const": "request"},
        context={"maxItems": 0},
        policy=having(kind={"const": FixedSplit.kind}, holdout={"enum": [0, None]}),
        metrics={
            "items": having(
                source={"const": "client"}, covariate=NULL, role={"enum": ["objective", "secondary", None]}
            )
        },
        stopping=having(mode={"not": {"const": "horizon"}}, rule={"type": "string"}),
    ),
}

EXPERIMENT: Schema = {
    "dependentSchemas": {
        "mode": {"anyOf": [having(mode={"const": "allocate"}), INTERLEAVED]},
        "weights": {"allOf": [TRADING, having(weights={"minProperties": 1})]},
        "constraints": {"allOf": [TRADING, having(constraints={"minItems": 1})]},
        "tags": having(tags={"uniqueItems": True}),
        "slots": SLOTTED,
        "keep_assigned": {
            "anyOf": [
                having(keep_assigned={"const": False}),
                {
                    "required": ["unit"],
                    **having(unit={"const": "user"}, policy=having(kind={"not": one_of(CONTEXTUAL)})),
                },
            ]
        },
        "dimensions": {
            "anyOf": [
                having(dimensions={"maxItems": 0}),
                {
                    "required": ["context"],
                    **having(
                        dimensions={"uniqueItems": True},
                        context={"contains": {**given("values"), **having(kind={"const": "categorical"})}},
                    ),
                },
            ]
        },
        "metrics": {
            "allOf": [
                {
                    "anyOf": [
                        {"allOf": [having(metrics=ONE_NAMED), *_of_objectives(_objective_named)]},
                        {"allOf": [having(metrics=NONE_NAMED), *_of_objectives(_objective_first)]},
                    ]
                },
                {
                    "anyOf": [
                        having(metrics={"items": having(kind={"not": RATIO})}),
                        {"required": ["unit"], **having(unit={"const": "user"})},
                    ]
                },
                _excludes(JUMPING, having(unit={"const": "request"})),
                _excludes(MOVING, having(stopping=having(mode={"not": {"const": "horizon"}}))),
                _excludes(CONTEXTUAL, {"required": ["context"], **having(context={"minItems": 1})}),
                _excludes(CONTEXTUAL, having(stopping=having(rule=absent("best_arm")))),
                _excludes(
                    CONTEXTUAL, {"anyOf": [_every_arm(given("features")), _every_arm(absent("features"))]}
                ),
            ]
        },
    },
}

# Components that are not called as their types are.
NAMES: Mapping[type, str] = {PolicySpec: "Policy"}

# Types of parts of bodies that stand in for what the body's own type has there.
STAND_INS: tuple[type, ...] = (NamedMetric,)
METRICS: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_METRICS,
    "items": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Metric", "NamedMetric")]},
}

RULES: Mapping[type, Schema] = {
    Metric: METRIC,
    NamedMetric: NAMED_METRIC,
    MetricDefinition: DEFINITION,
    Margin: MARGIN,
    MetricRequest: METRIC,
    ContextField: FIELD,
    Arm: ARM,
    ArmRequest: ARM,
    Stopping: STOPPING,
    StoppingRule: STOPPING_RULE,
    AudienceRule: AUDIENCE,
    Constraint: CONSTRAINT,
    Experiment: {**EXPERIMENT, "properties": {"metrics": METRICS}},
}

# What no schema can say, by type and in words.
OF_A_DECISION = (
    "Names are counted in bytes, and the experiment says more: with `unit: user` a unit is needed; a context is for "
    "experiments that have one; `eligible` names arms, and `covariates` those of the metrics."
)
OF_A_FAMILY = "Models of users and items need a `user_id` and one of `item_id`, `item_ids` and `k`."
OF_A_POLICY = (
    "It is for the experiment's kind of objective, unit and context. Arms that are named are those of the experiment, "
    "and `min_share` is at most `max_share` and one part of them; "
    "durations are of a millisecond or more; what a `prior` and a `pseudo_history` may hold follows the objective's "
    "kind."
)
OF_AN_ARM = "A payload is of 64 KiB and 64 levels at most; a version that is named is registered."
BEYOND: Mapping[type, str] = {
    DecideRequest: OF_A_DECISION,
    PredictRequest: f"{OF_A_DECISION} {OF_A_FAMILY}",
    PredictBatch: f"Entries. {ANSWERED_IN_PLACE}",
    ScoreRequest: f"Names are counted in bytes; `features` are for models that take them. {OF_A_FAMILY}",
    DecideBatch: OF_A_DECISION,
    RewardsRequest: "`decision_id` is one of ours, and `value` one that the metric takes; an `event_id` is counted in "
    "bytes, and a decision's events add up to a value that the metric takes. An `experiment` with rewards by unit has "
    "`unit: user`, and `at` is at most 10 s in the future.",
    CanaryRequest: "`guardrail` is a name, `=` and a number from 0 to 1,000, or one of percent.",
    EvaluationRequest: (
        "`targetingKey`, where the experiment assigns users, is of 1 to 256 bytes; a value that the experiment has a "
        "field for is a number, a text or true or false."
    ),
    InferenceRequest: (
        "Inputs have as many rows each, at most 10,000, and as many values as their shapes say, each of its datatype; "
        "binary data behind the JSON are as long as the inputs say. Outputs are those that the model gives."
    ),
    PolicySpec: OF_A_POLICY,
    Arm: OF_AN_ARM,
    ArmRequest: f"{OF_AN_ARM} Where others have `features`, it has as many.",
    Metric: (
        "`low` is below `high`, and below `cap`; `numerator` and `denominator` are two other metrics of the "
        "experiment, count, bounded or continuous, that clients send."
    ),
    NamedMetric: "The catalogue has a metric of this name, and with its definition all that is said of a metric holds.",
    MetricDefinition: (
        "`low` is below `high`, and below `cap`; `numerator` and `denominator` are two other metrics. What is `served` "
        "is `latency_ms` or `error`."
    ),
    MetricRequest: "`low` is below `high`, and below `cap`; the name is none that the experiment has, and the role "
    "`secondary` if one is given. It has no `covariate`, and is no ratio. One without a `kind` is a "
    "metric of the catalogue.",
    ContextField: "`interactions` names other fields, each pair once.",
    AudienceRule: (
        f"Rules are within each other to a depth of {MAX_DEPTH} at most, {MAX_RULES} in all, with {MAX_LISTED_VALUES} "
        "values in all lists. Values that a context field is compared with are of its kind."
    ),
    LayerRequest: "`name` is that of the experiment's layer.",
    StopRequest: "`winner` is an arm that is there.",
    Stopping: (
        f"Times are from 1971 to {MAX_TIME_YEAR - 1} and in the future, `end_at` after `start_at`; `duration` is above "
        '0 and up to "3660d".'
    ),
    Experiment: (
        "Where the path names the experiment, `id` is that name. "
        "The names of arms, of metrics and of context fields are each unique; `control` is an arm; the window is of "
        "10 ms to 90 days; arms have as many `features` each, models at most 512 and 1,024 coefficients; the objective "
        "is the metric with that role or else the first without one; `dimensions` are context fields with `values`, "
        "and segments times metrics times arms are 65,536 at most. `weights` and `constraints` name other metrics "
        "whose mean is looked at, each bound once; a weight has the sign of its metric's goal, a bound is one that "
        "some means keep and others do not, and where a missing reward is 0 each metric has that value. An objective "
        "of the catalogue asks for `attribution.missing` as one of its kind does. `slots` are no more than there are "
        "arms, and beside them the service measures no metric. Shares are even where lists are interleaved."
    ),
    VersionMetadata: (
        "`metrics` and `metadata` are of 64 KiB at most. In a body of JSON there is `remote`; its `url` is plain and "
        "below one of the addresses in the setting `upstreams`, its `timeout` from 1 ms to 60 s, its `headers` are "
        "none that say how a message is sent."
    ),
    Upload: (
        "`artifact` is a safetensors file of one of our families, or an ONNX file; `metrics` and `metadata` are of "
        "64 KiB at most."
    ),
    Effect: "It is not 0; a rate stays between 0 and 1 with it, and a relative one is of a mean that is not 0.",
    PlanRequest: (
        "There is either `effect` or `days`, and with `days` there is `traffic`, or an experiment that has some; "
        "a finite number of observations finds the effect, and the days bring 50 to each arm."
    ),
    PatchRequest: "`metrics` and `metadata` are of 64 KiB at most.",
}
