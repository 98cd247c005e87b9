"""Shrinkage of the estimates of segments against formulas written out, and what it must do at its ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_serve.results.shrinkage import shrunk, tau_squared

# Effects and variances of four trials, and what DerSimonian and Laird's formulas give for them by hand.
EFFECTS, VARIANCES = np.array([0.2, 0.5, -0.1, 0.9]), np.array([0.04, 0.01, 0.09, 0.0225])


def by_hand(effects: np.ndarray, variances: np.ndarray) -> tuple[float, float]:
    """tau^2 and the mean with weights 1/(v + tau^2), term by term as the paper writes them."""
    w = [1.0 / v for v in variances]
    mean = sum(wi * d for wi, d in zip(w, effects, strict=True)) / sum(w)
    q = sum(wi * (d - mean) ** 2 for wi, d in zip(w, effects, strict=True))
    tau2 = max(0.0, (q - (len(w) - 1)) / (sum(w) - sum(wi * wi for wi in w) / sum(w)))
    star = [1.0 / (v + tau2) for v in variances]
    return tau2, sum(wi * d for wi, d in zip(star, effects, strict=True)) / sum(star)


def test_it_is_dersimonian_and_lairds() -> None:
    tau2, mean = by_hand(EFFECTS, VARIANCES)
    assert tau2 == pytest.approx(0.09346, abs=1e-5)
    assert tau_squared(EFFECTS, VARIANCES) == pytest.approx(tau2, rel=1e-12)
    result = shrunk(EFFECTS, VARIANCES, np.full(4, True))
    assert result is not None
    own = tau2 / (tau2 + VARIANCES)
    assert result.weight == pytest.approx(own, rel=1e-12)
    assert result.estimate == pytest.approx(own * EFFECTS + (1 - own) * mean, rel=1e-12)
    of_mean = 1.0 / (1.0 / (VARIANCES + tau2)).sum()
    assert result.standard_error == pytest.approx(
        np.sqrt(own * VARIANCES + (1 - own) ** 2 * of_mean), rel=1e-12
    )


def test_estimates_that_differ_no_more_than_chance_become_their_mean() -> None:
    result = shrunk(np.array([0.1, 0.12, 0.09]), np.array([0.04, 0.01, 0.02]), np.full(3, True))
    assert result is not None
    pooled = (0.1 / 0.04 + 0.12 / 0.01 + 0.09 / 0.02) / (25 + 100 + 50)
    assert result.estimate == pytest.approx(pooled, rel=1e-12)
    assert result.weight == pytest.approx(0.0)
    assert result.standard_error == pytest.approx(np.sqrt(1 / 175), rel=1e-12)


def test_what_is_not_known_is_the_mean_of_the_others_as_wide_as_they_differ() -> None:
    known = np.array([True, True, False, True, True])
    effects, variances = np.insert(EFFECTS, 2, np.nan), np.insert(VARIANCES, 2, np.nan)
    result, others = shrunk(effects, variances, known), shrunk(EFFECTS, VARIANCES, np.full(4, True))
    assert result is not None
    assert others is not None
    tau2, mean = by_hand(EFFECTS, VARIANCES)
    assert result.estimate[2] == pytest.approx(mean)
    assert result.standard_error[2] == pytest.approx(np.sqrt(tau2 + 1 / (1 / (VARIANCES + tau2)).sum()))
    assert result.estimate[known] == pytest.approx(others.estimate)
    assert shrunk(effects, variances, np.array([True, False, False, False, False])) is None


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0.01, 4.0)), min_size=2, max_size=12),
    st.sampled_from([1e-60, 1e-3, 7.0, 1e60]),
    st.sampled_from([0.0, 5.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_unit_of_measurement_changes_nothing(
    rows: list[tuple[float, float]], scale: float, shift: float
) -> None:
    effects, variances = np.array(rows).T
    everyone = np.full(len(rows), True)
    plain, other = (
        shrunk(effects, variances, everyone),
        shrunk(scale * (effects + shift), scale**2 * variances, everyone),
    )
    assert plain is not None
    assert other is not None
    assert other.estimate / scale - shift == pytest.approx(plain.estimate, rel=1e-6, abs=1e-6)
    assert other.standard_error / scale == pytest.approx(plain.standard_error, rel=1e-6, abs=1e-6)
    assert ((plain.weight >= 0) & (plain.weight < 1)).all()
    low, high = effects.min() - 1e-12, effects.max() + 1e-12
    assert ((plain.estimate >= low) & (plain.estimate <= high)).all()


def test_shrunk_estimates_are_nearer_to_the_truths() -> None:
    """In the mean square over segments whose true effects are spread as much as chance moves the estimates."""
    rng = np.random.default_rng(3)
    plain, better = 0.0, 0.0
    for _ in range(200):
        truths = rng.normal(0.5, 0.2, 10)
        variances = rng.uniform(0.02, 0.1, 10)
        estimates = rng.normal(truths, np.sqrt(variances))
        result = shrunk(estimates, variances, np.full(10, True))
        assert result is not None
        plain += np.square(estimates - truths).sum()
        better += np.square(result.estimate - truths).sum()
    assert better < 0.7 * plain
