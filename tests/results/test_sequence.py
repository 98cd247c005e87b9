"""Confidence sequences against known values and against the formulas of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.results.sequence import Sequence, holm, mean_sequence, p_value, tuning

CONTROL, TREATMENT = (400, 4000), (470, 4100)


def sample(successes: int, n: int) -> tuple[float, float]:
    """The mean of 0/1 values and the variance of that mean."""
    mean = successes / n
    return mean, mean * (1 - mean) / (n - 1)


def test_the_known_values_of_two_arms():
    (m_a, v_a), (m_b, v_b) = sample(*CONTROL), sample(*TREATMENT)
    difference = mean_sequence(8100, m_b - m_a, v_a + v_b)
    half = difference.half_width(0.05)
    assert tuning(0.05) / 5000 == pytest.approx(0.001587230920347513, rel=1e-12)
    assert difference.mean - half == pytest.approx(-0.006321422150146739, rel=1e-9)
    assert difference.mean + half == pytest.approx(0.03558971483307356, rel=1e-9)
    assert np.exp(difference.log_e_value(0.05)) == pytest.approx(2.1980712338778607, rel=1e-9)
    assert p_value(difference.log_e_value(0.05)) == pytest.approx(0.45494430962357363, rel=1e-9)


positive = st.floats(1e-3, 1e6)


@given(positive, st.floats(-1e4, 1e4), positive, positive, st.floats(0.001, 0.5))
def test_the_boundary_is_that_of_the_paper(t, total, variance, tightest_at, alpha):
    sums = Sequence(np.array(t), np.array(total), np.array(variance), np.array(tightest_at))
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tightest_at
    inner = 2 * (variance * rho2 + 1) / rho2 * math.log(math.sqrt(variance * rho2 + 1) / alpha)
    assert sums.half_width(alpha) == pytest.approx(math.sqrt(inner) / t, rel=1e-9)
    exponent = rho2 * total**2 / (2 * (variance * rho2 + 1))
    expected = exponent - math.log(math.sqrt(variance * rho2 + 1))
    assert sums.log_e_value(alpha) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(positive, positive, positive, st.floats(0.001, 0.5), st.floats(0.5, 1.5))
def test_the_e_value_reaches_one_over_alpha_where_the_interval_leaves_zero_out(t, variance, at, alpha, far):
    edge = Sequence(np.array(t), np.array(0.0), np.array(variance), np.array(at)).half_width(alpha) * t
    moved = Sequence(np.array(t), np.array(edge * far), np.array(variance), np.array(at))
    if abs(far - 1) > 1e-6:
        assert (moved.log_e_value(alpha) > -math.log(alpha)) == (far > 1)
        assert (abs(moved.mean) > moved.half_width(alpha)) == (far > 1)


def test_a_sequence_is_tightest_where_it_is_tuned():
    variance = np.geomspace(10, 1e6, 2001)
    sums = Sequence(variance, 0 * variance, variance, np.full(2001, 3000.0))
    ratio = sums.half_width(0.05) * np.sqrt(variance)
    assert variance[ratio.argmin()] == pytest.approx(3000, rel=0.05)


def test_p_values_never_leave_zero_to_one():
    np.testing.assert_array_equal(
        p_value([-5.0, 0.0, np.log(4.0), 1e9]), [1.0, 1.0, np.exp(-np.log(4.0)), 0.0]
    )


def test_holm_adjusts_the_smallest_most():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.5]), [0.06, np.nan, 1.0])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_only_raises(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
