"""Slots of an experiment: what is taken, and where the rest is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import description, experiment, record

from bandit_serve.changes.experiments import servable
from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.experiments.checks import with_metric, with_policy
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.slots import MAX_SLOTTED_ARMS
from bandit_serve.experiments.spec import MAX_SLOTS, Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset

FIVE = [{"name": name} for name in "abcde"]
COST = {"name": "cost", "kind": "continuous", "goal": "minimize"}
CLICK = {"name": "click", "kind": "binary", "role": "objective"}
ERROR = {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"}
HORIZON = {"mode": "horizon", "expected_samples": 100}
NUMERIC = [{"name": "x", "kind": "numeric"}]


def mistakes(**fields: Any) -> set[str]:
    document = description(**{"arms": FIVE, "slots": 3, **fields})
    with pytest.raises((InvalidInput, msgspec.ValidationError)) as refused:
        servable(msgspec.convert(document, Experiment))
    return (
        {error.at for error in refused.value.errors} if isinstance(refused.value, InvalidInput) else {"type"}
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"slots": 2},
        {"slots": 5},
        {"policy": {"kind": "fixed_split"}},
        {"policy": {"kind": "lin_ts"}, "context": NUMERIC},
        {"metrics": [CLICK, COST]},
        {"slots": MAX_SLOTS, "arms": [{"name": f"a{i}"} for i in range(MAX_SLOTTED_ARMS)]},
        {"layer": {"name": "page", "share": 0.5}},
        {"stopping": {"rule": "winner", "min_samples": 100}},
    ],
)
def test_what_goes_with_slots_is_taken(fields: dict[str, Any]) -> None:
    made = servable(msgspec.convert(description(**{"arms": FIVE, "slots": 3, **fields}), Experiment))
    assert made.slots == fields.get("slots", 3)
    assert msgspec.json.decode(msgspec.json.encode(made))["slots"] == made.slots


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({"slots": 1}, {"type"}),
        ({"slots": MAX_SLOTS + 1}, {"type"}),
        ({"slots": 6}, {"slots"}),
        ({"arms": [{"name": f"a{i}"} for i in range(MAX_SLOTTED_ARMS + 1)]}, {"arms"}),
        ({"unit": "user"}, {"unit"}),
        ({"policy": {"kind": "exp3"}}, {"policy.kind"}),
        ({"attribution": {"window": "1h", "missing": "zero"}}, {"attribution.missing"}),
        ({"policy": {"kind": "thompson", "holdout": 0.1}}, {"policy.holdout"}),
        (
            {"metrics": [CLICK, ERROR]},
            {"metrics"},
        ),
        (
            {"policy": {"kind": "fixed_split"}, "stopping": {"mode": "horizon", "expected_samples": 100}},
            {"stopping.mode"},
        ),
        ({"metrics": [CLICK, COST], "weights": {"cost": -0.1}}, {"weights"}),
        ({"metrics": [CLICK, COST], "constraints": [{"metric": "cost", "at_most": 1.0}]}, {"constraints"}),
    ],
)
def test_what_does_not_is_refused_at_its_field(fields: dict[str, Any], places: set[str]) -> None:
    assert mistakes(**fields) == places


def test_what_is_wrong_in_several_ways_is_told_at_once() -> None:
    assert mistakes(unit="user", policy={"kind": "thompson", "holdout": 0.1}) == {"unit", "policy.holdout"}


def test_later_changes_are_held_to_it() -> None:
    made = experiment(arms=FIVE, slots=3)
    with pytest.raises(InvalidInput, match=r"policy\.holdout"):
        with_policy(made, PolicySpec(kind="thompson", holdout=0.2))
    with pytest.raises(InvalidInput, match="the service measures"):
        with_metric(
            made,
            msgspec.convert(ERROR, Metric),
        )


def test_a_log_does_not_change_them() -> None:

    live = LiveExperiment(Changed(record(experiment(arms=FIVE, slots=3)), Change("create", "test")))
    other = Changed(record(experiment(arms=FIVE, slots=2), revision=2), Change("policy", "test"))
    with pytest.raises(UnreadableEntry, match="slots"):
        live.apply(Offset(2, 0), other)
