"""Exact test of failing predictions: few failures are enough, and sound arms are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_serve.log.events import REWARD
from bandit_serve.results.failing_arm import broken, failing
from bandit_serve.results.failure_runs import APART_MS, FailureRuns

ALPHA = 0.05


def shown(counts: list[int], failures: list[int], margin: float = 0.05) -> list[bool]:
    verdict = failing(np.array(counts), np.array(failures, np.float64), 0, margin, ALPHA)
    return [bool(each) for each in verdict]


@pytest.mark.parametrize("n_control", [10, 1_000, 1_000_000])
def test_five_failures_in_a_row_are_enough(n_control: int) -> None:
    assert shown([n_control, 5], [0, 5]) == [False, True]
    assert shown([n_control, 2], [0, 2]) == [False, False]


def test_control_that_fails_as_often_excuses_an_arm() -> None:
    assert shown([100, 5], [100, 5]) == [False, False]
    assert shown([1_000, 200], [200, 45]) == [False, False]
    assert shown([1_000, 200], [10, 100]) == [False, True]


@pytest.mark.parametrize(("counts", "failures"), [([0, 0], [0, 0]), ([0, 3], [0, 0]), ([5, 0], [5, 0])])
def test_without_failures_nothing_is_shown(counts: list[int], failures: list[int]) -> None:
    assert shown(counts, failures) == [False, False]


def test_more_arms_need_more() -> None:
    assert shown([1_000, 4], [0, 4]) == [False, True]
    assert not any(shown([1_000, 4, *[0] * 998], [0, 4, *[0] * 998]))


@pytest.mark.parametrize("chance", [0.0, 0.01, 0.3])
def test_at_the_margin_itself_it_seldom_errs_at_any_time(chance: float) -> None:
    """Looked at after every failure, of 400 runs at most 3 % may err; the level is 0.5 %."""
    generator = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        control = np.cumsum(generator.random(300) < chance)
        arm = np.cumsum(generator.random(300) < chance + 0.05)
        looks = np.flatnonzero(np.diff(arm, prepend=0))
        wrong += any(shown([i + 1, i + 1], [int(control[i]), int(arm[i])])[1] for i in looks[:40])
    assert wrong <= 12


def logged(runs: FailureRuns, arm: int, values: list[int] | np.ndarray, time_ms: int) -> None:
    """One entry of the log, with predictions of one arm; the metric is the second of the experiment."""
    rows = np.zeros(2 * len(values), REWARD)
    rows["arm"], rows["metric"] = arm, np.arange(len(rows)) % 2
    # The first metric's values are not failures.
    rows["value"] = np.where(rows["metric"] == 1, np.repeat(values, 2), 1.0)
    runs.take(rows, 1, time_ms)


def failures_until_shown(n_sound: int, n_control: int = 10_000, apart_ms: int = APART_MS) -> int:
    runs = FailureRuns.none(2)
    logged(runs, 0, np.zeros(n_control, np.int64), 0)
    logged(runs, 1, np.zeros(n_sound, np.int64), 0)
    for n in range(1, 100):
        logged(runs, 1, [1], n * apart_ms)
        if broken(runs, 0, 0.05, ALPHA)[1]:
            return n
    return 100


@pytest.mark.parametrize(("n_sound", "n_failures"), [(0, 3), (30, 5), (1_000, 7), (1_000_000, 12)])
def test_an_arm_that_breaks_is_found_whatever_it_was_before(n_sound: int, n_failures: int) -> None:
    assert failures_until_shown(n_sound) == n_failures


def test_control_that_is_little_known_excuses_more() -> None:
    assert failures_until_shown(30, n_control=0) == 100
    assert failures_until_shown(30, n_control=20) > failures_until_shown(30, n_control=100) > 5


def test_failures_of_one_moment_are_one() -> None:
    runs = FailureRuns.none(2)
    logged(runs, 0, np.zeros(10_000, np.int64), 0)
    logged(runs, 1, np.ones(500, np.int64), 1_000)
    logged(runs, 1, np.ones(500, np.int64), 1_000 + APART_MS - 1)
    assert (runs.run[1], runs.n[1], runs.failures[1]) == (1, 1_000, 1_000)
    assert not broken(runs, 0, 0.05, ALPHA)[1]
    assert failures_until_shown(30, apart_ms=APART_MS // 2) == 2 * failures_until_shown(30) - 1


def test_a_sound_prediction_ends_the_run() -> None:
    runs = FailureRuns.none(2)
    logged(runs, 1, [1, 0, 1, 1], 0)
    logged(runs, 1, [1], APART_MS)
    assert (runs.before[1], runs.run[1]) == (2, 2)
    logged(runs, 1, [1, 1, 0], 2 * APART_MS)
    assert (runs.before[1], runs.run[1], runs.n[1], runs.failures[1]) == (8, 0, 8, 6)
    runs.grow(3)
    assert [len(column) for column in vars(runs).values()] == [3] * 5


@pytest.mark.parametrize("chance", [0.0, 0.3])
def test_at_the_margin_itself_runs_seldom_err_at_any_time(chance: float) -> None:
    """Every prediction is far enough from the last and is looked at; of 200 runs at most 3 % may err."""
    generator = np.random.default_rng(8)
    wrong = 0
    for _ in range(200):
        runs = FailureRuns.none(2)
        logged(runs, 0, (generator.random(200) < chance).astype(np.int64), 0)
        failed = (generator.random(100) < chance + 0.05).astype(np.int64)
        for i in range(len(failed)):
            logged(runs, 1, failed[i : i + 1], i * APART_MS)
            if failed[i] and broken(runs, 0, 0.05, ALPHA)[1]:
                wrong += 1
                break
    assert wrong <= 6
