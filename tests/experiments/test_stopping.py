"""Stopping: times, rules and their limits, and what a log has of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import description, experiment

from bandit_serve.base.clock import unix_ms
from bandit_serve.base.known_fields import decode_known
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import require_future, validated, with_policy
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment, Record, Standing
from bandit_serve.experiments.stopping import Stopping, StoppingRule
from bandit_serve.log import events
from bandit_serve.log.events import Change

START_MS = 1_800_000_000_000
CONTEXT = [{"name": "hour", "kind": "numeric", "mean": 12, "std": 6}]


def stopping(**fields: Any) -> Stopping:
    return experiment(stopping=fields).stopping


@pytest.mark.parametrize(
    ("at", "fields"),
    [
        ("start_at", {"start_at": "1970-12-31T00:00:00Z"}),
        ("start_at", {"start_at": "9999-12-31T23:59:59-12:00"}),
        ("end_at", {"end_at": "0001-01-01T00:00:00+12:00"}),
        ("end_at", {"start_at": "2099-01-02T00:00:00Z", "end_at": "2099-01-02T01:00:00+01:00"}),
        ("end_at", {"start_at": "2099-01-02T00:00:00Z", "end_at": "2099-01-01T00:00:00Z"}),
        ("duration", {"duration": "0s"}),
        ("duration", {"duration": "0.0001ms"}),
        ("duration", {"duration": "3661d"}),
        ("rule", {"rule": {}}),
        ("rule", {"rule": {"precision": 0.1, "futility": 0.1}}),
    ],
)
def test_what_is_refused_is_told_at_its_field(at: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        stopping(**fields)
    assert [error.at for error in refused.value.errors] == [f"stopping.{at}"]


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "loser"},
        {"rule": {"precision": 0}},
        {"rule": {"futility": -1}},
        {"rule": {"best_arm": 1}},
        {"rule": {"width": 1}},
        {"start_at": "2099-01-02"},
        {"start_at": "2099-01-02T00:00:00"},
        {"end_at": 4_070_908_800},
    ],
)
def test_types_are_refused_too(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(description(stopping=fields)), type=Experiment)


def test_best_arm_is_not_for_contextual_policies() -> None:
    rule = {"rule": {"best_arm": 0.05}}
    made = experiment(stopping=rule, context=CONTEXT)
    with pytest.raises(InvalidInput, match=r"stopping.rule.best_arm: this is not for lin_ts"):
        with_policy(made, PolicySpec(kind="lin_ts"))
    with pytest.raises(InvalidInput):
        experiment(stopping=rule, context=CONTEXT, policy={"kind": "lin_ts"})
    experiment(stopping={"rule": {"precision": 0.05}}, context=CONTEXT, policy={"kind": "lin_ts"})


def test_times_that_have_passed_are_refused_of_what_is_new_only() -> None:
    made = experiment(stopping={"start_at": "2027-01-15T08:00:00Z", "end_at": "2027-01-15T09:00:00Z"})
    assert unix_ms(made.stopping.start_at) == START_MS  # type: ignore[arg-type]
    require_future(START_MS - 1, made)
    for now_ms, places in ((START_MS, ["start_at"]), (START_MS + 3_600_000, ["start_at", "end_at"])):
        with pytest.raises(InvalidInput) as refused:
            require_future(now_ms, made)
        assert [error.at for error in refused.value.errors] == [f"stopping.{at}" for at in places]
    assert validated(made) == made


def test_it_ends_at_what_comes_first() -> None:
    ends_at = {"end_at": "2027-01-15T08:00:10Z"}
    assert stopping().ends_ms(5) is None
    assert stopping(**ends_at).ends_ms(None) == START_MS + 10_000
    assert stopping(duration="4s").ends_ms(START_MS) == START_MS + 4_000
    assert stopping(duration="4s").ends_ms(None) is None
    assert stopping(duration="4s", **ends_at).ends_ms(START_MS) == START_MS + 4_000
    assert stopping(duration="4d", **ends_at).ends_ms(START_MS) == START_MS + 10_000
    assert stopping().starts_ms is None
    assert stopping(start_at="2027-01-15T09:00:00+01:00").starts_ms == START_MS


def test_times_stand_in_utc_whatever_their_zone() -> None:
    one = stopping(start_at="2099-03-02T09:00:00.25+02:00")
    other = stopping(start_at="2099-03-02T07:00:00.25Z")
    assert msgspec.json.encode(one) == msgspec.json.encode(other)
    assert msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)


def test_a_log_has_nothing_of_what_is_not_used() -> None:
    """So builds of before read logs of experiments that do not use it, and its bytes are as they were."""
    assert set(msgspec.to_builtins(stopping())) == {"duration", "min_samples", "alpha", "promote_winner"}
    assert set(msgspec.to_builtins(Standing())) == {"status", "ramp", "ramp_since_ms"}
    assert set(msgspec.to_builtins(Change("start", "me"))) == {"what", "who", "reason", "arm"}
    made = Record(experiment(), 7, "running", 1, 1, 1)
    assert "unpromoted" not in msgspec.to_builtins(made)


def test_all_of_it_survives_a_log_and_a_snapshot() -> None:
    made = experiment(
        stopping={
            "start_at": "2099-03-02T09:00:00.123456Z",
            "end_at": "2099-03-30T09:00:00Z",
            "duration": "3d",
            "rule": {"futility": 0.25},
            "promote_winner": True,
        }
    )
    standing = Standing("paused", harmed=("error",), overridden=("latency_ms",))
    record = Record(made, 7, "stopped", 3, 1, 1, winner="b", standings=(standing,), unpromoted=True)
    change = Change(
        "stop", "schedule", "It is over.", evidence={"due": "x", "arms": {"a": {"n": 1, "p": None}}}
    )
    event = events.Changed(record, change)
    assert events.decode(events.CHANGED, events.encode(event)) == event
    assert decode_known(msgspec.msgpack.encode(record), Record) == record
    assert record.overridden == {"a": ("latency_ms",)}


def test_a_rule_says_which_of_its_fields_are_given() -> None:
    assert StoppingRule(precision=0.5).given == ["precision"]
    assert StoppingRule().given == []
