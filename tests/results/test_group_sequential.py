"""Group-sequential bounds against published values, simulated paths, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scale import scaled
from scipy.stats import norm

from bandit_serve.results.group_sequential import (
    bounds,
    crossing,
    even_fractions,
    obrien_fleming_constant,
    obrien_fleming_spending,
    pocock_constant,
    pocock_spending,
)


def test_known_constants():
    assert pocock_constant(5, 0.05) == pytest.approx(2.413176042647997, abs=1e-6)
    assert obrien_fleming_constant(5, 0.05) == pytest.approx(2.0400729024818527, abs=1e-6)
    assert pocock_constant(1, 0.05) == pytest.approx(norm.isf(0.025), abs=1e-10)


def test_known_bounds_of_even_looks():
    of_obrien_fleming = [4.876884949, 3.357011913, 2.680279907, 2.289816524, 2.031031736]
    assert bounds(even_fractions(5), 0.05) == pytest.approx(of_obrien_fleming, abs=1e-6)
    of_pocock = [2.437976688, 2.426813774, 2.410193663, 2.396645111, 2.385984155]
    assert bounds(even_fractions(5), 0.05, pocock_spending) == pytest.approx(of_pocock, abs=1e-6)


def test_known_bounds_of_uneven_looks():
    found = bounds((0.1, 0.25, 0.6, 1.0), 0.05)
    assert found[1:] == pytest.approx((4.332633663, 2.668868742, 1.980976210), abs=1e-6)
    # The published 6.991340992 is of 4 - 4 Phi, which has lost its digits at 3e-12; this is of the tail itself.
    assert found[0] == pytest.approx(norm.isf(2.0 * norm.sf(norm.isf(0.0125) / math.sqrt(0.1))), abs=1e-9)
    assert found[0] == pytest.approx(6.991340992, abs=2e-5)


@pytest.mark.parametrize("spending", [obrien_fleming_spending, pocock_spending])
@pytest.mark.parametrize("fractions", [even_fractions(20), (0.2, 0.3999, 0.4, 1.0), (0.5, 1.3), (1.0,)])
def test_what_is_spent_at_each_look_is_what_may_be_spent(spending, fractions):
    chances = crossing(fractions, bounds(fractions, 0.05, spending))
    allowed = [spending(min(t, 1.0), 0.05) for t in fractions]
    assert np.cumsum(chances) == pytest.approx(allowed, abs=1e-9)
    assert sum(chances) == pytest.approx(0.05, abs=1e-9)


def test_one_look_is_the_fixed_test():
    assert bounds((1.0,), 0.05)[0] == pytest.approx(norm.isf(0.025), abs=1e-10)
    drift = norm.isf(0.025) + norm.isf(0.2)
    assert sum(crossing((1.0,), (norm.isf(0.025),), drift)) == pytest.approx(0.8, abs=1e-5)


def test_two_looks_are_a_bivariate_normal():
    z = bounds((0.5, 1.0), 0.05)
    rng = np.random.default_rng(6)
    first = rng.normal(0, math.sqrt(0.5), 400_000)
    last = first + rng.normal(0, math.sqrt(0.5), 400_000)
    crossed = (abs(first) / math.sqrt(0.5) >= z[0]) | (abs(last) >= z[1])
    assert crossed.mean() == pytest.approx(0.05, abs=0.0015)


def test_a_drift_is_found_as_often_as_in_simulated_paths():
    fractions, runs = even_fractions(5), scaled(20_000, 500_000)
    z = np.array(bounds(fractions, 0.05))
    steps = np.random.default_rng(7).normal(2.8 / 5, math.sqrt(0.2), (runs, 5))
    beyond = abs(steps.cumsum(axis=1) / np.sqrt(fractions)) >= z
    first = np.where(beyond.any(axis=1), beyond.argmax(axis=1), -1)
    seen = np.bincount(first + 1, minlength=6)[1:] / runs
    assert crossing(fractions, z, 2.8) == pytest.approx(seen, abs=4 * math.sqrt(0.25 / runs))
    assert sum(crossing(fractions, z, 2.8)) == pytest.approx(sum(crossing(fractions, z, -2.8)), abs=1e-12)


def test_a_smaller_level_has_larger_bounds_at_every_look():
    found = np.array([bounds(even_fractions(5), alpha) for alpha in (0.2, 0.05, 0.01, 1e-6, 1e-12)])
    assert (np.diff(found, axis=0) > 0).all()


@pytest.mark.parametrize("fractions", [(), (0.0, 1.0), (0.5, 0.5), (0.6, 0.5), (-0.1,)])
def test_looks_that_do_not_rise_are_refused(fractions):
    with pytest.raises(ValueError, match="rise"):
        bounds(fractions, 0.05)
