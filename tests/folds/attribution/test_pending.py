"""Missing rewards that count as zero: each decision closes once, in any order of the log."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders import rewards
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_serve.folds.attribution.pending import PendingDecisions
from bandit_serve.log.events import ON_DEMAND
from bandit_serve.log.times import BUCKETS, LINGER_MS

WINDOW_MS = 2_560
WIDTH_MS = WINDOW_MS // BUCKETS
INCARNATION = 5


def expose(
    pending: PendingDecisions,
    first: int,
    arms: list[int],
    times_ms: list[int],
    incarnation: int = INCARNATION,
) -> None:
    pending.exposed(incarnation, first, np.array(arms, np.uint16), np.array(times_ms, np.int64))


def reward(
    pending: PendingDecisions,
    counter: int,
    arm: int,
    time_ms: int,
    now_ms: int,
    incarnation: int = INCARNATION,
) -> None:
    pending.rewarded(rewards([counter], arms=arm, times_ms=time_ms, incarnation=incarnation), now_ms)


def zeros(pending: PendingDecisions, now_ms: int) -> list[int]:
    closed = pending.close(now_ms)
    return [0] * pending.n_arms if closed is None else closed.zeros.tolist()


FAR_MS = 10 * WINDOW_MS


def test_a_decision_without_a_reward_closes_once_when_its_window_has_passed() -> None:
    pending = PendingDecisions(WINDOW_MS, 2)
    expose(pending, 0, [0, 1, 1], [0, 3, 9])
    deadline = 9 + WINDOW_MS
    assert pending.close(deadline) is None, "a reward at the deadline is not late, so nothing may close yet"
    due = pending.next_close_ms()
    assert due is not None
    assert deadline < due <= deadline + WIDTH_MS + 1
    assert pending.close(due - 1) is None
    assert zeros(pending, due) == [1, 2]
    assert pending.close(due + FAR_MS) is None
    assert pending.next_close_ms() is None


def test_a_rewarded_decision_does_not_close() -> None:
    pending = PendingDecisions(WINDOW_MS, 2)
    expose(pending, 0, [0, 1, 1], [0, 0, 0])
    reward(pending, 1, 1, 0, 100)
    assert zeros(pending, FAR_MS) == [1, 1]


def test_decisions_close_when_they_are_due_and_not_together() -> None:
    pending = PendingDecisions(WINDOW_MS, 1)
    expose(pending, 0, [0, 0], [0, 1_000])
    assert zeros(pending, WINDOW_MS + WIDTH_MS + 1) == [1]
    assert zeros(pending, 1_000 + WINDOW_MS + 2 * WIDTH_MS) == [1]


def test_a_reward_may_come_before_its_exposure() -> None:
    pending = PendingDecisions(WINDOW_MS, 2)
    reward(pending, 1, 1, 5, 20)
    expose(pending, 0, [0, 1], [5, 5])
    assert zeros(pending, FAR_MS) == [1, 0]


@pytest.mark.parametrize("closed_between", [False, True])
def test_an_exposure_may_come_after_its_window_has_closed(closed_between: bool) -> None:
    pending = PendingDecisions(WINDOW_MS, 2)
    reward(pending, 1, 1, 5, 20)
    if closed_between:
        assert zeros(pending, FAR_MS) == [0, 0]
    expose(pending, 0, [0, 1, 1], [5, 5, 5])
    assert zeros(pending, FAR_MS + 1) == [1, 1]


def test_a_reward_whose_exposure_was_lost_takes_no_zero_from_another_decision() -> None:
    pending = PendingDecisions(WINDOW_MS, 1)
    reward(pending, 7, 0, 0, 10)  # its worker crashed: no exposure ever comes
    expose(pending, 0, [0, 0], [0, 0], incarnation=6)
    assert zeros(pending, FAR_MS) == [2]


def test_a_reward_after_a_gap_in_the_exposures_takes_no_zero_from_another_decision() -> None:
    pending = PendingDecisions(WINDOW_MS, 1)
    expose(pending, 0, [0], [0])
    expose(pending, 3, [0], [1])  # 1 and 2 were dropped
    reward(pending, 2, 0, 0, 10)
    assert zeros(pending, FAR_MS) == [2]


def test_workers_are_told_apart() -> None:
    pending = PendingDecisions(WINDOW_MS, 1)
    expose(pending, 0, [0], [0], incarnation=1)
    reward(pending, 0, 0, 0, 10, incarnation=2)  # early, of another worker
    expose(pending, 0, [0], [0], incarnation=2)
    assert zeros(pending, FAR_MS) == [1]


def test_what_is_remembered_is_forgotten() -> None:
    pending = PendingDecisions(WINDOW_MS, 1)
    expose(pending, 0, [0], [0])
    expose(pending, 5, [0], [0])
    reward(pending, 9, 0, 0, 10)
    zeros(pending, FAR_MS)
    state = pending.state()
    assert state.settled
    assert state.reached
    assert state.lost
    later = FAR_MS + 3 * WINDOW_MS + LINGER_MS
    expose(pending, 0, [0], [later], incarnation=99)
    zeros(pending, later + FAR_MS)
    state = pending.state()
    assert state.settled == state.early == state.lost == state.exposed == state.rewarded == []
    assert [entry[0] for entry in state.reached] == [99]


def test_memory_does_not_grow_with_the_traffic() -> None:
    pending = PendingDecisions(WINDOW_MS, 2)
    for first in range(0, 100_000, 1_000):
        times = np.full(1_000, first // 50, np.int64)
        pending.exposed(INCARNATION, first, np.zeros(1_000, np.uint16), times)
    state = pending.state()
    assert len(state.exposed) <= BUCKETS + 2
    assert sum(sum(counts) for _, counts in state.exposed) == 100_000


# Weights


def test_before_any_reward_decisions_weigh_little_until_a_reward_can_hardly_come_any_more() -> None:
    pending = PendingDecisions(WINDOW_MS, 2)
    expose(pending, 0, [0, 1] * 500, [0] * 1_000)
    assert pending.weights(WINDOW_MS // 64).max() < 50
    assert pending.weights(WINDOW_MS).min() > 450


def test_an_open_decision_weighs_more_the_older_it_is() -> None:
    pending = PendingDecisions(WINDOW_MS, 1)
    generator = np.random.default_rng(1)
    delays = np.sort(generator.integers(1, WINDOW_MS, 400))
    assert len(np.unique(delays)) > 100
    expose(pending, 0, [0] * 400, [0] * 400)
    for i, delay in enumerate(delays.tolist()):
        reward(pending, i, 0, 0, delay)
    at_ms = 100_000
    expose(pending, 400, [0] * 50, [at_ms] * 50)
    pending.close(at_ms)
    weights = [float(pending.weights(at_ms + age)[0]) for age in range(0, WINDOW_MS, 40)]
    assert all(later >= earlier for earlier, later in pairwise(weights))
    assert weights[0] < 5 < 45 < weights[-1] <= 50


def test_weights_follow_the_delays_of_the_arm() -> None:
    """Σ G_k(age): half of arm 0's rewards come within 10 ms, none of arm 1's."""
    pending = PendingDecisions(WINDOW_MS, 2)
    n = 2_000
    expose(pending, 0, [0] * n + [1] * n, [0] * 2 * n)
    for i in range(n):
        reward(pending, i, 0, 0, 10 if i % 2 else 2_000)
        reward(pending, n + i, 1, 0, 2_000)
    pending.close(FAR_MS)
    expose(pending, 2 * n, [0] * 100 + [1] * 100, [FAR_MS] * 200)
    weights = pending.weights(FAR_MS + 500)
    assert weights[0] == pytest.approx(50, abs=2)
    assert weights[1] == pytest.approx(0, abs=1)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, str, int]]]:
    """Decisions (worker, counter, arm, time), and entries (log time, kind, decision or batch) by log time."""
    n = draw(st.integers(1, 25))
    decisions = []
    counters = [0, 0]
    entries: list[tuple[int, str, int]] = []
    for i in range(n):
        worker, arm = draw(st.integers(0, 1)), draw(st.integers(0, 2))
        time_ms = draw(st.integers(0, 4_000))
        decisions.append((worker, counters[worker], arm, time_ms))
        counters[worker] += 1
        if draw(st.booleans()):
            entries.append((time_ms + draw(st.integers(0, WINDOW_MS)), "reward", i))
    for worker in (0, 1):
        # A worker appends in its own order, at any time after the decision was made.
        at_ms = 0
        for i in [i for i, decision in enumerate(decisions) if decision[0] == worker]:
            at_ms = max(at_ms + 1, decisions[i][3]) + draw(st.integers(0, 3 * WINDOW_MS))
            entries.append((at_ms, "exposure", i))
    entries += [(at_ms, "tick", 0) for at_ms in draw(st.lists(st.integers(0, 12_000), max_size=6))]
    order = draw(st.permutations(range(len(entries))))
    return decisions, [
        entry for _, entry in sorted(zip(order, entries, strict=True), key=lambda x: (x[1][0], x[0]))
    ]


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers(0, 80))
def test_any_order_of_the_log_counts_every_decision_once(
    history: tuple[list[tuple[int, int, int, int]], list[tuple[int, str, int]]], cut: int
) -> None:
    decisions, entries = history
    pending = PendingDecisions(WINDOW_MS, 3)
    closed = np.zeros(3, np.int64)
    expected = np.zeros(3, np.int64)
    rewarded = {i for _, kind, i in entries if kind == "reward"}
    for i, (_, _, arm, _) in enumerate(decisions):
        expected[arm] += i not in rewarded
    for step, (now_ms, kind, i) in enumerate(entries):
        if step == cut:
            before = pending.state()
            pending = PendingDecisions.from_state(WINDOW_MS, 3, before)
            assert pending.state() == before
        closed += zeros(pending, now_ms)
        if kind != "tick":
            worker, counter, arm, time_ms = decisions[i]
            if kind == "exposure":
                expose(pending, counter, [arm], [time_ms], incarnation=worker)
            else:
                reward(pending, counter, arm, time_ms, now_ms, incarnation=worker)
        weights = pending.weights(now_ms)
        open_now = sum((np.array(counts) for _, counts in pending.state().exposed), np.zeros(3, np.int64))
        assert (weights >= 0).all()
        assert (weights <= open_now).all()
        assert (closed <= expected).all(), "a decision closed twice, or although it was rewarded"
    closed += zeros(pending, 1_000_000)
    assert closed.tolist() == expected.tolist()
    assert closed.sum() + len(rewarded) == len(decisions)


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_exposures_on_demand_have_gaps_and_no_order(
    order: list[int], exposed: set[int], rewarded: set[int]
) -> None:
    """Each is logged before its rewards, so a reward in a gap, or beyond the last one, lacks no exposure."""
    pending = PendingDecisions(WINDOW_MS, 2)
    for number in order:
        if number in exposed | rewarded:
            expose(pending, ON_DEMAND + number, [number % 2], [number])
        if number in rewarded:
            reward(pending, ON_DEMAND + number, number % 2, number, 20)
            pending = PendingDecisions.from_state(WINDOW_MS, 2, pending.state())
    silent = [number % 2 for number in exposed - rewarded]
    assert zeros(pending, FAR_MS) == [silent.count(0), silent.count(1)]
    assert not pending.state().lost
    assert not pending.state().early
