"""Best mixtures within bounds: against SciPy's linear programs, and the shares that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
from scale import scaled
from scipy.optimize import linprog

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import Thompson
from bandit_serve.policies._mixtures import MAX_BOUNDS, best_mixtures
from bandit_serve.policies.mixtures import Bound, LearnedMetric, Tradeoff, best_mixture, mixture_shares

N_PROGRAMS = scaled(300, 20_000)


def solved(rewards, excesses):
    """Best mixture of one draw as `best_mixtures` gives it."""
    return best_mixtures(np.array([rewards], float), np.array([excesses], float).reshape(1, -1, len(rewards)))


def program(seed):
    """Random rewards (E,) and excesses (C, E): narrow, wide, with ties and with arms at a bound."""
    random = np.random.default_rng(seed)
    n_arms, n_bounds = int(random.integers(1, 9)), int(random.integers(1, MAX_BOUNDS + 1))
    rewards = random.normal(size=n_arms) * 10.0 ** random.integers(-3, 4)
    excesses = random.normal(random.choice([-0.5, 0.0, 0.5]), 1.0, (n_bounds, n_arms))
    if seed % 3 == 0:
        rewards, excesses = np.round(rewards, 1), np.round(excesses)
    return rewards, excesses * 10.0 ** random.integers(-3, 4)


def test_mixtures_are_those_of_scipys_linear_programs():
    kept = lacking = mixed = 0
    for seed in range(N_PROGRAMS):
        rewards, excesses = program(seed)
        unit, units = np.ptp(rewards) or 1.0, np.abs(excesses).max(axis=1)
        units[units == 0.0] = 1.0
        shares, prices, lacks = solved(rewards, excesses)
        assert shares.min() >= 0.0
        assert shares.sum() == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(np.maximum(excesses @ shares / units, 0.0), lacks / units, atol=1e-9)
        assert (prices >= 0.0).all()
        simplex = {"A_eq": np.ones((1, len(rewards))), "b_eq": [1.0], "bounds": (0.0, 1.0)}
        truth = linprog(-rewards / unit, A_ub=excesses / units[:, None], b_ub=0.0 * units, **simplex)
        if truth.status == 0:
            kept += 1
            mixed += np.count_nonzero(shares) > 1
            assert lacks.max() <= 1e-9 * units.max(), seed
            assert rewards @ shares / unit == pytest.approx(-truth.fun, abs=1e-8), seed
            # What is not worth its price is not in the mixture, and what is lacks none.
            value = (rewards - prices @ excesses) / unit
            assert value.max() - (value @ shares) <= 1e-6, seed
            assert np.abs(prices * (excesses @ shares)).max() / unit <= 1e-6, seed
        else:
            lacking += 1
            n_arms, n_bounds = len(rewards), len(units)
            least = linprog(
                np.r_[np.zeros(n_arms), np.ones(n_bounds)],
                A_ub=np.hstack([excesses / units[:, None], -np.eye(n_bounds)]),
                b_ub=np.zeros(n_bounds),
                A_eq=np.r_[np.ones(n_arms), np.zeros(n_bounds)][None],
                b_eq=[1.0],
            )
            assert (lacks / units).sum() == pytest.approx(least.fun, abs=1e-4), seed
    assert min(kept, lacking, mixed) > N_PROGRAMS / 20


def test_units_and_zeros_do_not_matter():
    rewards, excesses = [0.5, 0.2, 0.3], [[50.0, -150.0, -10.0]]
    shares, prices, _ = solved(rewards, excesses)
    np.testing.assert_allclose(shares, [0.75, 0.25, 0.0], atol=1e-12)
    assert prices[0] == pytest.approx(0.3 / 200.0)
    for unit in (1e-70, 1.0, 1e70):
        wide = np.multiply(excesses, unit)
        others, priced, lacks = solved(np.add(rewards, 7.0) * 1e9, wide)
        np.testing.assert_allclose(others, shares, rtol=1e-6)
        assert priced[0] * unit == pytest.approx(1e9 * prices[0], rel=1e-6)
        assert lacks[0] <= 1e-12 * unit


def test_of_arms_that_all_pass_the_bound_the_one_that_passes_it_least_has_all():
    shares, _, lacks = solved([0.9, 0.1, 0.5], [[3.0, 1.0, 2.0]])
    np.testing.assert_allclose(shares, [0.0, 1.0, 0.0])
    assert lacks.tolist() == [1.0]


def test_shares_are_means_over_draws():
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    shares, prices, lacks = best_mixtures(rewards, np.zeros((4, 0, 2)))
    assert shares.tolist() == [0.25, 0.75]
    assert len(prices) == len(lacks) == 0


@pytest.mark.parametrize(
    ("rewards", "excesses"),
    [
        (np.zeros((1, 2)), np.zeros((1, 1, 3))),
        (np.zeros((2, 2)), np.zeros((1, 1, 2))),
        (np.zeros((0, 2)), np.zeros((0, 1, 2))),
        (np.zeros((1, 0)), np.zeros((1, 1, 0))),
        (np.zeros((1, 2)), np.zeros((1, MAX_BOUNDS + 1, 2))),
        (np.array([[np.nan, 0.0]]), np.zeros((1, 1, 2))),
        (np.zeros((1, 2)), np.array([[[0.0, np.inf]]])),
    ],
)
def test_what_is_no_program_is_refused(rewards, excesses):
    with pytest.raises(InvalidInput):
        best_mixtures(rewards, excesses)


def learned(n, rewards, costs, **given):
    """Metrics of arms that were observed n times each: binary rewards, and costs of a deviation of 10."""
    reward = Thompson(len(rewards), **given)
    arms = np.arange(len(rewards))
    for each, mean in zip(arms, rewards, strict=True):
        reward.update_counts(np.where(arms == each, round(n * mean), 0), 1.0)
        reward.update_counts(np.where(arms == each, n - round(n * mean), 0), 0.0)
    cost = Thompson(
        len(costs), objective="continuous", pseudo_history={"n": n, "mean": list(costs), "std": 10.0}
    )
    return [LearnedMetric(reward), LearnedMetric(cost)]


AT_MOST = Tradeoff(np.array([1.0, 0.0]), (Bound(1, 1.0, 250.0),))


def test_what_is_known_well_is_mixed_at_the_bound():
    shares = mixture_shares(AT_MOST, learned(10**8, [0.5, 0.1], [300.0, 100.0]))
    np.testing.assert_allclose(shares, [0.75, 0.25], atol=1e-3)


def test_the_floor_and_the_holdout_count_towards_the_bound():
    given = {"min_share": 0.1, "holdout": 0.2}
    shares = mixture_shares(AT_MOST, learned(10**8, [0.5, 0.1, 0.0], [300.0, 100.0, 500.0], **given))
    assert shares @ [300.0, 100.0, 500.0] == pytest.approx(250.0, abs=0.1)
    assert shares[2] == pytest.approx(0.8 * 0.1 + 0.2 / 3, abs=1e-9)
    exact = best_mixture(AT_MOST, np.array([[0.5, 0.1, 0.0], [300.0, 100.0, 500.0]]), 0.8 * 0.3 + 0.2).shares
    np.testing.assert_allclose(shares, exact, atol=1e-3)


def test_what_is_hardly_known_is_tried():
    shares = mixture_shares(AT_MOST, learned(3, [0.67, 0.33], [270.0, 100.0]))
    assert 0.2 < shares[0] < 0.9
    fresh = mixture_shares(
        AT_MOST, [LearnedMetric(Thompson(4)), LearnedMetric(Thompson(4, objective="continuous"))]
    )
    np.testing.assert_allclose(fresh, 0.25, atol=0.12)


def test_weights_alone_choose_the_arm_of_the_largest_sum():
    tradeoff = Tradeoff(np.array([1.0, -0.001]), ())
    shares = mixture_shares(tradeoff, learned(10**8, [0.5, 0.4], [300.0, 100.0]))
    np.testing.assert_allclose(shares, [0.0, 1.0], atol=1e-6)


def test_shares_are_of_the_eligible_arms_and_keep_their_bounds():
    known = learned(100, [0.5, 0.1, 0.3], [300.0, 100.0, 200.0], min_share=0.05, max_share=0.7)
    everyone = mixture_shares(AT_MOST, known)
    assert everyone.sum() == pytest.approx(1.0, abs=1e-12)
    assert everyone.min() >= 0.05
    assert everyone.max() <= 0.7 + 1e-12
    some = mixture_shares(AT_MOST, known, eligible=np.array([True, True, False]))
    assert some[2] == 0.0
    assert some.sum() == pytest.approx(1.0, abs=1e-12)
    assert mixture_shares(AT_MOST, known).tobytes() == everyone.tobytes()
    ramped = mixture_shares(AT_MOST, known, ramps=[0.1, 1.0, 1.0])
    assert ramped[0] <= 0.1 + 1e-12


def test_the_warm_up_comes_first():
    known = learned(10, [0.5, 0.1], [300.0, 100.0], warmup=100)
    shares = mixture_shares(AT_MOST, known, decided=[200, 50])
    assert shares.tolist() == [0.0, 1.0]
