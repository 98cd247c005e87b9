"""Metrics that a policy goes by beside the objective: what is learned of them, missing, late, revised and forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import created, description, experiment, exposed, record, revisions, rewards

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.checks import with_arm, with_policy
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import HELD_OUT, Change, Changed, Revised, Rewarded, Tick
from bandit_serve.log.offset import Offset

CLICK = {"name": "click", "kind": "binary", "role": "objective"}
LATENCY = {"name": "latency_ms", "kind": "continuous", "goal": "minimize"}
SPENT = {"name": "spent", "kind": "count"}
AT_MOST = [{"metric": "latency_ms", "at_most": 250.0}]
ZERO = {"window": "10s", "missing": "zero"}


def live(**fields: Any) -> LiveExperiment:
    fields = {"metrics": [LATENCY, CLICK, SPENT], "constraints": AT_MOST, **fields}
    return LiveExperiment(created(experiment(**fields)))


def apply(made: LiveExperiment, *events: Any) -> LiveExperiment:
    """Applies events a millisecond after each other, from 1 s on."""
    for each in events:
        made.apply(Offset(max(made.offset.time_ms, 1_000) + 1, 0), each)
    return made


def means(made: LiveExperiment) -> list[list[float]]:
    known = made.traded_means()
    assert known is not None
    return known[0].tolist()


def costs(values: list[float], arms: list[int], first: int = 0, **columns: Any) -> Rewarded:
    counters = range(first, first + len(values))
    return Rewarded(rewards(counters, values=values, arms=arms, metric=0, **columns))


def test_each_metric_has_means_of_its_own() -> None:
    made = apply(live(), costs([100.0, 200.0, 400.0], [0, 0, 1]))
    posterior = means(made)[1]
    assert posterior == pytest.approx([150.0, 400.0], rel=1e-3)
    assert made.rewards.tolist() == [0, 0]
    assert np.isnan(means(made)[0]).all()
    apply(made, Rewarded(rewards([0, 1], values=[1.0, 0.0], arms=[0, 1], metric=1)))
    assert means(made)[0] == pytest.approx([2 / 3, 1 / 3])
    assert made.rewards.tolist() == [1, 1]
    # What no constraint names is not learned.
    before = made.state()
    apply(made, Rewarded(rewards([0], values=9.0, metric=2)))
    assert len(made.state()) == len(before)
    assert len(means(made)) == 2


def test_traffic_goes_to_the_mixture_that_keeps_the_bound() -> None:
    made = live(policy={"kind": "thompson", "min_share": 0.01})
    random = np.random.default_rng(1)
    arms = np.arange(4_000) % 2
    slow = np.where(arms == 0, 300.0, 100.0) + random.normal(0.0, 20.0, len(arms))
    clicks = random.random(len(arms)) < np.where(arms == 0, 0.5, 0.1)
    apply(
        made,
        costs(slow.tolist(), arms.tolist()),
        Rewarded(rewards(range(len(arms)), values=clicks, arms=arms, metric=1)),
    )
    shares = made.shares()
    assert shares @ means(made)[1] == pytest.approx(250.0, abs=0.5)
    unbound = live(constraints=[{"metric": "latency_ms", "at_most": 400.0}])
    assert apply(unbound, costs(slow.tolist(), arms.tolist())).shares()[0] > 0.3


def test_a_missing_value_counts_as_zero_once_its_window_has_closed() -> None:
    made = live(attribution=ZERO)
    apply(made, exposed(0, [0, 0, 1, 1], [1_000] * 4), costs([300.0, 80.0], [0, 1], times_ms=1_000))
    assert made.next_close_ms() is not None
    made.apply(Offset(30_000, 0), Tick())
    assert means(made)[1] == pytest.approx([150.0, 40.0], rel=1e-3)
    assert made.next_close_ms() is None


def test_what_the_service_measures_is_never_missed() -> None:
    served = {**LATENCY, "source": "served"}
    made = live(metrics=[served, CLICK], attribution=ZERO)
    apply(made, exposed(0, [0, 0, 1, 1], [1_000] * 4), costs([300.0, 80.0], [0, 1], times_ms=1_000))
    made.apply(Offset(30_000, 0), Tick())
    assert means(made)[1] == pytest.approx([300.0, 80.0], rel=1e-3)


def test_without_zeros_what_is_missing_is_left_out() -> None:
    made = apply(live(), exposed(0, [0, 0, 1], [1_000] * 3), costs([300.0], [0], times_ms=1_000))
    made.apply(Offset(10**9, 0), Tick())
    known = means(made)[1]
    assert known[0] == pytest.approx(300.0)
    assert np.isnan(known[1])


def test_nothing_is_learned_of_the_holdout() -> None:
    made = live(policy={"kind": "thompson", "holdout": 0.2}, attribution=ZERO)
    rows = rewards([0, 1], values=[900.0, 100.0], metric=0, times_ms=1_000)
    rows["flags"][0] = HELD_OUT
    apply(made, Rewarded(rows))
    assert means(made)[1][0] == pytest.approx(100.0)


@pytest.mark.parametrize("missing", ["zero", "ignore"])
def test_values_are_revised(missing: str) -> None:
    made = live(attribution={"window": "10s", "missing": missing})
    apply(made, exposed(0, [0, 1], [1_000] * 2))
    first = made.offset.time_ms + 1
    apply(made, Revised(revisions([0], np.nan, 100.0, times_ms=1_000, metric=0)))
    apply(made, Revised(revisions([0], 100.0, 400.0, first, times_ms=1_000, metric=0)))
    assert means(made)[1][0] == pytest.approx(400.0, rel=1e-3)
    apply(made, Revised(revisions([0], 400.0, np.nan, first, times_ms=1_000, metric=0)))
    made.apply(Offset(30_000, 0), Tick())
    known = means(made)[1][0]
    assert known == pytest.approx(0.0) if missing == "zero" else np.isnan(known)


def test_what_was_learned_fades_with_the_policy() -> None:
    made = live(policy={"kind": "thompson", "half_life": "1s"})
    apply(made, costs([100.0] * 64, [0] * 64))
    made.apply(Offset(7_002, 0), costs([400.0], [0], first=64))
    assert 200.0 < means(made)[1][0] < 300.0
    endless = with_policy(made.experiment, PolicySpec(kind="thompson"))
    changed = Changed(record(endless, revision=2), Change("policy", "test"))
    before = means(made)[1][0]
    apply(made, changed)
    assert means(made)[1][0] == pytest.approx(before, rel=1e-6)
    made.apply(Offset(10**7, 0), Tick())
    assert means(made)[1][0] == pytest.approx(before, rel=1e-6)


def test_an_arm_may_come_later() -> None:
    made = apply(live(attribution=ZERO), costs([300.0, 100.0], [0, 1], times_ms=1_000))
    more = record(with_arm(made.experiment, Arm("c")), revision=2)
    apply(made, Changed(more, Change("add_arm", "test", arm="c")))
    assert len(made.shares()) == 3
    apply(made, costs([50.0], [2], first=2, times_ms=1_000))
    assert means(made)[1] == pytest.approx([300.0, 100.0, 50.0], rel=1e-2)


def test_a_state_goes_on_bit_for_bit() -> None:
    made = apply(live(attribution=ZERO), exposed(0, [0, 1], [1_000] * 2), costs([300.0], [0], times_ms=1_000))
    other = LiveExperiment.from_state(made.offset, made.state())
    for each in (made, other):
        apply(each, costs([70.0], [1], first=1, times_ms=1_000), Tick())
    assert made.state() == other.state()
    assert made.shares().tobytes() == other.shares().tobytes()
    assert made.shares().tobytes() == made.shares_apart(made.offset.time_ms)(made.active).tobytes()


def test_a_state_of_other_metrics_is_refused() -> None:
    made, other = live(), live(constraints=[{"metric": "spent", "at_most": 3.0}])
    state = made.state()
    assert LiveExperiment.from_state(made.offset, state).state() == state
    made.traded = other.traded
    with pytest.raises(UnreadableEntry):
        LiveExperiment.from_state(made.offset, made.state())


def test_a_change_of_constraints_is_no_entry_of_a_log() -> None:
    made = live()
    changed = experiment(metrics=[LATENCY, CLICK, SPENT])
    with pytest.raises(UnreadableEntry, match="constraints"):
        apply(made, Changed(record(changed, revision=2), Change("policy", "test")))


def test_other_experiments_keep_nothing_of_it() -> None:
    made = LiveExperiment(created(experiment(**description())))
    assert made.traded is None
    assert made.traded_means() is None
    assert b"traded" not in made.state()
