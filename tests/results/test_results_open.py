"""Decisions with shares of their own: the fold keeps a bounded number, and reports when it could not keep all."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from result_states import parts_of, state_of
from simulated_results import START_MS, exposed, record, rewarded

from bandit_serve.log.events import Event, Exposed, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.times import GRACE_MS, LINGER_MS
from bandit_serve.results import ResultsFold, kernels, report

WINDOW_MS = 60_000
PACE_MS = 100
ENTRY = 50
MEANS = np.array([0.3, 0.5, 0.4])
MAX_OPEN_DECISIONS = 2_000

Log = list[tuple[int, Event]]


def contextual_log(rng: np.random.Generator, n: int, *, reward_after: int) -> Log:
    """Entries of 50 decisions with shares of their own; a reward that depends on those comes so many entries later."""
    log: Log = []
    waiting: list[
        tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], int]
    ] = []
    for number in range(n):
        at, first = START_MS + number * PACE_MS, number * ENTRY
        shares = 0.1 + 0.7 * rng.dirichlet(np.full(3, 0.7), ENTRY)
        arms = (rng.random((ENTRY, 1)) > np.cumsum(shares, axis=1)).sum(axis=1)
        worth = MEANS[arms] + 0.3 * (shares[:, 0] - 1 / 3)
        values = (rng.random(ENTRY) < worth).astype(np.float64)
        log.append((at, exposed(first, arms, shares, [1] * ENTRY, time_ms=at)))
        chosen = np.flatnonzero(rng.random(ENTRY) < 0.5)
        waiting.append((first + chosen, arms[chosen], values[chosen], shares[chosen, arms[chosen]], at))
        if number >= reward_after:
            counters, rewarded_arms, values, propensities, decided = waiting[number - reward_after]
            row = rewarded(
                counter=counters, arm=rewarded_arms, value=values, propensity=propensities, time_ms=decided
            )
            log.append((at, row))
    return log


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MAX_VECTOR_BYTES", MAX_OPEN_DECISIONS * 8 * 3)


def begun(missing: str) -> ResultsFold:
    return ResultsFold(record(3, missing=missing, window=f"{WINDOW_MS}ms"))


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.usefixtures("few")
def test_when_too_many_are_open_a_part_is_analysed_and_says_the_same(missing: str) -> None:
    log = contextual_log(np.random.default_rng(1), 1_200, reward_after=200)
    whole = begun(missing)
    most = 0
    for at, event in log:
        whole.apply(Offset(at, 0), event)
        most = max(most, whole.one_in)
        assert whole._shares.n_vectors <= MAX_OPEN_DECISIONS
    assert f"1 in {whole.one_in} is analysed" in report(whole, whole.record, {}, 0).reason
    whole.apply(Offset(log[-1][0] + WINDOW_MS + 1, 0), Tick())
    assert most >= 8
    assert whole.exposures.sum() == 1_200 * ENTRY
    sums = whole.sums.of_metric(0)
    possible = 0.5 * 1_000 * ENTRY if missing == "ignore" else 1_200 * ENTRY
    assert possible / (2 * most) < sums["analysed"] < possible / 4
    results = report(whole, whole.record, {}, 0)
    rate = 1.0 if missing == "ignore" else 0.5 * 1_000 / 1_200
    for arm, mean in zip(results.arms, MEANS, strict=True):
        low, high = arm.metrics["m"].interval
        assert low < rate * mean < high
        assert high - low < 0.25
    assert results.srm.verdict == "ok"
    assert whole.pending == 0


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.usefixtures("few")
def test_wherever_the_log_is_cut_the_same_decisions_are_analysed(missing: str) -> None:
    log = contextual_log(np.random.default_rng(2), 300, reward_after=30)
    log += [
        (at + 3_600_000, event) for at, event in contextual_log(np.random.default_rng(3), 60, reward_after=9)
    ]
    whole, resumed = begun(missing), begun(missing)
    for number, (at, event) in enumerate(log):
        whole.apply(Offset(at, 0), event)
        resumed.apply(Offset(at, 0), event)
        if number % 37 == 0:
            resumed = ResultsFold.from_state(resumed.offset, resumed.state())
            assert resumed.state() == whole.state()
    assert resumed.state() == whole.state()


@pytest.mark.usefixtures("few")
def test_all_are_analysed_again_when_fewer_are_open() -> None:
    some = begun("ignore")
    for at, event in contextual_log(np.random.default_rng(4), 400, reward_after=10):
        some.apply(Offset(at, 0), event)
    assert some.one_in > 1
    later = START_MS + 400 * PACE_MS + WINDOW_MS + GRACE_MS
    for tick in range(10):
        some.apply(Offset(later + tick, 0), Tick())
    assert some.one_in == 1
    before = some.sums.counts()[0]
    shares = np.array([[0.2, 0.3, 0.5]])
    some.apply(Offset(later, 0), exposed(10**6, np.arange(3), shares, [3], time_ms=later))
    some.apply(
        Offset(later, 0),
        rewarded(counter=10**6 + np.arange(3), arm=np.arange(3), propensity=shares[0], time_ms=later),
    )
    assert some.sums.counts()[0] == before + 3


def test_vectors_go_when_rewards_can_not_come_any_more_and_exposures_stay_known() -> None:
    some = begun("zero")
    log = contextual_log(np.random.default_rng(5), 40, reward_after=5)
    for at, event in log:
        some.apply(Offset(at, 0), event)
    assert some._shares.n_vectors > 40 * ENTRY
    analysed = log[-1][0] + WINDOW_MS + GRACE_MS
    some.apply(Offset(analysed + 1, 0), Tick())
    assert (some._shares.n_vectors, some._shares.n_runs, some._shares.n_past) == (1, 0, 1)
    assert some.exposures.sum() == 40 * ENTRY
    state = some.sums.state()
    for _, event in log[:20]:
        if isinstance(event, Exposed):
            some.apply(Offset(analysed + 2, 0), event)
    assert some.exposures.sum() == 40 * ENTRY, "what was exposed is known"
    assert all(np.array_equal(state[name], column) for name, column in some.sums.state().items())
    some.apply(Offset(log[-1][0] + WINDOW_MS + LINGER_MS + 1, 0), Tick())
    assert some._shares.n_past == 0


def test_past_and_present_exposures_are_told_apart_from_those_between() -> None:
    some = begun("ignore")
    even = np.full((1, 3), 1 / 3)

    def expose(first: int, n: int, at: int) -> int:
        some.apply(Offset(at, 0), exposed(first, np.arange(n) % 3, even, [n], time_ms=at))
        return int(some.exposures.sum())

    assert expose(100, 10, START_MS) == 10
    assert expose(120, 10, START_MS) == 20
    later = START_MS + WINDOW_MS + GRACE_MS + 1
    some.apply(Offset(later, 0), Tick())
    assert some._shares.n_past == 2
    assert expose(140, 10, later) == 30
    assert expose(95, 60, later) == 60, "5 before, 10 between the first two, 10 between the others, 5 after"
    assert expose(95, 60, later) == 60


def test_a_snapshot_of_before_anything_was_left_out_is_read() -> None:
    some = begun("ignore")
    for at, event in contextual_log(np.random.default_rng(6), 20, reward_after=3):
        some.apply(Offset(at, 0), event)
    about, columns = parts_of(some.state())
    del columns["shares"]["halvings"]
    assert ResultsFold.from_state(START, state_of(about, columns)).state() == some.state()
