"""Validation of experiments: a refusal names its field, and an omitted field has its default."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import description, experiment, record

from bandit_serve.errors import InvalidInput, NotBuilt
from bandit_serve.experiments.checks import validated, with_arm, with_policy
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy import from_experiment, served_floor
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import (
    MAX_ARMS,
    MAX_METRICS,
    RAMP_STEP,
    Arm,
    Experiment,
    Ramp,
    Standing,
    Status,
    may,
)
from bandit_serve.metrics import MAX_COUNT, MAX_VALUE
from bandit_serve.policies import POLICIES, ContextualPolicy

ARMS = [{"name": "a"}, {"name": "b"}]
BOUNDED = {"name": "m", "kind": "bounded", "low": 1.0, "high": 5.0}
CONTINUOUS = {"name": "m", "kind": "continuous"}
BINARY = {"name": "m", "kind": "binary"}
IGNORE = {"missing": "ignore"}

REFUSED: dict[str, list[dict[str, Any]]] = {
    "arms[1].name": [{"arms": [{"name": "a"}, {"name": "a"}]}],
    "arms[1]": [
        {"arms": [{"name": "a"}, {"name": "b", "model": "m"}]},
        {"arms": [{"name": "a"}, {"name": "b", "version": "v"}]},
    ],
    "arms[0].payload": [
        {"arms": [{"name": "a", "payload": "x" * 70_000}]},
        {"arms": [{"name": "a", "payload": {"n": 2**70}}]},
    ],
    "control": [{"control": "c"}],
    "metrics[1].name": [{"metrics": [BINARY, CONTINUOUS]}],
    "metrics": [
        {"metrics": [{**BINARY, "role": "objective"}, {**BINARY, "name": "n", "role": "objective"}]},
        {"metrics": [{**BINARY, "role": "secondary"}]},
    ],
    "metrics[0]": [
        {"metrics": [{"name": "m", "kind": "bounded"}]},
        {"metrics": [{"name": "m", "kind": "bounded", "low": 0.0}]},
        {"metrics": [{**CONTINUOUS, "high": 2.0}]},
        {"metrics": [{**BOUNDED, "high": 1e300}]},
    ],
    "metrics[0].high": [{"metrics": [{**BOUNDED, "high": 1.0}]}, {"metrics": [{**BOUNDED, "high": 0.0}]}],
    "attribution.window": [
        {"attribution": {"window": window, "missing": "ignore"}} for window in ("9ms", "91d", "0s")
    ],
    "attribution.missing": [
        {"attribution": {}},
        {"metrics": [{"name": "m", "kind": "count"}], "policy": {"kind": "fixed_split"}, "attribution": {}},
        {"metrics": [BOUNDED], "attribution": {"missing": "zero"}},
    ],
    "policy.min_share": [{"policy": {"kind": "thompson", "min_share": 0.51}}],
    "policy.shares": [
        {"policy": {"kind": "fixed_split", "shares": {"c": 1.0}}},
    ],
}


@pytest.mark.parametrize(
    ("at", "fields"), [(at, fields) for at, cases in REFUSED.items() for fields in cases]
)
def test_what_is_wrong_is_named(at: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        experiment(**fields)
    assert at in [error.at for error in refused.value.errors]
    assert str(refused.value).count(at)
    assert all(error.detail for error in refused.value.errors)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as refused:
        experiment(
            control="c", attribution={"window": "1ms", "missing": "zero"}, metrics=[{**BINARY, "low": 0.0}]
        )
    assert [error.at for error in refused.value.errors] == ["control", "metrics[0]", "attribution.window"]


# What the types alone refuse; the message names the field.
MALFORMED: dict[str, list[dict[str, Any]]] = {
    "$.id": [{"id": ""}, {"id": "-x"}, {"id": "a" * 129}, {"id": "a\n"}, {"id": "ä"}, {"id": 1}],
    "$.arms": [{"arms": []}, {"arms": [{"name": f"a{i}"} for i in range(MAX_ARMS + 1)]}],
    "$.arms[0].name": [{"arms": [{"name": "a b"}]}],
    "$.metrics": [
        {"metrics": []},
        {"metrics": [{**BINARY, "name": f"m{i}"} for i in range(MAX_METRICS + 1)]},
    ],
    "$.metrics[0].kind": [{"metrics": [{"name": "m", "kind": "quotient"}]}],
    "$.metrics[0].goal": [{"metrics": [{**BINARY, "goal": "more"}]}],
    "$.unit": [{"unit": "session"}],
    "$.policy.min_share": [
        {"policy": {"kind": "ucb1", "min_share": -0.1}},
        {"policy": {"kind": "ucb1", "min_share": 2}},
    ],
    "$.policy.max_share": [{"policy": {"kind": "ucb1", "max_share": 0}}],
    "$.policy.refresh": [{"policy": {"kind": "ucb1", "refresh": "soon"}}],
    "$.policy.shares": [{"policy": {"kind": "fixed_split", "shares": {"a": -1}}}],
    "$.attribution.window": [
        {"attribution": {"window": each}} for each in ("1", "h", "1h\n", "-1h", "1 h", "1w", 5)
    ],
    "$.attribution.missing": [{"attribution": {"missing": "one"}}],
    "$.stopping.alpha": [{"stopping": {"alpha": 0}}, {"stopping": {"alpha": 1}}],
    "unknown field `x`": [{"x": 1}, {"arms": [{"name": "a", "x": 1}]}, {"policy": {"kind": "ucb1", "x": 1}}],
}


@pytest.mark.parametrize(
    ("at", "fields"), [(at, fields) for at, cases in MALFORMED.items() for fields in cases]
)
def test_what_is_malformed_is_named(at: str, fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        experiment(**fields)
    assert at in str(refused.value)


def test_what_is_left_out_has_its_default() -> None:
    made = validated(
        msgspec.convert(
            {"id": "e", "arms": ARMS, "metrics": [CONTINUOUS, {**BINARY, "name": "n"}]}, Experiment
        )
    )
    assert made.control == "a"
    assert made.control_arm == 0
    assert made.unit == "request"
    assert made.policy.kind == "fixed_split"
    assert made.policy.refresh_ms == 50
    assert made.attribution.window_ms == 3_600_000
    assert made.missing == "ignore"
    assert [metric.role for metric in made.metrics] == ["objective", "secondary"]
    assert made.stopping.alpha == 0.05
    assert made.arm_names == ("a", "b")


@pytest.mark.parametrize(
    ("roles", "objective"),
    [
        ([None, None], 0),
        (["secondary", None], 1),
        ([None, "objective"], 1),
        (["objective", "secondary"], 0),
        (["secondary", None, None], 1),
    ],
)
def test_the_objective_is_the_one_that_says_so_or_else_the_first_without_a_role(
    roles: list[str | None], objective: int
) -> None:
    made = experiment(metrics=[{**BINARY, "name": f"m{i}", "role": role} for i, role in enumerate(roles)])
    assert made.metrics.index(made.objective) == objective
    assert [metric.role for metric in made.metrics].count("objective") == 1
    assert None not in [metric.role for metric in made.metrics]


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_what_a_missing_reward_means_must_be_said_of_a_binary_or_a_count(kind: str) -> None:
    fields = {"metrics": [{"name": "m", "kind": kind}], "policy": {"kind": "fixed_split"}}
    with pytest.raises(InvalidInput, match=r"attribution\.missing"):
        experiment(**fields, attribution={})
    for missing in ("zero", "ignore"):
        assert experiment(**fields, attribution={"missing": missing}).missing == missing


@pytest.mark.parametrize("metric", [CONTINUOUS, BOUNDED])
def test_a_missing_reward_of_other_kinds_is_ignored_by_default(metric: dict[str, Any]) -> None:
    assert experiment(metrics=[metric], attribution={}).missing == "ignore"


def test_only_the_objective_decides_what_must_be_said() -> None:
    assert experiment(metrics=[CONTINUOUS, {**BINARY, "name": "n"}], attribution={}).missing == "ignore"


@pytest.mark.parametrize(
    "fields",
    [
        {"stopping": {"duration": "14d"}},
        {"stopping": {"promote_winner": True}},
        {"metrics": [BINARY, {**CONTINUOUS, "name": "n", "role": "guardrail"}]},
    ],
)
def test_what_is_not_built_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(NotBuilt, match="not built"):
        experiment(**fields)


def test_what_is_not_built_but_not_asked_for_is_not_refused() -> None:
    experiment(
        context=[],
        stopping={"promote_winner": False},
    )


def test_validating_again_changes_nothing() -> None:
    made = experiment(metrics=[BINARY, {**CONTINUOUS, "name": "n"}])
    assert validated(made) == made


# Policies


@pytest.mark.parametrize(
    ("at", "fields"),
    [
        ("policy.kind", {"policy": {"kind": "magic"}}),
        ("policy.kind", {"policy": {"kind": "ucb1"}, "unit": "user"}),
        ("policy.kind", {"policy": {"kind": "kl_ucb"}, "unit": "user"}),
        ("policy.kind", {"policy": {"kind": "kl_ucb"}, "metrics": [CONTINUOUS]}),
        ("policy.sigma", {"policy": {"kind": "kl_ucb", "sigma": 1.0}}),
        ("policy.prior.alpha", {"policy": {"kind": "thompson", "prior": {"alpha": {"c": 1.0}}}}),
        ("policy.half_life", {"policy": {"kind": "thompson", "half_life": "0s"}}),
        ("policy.pseudo_history", {"policy": {"kind": "thompson", "pseudo_history": {"n": 3.0}}}),
        ("policy.pseudo_history.n", {"policy": {"kind": "ucb1", "pseudo_history": {"n": {"c": 1.0}}}}),
        ("policy.epsilon", {"policy": {"kind": "thompson", "epsilon": 0.1}}),
        ("policy.shares", {"policy": {"kind": "thompson", "shares": {"a": 1.0}}}),
        ("policy.shares", {"policy": {"kind": "fixed_split", "shares": {"a": 0.0}}}),
        ("policy.shares", {"policy": {"kind": "fixed_split", "shares": {}}}),
        ("policy.prior", {"policy": {"kind": "ucb1", "prior": {"alpha": 1.0}}}),
        ("policy.prior.alpha", {"policy": {"kind": "thompson", "prior": {"alpha": 0.0}}}),
        ("policy.prior", {"policy": {"kind": "thompson", "prior": {"gamma": 1.0}}}),
        ("policy.min_share", {"policy": {"kind": "thompson", "min_share": 0.4, "max_share": 0.3}}),
    ],
)
def test_what_a_policy_does_not_take_is_named(at: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_experiment(experiment(**fields))
    assert [error.at for error in refused.value.errors] == [at]


CONTEXTUAL = [kind for kind, policy in POLICIES.items() if policy.contextual]
HOUR = [{"name": "hour", "kind": "numeric"}]


@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_a_contextual_policy_has_the_features_of_the_context_and_of_the_arms(kind: str) -> None:
    policy = from_experiment(experiment(policy={"kind": kind}, context=HOUR))
    assert isinstance(policy, ContextualPolicy)
    assert (policy.n_features, policy.arm_features) == (3, None)
    arms = [{"name": "a", "features": [1.0, 0.0]}, {"name": "b", "features": [0.0, 2.0]}]
    policy = from_experiment(experiment(policy={"kind": kind}, context=HOUR, arms=arms))
    assert isinstance(policy, ContextualPolicy)
    assert policy.arm_features is not None
    assert policy.arm_features.tolist() == [[1.0, 0.0], [0.0, 2.0]]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e300])
def test_an_arms_features_are_numbers_that_a_policy_can_use(wrong: float) -> None:
    """Even if the policy does not use them: it may be changed to one that does."""
    with pytest.raises(msgspec.ValidationError, match="features"):
        experiment(arms=[{"name": "a", "features": [wrong]}, {"name": "b", "features": [1.0]}])


@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_what_a_contextual_policy_lacks_is_named(kind: str) -> None:
    wide = [{"name": f"f{i}", "kind": "categorical", "buckets": 300} for i in range(2)]
    history = {"n": 1.0, "mean": 0.5}
    broad = [{"name": "f", "kind": "categorical", "buckets": 200}]
    arms = [{"name": "a", "features": [1.0]}, {"name": "b"}]
    uneven = [{"name": "a", "features": [1.0]}, {"name": "b", "features": [1.0, 2.0]}]
    many = [{"name": f"a{k}"} for k in range(300)]
    detailed = [{"name": f"a{k}", "features": [1.0] * 5} for k in range(2)]
    for at, fields in (
        ("context", {}),
        ("context", {"context": wide}),
        ("arms", {"context": HOUR, "arms": arms}),
        ("arms", {"context": HOUR, "arms": uneven}),
        ("policy.pseudo_history", {"context": HOUR, "policy": {"kind": kind, "pseudo_history": history}}),
        ("context", {"context": broad, "arms": many}),
        ("context", {"context": broad, "arms": detailed}),
    ):
        with pytest.raises(InvalidInput) as refused:
            from_experiment(experiment(**{"policy": {"kind": kind}, **fields}))
        assert [error.at for error in refused.value.errors] == [at]


@pytest.mark.parametrize(
    ("policy", "objective", "own"),
    [
        ({"kind": "epsilon_greedy", "epsilon": 0.2, "decay": 0.01}, BINARY, {"epsilon": 0.2, "decay": 0.01}),
        ({"kind": "softmax", "temperature": 0.1}, CONTINUOUS, {"temperature": 0.1}),
        ({"kind": "ucb1", "sigma": 2.0}, CONTINUOUS, {"sigma": 2.0}),
        ({"kind": "kl_ucb"}, BINARY, {}),
        ({"kind": "exp3", "gamma": 0.1}, BINARY, {"gamma": 0.1}),
        ({"kind": "exp3"}, BINARY, {"gamma": None}),
        (
            {"kind": "top_two_thompson", "beta": 0.7, "prior": {"alpha": 2.0}},
            BINARY,
            {"beta": 0.7, "prior": {"alpha": 2.0, "beta": 1.0}},
        ),
        (
            {"kind": "thompson", "prior": {"alpha": {"b": 9.0}, "beta": 3.0}},
            BINARY,
            {"prior": {"alpha": [1.0, 9.0], "beta": 3.0}},
        ),
        (
            {"kind": "thompson", "prior": {"beta": {"a": 2.0}}},
            {"name": "m", "kind": "count"},
            {"prior": {"alpha": 1.0, "beta": [2.0, 1e-6]}},
        ),
    ],
)
def test_parameters_reach_the_policy(
    policy: dict[str, Any], objective: dict[str, Any], own: dict[str, Any]
) -> None:
    made = from_experiment(experiment(policy=policy, metrics=[objective]))
    assert made.kind == policy["kind"]
    assert made.state()["parameters"] == own
    assert made.min_share == 0.02


@pytest.mark.parametrize("kind", ["epsilon_greedy", "softmax", "top_two_thompson", "exp3", "thompson"])
def test_policies_whose_shares_do_not_jump_keep_their_units(kind: str) -> None:
    assert from_experiment(experiment(policy={"kind": kind}, unit="user")).kind == kind


def test_a_pseudo_history_is_by_arm_and_as_rewards_are_learned_from() -> None:
    history = {"n": {"b": 40.0}, "mean": {"b": 0.25}}
    policy = {"kind": "ucb1", "pseudo_history": history}
    made = from_experiment(experiment(policy=policy))
    assert made.counts.tolist() == [0.0, 40.0]
    assert made.means[1] == 0.25
    bounced = {"name": "bounce", "kind": "binary", "goal": "minimize"}
    made = from_experiment(experiment(policy=policy, metrics=[bounced]))
    assert made.means[1] == 0.75
    spend = {"name": "m", "kind": "bounded", "low": 2.0, "high": 6.0}
    made = from_experiment(
        experiment(
            policy={"kind": "thompson", "pseudo_history": {"n": {"a": 4.0}, "mean": {"a": 3.0}}},
            metrics=[spend],
        )
    )
    assert made.means[0] == 3.0


def test_the_floor_that_is_served() -> None:
    assert served_floor(experiment()) == 0.02
    assert served_floor(experiment(arms=[{"name": f"a{i}"} for i in range(20)])) == pytest.approx(0.005)
    assert served_floor(experiment(policy={"kind": "thompson", "min_share": 0.0})) == 0.0
    assert served_floor(experiment(policy={"kind": "fixed_split"})) == 0.0


def test_a_fixed_split_gives_the_arms_that_are_not_named_nothing() -> None:
    made = experiment(
        arms=[{"name": name} for name in "abc"],
        policy={"kind": "fixed_split", "shares": {"c": 3.0, "a": 1.0}},
    )
    assert from_experiment(made).shares().tolist() == [0.25, 0.0, 0.75]


def test_a_change_of_policy_is_validated() -> None:
    made = experiment()
    assert with_policy(made, PolicySpec(kind="ucb1")).policy.kind == "ucb1"
    with pytest.raises(InvalidInput, match=r"policy\.min_share"):
        with_policy(made, PolicySpec(kind="ucb1", min_share=0.9))


# Metrics

METRICS = [
    Metric("m", "binary"),
    Metric("m", "bounded", low=-1.0, high=2.0),
    Metric("m", "count"),
    Metric("m", "continuous"),
]
FINE: dict[str, list[float]] = {
    "binary": [0, 1],
    "bounded": [-1, 0.3, 2],
    "count": [0, 7, MAX_COUNT],
    "continuous": [-1e79, 0, 3.25],
}
WRONG: dict[str, list[float]] = {
    "binary": [0.5, 2, -1],
    "bounded": [-1.1, 2.1],
    "count": [-1, 0.5, MAX_COUNT + 1, 1795892426485000, 1e80],
    "continuous": [],
}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.kind)
def test_a_metric_takes_its_values_and_no_others(metric: Metric) -> None:
    for value in FINE[metric.kind]:
        assert metric.refuses(value) is None
    for value in [*WRONG[metric.kind], math.inf, -math.inf, math.nan, 1e81, -1e81]:
        assert metric.refuses(value)


def test_what_a_metric_takes_a_policy_takes() -> None:
    """A logged reward that the fold refuses would end every worker, and again after each restart."""
    generator = np.random.default_rng(6)
    for _ in range(2_000):
        low = round(float(generator.uniform(-5, 5)), 1)
        high = low + round(float(generator.uniform(0.1, 5)), 1)
        metric = {"name": "m", "kind": "bounded", "low": low, "high": high, "goal": "minimize"}
        made = experiment(metrics=[metric], policy={"kind": "fixed_split"}).objective
        for value in (low, high, float(generator.uniform(low, high))):
            assert made.refuses(value) is None
            assert low <= made.utility(value) <= high


@pytest.mark.parametrize("kind", ["count", "continuous"])
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_the_largest_rewards_are_folded(kind: str, goal: str) -> None:
    made = experiment(metrics=[{"name": "m", "kind": kind, "goal": goal}], policy={"kind": "fixed_split"})
    policy, objective = from_experiment(made), made.objective
    values = [MAX_COUNT, 0.0] if kind == "count" else [MAX_VALUE, -MAX_VALUE]
    for value in values:
        assert objective.refuses(value) is None
        policy.update(0, objective.utility(value))
    assert np.isfinite(policy.shares()).all()


def test_sums_of_nine_million_of_the_largest_counts_are_exact() -> None:
    assert 9_000_000 * MAX_COUNT < 2**53
    refusal = Metric("m", "count").refuses(MAX_COUNT + 1)
    assert refusal == "m is a count: expected a whole number from 0 to 1,000,000,000"


def test_utility_is_larger_for_what_is_better() -> None:
    for metric in METRICS:
        low, high = FINE[metric.kind][0], FINE[metric.kind][-1]
        assert metric.utility(low) < metric.utility(high)
        less = msgspec.structs.replace(metric, goal="minimize")
        assert less.utility(low) > less.utility(high)
    assert Metric("m", "bounded", "minimize", low=-1.0, high=2.0).utility(2.0) == -1.0
    assert Metric("m", "binary", "minimize").utility(0.0) == 1.0


# States


@pytest.mark.parametrize(
    ("move", "legal"),
    [("start", {"draft", "paused"}), ("pause", {"running"}), ("stop", {"running", "paused"})],
)
def test_moves(move: str, legal: set[Status]) -> None:
    statuses: list[Status] = ["draft", "running", "paused", "stopped"]
    assert {status for status in statuses if may(move, status)} == legal


def test_the_description_of_the_contract_is_an_experiment() -> None:
    fields = description(
        id="ranker-v2",
        arms=[
            {"name": "control", "model": "ranker", "version": "v1"},
            {"name": "challenger", "model": "ranker", "version": "v2", "payload": {"any": "json"}},
        ],
        control="control",
        unit="user",
        policy={"kind": "thompson", "min_share": 0.02},
        metrics=[{"name": "click", "kind": "binary", "goal": "maximize", "role": "objective"}],
        attribution={"window": "1h", "missing": "zero"},
        stopping={"min_samples": 1000, "alpha": 0.05, "promote_winner": False},
    )
    made = validated(msgspec.convert(fields, Experiment))
    assert msgspec.convert(msgspec.to_builtins(made), Experiment) == made
    assert from_experiment(made).kind == "thompson"


def test_a_ramp_caps_less_and_less() -> None:
    standing = Standing("active", Ramp(0.1, "10s"), 1_000)
    assert [standing.cap(at) for at in (0, 1_000, 6_000, 11_000, 99_000)] == pytest.approx(
        [0.1, 0.1, 0.55, 1.0, 1.0]
    )
    assert Standing().cap(5) == 1.0
    assert Standing(ramp=Ramp(0.1, "10s")).cap(10**12) == 0.1, "it has not begun"
    at, steps = 1_000.0, 0
    while standing.cap(int(at)) < 1.0:
        later = standing.next_cap_ms(int(at))
        assert later > at
        assert standing.cap(int(later)) <= standing.cap(int(at)) * RAMP_STEP + 2e-4
        at, steps = later, steps + 1
    assert 200 < steps < 300
    assert standing.next_cap_ms(11_000) == math.inf
    assert Standing(ramp=Ramp(0.1, "10s")).next_cap_ms(5) == math.inf


def test_arms_come_after_the_others_and_their_standing_is_kept() -> None:
    made = experiment()
    grown = with_arm(made, Arm("c"))
    assert grown.arm_names == ("a", "b", "c")
    about = msgspec.structs.replace(record(made), experiment=grown)
    assert about.arm_statuses == {"a": "active", "b": "active", "c": "active"}
    about = about.with_standing(1, Standing("removed"))
    assert about.arm_statuses == {"a": "active", "b": "removed", "c": "active"}
    with pytest.raises(InvalidInput, match="taken"):
        with_arm(made, Arm("a"))


def test_what_was_made_with_longer_values_than_are_taken_now_is_changed_all_the_same() -> None:
    field = {"name": "c", "kind": "categorical", "values": ["x" * 300, "y"]}
    fields = description(
        arms=ARMS, metrics=[BINARY], attribution=IGNORE, context=[field], policy={"kind": "lin_ts"}
    )
    older = msgspec.convert(fields, Experiment)
    with pytest.raises(InvalidInput, match=r"context\[0\]\.values\[0\]"):
        validated(older)
    assert with_policy(older, PolicySpec("lin_ucb")).policy.kind == "lin_ucb"
    assert with_arm(older, Arm("c")).arm_names == ("a", "b", "c")
