"""Exact intervals of an arm's first observations, from the log to the report."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_betting import BINARY, SQUARES
from result_states import parts_of, state_of
from scale import scaled
from simulated_results import (
    START_MS,
    Play,
    beta_shares,
    exposed,
    random_log,
    record,
    rewarded,
    with_arm,
)

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.checks import with_policy
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import Change, Changed, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.betting import mean_interval

METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))
EVEN = np.array([0.5, 0.5])


def report_of(fold: ResultsFold):
    return report(fold, fold.record, {}, START_MS)


def interval(fold: ResultsFold, arm: int = 0):
    return report_of(fold).arms[arm].metrics["m"].interval


def fold_of(about: Record, values, *, arm: int = 0, fold: ResultsFold | None = None, first: int = 0):
    """A fold to which one arm has brought these values, in this order, by an even split."""
    fold = ResultsFold(about) if fold is None else fold
    n = len(values)
    shares = np.full((1, len(about.experiment.arms)), 1 / len(about.experiment.arms))
    fold.apply(Offset(START_MS, 0), exposed(first, np.full(n, arm), shares, [n]))
    counters = (first + np.arange(n)).astype(np.uint64)
    fold.apply(
        Offset(START_MS, 0),
        rewarded(counter=counters, arm=np.full(n, arm), value=values, propensity=shares[0, arm]),
    )
    return fold


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("binary", BINARY[:30], (0.0, 0.3227)),
        ("binary", BINARY[:100], (0.0193, 0.1782)),
        ("binary", BINARY, (0.0262, 0.1380)),
        ("bounded", SQUARES[:10], (0.1266, 0.6700)),
        ("bounded", SQUARES, (0.2437, 0.3726)),
        ("continuous", SQUARES[:30], None),
        ("binary", BINARY[:1], None),
    ],
)
def test_the_known_values_come_out_of_a_log(kind, values, expected) -> None:
    bounds = interval(fold_of(record(2, kind), values))
    assert bounds == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_a_bounded_metric_has_its_own_bounds_and_0_where_that_is_what_is_missing() -> None:
    metric = Metric(name="m", kind="bounded", low=-10.0, high=10.0)
    bounds = interval(fold_of(record(metrics=(metric,)), 20 * SQUARES[:30] - 10))
    assert bounds == pytest.approx((20 * 0.1672 - 10, 20 * 0.4625 - 10), abs=1e-6)
    metrics = (
        Metric(name="m", kind="bounded", low=2.0, high=4.0),
        Metric(name="o", kind="binary", role="objective"),
    )
    about = record(metrics=metrics, missing="zero", window="1s")
    fold = fold_of(about, 2 + 2 * SQUARES[:30])
    fold.apply(Offset(START_MS + 10_000, 0), Tick())
    low, high = interval(fold)
    assert 0 < low < high < 4
    assert (low, high) == mean_interval(2 + 2 * SQUARES[:30], 0.0, 4.0, 0.05)


def test_exact_up_to_a_thousand_then_asymptotic_whatever_came_out() -> None:
    values = (np.random.default_rng(1).random(1_001) < 0.1).astype(float)
    fold = fold_of(record(2), values[:1_000])
    assert interval(fold) == mean_interval(values[:1_000], 0.0, 1.0, 0.05)
    assert "interval of a is exact" in report_of(fold).reason
    fold_of(fold.record, values[1_000:], fold=fold, first=1_000)
    low, high = interval(fold)
    assert 0.0 < low < values.mean() < high < 1.0
    assert values.mean() - low < high - values.mean(), "the tail is above"
    assert "exact" not in report_of(fold).reason


@settings(max_examples=scaled(60, 2_000), deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 60)), min_size=1, max_size=6))
def test_a_mean_is_never_beside_its_interval(runs: list[tuple[float, int]]) -> None:
    """Also where values come in an order that no chance would give."""
    values = np.concatenate([np.full(n, value) for value, n in runs])
    fold = fold_of(record(2, "bounded"), values)
    row = report_of(fold).arms[0].metrics["m"]
    found = mean_interval(values, 0.0, 1.0, 0.05)
    if row.interval is not None and found is not None and len(values) <= 1_000:
        low, high = row.interval
        assert low <= row.mean <= high
        assert (low, high) == (min(found[0], row.mean), max(found[1], row.mean)), "and no wider than that"


def test_successes_that_all_come_first_do_not_move_the_interval_off_the_mean() -> None:
    values = np.concatenate([np.ones(30), np.zeros(74)])
    row = report_of(fold_of(record(2), values)).arms[0].metrics["m"]
    exact = mean_interval(values, 0.0, 1.0, 0.05)
    assert exact is not None
    assert exact[0] > row.mean, "one mean at all times would not do this"
    assert row.interval == (row.mean, exact[1])


def test_metrics_beside_the_objective_say_why_they_have_no_interval() -> None:
    fold = fold_of(record(metrics=METRICS), np.concatenate([np.ones(30), np.zeros(30)]))
    assert "no interval for some arms on worth: fewer than 50 observations" in report_of(fold).reason


def test_a_comparison_wants_more_than_an_interval() -> None:
    fold = fold_of(record(2), BINARY[:49])
    fold_of(fold.record, BINARY, arm=1, fold=fold, first=49)
    shown = report_of(fold)
    rows = [arm.metrics["m"] for arm in shown.arms]
    assert None not in [row.interval for row in rows]
    assert rows[1].difference is not None
    assert rows[1].difference_interval is rows[1].p_value is None
    assert "no comparison with a: fewer than 50 observations" in shown.reason


@pytest.mark.parametrize("policy", [PolicySpec(kind="lin_ts"), PolicySpec(kind="squarecb")])
def test_there_is_none_where_a_context_decides(policy) -> None:
    """What an arm gets is then not of the kind that all are. Also when that policy comes, or goes, later."""
    split = PolicySpec(kind="fixed_split")
    fold = fold_of(record(2, policy=policy), BINARY[:40])
    assert interval(fold) is None
    assert "no interval for a" in report_of(fold).reason
    changed = msgspec.structs.replace(
        fold.record, experiment=with_policy(fold.record.experiment, split), revision=3
    )
    fold.apply(Offset(START_MS, 0), Changed(changed, Change("change_policy", "me")))
    assert interval(fold_of(changed, BINARY[:5], fold=fold, first=40)) is None
    fold = fold_of(record(2, policy=split), BINARY[:40])
    assert interval(fold) is not None
    changed = msgspec.structs.replace(
        fold.record, experiment=with_policy(fold.record.experiment, policy), revision=3
    )
    fold.apply(Offset(START_MS, 0), Changed(changed, Change("change_policy", "me")))
    assert interval(fold) is None


def test_there_is_none_where_requests_differ_in_the_arms_that_they_may_get() -> None:
    fold = fold_of(record(3), BINARY[:40])
    assert interval(fold) is not None
    only = np.array([[0.5, 0.5, 0.0]])
    fold.apply(Offset(START_MS, 0), exposed(40, np.array([0]), only, [1]))
    fold.apply(Offset(START_MS, 0), rewarded(counter=[40], arm=[0], value=[1.0], propensity=0.5))
    assert interval(fold) is None


def test_there_is_none_when_an_arm_comes_between() -> None:
    fold = fold_of(record(2), BINARY[:40])
    about = with_arm(fold.record, "c")
    fold.apply(Offset(START_MS, 0), Changed(about, Change("add_arm", "me")))
    assert interval(fold) is not None
    fold_of(about, BINARY[:3], fold=fold, first=40)
    assert [interval(fold, arm) for arm in range(3)] == [None] * 3
    assert ResultsFold.from_state(fold.offset, fold.state()).state() == fold.state()


def test_a_unit_whose_value_changes_ends_it_for_its_arm() -> None:
    about = record(2, unit="user", missing="ignore")
    fold = ResultsFold(about)
    units = np.arange(40, dtype=np.uint64)
    arms = np.arange(40) % 2
    fold.apply(Offset(START_MS, 0), exposed(0, arms, EVEN[None], [40], units=units))
    fold.apply(
        Offset(START_MS, 0),
        rewarded(counter=np.arange(40), arm=arms, value=BINARY[:40], propensity=0.5, unit=units),
    )
    assert interval(fold, 0) == mean_interval(BINARY[:40:2], 0.0, 1.0, 0.05)
    again = rewarded(counter=[100, 101], arm=[0, 1], value=[1.0, 0.0], propensity=0.5, unit=units[:2])
    fold.apply(Offset(START_MS, 0), again)
    assert BINARY[0] == 0
    assert interval(fold, 0) is None
    assert interval(fold, 1) == mean_interval(BINARY[1:40:2], 0.0, 1.0, 0.05)


@pytest.mark.parametrize(
    ("unit", "missing"), [(u, m) for u in ("request", "user") for m in ("ignore", "zero")]
)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_what_is_kept_is_what_the_sums_are_of(unit, missing, seed) -> None:
    fold = ResultsFold(record(3, unit=unit, missing=missing, window="500ms", metrics=METRICS))
    log = random_log(np.random.default_rng(seed), 3, 2, 500)
    for time_ms, event in [*log, (log[-1][0] + 2000, Tick())]:
        fold.apply(Offset(time_ms, 0), event)
        sums = fold.sums.of_metric(0)
        for arm in range(3):
            values = fold.beginning(0, arm)
            assert fold.beginning(1, arm) is None, "nothing bounds it"
            if values is not None:
                assert len(values) == sums["n"][arm]
                assert values.sum() == sums["total"][arm]


def test_a_snapshot_of_a_build_that_kept_no_values_is_read() -> None:
    fold = fold_of(record(2), BINARY[:40])
    about, columns = parts_of(fold.state())
    assert len(columns["beginnings"]["values"]) == 40
    del columns["beginnings"]
    former = ResultsFold.from_state(START, state_of(about, columns))
    assert interval(former) is None
    fold_of(fold.record, BINARY, fold=former, first=40)
    assert interval(former) is not None, "asymptotic"
    assert former.sums.of_metric(0)["n"][0] == 240


@pytest.mark.parametrize(
    ("column", "damage"),
    [
        ("values", lambda column: column[:-1]),
        ("counts", lambda column: column + 1),
        ("counts", lambda column: column - 50),
        ("counts", lambda column: column + 2_000),
    ],
)
def test_a_damaged_snapshot_is_refused(column, damage) -> None:
    about, columns = parts_of(fold_of(record(2), BINARY[:40]).state())
    columns["beginnings"][column] = damage(columns["beginnings"][column])
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(START, state_of(about, columns))


@pytest.mark.parametrize("mean", [0.1, 0.01, *([0.5, 0.001] if scaled(0, 1) else [])])
@pytest.mark.parametrize("adaptive", [False, True])
def test_from_the_second_observation_to_the_end_it_misses_in_at_most_one_of_twenty(mean, adaptive) -> None:
    """One arm by a split or by Thompson, looked at from 2 observations to some thousands: both kinds of interval."""
    runs = scaled(12, 400)
    looks = np.unique(np.geomspace(4, scaled(3_000, 20_000), scaled(12, 60)).astype(int))
    policy = PolicySpec(kind="thompson", min_share=0.05) if adaptive else None
    missed, seen = 0, 0
    for run in range(runs):
        play = Play(
            ResultsFold(record(policy=policy)),
            np.random.default_rng([30, run]),
            lambda rng, k, n: (rng.random(n) < mean).astype(float),
        )
        tried, won, ever = np.zeros(2), np.zeros(2), False
        for n in np.diff(looks, prepend=0):
            play.step(beta_shares(won, tried, 0.05) if adaptive else EVEN, int(n))
            tried += np.bincount(play.arms[-1], minlength=2)
            won += np.bincount(play.arms[-1], play.values[-1], minlength=2)
            bounds = interval(play.fold)
            seen += bounds is not None
            ever |= bounds is not None and not bounds[0] <= mean <= bounds[1]
        missed += ever
    assert seen > 0.8 * len(looks) * runs
    assert missed / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
