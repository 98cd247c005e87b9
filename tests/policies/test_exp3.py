import math

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import Exp3


def textbook(gains, gamma):
    """Auer, Cesa-Bianchi, Freund & Schapire 2002, Figure 1."""
    weights = np.exp(gamma * np.array(gains) / len(gains))
    return (1 - gamma) * weights / weights.sum() + gamma / len(gains)


def test_shares_are_the_textbooks():
    policy = Exp3(3, gamma=0.3)
    policy.update(0, 1.0, propensity=0.5)
    policy.update(2, 1.0, propensity=0.1)
    policy.update(1, 0.0, propensity=0.2)
    assert policy.statistics()["gain"].tolist() == [2.0, 0.0, 10.0]
    np.testing.assert_allclose(policy.shares(), textbook([2.0, 0.0, 10.0], 0.3), rtol=1e-14)


def test_gamma_is_that_of_the_time_so_far():
    policy = Exp3(4)
    assert policy.shares().tolist() == [0.25] * 4
    policy.update_counts([50, 50, 50, 50], 1.0, [0.5, 0.25, 0.25, 0.25])
    gamma = math.sqrt(4 * math.log(4) / ((math.e - 1) * 200))
    np.testing.assert_allclose(policy.shares(), textbook([100, 200, 200, 200], gamma), rtol=1e-13)
    assert Exp3(1, seed=1).shares().tolist() == [1.0]


def test_without_a_propensity_it_is_the_present_share():
    for bound in ({}, {"max_share": 0.5}, {"min_share": 0.05, "holdout": 0.2}):
        informed, left = Exp3(3, gamma=0.2, **bound), Exp3(3, gamma=0.2, **bound)
        rng = np.random.default_rng(1)
        for arm in rng.integers(0, 3, 200).tolist():
            reward = float(rng.random() < 0.3 + 0.2 * arm)
            informed.update(arm, reward, informed.shares()[arm])
            left.update(arm, reward)
        np.testing.assert_allclose(left.statistics()["gain"], informed.statistics()["gain"], rtol=1e-10)
        assert np.ptp(left.shares()) > 0.05


@pytest.mark.parametrize("chance", [5e-324, 1e-310, 1e-200])
def test_a_reward_of_an_arm_that_could_hardly_be_chosen_leaves_shares(chance):
    one, many, counts, floor = Exp3(2), Exp3(2), Exp3(2), Exp3(2, min_share=chance, warmup=1)
    one.update(1, 1.0, propensity=chance)
    many.update_many([1, 1], [1.0, 1.0], [chance, chance])
    counts.update_counts([0, 10**9], 1.0, [chance, chance])
    # Arm 0 has its warm-up before arm 1 has its own.
    floor.update_many([1, 1, 0], [0.0, 1.0, 0.0])
    for policy in (one, many, counts, floor):
        shares = policy.shares()
        assert np.isfinite(shares).all()
        assert shares[1] > 0.5
        assert policy.choose() in (0, 1)
        copy = Exp3(2)
        copy.restore(policy.statistics())


def test_gains_are_unbiased_whatever_the_shares_were():
    means, gains = np.array([0.2, 0.5, 0.3]), np.zeros(3)
    for run in range(200):
        rng = np.random.default_rng(run)
        policy = Exp3(3, seed=run)
        for _ in range(100):
            arm = policy.choose()
            policy.update(arm, rng.random() < means[arm])
        gains += policy.statistics()["gain"] / (100 * 200)
    np.testing.assert_allclose(gains, means, atol=0.05)


def test_it_follows_rewards_that_turn_against_it():
    """An adversary lets arm 0 pay first and arm 1 later: Exp3 turns, and its share shows it."""
    policy = Exp3(2, gamma=0.1, seed=3)
    for step in range(6000):
        arm = policy.choose()
        policy.update(arm, float(arm == (step >= 2000)))
    assert policy.shares()[1] > 0.9


def test_huge_gains_do_not_overflow():
    policy = Exp3(3, gamma=1e-3, seed=1)
    policy.update_counts([10**9, 1, 0], 1.0, [1e-3] * 3)
    assert np.isfinite(policy.shares()).all()
    assert policy.shares()[0] == pytest.approx(1 - 2 / 3 * 1e-3)


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.1, float("nan"), "a"])
def test_a_gamma_that_cannot_be_is_refused(gamma):
    with pytest.raises(InvalidInput, match="gamma"):
        Exp3(3, gamma=gamma)
