"""Quantiles: histograms, intervals and evidence, against formulas and by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import scaled
from scipy.special import betaln

from bandit_serve.results._histograms import Histograms, log_wealth
from bandit_serve.results.quantiles import Quantiles
from bandit_serve.results.sequence import TUNED_FOR, tuning

ALPHA = 0.05
PRIOR = 0.5 * TUNED_FOR / tuning(ALPHA) - 1.0


def histograms_of(*arms: Any, n_metrics: int = 1) -> Histograms:
    histograms = Histograms(np.ones(n_metrics, np.uint8), len(arms))
    counted(histograms, *arms)
    return histograms


def counted(histograms: Histograms, *arms: Any) -> None:
    for arm, values in enumerate(arms):
        histograms.add_many(0, arm, np.asarray(values, float), 1)


def quantiles_of(p: float, *arms: Any, control: int = 0) -> Quantiles:
    return Quantiles.of(histograms_of(*arms), 0, p, control, ALPHA)


@given(
    st.lists(
        st.one_of(
            st.floats(-1e80, 1e80),
            st.sampled_from([0.0, -0.0, 1.0, 0.5, 5e-324, -5e-324, 1e80, -1e80, 1 - 2**-53]),
        ),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=200, deadline=None)
def test_each_value_is_in_one_narrow_bin(values: list[float]) -> None:
    low, high, counts = histograms_of(values).of_metric(0)
    assert counts.sum() == len(values)
    assert (np.diff(low) > 0).all()
    assert (high[:-1] <= low[1:]).all()
    held = np.array([np.count_nonzero((low <= value) & (value <= high)) for value in values])
    assert (held >= 1).all()
    normal = np.minimum(np.abs(low), np.abs(high)) > 1e-300
    assert (high - low <= np.maximum(np.abs(low), np.abs(high)) / 100)[normal].all()


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40),
    st.lists(st.floats(-1e9, 1e9), max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_what_is_taken_back_leaves_no_trace(stays: list[float], goes: list[float]) -> None:
    histograms = histograms_of([*goes, *stays])
    histograms.add_many(0, 0, np.array(goes), -1)
    for name, column in histograms_of(stays).state().items():
        np.testing.assert_array_equal(histograms.state()[name], column)
    back = Histograms.from_state(histograms.state())
    for name, column in histograms.state().items():
        np.testing.assert_array_equal(back.state()[name], column)


def test_bins_are_put_together_when_there_are_too_many_and_say_the_same() -> None:
    """With a thousand arms there is room for a thousand bins; which bins there are is no matter of snapshots."""
    rng, n_arms = np.random.default_rng(3), 1_000
    values = rng.lognormal(0.0, 3.0, 4_000) * rng.choice([-1, 1], 4_000)
    whole, cut = (Histograms(np.ones(1, np.uint8), n_arms) for _ in range(2))
    for start in range(0, 4_000, 500):
        some = values[start : start + 500]
        gone = rng.lognormal(9.0, 3.0, 300)
        for histograms in (whole, cut):
            histograms.add_many(0, start % 7, gone, 1)
            histograms.add_many(0, start % 7, gone, -1)
            histograms.add_many(0, start % 7, some, 1)
        cut = Histograms.from_state(cut.state())
    low, high, counts = whole.of_metric(0)
    assert 100 < len(low) <= 2**20 // n_arms
    assert counts.sum() == 4_000
    assert (high[:-1] <= low[1:]).all()
    inside = np.array(
        [np.count_nonzero((values >= a) & (values < b)) for a, b in zip(low, high, strict=True)]
    )
    np.testing.assert_array_equal(inside[low > 0], counts.sum(axis=1)[low > 0])
    for name, column in whole.state().items():
        np.testing.assert_array_equal(cut.state()[name], column)
    whole.grow(100_000)
    assert len(whole.of_metric(0)[0]) <= 2**20 // 100_000 + 3
    assert whole.of_metric(0)[2].sum() == 4_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state | {"keys": state["keys"][::-1].copy()},
        lambda state: state | {"counts": state["counts"] - 1},
        lambda state: state | {"sizes": state["sizes"] + 1},
        lambda state: state | {"halvings": state["halvings"] + 30},
        lambda state: state | {"keys": state["keys"][:-1]},
        lambda state: state | {"keys": state["keys"] + np.int32(2**20)},
        lambda state: state | {"kept": state["kept"] * 0},
    ],
)
def test_a_state_that_can_not_be_is_refused(spoil: Any) -> None:
    state = histograms_of([1.0, 2.0, 3.0], [2.0]).state()
    Histograms.from_state(state)
    with pytest.raises(ValueError, match="snapshot"):
        Histograms.from_state(spoil(state))


@pytest.mark.parametrize("p", [0.5, 0.95, 0.99, 0.01])
@pytest.mark.parametrize("prior", [1.0, 40.0, 600.0])
def test_the_wealth_is_the_mixture(p: float, prior: float) -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 30, (40, 2))
    a, b, n = p * prior, (1 - p) * prior, counts.sum(axis=0)

    def mixture(s: Any, n: Any) -> Any:
        return betaln(a + s, b + n - s) - betaln(a, b) - s * math.log(p) - (n - s) * math.log1p(-p)

    wealth, beyond = log_wealth(counts, p, prior)
    up_to = np.cumsum(counts, axis=0)
    for arm in range(2):
        for j in range(40):
            inside = np.linspace(up_to[j, arm] - counts[j, arm], up_to[j, arm], 1_001)
            assert wealth[j, arm] == pytest.approx(mixture(inside, n[arm]).min(), abs=2e-3)
        np.testing.assert_allclose(beyond[:, arm], mixture(np.array([0, n[arm]]), n[arm]), rtol=1e-9)


def test_the_mixture_is_a_martingale() -> None:
    """Its mean over s ~ Binomial(n, p) is 1, where each bin holds one number of values."""
    p, n = 0.9, 60
    total = 0.0
    for s in range(n + 1):
        counts = np.array([[s], [0], [n - s]])
        chance = math.comb(n, s) * p**s * (1 - p) ** (n - s)
        total += chance * math.exp(log_wealth(counts, p, 50.0)[0][1, 0])
    assert total == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_values_are_the_sample_quantiles(p: float) -> None:
    rng = np.random.default_rng(2)
    for values in (rng.lognormal(5, 1, 5_000), -rng.lognormal(5, 1, 5_000), rng.normal(0, 1, 5_000)):
        found = quantiles_of(p, values).values[0]
        assert found == pytest.approx(np.quantile(values, p), rel=0.02, abs=0.02)
    assert quantiles_of(p, np.zeros(10)).values[0] == 0.0


def test_intervals_are_those_of_every_pair_of_bins() -> None:
    """Against all pairs, one by one."""
    rng = np.random.default_rng(4)
    q = quantiles_of(
        0.5, rng.lognormal(3, 0.5, 400), rng.lognormal(3.1, 0.5, 300), rng.lognormal(2, 0.5, 200)
    )
    limit = -math.log(ALPHA)
    for arm in (1, 2):
        pairs = q.wealth[:, [0]] + q.wealth[:, arm] < limit
        i, j = np.nonzero(pairs)
        assert len(i) > 100
        assert q.difference_interval(arm) == ((q.low[j] - q.high[i]).min(), (q.high[j] - q.low[i]).max())
        ratios = (q.low[j] / q.high[i]).min() - 1, (q.high[j] / q.low[i]).max() - 1
        assert q.lift_interval(arm) == pytest.approx(ratios)
        assert q.log_e_values()[arm] == (q.wealth[:, 0] + q.wealth[:, arm]).min()
    assert q.difference_interval(0) is None
    assert q.log_e_values()[2] > limit
    below = q.difference_interval(2)
    assert below is not None
    assert below[1] < 0.0


def test_few_values_have_no_interval_and_more_have() -> None:
    rng = np.random.default_rng(5)
    few = quantiles_of(0.99, rng.normal(100, 5, 50), rng.normal(100, 5, 50))
    assert few.interval(0) is None
    assert few.difference_interval(1) is None
    many = quantiles_of(0.99, rng.normal(100, 5, 9_000), rng.normal(100, 5, 9_000))
    for interval in (many.interval(0), many.difference_interval(1), many.lift_interval(1)):
        assert interval is not None
    assert quantiles_of(0.5, [], []).interval(0) is None
    assert quantiles_of(0.5, [], []).difference_interval(1) is None
    assert np.isnan(quantiles_of(0.5, [], [1.0]).values[0])
    assert quantiles_of(0.5, [], [1.0]).log_e_values().tolist() == [0.0, 0.0]


LAWS = {
    "normal": lambda rng, n: rng.normal(50, 10, n),
    "lognormal": lambda rng, n: rng.lognormal(5, 2, n),
    "t3": lambda rng, n: rng.standard_t(3, n),
    "revenue": lambda rng, n: np.where(rng.random(n) < 0.05, rng.lognormal(3, 1.5, n), 0.0),
    "counts": lambda rng, n: np.round(rng.normal(700, 5, n)),
    "orders": lambda rng, n: np.where(rng.random(n) < 0.6, 1.0 + rng.poisson(2, n), 0.0),
}
TRUE = {
    name: {
        p: np.quantile(law(np.random.default_rng(0), 1_000_000), p, method="inverted_cdf")
        for p in (0.5, 0.95)
    }
    for name, law in LAWS.items()
}


@pytest.mark.parametrize("p", [0.5, 0.95])
@pytest.mark.parametrize("law", LAWS)
def test_at_some_time_no_more_than_alpha_miss(law: str, p: float) -> None:
    """Ever, at looks that are a fifth apart from 100 to 10,000 values: of an arm's quantile, of the difference of two
    arms with one law, where shares move to whichever arm is ahead.
    """
    runs, rng = scaled(40, 300), np.random.default_rng(6)
    missed = rejected = of_difference = 0
    for _ in range(runs):
        histograms = Histograms(np.ones(1, np.uint8), 2)
        n, miss, reject, outside = 0, False, False, False
        share = 0.5
        for look in np.unique(np.geomspace(100, 10_000, 24).astype(int)):
            arms = rng.random(look - n) < share
            for arm in (0, 1):
                histograms.add_many(0, arm, LAWS[law](rng, int(np.count_nonzero(arms == arm))), 1)
            n = look
            found = Quantiles.of(histograms, 0, p, 0, ALPHA)
            interval, difference = found.interval(0), found.difference_interval(1)
            miss |= interval is not None and not interval[0] <= TRUE[law][p] <= interval[1]
            outside |= difference is not None and not difference[0] <= 0.0 <= difference[1]
            reject |= bool(max(found.log_e_values()) >= -math.log(ALPHA))
            share = 0.8 if found.differences[1] > 0 else 0.2
        missed += miss
        rejected += reject
        of_difference += outside
    most = ALPHA * runs + 2 * math.sqrt(ALPHA * (1 - ALPHA) * runs)
    assert missed <= most
    assert rejected <= most
    assert of_difference <= most


def test_a_difference_is_found() -> None:
    """A 95th percentile that is a fifth higher, of 20,000 lognormal values: in nearly all runs, in its direction."""
    runs, rng = scaled(10, 300), np.random.default_rng(7)
    found = 0
    for _ in range(runs):
        arms = rng.lognormal(5, 0.5, 10_000), 1.2 * rng.lognormal(5, 0.5, 10_000)
        above, below = quantiles_of(0.95, *arms).directed()
        found += above[1] >= -math.log(ALPHA)
        assert below[1] == 0.0
    assert found >= 0.9 * runs
