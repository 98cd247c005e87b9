"""Policy fold of values that are sums of events: corrections, retractions, and what comes of them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, record, revisions, rewards
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandit_serve.experiments.checks import with_policy
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import (
    HELD_OUT,
    Change,
    Changed,
    Event,
    Revised,
    Rewarded,
    Tick,
)
from bandit_serve.log.offset import Offset

NONE = math.nan
WINDOW_MS = 2_000
CONTEXT = [{"name": "z", "kind": "numeric"}]
OBJECTIVES: list[dict[str, Any]] = [
    {"name": "m", "kind": "binary"},
    {"name": "m", "kind": "binary", "goal": "minimize"},
    {"name": "m", "kind": "bounded", "low": -1, "high": 3},
    {"name": "m", "kind": "count"},
    {"name": "m", "kind": "continuous"},
    {"name": "m", "kind": "continuous", "goal": "minimize"},
]


def live_of(
    missing: str = "ignore", policy: dict[str, Any] | None = None, objective: int = 0, **fields: Any
) -> LiveExperiment:
    made = experiment(
        metrics=[OBJECTIVES[objective]],
        policy=policy or {"kind": "thompson"},
        attribution={"window": f"{WINDOW_MS}ms", "missing": missing},
        **fields,
    )
    live = LiveExperiment(created(made))
    live.apply(Offset(1, 0), Tick())
    return live


def contextual(missing: str, kind: str = "lin_ts", objective: int = 0) -> LiveExperiment:
    return live_of(missing, {"kind": kind}, objective, context=CONTEXT)


def x_of(live: LiveExperiment, counters: Any) -> NDArray[np.float32]:
    """Features that belong to the numbers of decisions."""
    numbers = np.asarray(counters, np.float32)[:, None]
    return np.sin(numbers * np.arange(1, live.n_features + 1, dtype=np.float32)).astype(np.float32)


def give(live: LiveExperiment, at_ms: int, counters: Any, formers: Any, values: Any, **columns: Any) -> None:
    x = x_of(live, counters) if live.n_features else None
    live.apply(Offset(at_ms, 0), Revised(revisions(counters, formers, values, **columns), x))
    restored = LiveExperiment.from_state(live.offset, live.state())
    assert restored.state() == live.state()


def expose(live: LiveExperiment, at_ms: int, arms: list[int]) -> None:
    event = exposed(0, arms, [at_ms] * len(arms))
    if live.n_features:
        event = msgspec.structs.replace(event, x=x_of(live, range(len(arms))).tobytes())
    live.apply(Offset(at_ms, 0), event)


def values_for(objective: int, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    match OBJECTIVES[objective]["kind"]:
        case "binary":
            return rng.integers(0, 2, n).astype(float)
        case "bounded":
            return rng.integers(-4, 13, n) / 4.0
        case "count":
            return rng.integers(0, 9, n).astype(float)
    return rng.integers(-40, 41, n) / 8.0


def histories(
    rng: np.random.Generator, objective: int, n: int
) -> list[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Times, decisions and new values of entries within the window: firsts, corrections, retractions, all in turn."""
    entries, values = [], np.full(n, NONE)
    for at_ms in np.sort(rng.integers(200, WINDOW_MS - 100, int(rng.integers(1, 12)))).tolist():
        some = np.sort(rng.permutation(n)[: rng.integers(1, n + 1)])
        new = np.where(rng.random(len(some)) < 0.3, NONE, values_for(objective, rng, len(some)))
        changed = ~(np.isnan(new) & np.isnan(values[some]))
        some, new = some[changed], new[changed]
        if len(some):
            entries.append((at_ms, some, new))
            values[some] = new
    return entries


def revised_and_final(
    live: LiveExperiment, final: LiveExperiment, seed: int, objective: int
) -> NDArray[np.float64]:
    """Gives one experiment all changes of 12 decisions and the other the values in the end alone; returns those."""
    rng = np.random.default_rng(seed)
    n = 12
    arms = rng.integers(0, 2, n).tolist()
    for each in (live, final):
        expose(each, 100, arms)
    values, since = np.full(n, NONE), np.full(n, -1)
    for at_ms, some, new in histories(rng, objective, n):
        columns = {"arms": [arms[i] for i in some], "times_ms": 100, "since_ms": since[some]}
        give(live, at_ms, some, values[some], new, **columns)
        since[some] = np.where(since[some] == -1, at_ms, since[some])
        values[some] = new
    there = np.flatnonzero(~np.isnan(values))
    x = x_of(final, there) if final.n_features else None
    rows = rewards(there, values=values[there], arms=[arms[i] for i in there], times_ms=100)
    if len(rows):
        final.apply(Offset(WINDOW_MS, 0), Rewarded(rows, x))
    for each in (live, final):
        each.apply(Offset(3 * WINDOW_MS, 0), Tick())
    return values


