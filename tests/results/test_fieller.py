"""Fieller's set: values, invariances, and the rate of misses against the linear approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from bandit_serve.results.fieller import Ratios, ratios
from bandit_serve.results.sequence import tuning

Floats = NDArray[np.float64]


def of_two(
    control: tuple[float, float], arm: tuple[float, float], squared_threshold: float
) -> tuple[Ratios, float]:
    """Two independent means, each with its variance; and whether 0 is in the difference's interval, as a distance."""
    (m_a, v_a), (m_b, v_b) = control, arm
    one = np.ones(1)
    interval = ratios(
        one * (m_b - m_a), one * m_a, one * (v_a + v_b), one * v_a, -one * v_a, one * squared_threshold
    )
    return interval, (m_b - m_a) ** 2 - squared_threshold * (v_a + v_b)


def of_counts(successes: int, n: int) -> tuple[float, float]:
    mean = successes / n
    return mean, mean * (1 - mean) / (n - 1)


def test_the_known_values() -> None:
    control, treatment = of_counts(400, 4000), of_counts(470, 4100)
    fixed, _ = of_two(control, treatment, norm.ppf(0.975) ** 2)
    assert fixed.value[0] == pytest.approx(0.14634146341463405, rel=1e-9)
    assert (fixed.low[0], fixed.high[0]) == pytest.approx(
        (0.010892428468553206, 0.30178461757589314), abs=1e-9
    )
    rho2 = tuning(0.05) / 5_000
    q = 8_100 * rho2 + 1
    sequence, _ = of_two(control, treatment, 2 * q * math.log(math.sqrt(q) / 0.05) / (8_100 * rho2))
    assert (sequence.low[0], sequence.high[0]) == pytest.approx(
        (-0.05755993553694394, 0.3992051125285212), abs=1e-9
    )


means = st.floats(-100, 100).filter(lambda mean: abs(mean) > 1e-3)
variances = st.floats(1e-4, 100)


@given(means, means, variances, variances, st.floats(1, 50))
def test_0_is_in_it_exactly_when_it_is_in_that_of_the_difference(
    m_a: float, m_b: float, v_a: float, v_b: float, squared_threshold: float
) -> None:
    interval, beyond = of_two((m_a, v_a), (m_b, v_b), squared_threshold)
    nearness = squared_threshold * v_a / m_a**2
    assume(abs(nearness - 1) > 1e-9)
    assert bool(interval.bounded[0]) == (nearness < 1)
    if interval.bounded[0]:
        assert interval.low[0] <= interval.value[0] <= interval.high[0]
        if abs(beyond) > 1e-6 * squared_threshold * (v_a + v_b):
            assert (interval.low[0] <= 0 <= interval.high[0]) == (beyond <= 0)


@given(means, means, variances, variances, st.sampled_from([-1e70, -3.0, 1e-60, 0.5, 1e70]))
def test_the_unit_of_measurement_changes_nothing_but_the_sign(
    m_a: float, m_b: float, v_a: float, v_b: float, unit: float
) -> None:
    one, _ = of_two((m_a, v_a), (m_b, v_b), 4.0)
    other, _ = of_two((m_a * unit, v_a * unit**2), (m_b * unit, v_b * unit**2), 4.0)
    low, high = (other.low, other.high) if unit > 0 else (-other.high, -other.low)
    assert other.value[0] == pytest.approx(math.copysign(1, unit) * one.value[0], rel=1e-9, abs=1e-12)
    if abs(4.0 * v_a / m_a**2 - 1) > 1e-6:
        assert other.bounded[0] == one.bounded[0]
        if one.bounded[0]:
            assert (low[0], high[0]) == pytest.approx((one.low[0], one.high[0]), rel=1e-6, abs=1e-9)


def test_a_negative_control_that_an_arm_beats_has_a_positive_lift() -> None:
    interval, _ = of_two((-2.0, 0.01), (-1.0, 0.01), 4.0)
    assert interval.value[0] == 0.5
    assert 0 < interval.low[0] < 0.5 < interval.high[0]


@pytest.mark.parametrize("control", [0.0, -0.0, math.nan, 1e-300])
def test_a_control_of_nothing_has_no_interval(control: float) -> None:
    interval, _ = of_two((control, 0.01), (1.0, 0.01), 4.0)
    assert not interval.bounded[0]
    assert bool(interval.known[0]) == (control == 1e-300)


@pytest.mark.parametrize("mean", [0.5, 1.0, 1.7, 2.5, 4.0, 10.0, -1.7])
def test_near_0_it_misses_as_often_as_it_says_and_the_linear_one_more_often(mean: float) -> None:
    rng, n, truth = np.random.default_rng(15), 200_000, 1.0
    m_a = rng.normal(mean, 1.0, n)
    m_b = rng.normal(mean + truth * abs(mean), 0.3, n)
    one = np.ones(n)
    interval = ratios(m_b - m_a, m_a, 1.09 * one, one, -one, norm.ppf(0.975) ** 2 * one)
    missed = interval.bounded & ((truth < interval.low) | (interval.high < truth))
    assert missed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / n)
    if mean == 1.7:
        half = 1.96 * np.sqrt(0.09 + (m_b / m_a) ** 2) / np.abs(m_a)
        linear = np.abs((m_b - m_a) / np.abs(m_a) - truth) > half
        assert linear.mean() > 0.06
