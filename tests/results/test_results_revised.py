"""Results of values that are sums of events: of any sequence of changes those of the values in the end."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from result_states import parts_of, state_of
from scale import scaled
from simulated_results import START_MS, exposed, record, revised, rewarded

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import FIRST, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.times import EARLY_REWARD_MS, GRACE_MS
from bandit_serve.policies.context import ContextField
from bandit_serve.results import Report, ResultsFold, report

NONE = math.nan
METRICS = (Metric(name="hit", kind="binary", role="objective"), Metric(name="worth", kind="continuous"))
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
WINDOW_MS = 10_000
N_ARMS = 3
VECTORS = np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])


def fold_of(unit: str, missing: str, kind: str = "fixed_split", metrics=METRICS, **fields) -> ResultsFold:
    about = record(
        N_ARMS,
        unit=unit,
        missing=missing,
        window=f"{WINDOW_MS}ms",
        metrics=metrics,
        policy=PolicySpec(kind=kind, min_share=0.05) if kind != "fixed_split" else None,
        **fields,
    )
    return ResultsFold(about)


class Traffic:
    """Decisions of one worker, exposed at once, and columns that say all of some of them."""

    def __init__(self, rng: np.random.Generator, n: int, *, n_units: int = 5) -> None:
        self.runs = [n // 2, n - n // 2]
        self.vectors = np.repeat([0, 1], self.runs)
        self.arms = np.array([rng.choice(N_ARMS, p=VECTORS[v]) for v in self.vectors])
        self.ages_ms = np.sort(rng.integers(0, 500, n))
        self.units = rng.integers(1, n_units + 1, n).astype(np.uint64)

    def exposure(self, unit: str):
        units = self.units if unit == "user" else None
        return exposed(0, self.arms, VECTORS, self.runs, ages_ms=self.ages_ms, units=units)

    def columns(self, some) -> dict:
        arms = self.arms[some]
        return {
            "counter": some,
            "arm": arms,
            "propensity": VECTORS[self.vectors[some], arms],
            "unit": self.units[some],
            "time_ms": START_MS + self.ages_ms[some],
        }


def values_for(rng: np.random.Generator, metric: int, n: int):
    """Values of which sums are exact."""
    return rng.integers(0, 2, n).astype(float) if metric == 0 else rng.integers(-40, 41, n) / 8.0


def play(fold, final, seed: int, unit: str, *, end_ms: int, early: bool = False):
    """Applies changes of values to one fold, and to the other what they are in the end alone; returns those."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    traffic = Traffic(rng, n)
    exposure, exposed_ms = traffic.exposure(unit), 1_500 if early else 0
    times = np.sort(rng.integers(600, end_ms, int(rng.integers(1, 14)))).tolist()
    values, since = np.full((2, n), NONE), np.full((2, n), FIRST)
    final.apply(Offset(START_MS, 0), exposure)
    seen = False
    for i, after_ms in enumerate(times):
        if not seen and after_ms >= exposed_ms:
            fold.apply(Offset(START_MS + exposed_ms, 0), exposure)
            seen = True
        m = int(rng.integers(2))
        some = np.sort(rng.permutation(n)[: rng.integers(1, n + 1)])
        new = np.where(rng.random(len(some)) < 0.35, NONE, values_for(rng, m, len(some)))
        changed = ~(np.isnan(new) & np.isnan(values[m, some]))
        some, new = some[changed], new[changed]
        if not len(some):
            continue
        event = revised(
            metric=m,
            value=new,
            former=values[m, some],
            since_ms=since[m, some],
            **traffic.columns(some),
        )
        fold.apply(Offset(START_MS + after_ms, i), event)
        since[m, some] = np.where(since[m, some] == FIRST, START_MS + after_ms, since[m, some])
        values[m, some] = new
        if rng.random() < 0.3:
            again = ResultsFold.from_state(fold.offset, fold.state())
            assert again.state() == fold.state()
            vars(fold).update(vars(again))
    if not seen:
        fold.apply(Offset(START_MS + max(exposed_ms, end_ms), 0), exposure)
    at_ms = START_MS + end_ms
    for m in range(2):
        there = np.flatnonzero(~np.isnan(values[m]))
        if len(there):
            final.apply(
                Offset(at_ms, m), rewarded(metric=m, value=values[m, there], **traffic.columns(there))
            )
    return values


