"""Regret against textbook implementations, small and seeded; `simulated_regret.py` runs it at full size."""

from functools import partial

import numpy as np
import pytest
import reference_policies as reference
import simulated_regret as simulated

from bandit_serve.policies import POLICIES, Thompson

pytestmark = pytest.mark.slow

RUNS = 100
WORLD = "[.5, .4 x 9]"


def excess(ours, theirs):
    """How many standard errors the mean of `ours` is above 1.1 times the mean of `theirs`."""
    noise = np.sqrt(ours.var() / ours.size + 1.21 * theirs.var() / theirs.size)
    return (ours.mean() - 1.1 * theirs.mean()) / noise


@pytest.mark.parametrize("kind", simulated.TEXTBOOKS)
def test_regret_is_the_textbooks(kind):
    means, horizon = simulated.BERNOULLI[WORLD], 2000
    ours = simulated.regrets(simulated.policies_of("binary")[kind], means, horizon, RUNS)
    theirs = reference.regrets(simulated.TEXTBOOKS[kind], means, horizon, RUNS, seed=1)
    assert excess(ours, theirs) < 3
    assert excess(theirs, ours) < 3
    assert ours.mean() < 0.1 * 0.9 * horizon
    assert np.ptp(ours) > 0


@pytest.mark.parametrize("kind", simulated.NORMAL_TEXTBOOKS)
def test_regret_of_normal_rewards_is_the_textbooks(kind):
    means, horizon = simulated.NORMAL["Normal [.2, 0 x 4]"], 2000
    ours = simulated.regrets(simulated.policies_of("continuous")[kind], means, horizon, RUNS)
    theirs = reference.regrets(simulated.NORMAL_TEXTBOOKS[kind], means, horizon, RUNS, 1, sigma=1.0)
    assert excess(ours, theirs) < 3
    assert ours.mean() < 0.2 * 0.8 * horizon


def test_a_worse_policy_would_not_pass():
    means, horizon = simulated.BERNOULLI[WORLD], 2000
    worse = simulated.regrets(simulated.policies_of("binary")["exp3"], means, horizon, 30)
    theirs = reference.regrets(reference.Thompson, means, horizon, 30, seed=1)
    assert excess(worse, theirs) > 3


def test_every_policy_that_learns_is_held_against_its_textbook():
    assert set(simulated.TEXTBOOKS) == set(simulated.policies_of("binary"))
    assert {kind for kind, policy in POLICIES.items() if not policy.learns} == {"fixed_split"}


def test_thompsons_regret_grows_with_the_logarithm_of_time():
    means = simulated.BERNOULLI[WORLD]
    grown = simulated.growth(Thompson, means, (2_000, 20_000), 40)
    assert simulated.lai_robbins(simulated.BERNOULLI["[.12, .1 x 9]"]) == pytest.approx(90.29732256028217)
    assert grown.mean() < 1.3 * simulated.lai_robbins(means) * np.log(10)
    assert grown.mean() > 0


def test_forgetting_finds_the_arm_that_became_the_best():
    plain, forgetting = (
        np.mean(
            [
                simulated.share_after_change(partial(Thompson, half_life=half_life), 20_000, seed)
                for seed in range(8)
            ]
        )
        for half_life in (None, "45m")
    )
    assert plain < 0.75
    assert forgetting >= 0.9
