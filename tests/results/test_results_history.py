"""History of results: points of past looks that the fold keeps, as a fold that ended there would have reported."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_states import parts_of, state_of
from scale import scaled
from simulated_results import (
    START_MS,
    Play,
    bernoulli,
    drawn_shares,
    exposed,
    random_log,
    record,
    rewarded,
    with_arm,
)

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import Change, Changed, Exposed, Rewarded, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold, TimelineChange, report, results_history, timeline
from bandit_serve.results import history as kept
from bandit_serve.results.history import MAX_POINTS, MIN_CELL_MS, PastResults
from bandit_serve.results.point import point_of

METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
WINDOW_MS = 500


def mixed(unit="request", missing="ignore", **fields):
    return record(3, unit=unit, missing=missing, window=f"{WINDOW_MS}ms", metrics=METRICS, **fields)


def played(fold, log):
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
    return fold


def json_of(answer):
    return msgspec.json.decode(msgspec.json.encode(answer))


def steady(n, n_arms=2, every_ms=MIN_CELL_MS, start_ms=START_MS, rate=0.2, seed=0):
    """A log of n entries of exposures, each with a reward of some of them."""
    rng = np.random.default_rng(seed)
    shares = np.full((1, n_arms), 1 / n_arms)
    log = []
    for i in range(n):
        arms = rng.integers(0, n_arms, 4)
        at = start_ms + i * every_ms
        log.append((at, exposed(4 * i, arms, shares, [4], time_ms=at)))
        values = (rng.random(4) < rate).astype(float)
        about = {"counter": 4 * i + np.arange(4), "arm": arms, "value": values, "time_ms": at}
        log.append((at, rewarded(propensity=1 / n_arms, **about)))
    return log


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_every_point_is_what_a_report_at_its_time_said(unit, missing):
    log = stretched(random_log(np.random.default_rng(3), 3, 2, WINDOW_MS, steps=60))
    fold, said = ResultsFold(mixed(unit, missing)), {}
    for (time_ms, event), (next_ms, _) in pairwise(log):
        fold.apply(Offset(time_ms, 0), event)
        if next_ms // MIN_CELL_MS > time_ms // MIN_CELL_MS:
            said[time_ms] = json_of(report(without_early(fold), fold.record, {}, 0))
    history = json_of(results_history(fold))
    assert len(history["at"]) > 20
    for i, at_ms in enumerate(fold.history.column("at_ms").tolist()):
        for arm in said[at_ms]["arms"]:
            mine = history["arms"][arm["name"]]
            assert mine["exposures"][i] == arm["exposures"]
            for name, result in arm["metrics"].items():
                for field in ("n", "mean", "interval", "difference", "difference_interval", "p_value"):
                    assert mine["metrics"][name][field][i] == result[field], (name, field)
    assert any(history["arms"]["a"]["metrics"]["worth"]["mean"])


def stretched(log, times=10):
    return [(START_MS + times * (time_ms - START_MS), event) for time_ms, event in log]


def without_early(fold):
    """The fold as its points see it: rewards whose exposures are on their way count later."""
    copy = ResultsFold.from_state(fold.offset, fold.state())
    copy.complete = lambda: copy
    return copy


def test_the_last_point_is_the_present_report():
    fold = played(ResultsFold(record(2)), steady(400))
    history, now = json_of(results_history(fold)), json_of(report(fold, fold.record, {}, 0))
    for arm in now["arms"]:
        mine = history["arms"][arm["name"]]
        assert mine["exposures"][-1] == arm["exposures"]
        for field in ("n", "mean", "interval", "difference", "difference_interval", "p_value"):
            assert mine["metrics"]["m"][field][-1] == arm["metrics"]["m"][field]
    assert now["arms"][1]["metrics"]["m"]["difference_interval"] is not None
    log_e, p = (history["arms"]["b"]["metrics"]["m"][name] for name in ("log_e", "p_value"))
    assert p[-1] == pytest.approx(min(1, np.exp(-log_e[-1])))
    assert log_e[0] is None


@pytest.mark.parametrize("n", [3, MAX_POINTS + 1, MAX_POINTS + 2, 1_700])
def test_points_are_the_last_states_of_even_cells(n):
    log = steady(n, rate=0.5)
    fold = played(ResultsFold(record(2)), log)
    cell_ms = int(fold.history.state()["cell_ms"][0])
    at = fold.history.column("at_ms").tolist()
    times = sorted({time_ms for time_ms, _ in log})
    last = [a for a, b in pairwise(times) if a // cell_ms != b // cell_ms]
    # Where cells have just become longer, one more is in the cell that has not ended.
    assert at[: len(last)] == last
    assert len(at) - len(last) <= 1
    assert len({each // cell_ms for each in at}) == len(at)
    assert len(at) <= MAX_POINTS
    assert (n <= MAX_POINTS + 1) == (cell_ms == MIN_CELL_MS)
    assert n < 4 or len(at) > 3 * MAX_POINTS // 8


def test_quiet_times_and_bursts_are_no_points():
    fold = ResultsFold(record(2))
    log = [*steady(3, every_ms=1), *steady(3, start_ms=START_MS + 86_400_000)]
    played(fold, [(START_MS - 9_000, Tick()), (START_MS - 5_000, Tick())])
    played(fold, [(time_ms, event) for time_ms, event in log if isinstance(event, Exposed)][:4])
    assert fold.history.column("at_ms").tolist() == [START_MS + 2]
    assert fold.history.column("exposures").sum(axis=1).tolist() == [12]


def test_shares_are_means_of_what_was_drawn_from_since_the_point_before():
    fold, at = ResultsFold(record(2)), START_MS
    drawn = [([[0.5, 0.5]], [4]), ([[0.9, 0.1], [0.5, 0.5]], [1, 3]), ([[0.2, 0.8]], [4])]
    for i, (vectors, runs) in enumerate(drawn):
        about = exposed(4 * i, np.array([0, 1, 0, 1]), np.array(vectors), runs, time_ms=at)
        fold.apply(Offset(at, 0), about)
        fold.apply(Offset(at + 1, 0), about)
        at += MIN_CELL_MS
    fold.apply(Offset(at, 0), Tick())
    history = json_of(results_history(fold))
    assert history["arms"]["a"]["share"] == pytest.approx([0.5, 0.6, 0.2, 0.2])
    assert history["arms"]["b"]["share"] == pytest.approx([0.5, 0.4, 0.8, 0.8])
    assert history["arms"]["a"]["exposures"] == [2, 4, 6, 6]


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_snapshot_and_the_rest_of_the_log_keep_the_same_points(seed, data):
    log = stretched(random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS, steps=30))
    whole = played(ResultsFold(mixed()), log)
    cut = data.draw(st.integers(0, len(log)))
    first = played(ResultsFold(mixed()), log[:cut])
    resumed = played(ResultsFold.from_state(first.offset, first.state()), log[cut:])
    assert resumed.state() == whole.state()
    assert whole.history.count > 20


def test_an_arm_that_comes_has_nothing_before(monkeypatch):
    monkeypatch.setattr(kept, "MAX_POINT_ROWS", 60)
    about = record(2)
    fold = played(ResultsFold(about), steady(25))
    grown = with_arm(about, "c")
    at = START_MS + 25 * MIN_CELL_MS
    before = fold.history.count
    assert before <= 30
    fold.apply(Offset(at, 0), Changed(grown, Change("add_arm", "test", arm="c")))
    assert before // 2 <= fold.history.count <= 15 < before
    at += 2 * MIN_CELL_MS
    shares = np.array([[0.4, 0.4, 0.2]])
    fold.apply(Offset(at, 0), exposed(100, np.array([2, 2, 0, 1]), shares, [4], time_ms=at))
    history = json_of(results_history(fold))
    c = history["arms"]["c"]
    assert c["share"][:-1] == [0.0] * (len(c["share"]) - 1)
    assert c["share"][-1] == pytest.approx(0.2)
    assert c["exposures"][-2:] == [0, 2]
    assert set(c["metrics"]["m"]["mean"]) == {None}
    assert ResultsFold.from_state(fold.offset, fold.state()).state() == fold.state()


def test_no_more_points_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(kept, "MAX_POINT_ROWS", 9)
    fold = ResultsFold(record(2))
    for time_ms, event in steady(60):
        fold.apply(Offset(time_ms, 0), event)
        assert fold.history.count <= 4
    assert fold.history.count >= 2
    monkeypatch.setattr(kept, "MAX_POINT_ROWS", 1)
    one = played(ResultsFold(record(2)), steady(40))
    assert one.history.count == 1
    assert ResultsFold.from_state(one.offset, one.state()).state() == one.state()


def test_a_refused_entry_leaves_no_point():
    fold = played(ResultsFold(record(2)), steady(5))
    state = fold.state()
    bad = exposed(1_000, np.array([7]), np.array([[0.5, 0.5]]), [1], time_ms=START_MS + 90_000)
    with pytest.raises(UnreadableEntry):
        fold.apply(Offset(START_MS + 90_000, 0), bad)
    assert fold.state() == state


def test_what_is_not_used_is_not_in_the_state():
    fold = ResultsFold(record(2))
    fold.apply(Offset(START_MS, 0), Tick())
    assert "history" not in parts_of(fold.state())[1]
    played(fold, steady(1))
    assert "history" in parts_of(fold.state())[1]


def test_a_state_without_history_begins_one():
    fold = played(ResultsFold(record(2)), steady(20))
    about, columns = parts_of(fold.state())
    del columns["history"]
    former = ResultsFold.from_state(fold.offset, state_of(about, columns))
    assert former.history.count == 0
    later = steady(30)[40:]
    played(former, later)
    history = json_of(results_history(former))
    assert history["arms"]["a"]["exposures"][-1] == int(former.exposures[0])
    assert history["arms"]["a"]["share"] == pytest.approx([0.5] * len(history["at"]))
    assert len(history["at"]) == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cell_ms", [1_500]),
        ("cell_ms", [0]),
        ("decided", [-1]),
        ("so_far", [np.nan, 1.0]),
        ("so_far", [1e9, 1.0]),
        ("at_ms", None),
        ("n", None),
    ],
)
def test_a_history_that_there_can_not_be_is_refused(name, value):
    fold = played(ResultsFold(record(2)), steady(20))
    about, columns = parts_of(fold.state())
    column = columns["history"][name]
    columns["history"][name] = column[::-1].copy() if value is None else np.array(value, column.dtype)
    if name == "n":
        columns["history"][name] = column[:-1].copy()
    with pytest.raises(UnreadableEntry, match="history"):
        ResultsFold.from_state(fold.offset, state_of(about, columns))


def test_a_history_without_a_column_is_refused():
    state = PastResults(1, 2).state()
    del state["mean"]
    with pytest.raises(ValueError, match="other columns"):
        PastResults.from_state(state, 1, 2, START_MS)


# The answers


def test_a_timeline_is_the_objective_with_the_changes():
    metrics = (Metric("side", "continuous"), Metric("goal", "binary", role="objective"))
    fold = ResultsFold(record(2, metrics=metrics))
    for time_ms, event in steady(300):
        if isinstance(event, Rewarded):
            event.rows["metric"] = 1
        fold.apply(Offset(time_ms, 0), event)
    changes = [TimelineChange("2026-01-01T00:00:00.000Z", "start", "ann")]
    line, history = json_of(timeline(fold, changes, 50)), json_of(results_history(fold, 50))
    assert len(line["at"]) == 50
    assert line["at"] == sorted(set(line["at"])) == history["at"]
    assert line["changes"] == [{"at": "2026-01-01T00:00:00.000Z", "what": "start", "who": "ann"}]
    for name in ("a", "b"):
        mine, whole = line["arms"][name], history["arms"][name]
        assert mine["mean"] == whole["metrics"]["goal"]["mean"]
        assert mine["interval"] == whole["metrics"]["goal"]["interval"]
        assert mine["share"] == whole["share"]
        assert mine["exposures"] == whole["exposures"]
    assert line["arms"]["a"]["interval"][-1] is not None
    last = json_of(results_history(fold, 1))
    assert last["at"] == line["at"][-1:]


def test_nothing_is_known_before_anything_was_exposed():
    fold = ResultsFold(record(2))
    fold.apply(Offset(START_MS, 0), Tick())
    history = json_of(results_history(fold))
    assert history["at"] == [] == history["regret_bound"]
    assert history["arms"]["a"]["share"] == []
    assert json_of(timeline(fold, []))["at"] == []


# The bound of the regret


def regret_of(fold):
    return json_of(results_history(fold))["regret_bound"]


def test_the_regret_is_bounded_by_exposures_times_gaps():
    fold = played(ResultsFold(record(2)), steady(20, rate=0.5))
    # Without intervals of differences a decision may have cost all that a value can be.
    assert regret_of(fold)[-1] == 80
    play = Play(ResultsFold(record(2)), np.random.default_rng(1), bernoulli(0.2, 0.8))
    for _ in range(20):
        play.step(np.array([0.5, 0.5]), 500)
    (bound,) = regret_of(play.fold)[-1:]
    low, high = report(play.fold, play.fold.record, {}, 0).arms[1].metrics["m"].difference_interval
    assert low > 0
    assert bound == pytest.approx(int(play.fold.exposures[0]) * high)
    # True: 0.6 of each decision for the first arm.
    assert 0.6 * play.fold.exposures[0] < bound < 0.7 * play.fold.exposures[0]


def test_the_regret_of_less_is_better_mirrors():
    bounds = []
    for goal, means in (("maximize", (0.2, 0.8)), ("minimize", (0.8, 0.2))):
        play = Play(ResultsFold(record(2, goal=goal)), np.random.default_rng(1), bernoulli(*means))
        for _ in range(5):
            play.step(np.array([0.5, 0.5]), 500)
        bounds.append(regret_of(play.fold)[-1])
    assert bounds[0] == pytest.approx(bounds[1], rel=0.05)


def test_the_bound_holds_at_every_look_of_a_bandit():
    """With three arms whose shares follow their outcomes, at level .05, R = 15 (300 at full size)."""
    means = np.array([0.10, 0.12, 0.15])
    runs, missed, tight = scaled(15, 300), 0, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        fold = ResultsFold(record(3, policy=PolicySpec(kind="thompson", min_share=0.05)))
        play = Play(fold, rng, bernoulli(*means), 3)
        shares, below = np.full(3, 1 / 3), False
        for _ in range(12):
            play.step(shares, 400)
            point = point_of(fold)
            n = point.n[0]
            error = np.sqrt(np.maximum(point.numbers["mean"][0], 0.01) / np.maximum(n, 1))
            shares = drawn_shares(rng, point.numbers["mean"][0], error, 0.05)
            true = float(point.exposures @ (means.max() - means))
            below |= point.regret < true
        missed += below
        tight += point.regret < 0.15 * point.exposures.sum()
    assert missed / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)
    assert tight >= 0.95 * runs


@pytest.mark.parametrize(
    "about",
    [
        record(2, kind="continuous"),
        record(2, policy=PolicySpec(kind="thompson", min_share=0.0)),
        record(2, policy=PolicySpec(kind="lin_ts")),
    ],
)
def test_there_is_no_bound_where_nothing_is_known(about):
    fold = played(ResultsFold(about), steady(20))
    assert set(regret_of(fold)) == {None}