def check_same(fold, final) -> None:
    assert fold.pending == final.pending
    for m in range(2):
        mine, its = fold.sums.of_metric(m), final.sums.of_metric(m)
        for name in ("n", "total", "analysed", "unfloored"):
            assert np.array_equal(mine[name], its[name]), (m, name, mine[name], its[name])
        # The first has no scores. Where that was taken back, all that are left have some.
        for name in ("eligible", "pair_eligible"):
            assert np.isin(mine[name] - its[name], (0, 1)).all(), name
        for name in ("balance", "spread", "inverse", "pair_weight", "pair_inverse"):
            if mine["eligible"].any() and name in ("inverse", "pair_weight", "pair_inverse"):
                # Which decision came first, and has no score, is another one.
                np.testing.assert_allclose(mine[name], its[name], atol=3.0 / VECTORS.min())
            else:
                np.testing.assert_allclose(mine[name], its[name], atol=1e-9, err_msg=name)
        n = np.maximum(mine["n"], 1)
        np.testing.assert_allclose(mine["m2"] / n, its["m2"] / n, rtol=1e-9, atol=1e-9)
        shift = mine["origin"] - its["origin"]
        np.testing.assert_allclose(mine["shifted"] + mine["n"] * shift, its["shifted"], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed_split", "lin_ts"])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("unit", "missing"), MODES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(10, 100), deadline=None)
def test_in_the_end_results_are_those_of_the_values_in_the_end(unit, missing, early, kind, seed):
    """Whether exposures come before the values or after some of them."""
    context = (ContextField(name="z", kind="numeric"),) if kind == "lin_ts" else ()
    fold, final = (fold_of(unit, missing, kind, context=context) for _ in range(2))
    play(fold, final, seed, unit, end_ms=WINDOW_MS - 500, early=early)
    for each in (fold, final):
        each.apply(Offset(START_MS + 3 * WINDOW_MS, 9), Tick())
    if not (early and unit == "user"):
        check_same(fold, final)
    assert ResultsFold.from_state(fold.offset, fold.state()).state() == fold.state()
    msgspec.json.encode(report(fold, fold.record, {}, fold.now_ms))


@pytest.mark.parametrize("unit", ["request", "user"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(10, 100), deadline=None)
def test_values_that_change_after_their_window_change_what_was_analysed(unit, seed):
    fold, final = fold_of(unit, "zero"), fold_of(unit, "zero")
    play(fold, final, seed, unit, end_ms=WINDOW_MS + GRACE_MS // 2)
    for each in (fold, final):
        each.apply(Offset(START_MS + 2 * WINDOW_MS + GRACE_MS, 9), Tick())
    check_same(fold, final)


@pytest.mark.parametrize("unit", ["request", "user"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(10, 100), deadline=None)
def test_before_the_close_nothing_but_the_values_in_the_end_is_analysed(unit, seed):
    """With a missing value that counts as zero, all sums are those of the last values, to the last bit."""
    fold, final = fold_of(unit, "zero"), fold_of(unit, "zero")
    play(fold, final, seed, unit, end_ms=WINDOW_MS - 500)
    n, total = fold.still_open()
    assert n.tolist() == final.still_open()[0].tolist()
    np.testing.assert_allclose(total, final.still_open()[1])
    for each in (fold, final):
        each.apply(Offset(START_MS + 3 * WINDOW_MS, 9), Tick())
    mine, its = fold.sums.state(), final.sums.state()
    for name, column in its.items():
        assert np.array_equal(mine[name], column), name


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_of_a_value_that_is_gone_and_comes_again_all_is_as_before(unit, missing):
    traffic = Traffic(np.random.default_rng(1), 12, n_units=100)
    traffic.units = np.arange(1, 13, dtype=np.uint64)
    fold = fold_of(unit, missing)
    fold.apply(Offset(START_MS, 0), traffic.exposure(unit))
    every = traffic.columns(np.arange(12))
    first = np.arange(12) / 4.0
    fold.apply(Offset(START_MS + 600, 0), revised(metric=1, value=first, **every))
    before = fold.sums.state()
    one = traffic.columns(np.array([7]))
    about = {"metric": 1, "since_ms": START_MS + 600, **one}
    fold.apply(Offset(START_MS + 700, 0), revised(value=NONE, former=first[7], **about))
    if missing == "ignore":
        assert fold.sums.counts().tolist() == [0, 11]
    fold.apply(Offset(START_MS + 800, 0), revised(value=first[7], former=NONE, **about))
    for name, column in fold.sums.state().items():
        if name not in ("peak", "score_peak"):
            np.testing.assert_allclose(column, before[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("unit", ["request", "user"])
def test_where_all_values_are_gone_nothing_is_left(unit):
    traffic = Traffic(np.random.default_rng(1), 9)
    fold, none = fold_of(unit, "ignore"), fold_of(unit, "ignore")
    for each in (fold, none):
        each.apply(Offset(START_MS, 0), traffic.exposure(unit))
    every = traffic.columns(np.arange(9))
    values = np.array([0.1, 0.7, -3.3, 1e9, 2.0, 1e-9, 0.3, 5.5, 7.7])
    fold.apply(Offset(START_MS + 600, 0), revised(metric=1, value=values, **every))
    assert fold.sums.counts().tolist() == [0, {"request": 9, "user": len(set(traffic.units))}[unit]]
    gone = revised(metric=1, value=NONE, former=values, since_ms=START_MS + 600, **every)
    fold.apply(Offset(START_MS + 700, 0), gone)
    expected = none.sums.state()
    for name, column in fold.sums.state().items():
        assert np.array_equal(column, expected[name]), name
    assert report(fold, fold.record, {}, 0).arms[0].metrics["worth"].n == 0


def test_a_unit_to_which_it_happened_no_more_is_a_zero():
    """Two decisions of a unit say that it happened; one is corrected, then the other."""
    arms = np.array([1, 1])
    fold = fold_of("user", "ignore")
    fold.apply(Offset(START_MS, 0), exposed(0, arms, VECTORS[:1], [2], units=np.array([4, 4], np.uint64)))
    of = {"arm": 1, "unit": 4, "propensity": 0.25}
    fold.apply(Offset(START_MS + 1, 0), revised(counter=np.arange(2), value=1.0, **of))
    assert fold.sums.of_metric(0)["total"].tolist() == [0.0, 1.0, 0.0]
    since = {"former": 1.0, "since_ms": START_MS + 1}
    fold.apply(Offset(START_MS + 2, 0), revised(counter=0, value=0.0, **since, **of))
    assert fold.sums.of_metric(0)["total"].tolist() == [0.0, 1.0, 0.0]
    fold = ResultsFold.from_state(fold.offset, fold.state())
    fold.apply(Offset(START_MS + 3, 0), revised(counter=1, value=0.0, **since, **of))
    assert fold.sums.of_metric(0)["total"].tolist() == [0.0, 0.0, 0.0]
    assert fold.sums.of_metric(0)["n"].tolist() == [0, 1, 0]
    fold.apply(
        Offset(START_MS + 4, 0), revised(counter=1, value=NONE, former=0.0, since_ms=START_MS + 1, **of)
    )
    assert fold.sums.of_metric(0)["n"].tolist() == [0, 1, 0]
    fold.apply(
        Offset(START_MS + 5, 0), revised(counter=0, value=NONE, former=0.0, since_ms=START_MS + 1, **of)
    )
    assert fold.sums.of_metric(0)["n"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("plain_first", [False, True])
def test_a_unit_with_a_reward_that_is_no_sum_of_events_stays(plain_first):
    fold = fold_of("user", "ignore")
    units = np.array([4, 4], np.uint64)
    fold.apply(Offset(START_MS, 0), exposed(0, np.array([1, 1]), VECTORS[:1], [2], units=units))
    of = {"arm": 1, "unit": 4, "propensity": 0.25}
    for m, value in ((0, 1.0), (1, 2.5)):
        plain = rewarded(counter=0, metric=m, value=value, **of)
        by_event = revised(counter=1, metric=m, value=1.0, **of)
        for event in (plain, by_event) if plain_first else (by_event, plain):
            fold.apply(Offset(START_MS + 1, 0), event)
    assert [fold.sums.of_metric(m)["total"][1] for m in (0, 1)] == [1.0, 3.5]
    fold = ResultsFold.from_state(fold.offset, fold.state())
    for m in (0, 1):
        gone = revised(counter=1, metric=m, value=NONE, former=1.0, since_ms=START_MS + 1, **of)
        fold.apply(Offset(START_MS + 2, 0), gone)
    assert [fold.sums.of_metric(m)["total"][1] for m in (0, 1)] == [1.0, 2.5]
    assert fold.sums.counts().tolist() == [1, 1]


def test_a_unit_with_more_values_than_are_counted_stays():
    n = 300
    fold = fold_of("user", "ignore")
    units = np.full(n, 4, np.uint64)
    fold.apply(Offset(START_MS, 0), exposed(0, np.ones(n, int), VECTORS[:1], [n], units=units))
    of = {"counter": np.arange(n), "arm": 1, "unit": 4, "propensity": 0.25, "metric": 1}
    fold.apply(Offset(START_MS + 1, 0), revised(value=1.0, **of))
    fold.apply(Offset(START_MS + 2, 0), revised(value=NONE, former=1.0, since_ms=START_MS + 1, **of))
    assert fold.sums.of_metric(1)["n"].tolist() == [0, 1, 0]
    assert fold.sums.of_metric(1)["total"].tolist() == [0.0, 0.0, 0.0]


def test_a_unit_of_a_contextual_policy_may_leave_all_metrics_and_come_again():
    """Its shares are not dropped when it has entered all of them."""
    fold = fold_of("user", "ignore", "lin_ts", context=(ContextField(name="z", kind="numeric"),))
    units = np.array([4, 5], np.uint64)
    fold.apply(Offset(START_MS, 0), exposed(0, np.array([1, 0]), VECTORS[:1], [2], units=units))
    of = {"counter": 0, "arm": 1, "unit": 4, "propensity": 0.25}
    since_ms = START_MS + 1
    for m in (0, 1):
        fold.apply(Offset(START_MS + 1, 0), revised(metric=m, value=1.0, **of))
    for m in (0, 1):
        fold.apply(
            Offset(START_MS + 2, 0), revised(metric=m, value=NONE, former=1.0, since_ms=since_ms, **of)
        )
    assert fold.sums.counts().tolist() == [0, 0]
    for m in (0, 1):
        fold.apply(
            Offset(START_MS + 3, 0), revised(metric=m, value=1.0, former=NONE, since_ms=since_ms, **of)
        )
    assert fold.sums.of_metric(1)["total"].tolist() == [0.0, 1.0, 0.0]
    assert ResultsFold.from_state(START, fold.state()).state() == fold.state()


def test_changes_wait_with_what_they_change_for_the_exposure():
    fold = fold_of("request", "ignore")
    of = {"counter": 0, "arm": 1, "metric": 1, "propensity": 0.25}
    fold.apply(Offset(START_MS, 0), revised(value=1.0, **of))
    fold.apply(Offset(START_MS, 1), revised(value=4.0, former=1.0, since_ms=START_MS, **of))
    fold.apply(Offset(START_MS, 2), revised(value=NONE, former=4.0, since_ms=START_MS, **of))
    fold.apply(Offset(START_MS, 3), revised(value=2.0, former=NONE, since_ms=START_MS, **of))
    assert fold.sums.counts().tolist() == [0, 0]
    assert fold.complete().sums.of_metric(1)["total"].tolist() == [0.0, 2.0, 0.0]
    assert fold.sums.counts().tolist() == [0, 0]
    fold = ResultsFold.from_state(fold.offset, fold.state())
    fold.apply(Offset(START_MS + 100, 0), exposed(0, np.array([1]), VECTORS[:1], [1]))
    assert fold.sums.of_metric(1)["total"].tolist() == [0.0, 2.0, 0.0]
    assert fold.sums.of_metric(1)["split"].tolist() == VECTORS[0].tolist()


def test_changes_of_a_decision_whose_worker_was_lost_keep_their_order():
    fold = fold_of("request", "ignore")
    of = {"counter": 0, "arm": 1, "metric": 1, "propensity": 0.25}
    fold.apply(Offset(START_MS, 0), revised(value=1.0, **of))
    fold.apply(Offset(START_MS + 9_000, 0), revised(value=4.0, former=1.0, since_ms=START_MS, **of))
    fold.apply(Offset(START_MS + EARLY_REWARD_MS + 1, 0), Tick())
    assert fold.sums.of_metric(1)["total"].tolist() == [0.0, 1.0, 0.0]
    later = revised(value=NONE, former=4.0, since_ms=START_MS, **of)
    fold.apply(Offset(START_MS + EARLY_REWARD_MS + 2, 0), later)
    fold.apply(Offset(START_MS + 3 * EARLY_REWARD_MS, 0), Tick())
    assert fold.sums.counts().tolist() == [0, 0]


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_states_of_before_values_changed_are_read(missing):
    traffic = Traffic(np.random.default_rng(2), 20)
    fold = fold_of("user", missing)
    fold.apply(Offset(START_MS, 0), traffic.exposure("user"))
    every = traffic.columns(np.arange(20))
    fold.apply(Offset(START_MS + 600, 0), rewarded(value=1.0, **every))
    about, parts = parts_of(fold.state())
    for name in ("counting", "present"):
        del parts["decisions"][name]
    del parts["early"]["revised"]
    again = ResultsFold.from_state(fold.offset, state_of(about, parts))
    assert again.state() == fold.state()
    change = revised(value=NONE, former=1.0, since_ms=START_MS + 600, **traffic.columns(np.array([3])))
    for each in (fold, again):
        each.apply(Offset(START_MS + 700, 0), change)
    assert again.state() == fold.state()


def test_states_that_do_not_count_the_values_of_all_units_are_refused():
    fold = fold_of("user", "ignore")
    fold.apply(Offset(START_MS, 0), revised(counter=0, arm=1, unit=4, propensity=0.25, value=1.0))
    fold.apply(Offset(START_MS + EARLY_REWARD_MS + 1, 0), Tick())
    about, parts = parts_of(fold.state())
    parts["decisions"]["present"] = parts["decisions"]["present"][:0]
    with pytest.raises(UnreadableEntry, match="count the values"):
        ResultsFold.from_state(START, state_of(about, parts))


def test_an_interval_of_first_values_is_given_up_where_one_changes():
    fold = fold_of("request", "ignore")
    traffic = Traffic(np.random.default_rng(2), 20)
    fold.apply(Offset(START_MS, 0), traffic.exposure("request"))
    fold.apply(Offset(START_MS + 600, 0), revised(value=1.0, **traffic.columns(np.arange(20))))
    arm = int(traffic.arms[3])
    assert fold.beginning(0, arm) is not None
    one = traffic.columns(np.array([3]))
    fold.apply(Offset(START_MS + 700, 0), revised(value=NONE, former=1.0, since_ms=START_MS + 600, **one))
    assert fold.beginning(0, arm) is None


def test_withdrawn_decisions_leave_no_negative_variance():
    rng = np.random.default_rng(5)
    n = 400
    traffic = Traffic(rng, n)
    fold = fold_of("request", "ignore", "thompson")
    fold.apply(Offset(START_MS, 0), traffic.exposure("request"))
    values = rng.lognormal(0.0, 2.0, n)
    fold.apply(Offset(START_MS + 600, 0), revised(metric=1, value=values, **traffic.columns(np.arange(n))))
    for i, some in enumerate(np.array_split(rng.permutation(n), 40)):
        some = np.sort(some)
        gone = revised(
            metric=1,
            value=NONE,
            former=values[some],
            since_ms=START_MS + 600,
            **traffic.columns(some),
        )
        fold.apply(Offset(START_MS + 700 + i, 0), gone)
        sums = fold.sums.of_metric(1)
        for name in ("m2", "square", "residual", "inverse", "pair_weight", "pair_square", "spread"):
            assert (np.asarray(sums[name]) >= 0.0).all(), name
        msgspec.json.encode(report(fold, fold.record, {}, 0))
    assert fold.sums.counts().tolist() == [0, 0]


NUMBERS = st.floats(-1e18, 1e18).filter(lambda x: x == 0.0 or abs(x) > 1e-10)


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@given(
    changes=st.lists(st.tuples(st.integers(0, 3), NUMBERS | st.just(NONE)), min_size=1, max_size=30),
    again_at=st.integers(0, 30),
)
@example(changes=[(0, 0.37), (1, 1e17), (1, 1.0)], again_at=2)
@example(changes=[(0, 1.7e12), (0, 0.1)], again_at=1)
@example(changes=[(0, 0.1), (1, 0.3), (2, 1e17), (3, 0.7), (2, NONE)], again_at=3)
@settings(max_examples=200, deadline=None)
def test_a_units_value_is_the_rounded_sum_of_its_decisions_in_the_end(missing, changes, again_at):
    """To the last bit, in any order and also from a snapshot, of numbers from 1e-10 to 1e18."""
    fold = fold_of("user", missing)
    units = np.full(5, 4, np.uint64)
    fold.apply(Offset(START_MS, 0), exposed(0, np.full(5, 1), VECTORS[:1], [5], units=units))
    of = {"arm": 1, "unit": 4, "propensity": 0.25, "metric": 1}
    values = [NONE] * 4
    # A further decision of 0, which stays, so that the unit does.
    fold.apply(Offset(START_MS, 1), revised(counter=4, value=0.0, **of))
    for i, (counter, value) in enumerate(changes):
        if i == again_at:
            fold = ResultsFold.from_state(fold.offset, fold.state())
        if math.isnan(value) and math.isnan(values[counter]):
            continue
        change = revised(
            counter=counter, value=value, former=values[counter], since_ms=START_MS if i else FIRST, **of
        )
        fold.apply(Offset(START_MS + 1 + i, 0), change)
        values[counter] = value
    expected = math.fsum(value for value in values if not math.isnan(value))
    _, parts = parts_of(fold.state())
    assert parts["decisions"]["values"][0, 1] == expected


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("kind", ["fixed_split", "thompson"])
@pytest.mark.parametrize(("typo", "kept"), [(1e5, True), (1e12, False), (1e18, False), (1e80, False)])
def test_of_a_corrected_typo_nothing_is_left_or_nothing_is_said(unit, kind, typo, kept):
    """Others come while it stands. Arms do not differ."""
    rng = np.random.default_rng(3)
    n = 900
    traffic = Traffic(rng, n, n_units=1)
    traffic.units = np.arange(1, n + 1, dtype=np.uint64)
    worth = (Metric(name="worth", kind="continuous", role="objective"),)
    fold, final = (fold_of(unit, "ignore", kind, metrics=worth) for _ in range(2))
    values = rng.normal(10.0, 1.0, n)
    wrong = np.where(np.arange(n) == 300, typo, values)
    for each in (fold, final):
        each.apply(Offset(START_MS, 0), traffic.exposure(unit))
    for first in range(0, n, 100):
        some = np.arange(first, first + 100)
        for each, column in ((fold, wrong), (final, values)):
            each.apply(
                Offset(START_MS + 600 + first, 0),
                revised(value=column[some], **traffic.columns(some)),
            )
    one = {"since_ms": START_MS + 900, **traffic.columns(np.array([300]))}
    fold.apply(Offset(START_MS + 2_000, 0), revised(value=values[300], former=typo, **one))
    mine, its = (report(each, each.record, {}, START_MS + 2_000) for each in (fold, final))
    assert mine.winner is None
    assert ("have lost the digits" in mine.reason) != kept
    for of_arm, should in zip(mine.arms, its.arms, strict=True):
        row, expected = of_arm.metrics["worth"], should.metrics["worth"]
        assert row.n == expected.n
        if kept:
            assert row.mean == pytest.approx(expected.mean, rel=1e-9)
            assert row.std == pytest.approx(expected.std, rel=1e-3)
            assert row.interval is not None
        else:
            assert (row.interval, row.difference_interval, row.p_value) == (None, None, None)
    lost = [row.metrics["worth"].mean is None for row in mine.arms]
    assert sum(lost) == (0 if kept else 1)


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("again", [False, True])
def test_scores_of_values_that_changed_are_those_of_the_values_in_the_end(unit, again):
    """With shares that move, and sums of squares, too: both folds score the second half around the first's means."""
    rng = np.random.default_rng(8)
    n = 400
    traffic = Traffic(rng, n)
    traffic.units = np.arange(1, n + 1, dtype=np.uint64)
    traffic.ages_ms = np.minimum(np.arange(n), n // 2)
    fold, final = fold_of(unit, "ignore", "thompson"), fold_of(unit, "ignore", "thompson")
    first, final_values = rng.normal(5.0, 1.0, (2, n))
    gone = rng.random(n) < 0.2
    early, late = np.arange(n // 2), np.arange(n // 2, n)
    stays = late[~gone[late]]
    for each in (fold, final):
        each.apply(Offset(START_MS, 0), traffic.exposure(unit))
        each.apply(Offset(START_MS + 600, 0), revised(metric=1, value=first[early], **traffic.columns(early)))
    fold.apply(Offset(START_MS + 700, 0), revised(metric=1, value=first[late], **traffic.columns(late)))
    if again:
        fold = ResultsFold.from_state(fold.offset, fold.state())
    end = np.where(gone, NONE, final_values)[late]
    changes = revised(
        metric=1, value=end, former=first[late], since_ms=START_MS + 700, **traffic.columns(late)
    )
    fold.apply(Offset(START_MS + 800, 0), changes)
    final.apply(
        Offset(START_MS + 700, 0), revised(metric=1, value=final_values[stays], **traffic.columns(stays))
    )
    expected = final.sums.of_metric(1)
    assert expected["moved"] == 1
    for name, column in fold.sums.of_metric(1).items():
        if name not in ("peak", "score_peak", "latest_ms"):
            np.testing.assert_allclose(column, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("end", [1.0, NONE])
def test_where_all_failures_are_corrected_no_difference_is_shown_of_arms_without_one(end):
    """Shares drift, and in the end every value is 1."""
    excluded = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fold = fold_of("request", "ignore", "thompson")
        share, of = 0.4, {"metric": 0}
        for block in range(20):
            share = float(np.clip(share + rng.normal(0.0, 0.1), 0.1, 0.6))
            shares = np.array([0.8 - share, share, 0.2])
            arms, values = rng.choice(3, 100, p=shares), (rng.random(100) < 0.3).astype(float)
            counters, made_ms = block * 100 + np.arange(100), START_MS + 20 * block
            exposure = exposed(block * 100, arms, shares[None], [100], time_ms=made_ms)
            fold.apply(Offset(made_ms, 0), exposure)
            of = {"arm": arms, "propensity": shares[arms], "counter": counters, "time_ms": made_ms}
            fold.apply(Offset(made_ms + 5, 0), revised(value=values, **of))
            low = {name: np.asarray(of[name])[values == 0] for name in ("arm", "propensity", "counter")}
            change = revised(value=end, former=0.0, since_ms=made_ms + 5, time_ms=made_ms, **low)
            fold.apply(Offset(made_ms + 10, 0), change)
        intervals = [arm.metrics["hit"].difference_interval for arm in report(fold, fold.record, {}, 0).arms]
        assert [interval is None for interval in intervals] == [True, False, False]
        excluded += any(interval and not interval[0] <= 0.0 <= interval[1] for interval in intervals)
    assert excluded <= 1


def course(unit: str, values: list[list[float]]) -> Report:
    """Report after decisions whose values took these courses, one step of each at a time."""
    worth = (Metric(name="worth", kind="continuous", role="objective"),)
    n = len(values)
    traffic = Traffic(np.random.default_rng(3), n)
    traffic.units = np.arange(1, n + 1, dtype=np.uint64)
    traffic.arms[:] = 0
    fold = fold_of(unit, "ignore", metrics=worth)
    fold.apply(Offset(START_MS, 0), traffic.exposure(unit))
    former = np.full(n, np.nan)
    for step in range(max(map(len, values))):
        some = np.array([i for i in range(n) if step < len(values[i])])
        now = np.array([values[i][step] for i in some])
        since = {} if step == 0 else {"since_ms": START_MS + 600, "former": former[some]}
        fold.apply(Offset(START_MS + 600 + step, 0), revised(value=now, **since, **traffic.columns(some)))
        former[some] = now
    return report(fold, fold.record, {}, START_MS + 2_000)


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize(
    "values",
    [
        [[25.0, 20.0, 25.0, 5.0, 8.0]],
        [[30.0, 0.0], [7.0, 0.0], [19.99, 0.0]],
        [[0.0, 12.5], [40.0, 12.5], [12.5]],
        [[1e3, 1.0], [1.0], [1.0]],
    ],
)
def test_values_that_are_few_or_alike_keep_their_mean(unit, values):
    row = course(unit, values).arms[0].metrics["worth"]
    assert row.n == len(values)
    assert row.mean == pytest.approx(math.fsum(each[-1] for each in values) / len(values), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("typo", [1e9, 1e13, 1e17, 1e30, 1e80])
@pytest.mark.parametrize("place", [0, 1, 39])
@pytest.mark.parametrize("before", [[], [0.37]])
def test_whatever_course_a_typo_took_the_mean_is_right_or_nothing_is_said(unit, typo, place, before):
    rng = np.random.default_rng(place)
    values = [[value] for value in rng.normal(1.37, 0.5, 40).tolist()]
    values[place] = [*before, typo, *values[place]]
    for some in (values, [values[place]]):
        row = course(unit, some).arms[0].metrics["worth"]
        assert row.n == len(some)
        expected = math.fsum(each[-1] for each in some) / len(some)
        assert row.mean is None or row.mean == pytest.approx(expected, rel=1e-3)
        assert row.mean is None or typo < 1e17
