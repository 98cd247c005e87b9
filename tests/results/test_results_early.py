"""Rewards that are logged before their exposures are weighted by the shares of their own decisions."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_results import START_MS, exposed, record, rewarded

from bandit_serve.log.events import Tick
from bandit_serve.log.offset import Offset
from bandit_serve.log.times import EARLY_REWARD_MS
from bandit_serve.results import ResultsFold, report


def quick_rewards(fold: ResultsFold, rounds: int, seed: int) -> None:
    """Moving shares; every reward is in the log before the exposure of its decision."""
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        vector = rng.dirichlet([1.0, 1.0]) * 0.9 + 0.05
        arms = rng.choice(2, 50, p=vector)
        first, at = 50 * number, START_MS + 100 * number
        values = (rng.random(50) < 0.2).astype(float)
        rows = rewarded(
            counter=first + np.arange(50), arm=arms, value=values, propensity=vector[arms], time_ms=at
        )
        fold.apply(Offset(at, 0), rows)
        fold.apply(Offset(at + 50, 0), exposed(first, arms, vector[None], [50], time_ms=at))


def test_quick_rewards_are_no_sample_ratio_mismatch() -> None:
    """Weighed by the shares of the flush before, they were one."""
    fold = ResultsFold(record(2))
    quick_rewards(fold, rounds=400, seed=3)
    results = report(fold, fold.record, {}, 0)
    assert sum(arm.metrics["m"].n for arm in results.arms) == 20_000
    assert results.srm.verdict == "ok"


def test_an_early_reward_is_in_the_report_at_once_and_in_the_fold_once() -> None:
    fold = ResultsFold(record(2))
    fold.apply(
        Offset(START_MS, 0),
        rewarded(counter=np.arange(4), arm=np.array([0, 1, 0, 1]), value=1.0, propensity=0.5),
    )
    assert fold.sums.counts()[0] == 0
    assert sum(arm.metrics["m"].n for arm in report(fold, fold.record, {}, 0).arms) == 4
    resumed = ResultsFold.from_state(fold.offset, fold.state())
    for each in (fold, resumed):
        each.apply(Offset(START_MS + 1, 0), exposed(0, np.array([0, 1, 0, 1]), np.array([[0.5, 0.5]]), [4]))
        assert each.sums.counts()[0] == 4
    assert fold.state() == resumed.state()


@pytest.mark.parametrize("later_ms", [EARLY_REWARD_MS, EARLY_REWARD_MS + 1])
def test_an_exposure_that_never_comes_is_given_up(later_ms: int) -> None:
    fold = ResultsFold(record(2))
    fold.apply(Offset(START_MS, 0), rewarded(counter=0, arm=0, value=1.0, propensity=0.5))
    fold.apply(Offset(START_MS + later_ms, 0), Tick())
    assert fold.sums.counts()[0] == (1 if later_ms > EARLY_REWARD_MS else 0)
