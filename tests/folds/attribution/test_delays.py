"""Delays of rewards: the estimated distribution of each arm while most rewards have not come."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from builders import rewards
from scipy.special import gammainc
from simulated_delays import SLOW_BEST, Delays, Times, about, exponential, lognormal, served, two_groups

from bandit_serve.folds.attribution import _delays, delays
from bandit_serve.folds.attribution.pending import PendingDecisions

WINDOW_MS = 100_000
Seen = tuple[PendingDecisions, list[Times], Times]


def seen(kinds: list[Delays], probabilities: list[float], n: int, until_ms: int) -> Seen:
    """n decisions on each arm, evenly over the time to `until_ms`, and what came of their rewards until then.

    With it, of each arm, delays within the window, and the ages of all decisions.
    """
    rng = np.random.default_rng(8)
    pending = PendingDecisions(WINDOW_MS, len(kinds))
    times_ms = np.sort(rng.integers(0, until_ms, n))
    samples = []
    for k, (kind, probability) in enumerate(zip(kinds, probabilities, strict=True)):
        drawn = kind(rng, 4 * n)
        within = drawn[drawn <= WINDOW_MS]
        samples.append(np.sort(within))
        pending.exposed(k, 0, np.full(n, k, np.uint16), times_ms)
        came_ms = times_ms + np.ceil(within[:n]).astype(np.int64)
        come = np.flatnonzero((rng.random(n) < probability) & (came_ms <= until_ms))
        for i in come.tolist():
            row = rewards([i], times_ms=int(times_ms[i]), arms=k, incarnation=k)
            pending.rewarded(row, int(came_ms[i]))
    assert min(pending.delays.arrivals.sum(axis=1)) > 50
    pending.close(until_ms)
    return pending, samples, until_ms - times_ms.astype(np.float64)


KINDS = {
    "exponential": partial(exponential, 0.3 * WINDOW_MS),
    "lognormal": partial(lognormal, 0.05 * WINDOW_MS),
    "two groups": partial(two_groups, 0.01 * WINDOW_MS, 0.4 * WINDOW_MS),
    "about one delay": partial(about, 0.4 * WINDOW_MS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_open_decisions_weigh_what_has_shown_of_them_whatever_the_delays_are(kind: str) -> None:
    pending, (delays_ms,), ages = seen([KINDS[kind]], [0.1], 60_000, 3 * WINDOW_MS)
    ages = ages[ages < WINDOW_MS]
    expected = (np.searchsorted(delays_ms, ages) / len(delays_ms)).sum() * 0.9
    assert 0.1 * len(ages) < expected < 0.9 * len(ages), "some have shown, some not"
    assert pending.weights(3 * WINDOW_MS)[0] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shape", [*delays.SHAPES, 0.01, 10.0])
def test_gamma_distributions_are_scipys(shape: float) -> None:
    x = np.concatenate([[0.0], 10.0 ** np.linspace(-12.0, 6.0, 3_000)])
    assert _delays.gamma_below(shape, x) == pytest.approx(gammainc(shape, x), rel=1e-13)


def test_delays_that_no_decision_is_old_enough_for_are_not_thought_absent() -> None:
    """After .3 windows; exponential delays of mean .4 windows. What has arrived looks three times as fast."""
    kinds = [partial(exponential, 0.4 * WINDOW_MS), partial(exponential, 0.02 * WINDOW_MS)]
    until_ms = round(0.3 * WINDOW_MS)
    pending, samples, ages = seen(kinds, [0.1, 0.1], 6_000, until_ms)
    rewarded = pending.delays.arrivals.sum(axis=1)
    trials = pending.weights(until_ms) + rewarded
    expected = np.array([(np.searchsorted(each, ages) / len(each)).sum() for each in samples])
    assert trials[1] == pytest.approx(expected[1], rel=0.05)
    assert trials[0] == pytest.approx(expected[0], rel=0.35)
    arrivals = pending.delays.arrivals[0]
    uncorrected = np.interp(ages, pending.delays.edges_ms[1:], np.cumsum(arrivals) / arrivals.sum()).sum()
    assert uncorrected > 2 * expected[0]


def test_an_arm_of_which_little_is_known_keeps_slow_delays_in_mind() -> None:
    """No reward of 300 decisions, open for a fifth of the window: failures, or rewards that take their time."""
    pending = PendingDecisions(WINDOW_MS, 1)
    pending.exposed(1, 0, np.zeros(300, np.uint16), np.zeros(300, np.int64))
    young, old = pending.weights(WINDOW_MS // 5)[0], pending.weights(WINDOW_MS)[0]
    assert 1 < young < 100
    assert old > 290


def test_the_estimate_is_its_formula() -> None:
    rng = np.random.default_rng(3)
    arrivals = rng.poisson(rng.uniform(0, 20, (4, delays.BINS))) * (rng.random((4, delays.BINS)) < 0.5)
    arrivals[3] = 0
    decisions = np.sort(rng.uniform(0, 3_000, (4, delays.BINS)))[:, ::-1].copy()
    decisions[:, -8:] = 0.0
    arrivals[:, -8:] = 0
    before, weight = 4.0, 7.0
    rates = _delays.arrival_rates(
        arrivals,
        decisions,
        delays._MASSES,
        delays._LOG_MASSES,
        delays._BY_SHAPE,
        delays._PRIOR,
        before,
        weight,
    )
    g, n = delays._BY_SHAPE, arrivals.sum(axis=1, keepdims=True)
    trials = decisions @ g.T
    log_likelihood = arrivals @ np.log(g).T - (n + 0.5) * np.log(before + trials)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    posterior = likelihood * delays._PRIOR
    posterior /= posterior.sum(axis=1, keepdims=True)
    by_shape = (posterior * (n + 1) / (trials + 2)) @ g
    rate = by_shape.sum(axis=1, keepdims=True)
    expected = (weight * by_shape / rate + arrivals) / (weight / rate + decisions)
    assert np.ptp(expected / expected.mean()) > 1
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("window_ms", [10, 1_000, 90 * 86_400_000])
def test_every_delay_has_its_bin(window_ms: int) -> None:
    pending = PendingDecisions(window_ms, 1)
    edges = pending.delays.edges_ms
    assert edges[0] == 0
    assert edges[-1] == window_ms
    for delay in np.unique(np.clip(np.geomspace(1, window_ms, 40).astype(np.int64), 1, window_ms)).tolist():
        before = pending.delays.arrivals.copy()
        pending.rewarded(rewards([0], times_ms=5), 5 + delay)
        (bin_,) = np.flatnonzero(pending.delays.arrivals[0] - before[0]).tolist()
        assert edges[bin_] < delay <= edges[bin_ + 1]
    for odd in (-3, 0, 2 * window_ms):  # clocks differ
        pending.rewarded(rewards([0], times_ms=5), 5 + odd)
    assert pending.delays.arrivals[0, 0] >= 2
    assert pending.delays.arrivals[0, -1] >= 2


def test_more_arms_change_nothing_for_those_that_were_there() -> None:
    until_ms = 2 * WINDOW_MS
    pending, _, _ = seen([KINDS["exponential"], KINDS["lognormal"]], [0.2, 0.1], 3_000, until_ms)
    pending.rewarded(rewards([9_999], times_ms=until_ms - 5, values=0.0, incarnation=77), until_ms)
    before = pending.weights(until_ms)
    grown = pending.grown(4)
    assert grown.n_arms == 4
    assert grown.weights(until_ms).tolist() == [*before.tolist(), 0.0, 0.0]
    grown.exposed(9, 0, np.array([3, 0], np.uint16), np.array([until_ms] * 2, np.int64))
    closed = grown.close(4 * until_ms)
    assert closed is not None
    assert closed.decisions[2:].tolist() == [0, 1]
    assert pending.weights(until_ms).tolist() == before.tolist(), "the former one is left as it was"
    with pytest.raises(ValueError, match="arms below 2"):
        pending.exposed(9, 0, np.array([2], np.uint16), np.array([until_ms], np.int64))
    with pytest.raises(ValueError, match="arms below 2"):
        pending.rewarded(rewards([1], arms=2), until_ms)


@pytest.mark.slow
def test_a_slow_best_arm_is_found_long_before_its_window_closes() -> None:
    """Full size is in `simulated_delays.py`: 100 runs, where waiting for the window gives 351."""
    outcome = served(SLOW_BEST, range(5))
    assert len(set(outcome.regrets)) == 5
    assert outcome.regret < 100
    slow = [means[1] for means in outcome.means]
    assert all(0.08 < mean < 0.11 for mean in slow)
    assert 0.09 < np.mean(slow) < 0.11


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 1.0])
def test_a_part_of_the_rewards_came_within_the_delay_that_is_said(part: float) -> None:
    window_ms, rng = 3_600_000, np.random.default_rng(8)
    found = delays.Delays(window_ms, 3)
    drawn = [
        np.ceil(rng.exponential(mean, 500)).clip(1, window_ms).astype(np.int64) for mean in (900, 400_000)
    ]
    for arm, of in enumerate(drawn):
        np.add.at(found.arrivals[arm], np.searchsorted(found.edges_ms, of, "left") - 1, 1)
    *within, of_none = found.within_ms(part).tolist()
    assert of_none == 0
    for of, said in zip(drawn, within, strict=True):
        exact = np.sort(of)[int(np.ceil(part * len(of))) - 1]
        assert exact <= said <= 1.2 * exact + 1