def check_same(live: LiveExperiment, final: LiveExperiment) -> None:
    expected = final.policy.statistics()
    for name, column in live.policy.statistics().items():
        exact = name in ("n", "total")
        tolerance = 0.0 if exact else 1e-9
        np.testing.assert_allclose(column, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert live.policy.observed.tolist() == final.policy.observed.tolist()
    assert live.rewards.tolist() == final.rewards.tolist()
    assert live.exposures.tolist() == final.exposures.tolist()
    np.testing.assert_allclose(live.means(), final.means(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", range(len(OBJECTIVES)))
@pytest.mark.parametrize("missing", ["ignore", "zero"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_in_the_end_a_policy_knows_the_values_in_the_end(missing: str, objective: int, seed: int) -> None:
    live, final = live_of(missing, objective=objective), live_of(missing, objective=objective)
    revised_and_final(live, final, seed, objective)
    check_same(live, final)


@pytest.mark.parametrize("kind", ["lin_ts", "squarecb"])
@pytest.mark.parametrize("missing", ["ignore", "zero"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_in_the_end_a_contextual_policy_has_learned_the_values_in_the_end(
    missing: str, kind: str, seed: int
) -> None:
    """Bit for bit: it learned nothing before."""
    live, final = contextual(missing, kind, 4), contextual(missing, kind, 4)
    revised_and_final(live, final, seed, 4)
    mine, its = live.policy.statistics(), final.policy.statistics()
    assert {name: each.tobytes() for name, each in mine.items()} == {
        name: each.tobytes() for name, each in its.items()
    }
    assert live.rewards.tolist() == final.rewards.tolist()


def test_a_contextual_policy_learns_when_the_window_closes() -> None:
    live = contextual("ignore")
    give(live, 200, [0, 1, 2], NONE, [1.0, 1.0, 0.0], times_ms=100)
    give(live, 300, [0, 1], [1.0, 1.0], [0.0, NONE], since_ms=200, times_ms=100)
    assert live.policy.counts.tolist() == [0.0, 0.0]
    assert live.rewards.tolist() == [2, 0]
    assert live.next_close_ms() is not None
    live.apply(Offset(100 + WINDOW_MS, 0), Tick())
    assert live.policy.counts.tolist() == [0.0, 0.0]
    live.apply(Offset(live.next_close_ms() or 0, 0), Tick())
    assert live.policy.counts.tolist() == [2.0, 0.0]
    assert live.policy.means[0] == 0.0
    # What comes after the window changes nothing that is learned.
    give(live, 5_000, [0], [0.0], [1.0], since_ms=200, times_ms=100)
    live.apply(Offset(60_000, 0), Tick())
    assert live.policy.means[0] == 0.0
    assert len(live.joined or ()) == 0


def test_of_a_reward_that_a_contextual_policy_has_learned_later_events_are_not() -> None:
    live = contextual("ignore")
    live.apply(Offset(200, 0), Rewarded(rewards([0], times_ms=100), x_of(live, [0])))
    assert live.policy.counts.tolist() == [1.0, 0.0]
    give(live, 300, [0], [1.0], [0.0], since_ms=200, times_ms=100)
    live.apply(Offset(9_000, 0), Tick())
    assert live.policy.counts.tolist() == [1.0, 0.0]
    assert live.policy.means[0] == 1.0


def test_where_nothing_is_revised_a_contextual_policy_keeps_nothing() -> None:
    live = contextual("ignore")
    expose(live, 100, [0, 1])
    live.apply(Offset(200, 0), Rewarded(rewards([0], times_ms=100), x_of(live, [0])))
    assert live.joined is None
    assert live.next_close_ms() is None


def test_exposures_and_plain_rewards_pass_by_those_who_wait() -> None:
    live = contextual("ignore")
    give(live, 200, [0], NONE, [1.0], times_ms=100)
    expose(live, 250, [0, 1, 0])
    live.apply(Offset(300, 0), Rewarded(rewards([1], times_ms=100), x_of(live, [1])))
    assert live.policy.counts.tolist() == [1.0, 0.0]
    assert len(live.joined or ()) == 1


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_the_holdout_teaches_nothing(missing: str) -> None:
    for live in (live_of(missing), contextual(missing)):
        rows = revisions([0, 1], NONE, 1.0, times_ms=100)
        rows["flags"][0] = HELD_OUT
        x = x_of(live, [0, 1]) if live.n_features else None
        live.apply(Offset(200, 0), Revised(rows, x))
        rows = revisions([0, 1], 1.0, [0.0, 0.0], since_ms=200, times_ms=100)
        rows["flags"][0] = HELD_OUT
        live.apply(Offset(300, 0), Revised(rows, x))
        live.apply(Offset(9_000, 0), Tick())
        assert live.rewards.tolist() == [2, 0]
        assert live.policy.counts.tolist() == [1.0, 0.0]


def test_other_metrics_teach_nothing() -> None:
    metrics = [{"name": "m", "kind": "binary", "role": "objective"}, {"name": "s", "kind": "continuous"}]
    live = LiveExperiment(created(experiment(metrics=metrics)))
    seen = live.evidence
    live.apply(Offset(2, 0), Revised(revisions([0, 1], NONE, [50.0, -3.0], metric=1)))
    assert live.policy.counts.tolist() == live.rewards.tolist() == [0, 0]
    assert live.evidence == seen


def test_a_value_that_is_gone_is_a_zero_where_missing_rewards_are() -> None:
    live = live_of("zero")
    expose(live, 100, [0, 0, 1])
    give(live, 200, [0], NONE, [1.0], times_ms=100)
    assert live.policy.means[0] == 1.0
    give(live, 300, [0], [1.0], [NONE], since_ms=200, times_ms=100)
    assert live.policy.counts.tolist() == [1.0, 0.0]
    assert live.policy.means[0] == 0.0
    assert live.rewards.tolist() == [0, 0]
    give(live, 400, [0], [NONE], [1.0], since_ms=200, times_ms=100)
    assert (live.policy.counts[0], live.policy.means[0]) == (1.0, 1.0)
    live.apply(Offset(9_000, 0), Tick())
    assert live.policy.counts.tolist() == [2.0, 1.0]
    assert live.policy.means.tolist() == [0.5, 0.0]


def test_a_change_weighs_what_forgetting_has_left() -> None:
    live = live_of(policy={"kind": "thompson", "half_life": "1s"}, objective=4)
    give(live, 1_000, [0, 1], NONE, [8.0, 4.0])
    give(live, 2_000, [2], NONE, [1.0])
    assert live.policy.counts[0] == 2.0
    assert live.policy.means[0] == pytest.approx(3.5)
    give(live, 3_000, [0], [8.0], [0.0], since_ms=1_000)
    weights, values = np.array([0.25, 0.25, 0.5]), np.array([0.0, 4.0, 1.0])
    mean = (weights * values).sum()
    assert live.policy.counts[0] == 1.0
    assert live.policy.means[0] == pytest.approx(mean)
    assert live.policy.statistics()["m2"][0] == pytest.approx((weights * (values - mean) ** 2).sum())
    give(live, 4_000, [0], [0.0], [NONE], since_ms=1_000)
    assert live.policy.counts[0] == pytest.approx(0.375)
    give(live, 5_000, [0], [NONE], [2.0], since_ms=1_000)
    assert live.policy.counts[0] == pytest.approx(0.25)
    assert live.policy.means[0] == pytest.approx((4.0 + 2.0 * 1.0 + 2.0) / 4)


def test_open_decisions_count_by_their_values_in_the_end_for_the_watch() -> None:
    live = live_of("zero")
    expose(live, 100, [0] * 6)
    give(live, 200, range(4), NONE, [1.0, 1.0, 0.0, 0.0], times_ms=100)
    give(live, 300, [0, 2, 3], [1.0, 0.0, 0.0], [NONE, 1.0, 1.0], since_ms=200, times_ms=100)
    give(live, 400, [3], [1.0], [0.0], since_ms=200, times_ms=100)
    assert live.alarms is not None
    live.apply(Offset(9_000, 0), Tick())
    assert live.alarms.state().n == [6, 0]
    assert live.alarms.state().total == [2.0, 0.0]
    # They are closed.
    give(live, 9_100, [1], [1.0], [0.0], since_ms=200, times_ms=100)
    live.apply(Offset(19_000, 0), Tick())
    assert live.alarms.state().total == [2.0, 0.0]
    assert live.policy.means[0] == pytest.approx(1 / 6)


def test_the_watch_of_what_comes_sees_first_values_alone() -> None:
    live = live_of()
    give(live, 200, [0, 1], NONE, [1.0, 0.0])
    give(live, 300, [0], [1.0], [NONE], since_ms=200)
    give(live, 400, [0, 1], [NONE, 0.0], [1.0, 1.0], since_ms=200)
    assert live.alarms is not None
    assert live.alarms.state().n == [2, 0]
    assert live.alarms.state().total == [1.0, 0.0]


def switched(live: LiveExperiment, at_ms: int, kind: str, revision: int = 2) -> None:
    made = with_policy(live.experiment, PolicySpec(kind=kind))
    live.apply(Offset(at_ms, 0), Changed(record(made, revision=revision), Change("policy", "test")))


def test_another_policy_without_context_revises_what_the_former_learned() -> None:
    live = live_of(objective=4)
    give(live, 200, [0, 1], NONE, [3.0, 5.0])
    switched(live, 300, "ucb1")
    give(live, 400, [0], [3.0], [7.0], since_ms=200)
    assert live.policy.means[0] == 6.0


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_of_what_waited_a_policy_without_context_learns_no_change(missing: str) -> None:
    live = contextual(missing)
    expose(live, 100, [0, 0, 0])
    give(live, 200, [0], NONE, [1.0], times_ms=100)
    switched(live, 300, "thompson")
    assert live.joined is None
    give(live, 400, [0], [1.0], [0.0], since_ms=200, times_ms=100)
    assert live.policy.counts.tolist() == [0.0, 0.0]
    give(live, 500, [1], NONE, [1.0], times_ms=100)
    learned = 1.0 if missing == "ignore" else 0.0
    assert live.policy.counts.tolist() == [learned, 0.0]
    give(live, 600, [1], [1.0], [NONE], since_ms=500, times_ms=100)
    live.apply(Offset(9_000, 0), Tick())
    assert live.policy.counts.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_what_a_policy_without_context_has_learned_waits_for_no_other(missing: str) -> None:
    live = live_of(missing, context=CONTEXT)
    expose(live, 100, [0, 0])
    give(live, 200, [0], NONE, [1.0], times_ms=100)
    switched(live, 300, "lin_ts")
    give(live, 400, [0], [1.0], [0.0], since_ms=200, times_ms=100)
    give(live, 500, [1], NONE, [1.0], times_ms=100)
    give(live, 600, [1], [1.0], [0.0], since_ms=500, times_ms=100)
    live.apply(Offset(9_000, 0), Tick())
    # The tallies are taken over; what came first afterwards is learned where nothing else waited for it.
    assert live.policy.counts.tolist() == ([2.0, 0.0] if missing == "ignore" else [1.0, 0.0])
    assert live.policy.means[0] == (0.5 if missing == "ignore" else 1.0)


def test_the_end_of_a_value_whose_beginning_was_left_out_is_folded() -> None:
    for live in (live_of(), live_of("zero"), contextual("ignore"), contextual("zero")):
        give(live, 300, [0], [1.0], [NONE], since_ms=200, times_ms=100)
        live.apply(Offset(9_000, 0), Tick())
        assert live.rewards.tolist() == [0, 0]
        assert live.policy.counts.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_many_rows_are_folded_in_pieces_to_the_same_state(missing: str) -> None:
    whole, pieces = contextual(missing), contextual(missing)
    rows, x = revisions(range(1_201), NONE, 1.0, times_ms=100), x_of(whole, range(1_201))
    event: Event = Revised(rows, x)
    whole.apply(Offset(200, 0), event)
    n_steps = sum(1 for _ in pieces.steps(Offset(200, 0), event))
    assert n_steps >= 3
    assert pieces.state() == whole.state()
