"""Laws of every valid experiment, reward, gap, change and order: nothing raises, and all numbers are finite.

Histories come from `histories.py`. 200 by default; 100,000 with BANDIT_SERVE_TEST_SCALE=full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from builders import created, experiment, rewards
from histories import Choices, Entry, History, RandomChoices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scale import scaled

from bandit_serve.decisions.draw import Draw
from bandit_serve.folds._assignment import Rendezvous
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import Changed, Rewarded, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.policies import ContextualPolicy
from bandit_serve.results import ResultsFold, report

T = TypeVar("T")

N_HISTORIES = scaled(200, 100_000)
N_TRADING = scaled(80, 40_000)
N_PARTS = scaled(4, 100)
N_ENTRIES = 14


def check_shares(shares: NDArray[np.float64], among: NDArray[np.bool_]) -> None:
    assert np.isfinite(shares).all(), shares
    assert (shares >= 0.0).all(), shares
    assert (shares <= 1.0).all(), shares
    assert abs(shares.sum() - 1.0) <= 1e-12, shares
    assert (shares[~among] == 0.0).all(), shares


def check_draw(shares: NDArray[np.float64], live: LiveExperiment) -> None:
    """An arm that has a share can be drawn from a vector, also apart from its holdout."""
    holdout = live.experiment.policy.holdout or 0.0
    rendezvous = Rendezvous(bytes(16), list(live.experiment.arm_names))
    draw = Draw(shares.copy(), holdout, once=live.policy.contextual)
    for unit in (0, 7):
        for held_out in {False, holdout > 0.0}:
            assert shares[draw.arm(rendezvous, unit, held_out)] > 0.0


def check_live(live: LiveExperiment, history: History) -> None:
    state = live.state()
    restored = LiveExperiment.from_state(live.offset, state)
    assert restored.state() == state
    mask, x = history.mask(), history.x()
    for each in (live, restored):
        # Parameters that are drawn for all arms are drawn at a refresh.
        if isinstance(each.policy, ContextualPolicy) and each.policy.to_redraw:
            each.policy.redraw()
    for among in (live.active, mask):
        now_ms = live.offset.time_ms
        shares = live.shares(among, now_ms, x)
        check_shares(shares, among)
        assert restored.shares(among, now_ms, x).tobytes() == shares.tobytes()
        check_draw(shares, live)
        if not live.policy.contextual:
            assert live.shares_apart(now_ms)(among).tobytes() == shares.tobytes()
    check_shares(live.current_shares(live.offset.time_ms), live.active)
    means = live.means()
    waiting = 0.0 if live.pending is None else live.pending.weights(live.offset.time_ms)
    assert np.isfinite(waiting).all()
    known = live.policy.counts + waiting > 0.0
    assert np.isfinite(means[known]).all(), means
    objective = live.experiment.objective
    if not objective.traits.unbounded:
        low, high = objective.traits.floor, objective.traits.ceiling
        assert (means[known] >= low).all(), means
        assert (means[known] <= high).all(), means


def check_results(fold: ResultsFold, live: LiveExperiment) -> None:
    state = fold.state()
    assert ResultsFold.from_state(START, state).state() == state
    shares = dict(
        zip(live.experiment.arm_names, live.current_shares(live.offset.time_ms).tolist(), strict=True)
    )
    check_numbers(msgspec.to_builtins(report(fold, live.record, shares, live.offset.time_ms)))


def check_numbers(value: Any) -> None:
    """No number in a document is infinite or none."""
    match value:
        case dict():
            for each in value.values():
                check_numbers(each)
        case list() | tuple():
            for each in value:
                check_numbers(each)
        case float():
            assert np.isfinite(value), value


def follow(choices: Choices, n_entries: int, **kinds: bool) -> History:
    """Folds a history from its wire form, and checks everything every few entries; `kinds` are those of `History`."""
    history = History(choices, **kinds)
    fold: ResultsFold | None = None
    pause = 0
    for entry in history.written(n_entries):
        fold = fold_entry(history, fold, entry)
        if pause == 0:
            check_live(history.live, history)
            check_results(fold, history.live)
            pause = choices.integer(0, 5)
        else:
            pause -= 1
    assert fold is not None
    check_live(history.live, history)
    check_results(fold, history.live)
    return history


def follow_seed(seed: int) -> History:
    return follow(
        RandomChoices(seed),
        N_ENTRIES,
        former=seed % 10 == 0,
        revising=seed % 2 == 1,
        analysed=seed % 4 < 2,
    )


def fold_entry(history: History, fold: ResultsFold | None, entry: Entry) -> ResultsFold:
    offset, kind, data = entry
    event = events.decode(kind, data, history.live.n_logged)
    if fold is None:
        assert isinstance(event, Changed)
        fold = ResultsFold(event.record)
    history.live.apply(offset, event)
    fold.apply(offset, event)
    return fold


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(N_PARTS))
def test_no_history_of_several_metrics_ends_a_fold(part: int) -> None:
    seen: Counter[str] = Counter()
    per_part = N_TRADING // N_PARTS
    for seed in range(part * per_part, (part + 1) * per_part):
        try:
            history = follow(
                RandomChoices(seed), N_ENTRIES, trading=True, revising=seed % 2 == 1, analysed=seed % 4 < 2
            )
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        experiment = history.live.experiment
        names = [each.metric for each in experiment.constraints or ()]
        seen.update(
            [experiment.missing, *(metric.kind for metric in experiment.metrics if metric.name in names)]
        )
        seen["weighted"] += bool(experiment.weights)
        known = history.live.traded_means()
        assert known is not None
        seen["learned"] += bool(np.isfinite(known[0][1:]).any())
    assert len(seen) >= 7, seen
    assert min(seen["weighted"], seen["learned"], seen["zero"], seen["ignore"]) >= 0.1 * per_part, seen


class DrawnChoices:
    """Those of Hypothesis, which makes a history that fails small."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def one_of(self, things: Sequence[T]) -> T:
        return things[self.integer(0, len(things) - 1)]

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(N_PARTS))
def test_no_history_ends_a_fold(part: int) -> None:
    seen: Counter[str] = Counter()
    per_part = N_HISTORIES // N_PARTS
    for seed in range(part * per_part, (part + 1) * per_part):
        try:
            history = follow_seed(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        experiment = history.live.experiment
        seen.update([experiment.policy.kind, experiment.objective.kind, experiment.objective.goal])
        seen.update([experiment.missing, experiment.unit])
        seen["changed"] += len(history.live.history) > 2
        seen["rewarded"] += bool(history.live.rewards.any())
    assert len(seen) >= 20, seen
    assert min(seen["changed"], seen["rewarded"], seen["zero"], seen["user"]) >= 0.1 * per_part, seen


@pytest.mark.parametrize("seed", [290, 520, 783, 1_050, 1_114, 44_455, 62_385])
def test_histories_that_once_ended_a_fold_do_no_more(seed: int) -> None:
    follow(RandomChoices(seed), N_ENTRIES, former=seed % 10 == 0)


@pytest.mark.parametrize(
    "seed", [1_536, 40_449, 41_280, 52_001, 52_856, 56_611, 60_789, 64_229, 79_100, 86_437, 87_096]
)
def test_analysed_histories_that_once_ended_a_fold_do_no_more(seed: int) -> None:
    follow_seed(seed)


@settings(
    max_examples=scaled(15, 2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(data=st.data())
def test_no_history_that_hypothesis_finds_ends_a_fold(data: st.DataObject) -> None:
    follow(DrawnChoices(data), data.draw(st.integers(1, 8)), revising=data.draw(st.booleans()))


def continuous(**policy: Any) -> LiveExperiment:
    made = experiment(metrics=[{"name": "m", "kind": "continuous"}], policy=policy)
    return LiveExperiment(created(made))


@pytest.mark.parametrize("kind", ["thompson", "ucb1", "softmax", "epsilon_greedy", "fixed_split", "lin_ts"])
def test_deviations_are_not_negative_where_a_mean_is_rounded_past_a_reward(kind: str) -> None:
    context = [{"name": "x", "kind": "numeric"}] if kind == "lin_ts" else []
    policy = {"kind": kind, "half_life": "1s"}
    made = experiment(metrics=[{"name": "m", "kind": "continuous"}], policy=policy, context=context)
    generator = np.random.default_rng(3)
    for former, gap, value in [(14.5, 64, 3.2), *generator.uniform(0.1, 100.0, (300, 3)).round(2).tolist()]:
        live = LiveExperiment(created(made))
        x = np.zeros((1, live.n_features), np.float32) if context else None
        live.apply(Offset(1_000, 0), Rewarded(rewards([0], values=former), x))
        live.apply(Offset(1_000 + round(1_000 * gap), 0), Rewarded(rewards([1], values=value), x))
        low, high = sorted((former, value))
        statistics = live.policy.statistics()
        assert low <= statistics["mean"][0] <= high
        assert statistics["m2"][0] >= 0.0
        state = live.state()
        assert LiveExperiment.from_state(live.offset, state).state() == state


@pytest.mark.parametrize("kind", ["thompson", "top_two_thompson"])
def test_counts_that_former_versions_took_are_folded(kind: str) -> None:
    made = experiment(metrics=[{"name": "m", "kind": "count"}], policy={"kind": kind})
    generator = np.random.default_rng(4)
    values = [
        1795892426485000.0,
        1e80,
        2.0**53,
        *np.floor(10.0 ** generator.uniform(14.9, 17.0, 300)).tolist(),
    ]
    for value in values:
        live = LiveExperiment(created(made))
        live.apply(Offset(1_000, 0), Rewarded(rewards([0, 1], values=[value, 1.0], arms=[0, 1])))
        check_shares(live.shares(), live.active)
        assert live.means().tolist() == [value, 1.0]


@pytest.mark.parametrize("n", [5e-324, 1e-300, 1e-101])
@pytest.mark.parametrize("kind", ["thompson", "ucb1", "softmax", "fixed_split"])
def test_a_pseudo_history_of_next_to_nothing_is_none(kind: str, n: float) -> None:
    live = continuous(kind=kind, half_life="1s", pseudo_history={"n": n, "mean": 3.2, "std": 1.0})
    assert live.policy.counts.tolist() == [0.0, 0.0]
    live.apply(Offset(1_000, 0), Rewarded(rewards([0], values=14.5)))
    live.apply(Offset(70_000, 0), Tick())
    check_shares(live.shares(), live.active)
    assert LiveExperiment.from_state(live.offset, live.state()).state() == live.state()


def test_means_stay_within_the_range_of_their_rewards() -> None:
    generator = np.random.default_rng(5)
    for _ in range(500):
        low, high = np.sort(generator.normal(0.0, 10.0 ** generator.integers(-3, 4), 2)).tolist()
        metric = {"name": "m", "kind": "bounded", "low": low, "high": high}
        live = LiveExperiment(created(experiment(metrics=[metric])))
        live.apply(Offset(1_000, 0), Rewarded(rewards(range(3), values=high)))
        assert low <= live.means()[0] <= high
