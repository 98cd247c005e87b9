"""Error rates, coverage and power by seeded simulation; `simulated_results.py` runs it at full size."""

from __future__ import annotations

import numpy as np
import pytest
from scale import scaled
from simulated_results import (
    Play,
    adaptive,
    bernoulli,
    changing,
    fixed_split,
    growing,
    lognormal,
    normal,
    orders,
    record,
    split_of,
    swapped,
    thompson,
    uneven,
    users,
)

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.results import ResultsFold, estimates, report

pytestmark = pytest.mark.slow

RUNS = scaled(20, 200)
SALES = 0.05 * np.exp(0.5 * 1.0**2)


def sales(rng, k, n):
    """19 in 20 buy nothing, the others for lognormal sums."""
    return rng.lognormal(0.0, 1.0, n) * (rng.random(n) < 0.05)


def error(n: int) -> float:
    """Two standard errors of a rate of .05 in `n` runs."""
    return 2.0 * float(np.sqrt(0.05 * 0.95 / n))


def rarely(rejected: list[bool]) -> bool:
    assert len(rejected) >= 20
    return np.mean(rejected) <= 0.05 + error(len(rejected))


def covered(held: list[bool]) -> bool:
    assert len(held) >= 20
    return np.mean(held) >= 0.95 - error(len(held))


def test_a_fixed_split_of_equal_arms_is_rarely_ever_significant():
    outcome = fixed_split(RUNS)
    assert rarely(outcome.rejected)
    assert covered(outcome.arms)
    assert covered(outcome.differences)


def test_a_test_that_forgets_that_it_was_looked_at_would_be_caught():
    """The same plays by a z-test at each look: what the sequences are there for."""
    rejected = 0
    for run in range(30):
        play = Play(ResultsFold(record()), np.random.default_rng([1, run]), bernoulli(0.1, 0.1))
        ever = False
        for _ in range(23):
            play.step(np.array([0.5, 0.5]), 200)
            arms, values = np.concatenate(play.arms), np.concatenate(play.values)
            a, b = values[arms == 0], values[arms == 1]
            error = np.sqrt(a.var() / len(a) + b.var() / len(b))
            ever |= bool(abs(a.mean() - b.mean()) > 1.96 * error)
        rejected += ever
    assert rejected > 6


def test_thompson_on_equal_arms_is_rarely_ever_significant():
    outcome = thompson(RUNS, steps=60, every=15)
    assert len(outcome.shares) > 300
    assert rarely(outcome.rejected)
    assert covered(outcome.arms)
    assert covered(outcome.differences)


def test_arms_of_small_shares_are_rarely_ever_significant():
    outcome = uneven(20, orders, 0.1, every=4)
    assert sum(outcome.rejected) <= 2
    assert covered(outcome.differences)


def test_a_starved_arms_own_variance_would_be_caught(monkeypatch):
    monkeypatch.setattr(estimates, "PRIOR", 1e-9)
    assert sum(uneven(20, orders, 0.1, every=4).rejected) > 4


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("kind", ["lin_ts", "squarecb"])
def test_a_context_that_decides_the_share_and_the_mean_names_no_winner(kind, known):
    outcome = swapped(12, kind, known=known)
    assert sum(outcome.rejected) <= 2
    assert np.mean(outcome.differences) >= 0.9
    assert np.mean(outcome.arms) >= 0.9


def test_a_variance_from_arms_and_shares_alone_would_be_caught(monkeypatch):
    monkeypatch.setattr(estimates.Sums, "pair_variation", lambda sums, estimate: np.zeros(len(sums.n)))
    assert sum(swapped(12, "lin_ts").rejected) > 2


def test_a_ramp_costs_half_of_what_it_would_without_weights():
    """The same traffic and values under a policy whose shares may not weight them."""
    half = {}
    for kind in ("thompson", "lin_ts"):
        fold = ResultsFold(record(policy=PolicySpec(kind=kind, min_share=0.01)))
        play = Play(fold, np.random.default_rng(3), bernoulli(0.1, 0.1))
        for share in (0.01, 0.05, 0.2, 0.5):
            play.step(np.array([1 - share, share]), 5_000)
        low, high = report(fold, fold.record, {}, 0).arms[1].metrics["m"].difference_interval
        half[kind] = (high - low) / 2
        assert low < 0 < high
    assert half["thompson"] < 0.6 * half["lin_ts"]


