"""Ending: what should happen by itself, and what keeps it from happening."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import experiment, exposed, record, rewards

from bandit_serve.base.clock import unix_ms
from bandit_serve.experiments.spec import Record, Standing
from bandit_serve.log.events import Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.ending import MAX_EVIDENCE_ARMS, Ending, ending, needs_results

NOW_MS = 1_800_000_000_000
GUARD = {
    "name": "error",
    "kind": "binary",
    "goal": "minimize",
    "role": "guardrail",
    "margin": {"absolute": 0.01},
    "on_harm": "pause_arm",
}
CLICK = {"name": "click", "kind": "binary"}
Counts = Sequence[tuple[int, int]]


def judged(
    counts: Counts,
    errors: Counts = (),
    *,
    now_ms: int = NOW_MS,
    of: dict[str, Any] | None = None,
    shares: Sequence[float] | None = None,
    **fields: Any,
) -> Ending | None:
    """Ending of an experiment under a fixed split with these successes and observations of each arm."""
    about = described(len(counts), of, **fields)
    return ending(folded(about, counts, errors, shares), about, now_ms)


def described(n_arms: int, of: dict[str, Any] | None = None, **fields: Any) -> Record:
    made = experiment(
        **{
            "arms": [{"name": name} for name in "abcdefghijklmnopqrstuvwxyz"[:n_arms]],
            "policy": {"kind": "fixed_split"},
            **fields,
        }
    )
    return msgspec.structs.replace(record(made), started_ms=NOW_MS - 10_000, **(of or {}))


def folded(
    about: Record, counts: Counts, errors: Counts = (), shares: Sequence[float] | None = None
) -> ResultsFold:
    n = np.array([n for _, n in counts])
    arms = np.random.default_rng(3).permutation(np.repeat(np.arange(len(counts)), n))
    made = exposed(0, arms.tolist(), [NOW_MS] * len(arms), n_arms=len(counts))
    split = n / n.sum() if shares is None else np.array(shares)
    fold = ResultsFold(about)
    fold.apply(Offset(NOW_MS, 0), msgspec.structs.replace(made, vectors=split.tobytes()))
    for metric, successes in enumerate((counts, errors)):
        seen = np.zeros(len(counts), int)
        values = np.zeros(len(arms))
        for i, arm in enumerate(arms):
            values[i] = bool(successes) and seen[arm] < successes[arm][0]
            seen[arm] += 1
        if successes:
            rows = rewards(
                range(len(arms)), values=values.tolist(), times_ms=NOW_MS, arms=arms.tolist(), metric=metric
            )
            rows["propensity"] = split[arms]
            fold.apply(Offset(NOW_MS, metric + 1), Rewarded(rows))
    return fold


CLEAR = [(50, 500), (150, 500)]
WINNER = {"stopping": {"rule": "winner"}}


def test_the_winner_ends_it_and_the_numbers_are_those_of_the_results() -> None:
    about = described(2, **WINNER)
    fold = folded(about, CLEAR)
    found = ending(fold, about, NOW_MS)
    assert found is not None
    assert (found.what, found.who, found.winner, found.revision) == ("stop", "stopping", "b", 1)
    assert found.reason == "b is better on click than a, at level 0.05."
    rows = {arm.name: arm.metrics["click"] for arm in report(fold, about, {}, NOW_MS).arms}
    assert found.evidence["rule"] == "winner"
    assert (found.evidence["metric"], found.evidence["alpha"]) == ("click", 0.05)
    for name, row in rows.items():
        for number in ("n", "mean", "difference", "difference_interval", "p_value"):
            assert found.evidence["arms"][name][number] == getattr(row, number)
    plain = msgspec.to_builtins(found.evidence)
    assert msgspec.json.decode(msgspec.json.encode(found.evidence)) == msgspec.json.decode(
        msgspec.json.encode(plain)
    )


def test_control_may_be_the_winner() -> None:
    found = judged([(150, 500), (50, 500)], **WINNER)
    assert found is not None
    assert (found.winner, found.reason) == ("a", "a is better on click than every other arm, at level 0.05.")


@pytest.mark.parametrize(
    ("counts", "fields"),
    [
        ([(50, 500), (55, 500)], {}),
        (CLEAR, {"stopping": {"rule": "winner", "min_samples": 501}}),
        (CLEAR, {"stopping": {}}),
        (CLEAR, {"of": {"status": "draft"}}),
        (CLEAR, {"of": {"status": "stopped"}}),
        (CLEAR, {"of": {"status": "paused"}}),
        (CLEAR, {"of": {"standings": (Standing(), Standing("paused"))}}),
        (CLEAR, {"of": {"standings": (Standing(), Standing("removed"))}}),
        # The traffic is not what was logged.
        (CLEAR, {"shares": [0.9, 0.1]}),
    ],
)
def test_nothing_ends_it_before_there_is_a_winner_to_trust(counts: Counts, fields: dict[str, Any]) -> None:
    assert judged(counts, **{**WINNER, **fields}) is None


def test_an_arm_that_is_paused_holds_nothing_up() -> None:
    counts = [*CLEAR, (1, 10)]
    stopping = {"rule": "winner", "min_samples": 100}
    assert judged(counts, stopping=stopping) is None
    paused = {"standings": (Standing(), Standing(), Standing("paused"))}
    found = judged(counts, stopping=stopping, of=paused)
    assert found is not None
    assert found.winner == "b"


@pytest.mark.parametrize(
    ("goal", "counts", "rule", "ends"),
    [
        ("maximize", [(500, 5_000), (510, 5_000)], {"precision": 0.03}, True),
        ("maximize", [(500, 5_000), (510, 5_000)], {"precision": 0.01}, False),
        ("maximize", [(500, 5_000), (510, 5_000)], {"futility": 0.03}, True),
        ("maximize", [(500, 5_000), (510, 5_000)], {"futility": 0.02}, False),
        ("minimize", [(500, 5_000), (490, 5_000)], {"futility": 0.03}, True),
        ("minimize", [(500, 5_000), (490, 5_000)], {"futility": 0.02}, False),
        ("minimize", [(500, 5_000), (300, 5_000)], {"futility": 0.03}, False),
        ("minimize", [(500, 5_000), (700, 5_000)], {"futility": 0.03}, True),
        ("maximize", [(500, 5_000), (510, 5_000), (0, 0)], {"precision": 0.03}, False),
        ("maximize", [(500, 5_000), (700, 5_000)], {"best_arm": 0.05}, True),
        ("maximize", [(500, 5_000), (510, 5_000)], {"best_arm": 0.05}, False),
        ("minimize", [(500, 5_000), (700, 5_000)], {"best_arm": 0.05}, True),
        ("maximize", [(5, 60)], {"precision": 0.03}, False),
    ],
)
def test_rules_are_judged_by_the_intervals(
    goal: str, counts: Counts, rule: dict[str, float], ends: bool
) -> None:
    about = described(len(counts), metrics=[{**CLICK, "goal": goal}], stopping={"rule": rule})
    fold = folded(about, counts)
    found = ending(fold, about, NOW_MS)
    assert (found is not None) is ends
    if found is None:
        return
    (limit,) = rule.values()
    assert found.evidence["rule"] == rule
    low, high = found.evidence["arms"]["b"]["difference_interval"]
    if "precision" in rule:
        assert (high - low) / 2 <= limit
    elif "futility" in rule:
        assert (high if goal == "maximize" else -low) < limit
    else:
        assert found.winner == ("b" if goal == "maximize" else "a")
        assert found.evidence["z"] >= found.evidence["threshold"]


def test_futility_may_name_who_is_better_all_the_same() -> None:
    found = judged([(500, 50_000), (700, 50_000)], stopping={"rule": {"futility": 0.05}})
    assert found is not None
    assert found.winner == "b"
    assert found.reason == (
        "On click no arm can gain 0.05 on a any more. b is better on click than a, at level 0.05."
    )
    found = judged([(500, 50_000), (505, 50_000)], stopping={"rule": {"futility": 0.05}})
    assert found is not None
    assert found.winner is None


# Time


def at(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


@pytest.mark.parametrize("status", ["running", "paused"])
def test_it_ends_at_its_time_and_not_a_millisecond_before(status: str) -> None:
    for stopping in ({"duration": "10s"}, {"end_at": at(NOW_MS)}, {"duration": "9d", "end_at": at(NOW_MS)}):
        of = {"status": status}
        assert judged(CLEAR, stopping=stopping, of=of, now_ms=NOW_MS - 1) is None
        found = judged(CLEAR, stopping=stopping, of=of, now_ms=NOW_MS)
        assert found is not None
        assert (found.what, found.who, found.winner) == ("stop", "schedule", "b")
        assert found.evidence["due"] == "2027-01-15T08:00:00.000Z"
        assert unix_ms(datetime.fromisoformat(found.evidence["due"])) == NOW_MS
        none = judged([(50, 500), (55, 500)], stopping=stopping, of=of)
        assert none is not None
        assert none.winner is None
        assert none.reason.endswith("No winner is named on click, at level 0.05.")


def test_at_the_end_no_winner_is_named_of_traffic_that_is_not_what_was_logged() -> None:
    found = judged(CLEAR, stopping={"duration": "10s"}, shares=[0.9, 0.1])
    assert found is not None
    assert found.winner is None
    assert "sample-ratio mismatch" in found.reason


def test_rewards_that_wait_for_their_exposures_count_at_the_end() -> None:
    about = described(2, stopping={"duration": "10s"})
    fold = folded(about, [(1, 10), (1, 10)])
    rows = rewards([10_000], values=1.0, times_ms=NOW_MS, arms=1)
    fold.apply(Offset(NOW_MS, 9), Rewarded(rows))
    found = ending(fold, about, NOW_MS)
    assert found is not None
    assert found.evidence["arms"]["b"]["n"] == 11


# Guardrails


HARM = [(5, 500), (250, 500)]
FINE = [(5, 500), (5, 500)]


def test_harm_comes_before_everything_else() -> None:
    stopping = {"rule": "winner", "duration": "10s"}
    found = judged(CLEAR, HARM, metrics=[CLICK, GUARD], stopping=stopping)
    assert found is not None
    assert (found.what, found.who, found.arm, found.metrics) == ("pause_arm", "guardrail", "b", ("error",))
    (harm,) = found.evidence["harms"]
    assert harm["n"] == 1_000
    assert harm["difference"] == pytest.approx(0.49)
    assert found.reason.startswith("error of b is worse than that of a")
    fine = judged(CLEAR, FINE, metrics=[CLICK, GUARD], stopping=stopping)
    assert fine is not None
    assert fine.what == "stop"
    stops = judged(CLEAR, HARM, metrics=[CLICK, {**GUARD, "on_harm": "stop"}], stopping=stopping)
    assert stops is not None
    assert (stops.what, stops.who, stops.winner, stops.arm) == ("stop", "guardrail", None, None)


@pytest.mark.parametrize(
    "standing", [Standing("paused"), Standing("removed"), Standing(overridden=("error",))]
)
def test_an_arm_is_not_paused_again(standing: Standing) -> None:
    of = {"standings": (Standing(), standing)}
    assert judged(CLEAR, HARM, metrics=[CLICK, GUARD], of=of) is None


def test_an_arm_overridden_for_another_metric_is_paused() -> None:
    of = {"standings": (Standing(), Standing(overridden=("slow",)))}
    found = judged(CLEAR, HARM, metrics=[CLICK, GUARD], of=of)
    assert found is not None
    assert found.arm == "b"


def test_an_arm_that_does_harm_does_not_win() -> None:
    reported = {**GUARD, "on_harm": "report"}
    assert judged(CLEAR, HARM, metrics=[CLICK, reported], **WINNER) is None
    found = judged(CLEAR, HARM, metrics=[CLICK, reported], stopping={"duration": "10s"})
    assert found is not None
    assert found.winner is None
    assert "error of b is worse than that of a" in found.reason
    of = {"standings": (Standing(), Standing(overridden=("error",)))}
    accepted = judged(CLEAR, HARM, metrics=[CLICK, reported], of=of, **WINNER)
    assert accepted is not None
    assert accepted.winner == "b"
    three = [*CLEAR, (140, 500)]
    second = judged(three, [*HARM, (5, 500)], metrics=[CLICK, reported], **WINNER)
    assert second is not None
    assert second.winner == "c"


def test_control_does_not_win_by_the_harm_of_all_others() -> None:
    reported = {**GUARD, "on_harm": "report"}
    assert judged([(50, 500), (50, 500)], HARM, metrics=[CLICK, reported], **WINNER) is None
    found = judged([(150, 500), (50, 500)], HARM, metrics=[CLICK, reported], **WINNER)
    assert found is not None
    assert found.winner == "a"


def test_results_name_the_same_winner() -> None:
    reported = {**GUARD, "on_harm": "report"}
    for standing, winner in ((Standing(), None), (Standing(overridden=("error",)), "b")):
        about = described(2, {"standings": (Standing(), standing)}, metrics=[CLICK, reported], **WINNER)
        fold = folded(about, CLEAR, HARM)
        told = report(fold, about, {}, NOW_MS)
        found = ending(fold, about, NOW_MS)
        assert told.winner == (None if found is None else found.winner) == winner
        assert told.decision.state == ("winner" if winner else "harm")
    assert "error does not pause b any more, as somebody has resumed it" in told.reason


def test_a_paused_experiment_breaks_nothing() -> None:
    of = {"status": "paused"}
    assert judged(CLEAR, HARM, metrics=[CLICK, GUARD], of=of, **WINNER) is None


def test_of_many_arms_the_evidence_has_some() -> None:
    counts = [(50, 500)] * 25 + [(200, 500)]
    found = judged(counts, **WINNER)
    assert found is not None
    assert found.winner == "z"
    assert len(found.evidence["arms"]) == MAX_EVIDENCE_ARMS
    assert {"a", "z"} <= set(found.evidence["arms"])


def test_who_needs_results() -> None:
    assert needs_results(described(2, **WINNER))
    assert needs_results(described(2, metrics=[CLICK, GUARD]))
    assert not needs_results(described(2, metrics=[CLICK, {**GUARD, "on_harm": "report"}]))
    assert not needs_results(described(2, stopping={"duration": "1d"}))
    assert not needs_results(described(2, of={"status": "paused"}, **WINNER))


def test_the_later_record_is_judged() -> None:
    about = described(2, **WINNER)
    fold = folded(about, CLEAR)
    fold.record = msgspec.structs.replace(about, status="stopped", revision=2)
    assert ending(fold, about, NOW_MS) is None
    fold.record = msgspec.structs.replace(about, revision=2)
    found = ending(fold, about, NOW_MS)
    assert found is not None
    assert found.revision == 2
