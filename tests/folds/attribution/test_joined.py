"""Decisions with features that wait for their window to close: each is learned from once, by its reward or as zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import INCARNATION, rewards
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandit_serve.folds.attribution import joined as module
from bandit_serve.folds.attribution.joined import JoinedDecisions

WINDOW_MS = 25_600
D = 3


def features(counters: list[int]) -> NDArray[np.float32]:
    """Each decision's own, so that one that is mixed up shows."""
    return np.array([[counter, -counter, 0.5] for counter in counters], np.float32).reshape(-1, D)


def expose(
    waiting: JoinedDecisions, first: int, arms: list[int], times_ms: list[int], **more: object
) -> None:
    x = features(list(range(first, first + len(arms))))
    held_out = more.get("held_out")
    waiting.exposed(
        INCARNATION,
        first,
        np.array(arms, np.uint16),
        np.array(times_ms, np.int64),
        x,
        None if held_out is None else np.array(held_out, np.bool_),
    )


def reward(waiting: JoinedDecisions, counter: int, value: float, time_ms: int, arm: int = 0) -> None:
    waiting.rewarded(rewards([counter], values=value, times_ms=time_ms, arms=arm), features([counter]))


def closed(waiting: JoinedDecisions, now_ms: int) -> list[tuple[int, int, float]]:
    """Number, arm and value of each."""
    learned = []
    for some in waiting.close(now_ms, most=2):
        assert 1 <= len(some.arms) <= 2
        numbers = some.x[:, 0].astype(int)
        np.testing.assert_array_equal(some.x, features(numbers.tolist()))
        learned += zip(numbers.tolist(), some.arms.tolist(), some.values.tolist(), strict=True)
    return learned


END_MS = 2 * WINDOW_MS


def test_a_decision_is_learned_from_when_its_window_has_closed_and_once() -> None:
    waiting = JoinedDecisions(WINDOW_MS, D)
    expose(waiting, 0, [0, 1], [1_000, 1_000])
    reward(waiting, 1, 1.0, 1_000, arm=1)
    due_ms = waiting.next_close_ms()
    assert due_ms is not None
    assert 1_000 + WINDOW_MS < due_ms <= 1_000 + WINDOW_MS + WINDOW_MS // 128
    assert closed(waiting, due_ms - 1) == []
    zero, one = closed(waiting, due_ms)
    assert zero[:2] == (0, 0)
    assert math.isnan(zero[2])
    assert one == (1, 1, 1.0)
    assert (waiting.next_close_ms(), len(waiting), closed(waiting, END_MS)) == (None, 0, [])


@pytest.mark.parametrize("order", ["exposed", "rewarded", "late", "never"])
def test_either_of_exposure_and_reward_is_enough_and_both_are_one(order: str) -> None:
    waiting = JoinedDecisions(WINDOW_MS, D)
    learned = []
    if order == "exposed":
        expose(waiting, 5, [1], [1_000])
    reward(waiting, 5, 1.0, 1_000, arm=1)
    if order == "rewarded":
        expose(waiting, 5, [1], [1_000])
    learned += closed(waiting, END_MS)
    if order == "late":
        expose(waiting, 5, [1], [1_000])
    learned += closed(waiting, 2 * END_MS)
    assert learned == [(5, 1, 1.0)]


def test_the_holdout_is_not_learned_from() -> None:
    waiting = JoinedDecisions(WINDOW_MS, D)
    expose(waiting, 0, [0, 1, 0], [1_000] * 3, held_out=[True, False, True])
    assert [number for number, _, _ in closed(waiting, END_MS)] == [1]


@pytest.mark.parametrize(("bound", "most"), [("MAX_OPEN", 1_000), ("MAX_OPEN_BYTES", 1_000 * 4 * D)])
def test_over_its_bounds_it_keeps_a_part_of_the_decisions_and_of_their_rewards(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(module, bound, most)
    waiting = JoinedDecisions(WINDOW_MS, D)
    rng = np.random.default_rng(1)
    values = (rng.random(6_000) < 0.3).astype(float)
    for start in range(0, 6_000, 100):
        expose(waiting, start, [0] * 100, [1_000] * 100)
        for counter in range(start, start + 100):
            if values[counter]:
                reward(waiting, counter, 1.0, 1_000)
        assert len(waiting) <= 1_000
    closed_rows = closed(waiting, END_MS)
    assert waiting.one_in == 8
    assert [number for number, _, _ in closed_rows] == list(range(0, 6_000, 8))
    assert [0.0 if math.isnan(value) else value for _, _, value in closed_rows] == values[::8].tolist()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_state_goes_on_as_it_would_have(data: st.DataObject) -> None:
    waiting = JoinedDecisions(WINDOW_MS, D)
    first = now_ms = 0
    for _ in range(data.draw(st.integers(1, 8))):
        now_ms += data.draw(st.integers(0, WINDOW_MS // 2))
        if data.draw(st.booleans()):
            n = data.draw(st.integers(1, 4))
            expose(waiting, first, [0] * n, [now_ms] * n)
            first += n
        if data.draw(st.booleans()):
            reward(waiting, data.draw(st.integers(0, first + 2)), 1.0, now_ms)
        restored = JoinedDecisions.from_state(WINDOW_MS, D, waiting.state())
        assert repr(restored.state()) == repr(waiting.state())
        assert repr(closed(restored, now_ms)) == repr(closed(waiting, now_ms))
        assert repr(restored.state()) == repr(waiting.state())
        assert len(restored) == len(waiting)