def test_a_mean_of_skewed_values_has_no_interval_before_there_are_many_and_a_longer_side_then():
    """Without either, intervals of the means ever miss in half of the plays."""
    missed, given, lengths = 0, 0, []
    for run in range(12):
        fold = ResultsFold(record(2, "continuous"))
        play, ever = Play(fold, np.random.default_rng([10, run]), sales), False
        for step in range(30):
            play.step(np.array([0.5, 0.5]), 150 + 25 * step)
            final = report(fold, fold.record, {}, 0)
            rows = [arm.metrics["m"] for arm in final.arms]
            intervals = [row.interval for row in rows if row.interval is not None]
            assert ("too few observations for values so skewed" in final.reason) == (len(intervals) < 2)
            ever |= any(not low <= SALES <= high for low, high in intervals)
            lengths += [
                (row.interval[1] - row.mean) / (row.mean - row.interval[0])
                for row in rows
                if row.interval is not None
            ]
        missed += ever
        given += rows[1].difference_interval is not None
    assert missed <= 2
    assert given == 12
    assert lengths
    assert min(lengths) > 1.05


def test_a_difference_is_found_by_a_fixed_split_and_by_thompson():
    assert sum(fixed_split(12, (0.1, 0.16), 1, 4000).rejected) >= 10
    outcome = thompson(12, (0.1, 0.2), steps=60, every=60)
    assert sum(outcome.rejected) >= 10
    assert covered(outcome.arms)


@pytest.mark.parametrize(
    ("kind", "missing", "draw", "truth"),
    [
        ("continuous", "ignore", normal(1, 1, 1), (1, 1, 1)),
        ("continuous", "ignore", lognormal, (np.exp(0.5),) * 3),
        ("count", "zero", orders, (0.1,) * 3),
    ],
)
def test_three_equal_arms_under_adaptive_shares(kind, missing, draw, truth):
    outcome = adaptive(RUNS, kind, missing, draw, truth, steps=40, every=20)
    assert len(outcome.shares) > 100
    assert rarely(outcome.rejected)
    assert covered(outcome.arms)
    assert covered(outcome.differences)


def test_three_arms_that_differ_are_covered():
    outcome = adaptive(RUNS, "continuous", "ignore", normal(1, 1.2, 0.9), (1, 1.2, 0.9), steps=40, every=40)
    assert covered(outcome.arms)
    assert covered(outcome.differences)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("after", [0.1, 0.2])
def test_an_arm_that_comes_half_way_is_rarely_ever_significant(after, split):
    """Also when everything changes with its coming: it is compared over the time that it shares with control."""
    outcome = growing(RUNS, 0.1, after, every=10, split=split)
    assert rarely(outcome.rejected)
    assert covered(outcome.differences)
    assert outcome.mismatches <= 1
    if after == 0.1:
        assert covered(outcome.arms)


def test_an_arm_that_comes_half_way_and_is_better_is_found():
    outcome = growing(20, third=0.25, every=60)
    assert sum(outcome.rejected) >= 17
    assert covered(outcome.differences)


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_units_whose_values_grow_are_rarely_ever_significant(missing):
    assert rarely(users(RUNS, missing).rejected)


@pytest.mark.parametrize("moving", [False, True])
def test_the_sample_ratio_is_silent_as_logged_and_alarmed_when_off_by_a_fiftieth(moving):
    assert split_of(20, 0.0, 40_000, 10, moving) <= 1
    assert split_of(10, 0.02, 40_000, 10, moving) >= 9


@pytest.mark.parametrize(
    ("missing", "unit"), [("ignore", "request"), ("zero", "request"), ("ignore", "user")]
)
def test_values_that_grow_and_are_taken_back_are_rarely_ever_significant(missing, unit):
    outcome = changing(RUNS, missing, unit=unit)
    assert rarely(outcome.rejected)
    assert covered(outcome.differences)
    assert covered(outcome.arms)


def test_a_difference_of_values_that_change_is_found():
    outcome = changing(20, "ignore", (1.0, 1.4))
    assert sum(outcome.rejected) >= 18
    assert np.mean(outcome.differences) >= 0.9
