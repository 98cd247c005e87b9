"""Decision: its state, its arm and its time, the winner that a guardrail forbids, the sentence, corrected p-values."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from simulated_results import START_MS, exposed, record, rewarded

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.results import Report, ResultsFold, report
from bandit_serve.results.decision import Decision, judge
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.state import CODEC

SALE = Metric(name="sale", kind="binary")
MS = Metric(name="ms", kind="continuous", goal="minimize", role="guardrail", margin=Margin(relative=0.1))


class Traffic:
    """An experiment by an even split: `sales` are rates and `ms` means by arm, in steps of a second."""

    def __init__(self, n_arms: int = 2, metrics: tuple[Metric, ...] = (SALE, MS), seed: int = 1) -> None:
        self.fold = ResultsFold(record(n_arms, metrics=metrics))
        self.rng = np.random.default_rng(seed)
        self.n_arms = n_arms
        self.first = 0
        self.now_ms = START_MS

    def run(self, steps: int, sales: list[float], ms: list[float] | None = None, n: int = 200) -> Traffic:
        for _ in range(steps):
            self.now_ms += 1_000
            arms = self.rng.integers(0, self.n_arms, n)
            shares = np.full((1, self.n_arms), 1 / self.n_arms)
            self.fold.apply(
                Offset(self.now_ms, 0), exposed(self.first, arms, shares, [n], time_ms=self.now_ms - 500)
            )
            values = [(self.rng.random(n) < np.array(sales)[arms]).astype(float)]
            if ms is not None:
                values.append(self.rng.normal(np.array(ms)[arms], 50.0))
            for metric, value in enumerate(values):
                rows = rewarded(
                    counter=self.first + np.arange(n),
                    time_ms=self.now_ms - 500,
                    value=value,
                    propensity=shares[0][arms],
                    arm=arms,
                    metric=metric,
                )
                self.fold.apply(Offset(self.now_ms, 1 + metric), rows)
            self.first += n
        return self

    def change(self, what: str, **fields: Any) -> None:
        about = msgspec.structs.replace(self.fold.record, revision=self.fold.record.revision + 1, **fields)
        self.now_ms += 1_000
        self.fold.apply(Offset(self.now_ms, 0), Changed(about, Change(what, "me")))

    def pause(self, arm: int) -> None:
        about: Record = self.fold.record
        standing = msgspec.structs.replace(about.standing(arm), status="paused")
        self.change("pause_arm", standings=about.with_standing(arm, standing).standings)

    @property
    def report(self) -> Report:
        return report(self.fold, self.fold.record, {}, self.now_ms)

    @property
    def decision(self) -> Decision:
        return self.report.decision


def test_nothing_is_decided_at_first() -> None:
    traffic = Traffic().run(3, [0.1, 0.1], [200.0, 200.0])
    undecided = msgspec.structs.replace(traffic.decision, samples_to_go=UNSET, days_to_go=UNSET)
    assert undecided == Decision("undecided")
    assert msgspec.to_builtins(undecided) == {"state": "undecided"}
    assert "decision" not in CODEC.unpack(traffic.fold.state()).columns


def test_a_winner_is_decided_since_the_look_that_showed_it() -> None:
    traffic = Traffic()
    while traffic.decision.state == "undecided":
        traffic.run(1, [0.1, 0.2], [200.0, 200.0])
    found_ms = traffic.now_ms
    assert (traffic.decision.state, traffic.decision.arm) == ("winner", "b")
    assert traffic.report.winner == "b"
    traffic.run(8, [0.1, 0.2], [200.0, 200.0])
    since = traffic.decision.since
    assert since == rfc3339(traffic.fold.noted.since_ms)
    assert found_ms <= traffic.fold.noted.since_ms < traffic.now_ms
    reason = traffic.report.reason
    assert reason.startswith("b is better on sale than a, at level 0.05, and safe on ms.")


def test_a_guardrail_that_is_not_decided_is_said_of_a_winner() -> None:
    guard = msgspec.structs.replace(MS, margin=Margin(absolute=0.0))
    traffic = Traffic(metrics=(SALE, guard)).run(10, [0.1, 0.25], [200.0, 200.0])
    assert traffic.report.winner == "b"
    assert "and it is not known yet whether it is safe on ms." in traffic.report.reason


def test_an_arm_that_harms_a_guardrail_is_no_winner() -> None:
    traffic = Traffic().run(12, [0.1, 0.25], [200.0, 254.0])
    shown = traffic.report
    assert (shown.winner, shown.decision.state, shown.decision.arm) == (None, "harm", "b")
    assert shown.reason.startswith("b is better on sale than a, at level 0.05, but ms is worse by 2")
    assert judge(traffic.fold, traffic.fold.record).best == 1


def test_harm_of_an_arm_that_is_not_better_is_decided_too() -> None:
    shown = Traffic().run(6, [0.1, 0.1], [200.0, 254.0]).report
    assert (shown.winner, shown.decision.state, shown.decision.arm) == (None, "harm", "b")
    assert "; ms of b is worse by 2" in shown.reason


def test_another_arm_may_win_in_place_of_one_that_harms() -> None:
    shown = Traffic(3).run(20, [0.1, 0.3, 0.2], [200.0, 260.0, 200.0]).report
    assert (shown.winner, shown.decision.state, shown.decision.arm) == ("c", "winner", "c")
    assert "and safe on ms; ms of b is worse by " in shown.reason


def test_an_arm_that_is_paused_for_harm_leaves_the_others_undecided() -> None:
    traffic = Traffic(3).run(8, [0.1, 0.1, 0.1], [200.0, 200.0, 260.0])
    assert (traffic.decision.state, traffic.decision.arm) == ("harm", "c")
    traffic.pause(2)
    assert traffic.decision.state == "undecided"


def test_where_no_other_arm_is_left_the_harm_stays_decided() -> None:
    traffic = Traffic().run(8, [0.1, 0.1], [200.0, 260.0])
    since = traffic.decision.since
    traffic.pause(1)
    assert traffic.decision == Decision("harm", "b", since)


@pytest.mark.parametrize(("rate", "state"), [(0.1, "no_difference"), (0.3, "undecided")])
def test_a_stopped_experiment_without_a_winner(rate: float, state: str) -> None:
    traffic = Traffic().run(8, [0.1, rate], [200.0, 200.0])
    traffic.change("stop", status="stopped", stopped_ms=traffic.now_ms)
    assert traffic.decision.state == state
    assert (traffic.decision.since is UNSET) == (state == "undecided")


def test_a_stopped_experiment_has_the_winner_that_was_named() -> None:
    traffic = Traffic().run(3, [0.1, 0.1], [200.0, 200.0])
    traffic.change("stop", status="stopped", stopped_ms=traffic.now_ms, winner="b")
    assert traffic.decision == Decision("winner", "b", rfc3339(traffic.now_ms))


def test_the_decision_is_in_the_state_and_goes_on_from_there() -> None:
    traffic = Traffic().run(12, [0.1, 0.25], [200.0, 254.0])
    again = ResultsFold.from_state(traffic.fold.offset, traffic.fold.state())
    assert again.noted == traffic.fold.noted
    assert again.state() == traffic.fold.state()


@pytest.mark.parametrize(
    "noted",
    [np.array([4, 1, 5]), np.array([1, 2, 5]), np.array([-1, 0, 5]), np.array([1, 1]), np.array([1.0, 1, 5])],
    ids=["state", "arm", "below", "shape", "dtype"],
)
def test_a_decision_that_there_is_not_is_refused(noted: Any) -> None:
    traffic = Traffic().run(12, [0.1, 0.25], [200.0, 254.0])
    state = CODEC.unpack(traffic.fold.state())
    state.columns["decision"]["noted"] = noted
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(traffic.fold.offset, CODEC.pack(state))


def test_p_values_are_corrected_over_metrics_and_arms_but_guardrails() -> None:
    metrics = (SALE, Metric(name="worth", kind="continuous"), msgspec.structs.replace(MS, name="guard"))
    traffic = Traffic(3, metrics).run(10, [0.1, 0.12, 0.15], [200.0, 203.0, 206.0])
    shown = traffic.report
    raw = {
        (name, arm): p
        for index, name in enumerate(("sale", "worth"))
        for arm, p in zip(
            "bc", MetricTable(traffic.fold, traffic.fold.record, index).unadjusted(), strict=True
        )
    }
    so_far, expected = 0.0, {}
    for rank, each in enumerate(sorted(raw, key=raw.__getitem__)):
        so_far = max(so_far, min(1.0, raw[each] * (4 - rank)))
        expected[each] = so_far
    assert len(set(expected.values())) > 1
    rows = {arm.name: arm.metrics for arm in shown.arms}
    assert {each: rows[each[1]][each[0]].p_value_corrected for each in raw} == pytest.approx(expected)
    assert rows["a"]["sale"].p_value_corrected is None
    assert rows["b"]["guard"].p_value_corrected is UNSET


def test_with_one_metric_there_is_nothing_to_correct_over() -> None:
    traffic = Traffic(2, (SALE,)).run(3, [0.1, 0.1])
    assert traffic.report.arms[1].metrics["sale"].p_value_corrected is UNSET
