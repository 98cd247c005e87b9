"""Betting intervals: values, a reference on a grid, and the rate of misses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference_betting import BINARY, SQUARES
from scale import scaled

from bandit_serve.results.betting import STEPS, mean_interval

Floats = NDArray[np.float64]


@pytest.mark.parametrize(
    ("values", "t", "expected"),
    [
        (BINARY, 30, (0.0, 0.3227)),
        (BINARY, 100, (0.0193, 0.1782)),
        (BINARY, 200, (0.0262, 0.1380)),
        (SQUARES, 10, (0.1266, 0.6700)),
        (SQUARES, 30, (0.1672, 0.4625)),
        (SQUARES, 100, (0.2171, 0.3825)),
        (SQUARES, 200, (0.2437, 0.3726)),
    ],
)
def test_the_known_values(values: Floats, t: int, expected: tuple[float, float]) -> None:
    assert mean_interval(values[:t], 0.0, 1.0, 0.05) == pytest.approx(expected, abs=1e-9)


def on_a_grid(x: Floats, alpha: float) -> tuple[float, float]:
    """By the formulas: every mean on the grid, every time."""
    means = np.arange(STEPS + 1) / STEPS
    kept, more, less = np.ones(len(means), bool), np.ones(len(means)), np.ones(len(means))
    spread, seen = 0.25, 0.0
    total, squares = 0.5, 0.25
    for t, value in enumerate(x.tolist(), 1):
        bet = math.sqrt(2 * math.log(2 / alpha) / (spread * t * math.log(t + 1)))
        with np.errstate(divide="ignore"):
            more *= 1 + np.minimum(bet, 0.5 / means) * (value - means)
            less *= 1 - np.minimum(bet, 0.5 / (1 - means)) * (value - means)
        kept &= np.maximum(more, less) / 2 < 1 / alpha
        total += value
        seen = total / (t + 1)
        squares += (value - seen) ** 2
        spread = squares / (t + 1)
    left = np.flatnonzero(kept)
    return max(left[0] - 1, 0) / STEPS, min(left[-1] + 1, STEPS) / STEPS


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=2, max_size=60))
@settings(max_examples=25, deadline=None)
def test_it_is_what_is_left_of_a_grid(values: list[float]) -> None:
    for alpha in (0.05, 0.2):
        assert mean_interval(values, 0.0, 1.0, alpha) == pytest.approx(
            on_a_grid(np.array(values), alpha), abs=1.01 / STEPS
        )


@pytest.mark.parametrize(("low", "high"), [(-3.0, 7.0), (0.0, 1e80), (-1e-9, 1e-9), (100.0, 101.0)])
def test_other_bounds_move_it_along(low: float, high: float) -> None:
    bounds = mean_interval(low + (high - low) * SQUARES, low, high, 0.05)
    expected = [low + (high - low) * end for end in (0.2437, 0.3726)]
    assert bounds == pytest.approx(expected, rel=1e-9, abs=1.01e-4 * (high - low))
    assert mean_interval(high - (high - low) * SQUARES, low, high, 0.05) == pytest.approx(
        [low + high - expected[1], low + high - expected[0]], rel=1e-9, abs=1.01e-4 * (high - low)
    )


@pytest.mark.parametrize("n", [2, 3, 1000])
def test_values_that_are_all_alike_leave_their_bound_in(n: int) -> None:
    assert mean_interval(np.zeros(n), 0.0, 1.0, 0.05)[0] == 0.0
    assert mean_interval(np.ones(n), 0.0, 1.0, 0.05)[1] == 1.0


@pytest.mark.parametrize(
    ("law", "mean"),
    [
        (lambda rng, n: rng.random(n) < 0.5, 0.5),
        (lambda rng, n: rng.random(n) < 0.1, 0.1),
        (lambda rng, n: rng.random(n) < 0.01, 0.01),
        (lambda rng, n: rng.beta(0.05, 0.95, n), 0.05),
    ],
)
def test_it_ever_misses_in_at_most_one_of_twenty(law, mean: float) -> None:
    """What is once left out stays out: the interval at the end says whether any before it missed."""
    runs, missed = scaled(300, 4000), 0
    for run in range(runs):
        low, high = mean_interval(law(np.random.default_rng([20, run]), 1000), 0.0, 1.0, 0.05) or (1, 0)
        missed += not low <= mean <= high
    assert missed / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
