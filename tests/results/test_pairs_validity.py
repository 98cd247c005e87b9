"""Error rates, widths and coverage of adjusted results and of ratios (`simulated_pairs`)."""

from __future__ import annotations

import numpy as np
import pytest
from scale import scaled
from simulated_pairs import cuped, ratio


def most_of(runs, level=0.05):
    """Rate at which `level` is exceeded by more than two standard errors."""
    return level + 2.0 * np.sqrt(level * (1.0 - level) / runs)


@pytest.mark.parametrize("thompson", [False, True], ids=["even split", "Thompson"])
def test_a_covariate_narrows_intervals_and_its_level_holds(thompson):
    """Correlation .8: a factor of sqrt(1 - .64) = .6."""
    runs = scaled(6, 300)
    found = cuped(runs, thompson=thompson, looks=scaled(5, 12))
    assert np.mean(found.adjusted) <= most_of(runs)
    assert 0.55 < np.mean(found.widths) <= scaled(66, 62) / 100.0


def test_a_covariate_that_tells_nothing_costs_nothing():
    found = cuped(scaled(3, 50), correlation=0.0, looks=5)
    assert np.mean(found.widths) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("moved", [False, True], ids=["even split", "moved shares"])
def test_intervals_of_ratios_hold_where_sessions_are_not_independent(moved):
    by_unit, independent = ratio(scaled(25, 300), users=scaled(1_500, 4_000), moved=moved)
    assert by_unit >= 0.94
    assert independent < 0.9
