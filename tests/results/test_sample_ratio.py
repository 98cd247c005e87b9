"""Sample-ratio test against known values, and against direct integration over its prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import beta

from bandit_serve.results.sample_ratio import (
    ALPHA,
    log_e_constant,
    log_e_moving,
    sufficient,
    verdict,
)


def test_the_known_value():
    assert math.exp(log_e_constant([4000, 4300], [0.5, 0.5])) == pytest.approx(41.464576640184426, rel=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.05, 0.95))
def test_it_is_the_likelihood_ratio_averaged_over_the_prior(n_a, n_b, theta):
    prior = beta(1000 * theta, 1000 * (1 - theta))
    ratio = lambda q: (q / theta) ** n_a * ((1 - q) / (1 - theta)) ** n_b * prior.pdf(q)  # noqa: E731
    posterior = beta(1000 * theta + n_a, 1000 * (1 - theta) + n_b)
    low, high = posterior.ppf(1e-14), posterior.isf(1e-14)
    expected, _ = quad(ratio, low, high, points=[posterior.mean()], epsabs=0, epsrel=1e-9, limit=200)
    assert math.exp(log_e_constant([n_a, n_b], [theta, 1 - theta])) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [0, 1, 50, 10_000, 10**9])
def test_it_is_what_scipys_gamma_function_makes_of_it(n):
    theta = np.array([0.5, 0.3, 0.2 - 1e-9, 1e-9])
    counts = np.floor(n * theta)
    prior = 1000 * theta
    arms = gammaln(prior + counts) - gammaln(prior) - counts * np.log(theta)
    expected = gammaln(1000) - gammaln(1000 + counts.sum()) + arms.sum()
    size = gammaln(1000 + counts.sum())
    assert log_e_constant(counts, theta) == pytest.approx(expected, rel=1e-13, abs=1e-15 * size)


def test_arms_without_a_share_are_left_out():
    assert log_e_constant([40, 43, 0], [0.5, 0.5, 0.0]) == log_e_constant([40, 43], [0.5, 0.5])
    assert log_e_moving([4.0, -4.0, 0.0], [90.0, 90.0, 0.0]) == log_e_moving([4.0, -4.0], [90.0, 90.0])
    assert log_e_constant([7], [1.0]) == pytest.approx(0.0, abs=1e-9)
    assert log_e_moving([0.0], [0.0]) == 0.0


def test_the_expected_e_value_under_the_logged_shares_is_one():
    counts = np.arange(31)
    chance = np.array([math.comb(30, n) * 0.3**n * 0.7 ** (30 - n) for n in counts])
    values = [math.exp(log_e_constant([n, 30 - n], [0.3, 0.7])) for n in counts]
    assert chance @ values == pytest.approx(1.0, rel=1e-9)


def test_moving_shares_raise_the_alarm_when_an_arm_leaves_its_martingale():
    spread = np.full(3, 40_000 * 2 / 9)
    assert verdict(math.exp(-log_e_moving([100.0, -50.0, -50.0], spread))) == "ok"
    assert verdict(math.exp(-log_e_moving([800.0, -400.0, -400.0], spread))) == "mismatch"
    assert verdict(ALPHA) == "mismatch"


def test_too_few_expected_in_an_arm_are_insufficient():
    assert not sufficient([0, 0], [0.0, 0.0])
    assert not sufficient([96, 4], [0.0, 0.0])
    assert sufficient([95, 5], [0.0, 0.0])
    assert sufficient([99, 1], [4.0, -4.0])
    assert sufficient([50, 50, 0], [0.0, 0.0, 0.0])
