"""Preview: open decisions, next to final results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_results import START_MS, exposed, random_log, record, rewarded

from bandit_serve.experiments.metric import Metric
from bandit_serve.log.events import Tick
from bandit_serve.log.offset import Offset
from bandit_serve.log.times import LINGER_MS
from bandit_serve.results import Preview, ResultsFold, report

METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))
EVEN = np.array([[0.5, 0.5]])
DAY_MS = 86_400_000


def previews(fold: ResultsFold, metric: str = "m") -> list[Preview | None]:
    return [arm.metrics[metric].preview for arm in report(fold, fold.record, {}, START_MS).arms]


@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_page_is_not_empty_while_a_week_passes(unit: str) -> None:
    fold = ResultsFold(record(2, unit=unit, missing="zero", window="7d"))
    arms, units = np.array([0, 0, 0, 1, 1]), np.arange(5, dtype=np.uint64)
    fold.apply(Offset(START_MS, 0), exposed(0, arms, EVEN, [5], units=units))
    assert previews(fold) == [Preview(3, 0.0), Preview(2, 0.0)]
    rewards = rewarded(counter=[1, 3, 4], arm=[0, 1, 1], value=1.0, propensity=0.5, unit=units[[1, 3, 4]])
    fold.apply(Offset(START_MS + DAY_MS, 0), rewards)
    row = report(fold, fold.record, {}, START_MS).arms[0].metrics["m"]
    assert (row.n, row.mean, row.interval) == (0, None, None)
    assert previews(fold) == [Preview(3, 1 / 3), Preview(2, 1.0)]
    assert previews(ResultsFold.from_state(fold.offset, fold.state())) == previews(fold)
    fold.apply(Offset(START_MS + 7 * DAY_MS + 1, 0), Tick())
    assert previews(fold) == [None, None]
    row = report(fold, fold.record, {}, START_MS).arms[0].metrics["m"]
    assert (row.n, row.mean) == (3, 1 / 3)


@pytest.mark.parametrize("unit", ["request", "user"])
def test_there_is_none_where_a_missing_reward_is_none(unit: str) -> None:
    fold = ResultsFold(record(2, unit=unit, missing="ignore", window="7d"))
    fold.apply(
        Offset(START_MS, 0), exposed(0, np.array([0, 1]), EVEN, [2], units=np.arange(2, dtype=np.uint64))
    )
    assert previews(fold) == [None, None]


def test_a_reward_whose_exposure_is_on_its_way_is_open_once() -> None:
    fold = ResultsFold(record(2, missing="zero", window="7d"))
    fold.apply(Offset(START_MS, 0), rewarded(counter=[0], arm=[1], value=1.0, propensity=0.5))
    assert previews(fold) == [None, Preview(1, 1.0)]
    fold.apply(Offset(START_MS, 0), exposed(0, np.array([1, 0]), EVEN, [2]))
    assert previews(fold) == [Preview(1, 0.0), Preview(1, 1.0)]


@pytest.mark.parametrize("unit", ["request", "user"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_what_is_open_is_what_is_pending_and_comes_in_later(unit: str, seed: int) -> None:
    """With a window that nothing outlives, the rewards of a preview are those of the results at the end."""
    fold = ResultsFold(record(3, unit=unit, missing="zero", window="1h", metrics=METRICS))
    for time_ms, event in random_log(np.random.default_rng(seed), 3, 2, 500):
        fold.apply(Offset(time_ms, 0), event)
        assert fold.still_open()[0].sum() == fold.pending
    worth = previews(fold, "worth")
    fold.apply(Offset(time_ms + 3_600_000 + LINGER_MS, 0), Tick())
    assert fold.pending == 0
    for arm, each in zip(report(fold, fold.record, {}, 0).arms, worth, strict=True):
        row = arm.metrics["worth"]
        assert row.n == (0 if each is None else each.n)
        if each is not None:
            assert row.mean == pytest.approx(each.mean, abs=1e-9)
