from decimal import Decimal, localcontext

import numpy as np
import pytest
import reference_policies as reference
from hypothesis import example, given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import KLUCB, UCB1, _kl_ucb


def divergence(p, q):
    """KL of Bernoulli laws, in 50 digits."""
    with localcontext() as context:
        context.prec = 50
        p, q = Decimal(float(p)), Decimal(float(q))
        first = p * (p / q).ln() if p else Decimal(0)
        second = (1 - p) * ((1 - p) / (1 - q)).ln() if p != 1 else Decimal(0)
        return float(first + second)


def test_the_known_value():
    assert _kl_ucb.index(0.1, np.log(10_000) / 500) == pytest.approx(0.16716188864221937, abs=1e-14)
    assert reference.kl_ucb_index(0.1, np.log(10_000) / 500) == pytest.approx(0.16716188864221937, abs=1e-12)


def test_indices_are_the_bisections():
    rng = np.random.default_rng(1)
    p = np.concatenate([rng.random(2000), rng.random(200) ** 8, 1 - rng.random(200) ** 8, [0.0, 1.0] * 50])
    d = 10.0 ** rng.uniform(-6, 1.3, p.size)
    index = _kl_ucb.index(p, d)
    np.testing.assert_allclose(index, reference.kl_ucb_index(p, d), rtol=0, atol=2e-9)
    assert ((index >= p) & (index <= 1.0)).all()
    assert np.ptp(index) > 0.9


@pytest.mark.parametrize("p", [0.0, 1e-12, 1e-6, 0.05, 0.5, 0.95, 1 - 1e-9])
@pytest.mark.parametrize("d", [1e-12, 1e-8, 1e-3, 0.5, 5.0])
def test_the_divergence_at_an_index_is_the_bound(p, d):
    q = float(_kl_ucb.index(p, d))
    if q < 1.0 - 1e-13:
        # As far as one unit in the last place of q allows.
        slope = (q - p) / (q * (1.0 - q))
        assert divergence(p, q) == pytest.approx(d, rel=1e-7, abs=4e-16 * slope)
    else:
        assert divergence(p, 1.0 - 1e-13) <= d


def test_ends_are_what_they_must_be():
    assert _kl_ucb.index(0.0, 0.3) == pytest.approx(1 - np.exp(-0.3), rel=1e-15)
    assert _kl_ucb.index(5e-324, 0.3) == pytest.approx(1 - np.exp(-0.3), rel=1e-15)
    assert _kl_ucb.index(1e-299, 0.3) == pytest.approx(1 - np.exp(-0.3), rel=1e-12)
    assert _kl_ucb.index(1.0, 0.3) == 1.0
    assert _kl_ucb.index(0.4, 0.0) == 0.4
    assert _kl_ucb.index(0.4, 1000.0) == 1.0


@example([(1, 5e-324), (1, 1.0)])
@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), min_size=2, max_size=20))
def test_whole_share_goes_to_the_largest_index(arms):
    n = np.array([float(trials) for trials, _ in arms])
    total = n * [mean for _, mean in arms]
    index = reference.kl_ucb_index(np.minimum(total / n, 1.0), np.log(n.sum()) / n)
    shares = _kl_ucb.shares(n, total)
    # Indices that differ by less than the bisection's error may fall either way.
    assert (index[shares > 0] >= index.max() - 1e-8).all()
    assert (shares[shares > 0] == 1 / np.count_nonzero(shares)).all()
    policy = KLUCB(n.size, seed=1)
    policy.restore({"n": n, "total": np.minimum(total, n)})
    assert set(policy.choose_many(50).tolist()) <= set(np.flatnonzero(policy.shares()).tolist())


def test_untried_arms_come_first_and_ties_share_evenly():
    policy = KLUCB(4, seed=2)
    assert policy.shares().tolist() == [0.25] * 4
    policy.update(1, 1.0)
    assert policy.shares().tolist() == [1 / 3, 0.0, 1 / 3, 1 / 3]
    policy.update_counts([4, 3, 4, 0], 1.0)
    policy.update_counts([6, 6, 6, 6], 0.0)
    drawn = np.bincount(policy.choose_many(30_000), minlength=4)
    assert policy.shares().tolist() == [1 / 3, 1 / 3, 1 / 3, 0.0]
    assert drawn[3] == 0
    assert np.abs(drawn[:3] - 10_000).max() < 400


def test_its_bounds_are_tighter_than_ucb1s():
    """Near 0 the variance is small, and KL-UCB knows."""
    n, mean = 1000, 0.01
    assert _kl_ucb.index(mean, np.log(10_000) / n) < 0.4 * reference.ucb1_index(mean, n, 10_000)


def test_a_billion_observations_beside_a_few():
    policy = KLUCB(3, seed=1)
    policy.update_counts([10**9, 0, 10], 1.0)
    policy.update_counts([3, 256_430, 2], 0.0)
    assert policy.shares().sum() == 1.0
    assert policy.shares(eligible=[True, True, False]).tolist() == [1.0, 0.0, 0.0]
    assert policy.choose(eligible=[True, True, False]) == 0


def test_bounded_rewards_are_scaled():
    scaled, plain = KLUCB(2, objective="bounded", low=-10.0, high=30.0), KLUCB(2, objective="bounded")
    scaled.update_many([0, 0, 1], [0.0, 30.0, 10.0])
    plain.update_many([0, 0, 1], [0.25, 1.0, 0.5])
    assert scaled.shares().tolist() == plain.shares().tolist()


@pytest.mark.parametrize("objective", ["continuous", "count"])
def test_unbounded_rewards_are_refused(objective):
    with pytest.raises(InvalidInput, match="takes an objective of binary, bounded"):
        KLUCB(2, objective=objective)


def test_ucb1_takes_continuous_rewards_by_their_standard_deviation():
    policy = UCB1(2, objective="continuous", sigma=10.0)
    policy.update_many([0, 0, 1, 1, 1], [1.0, 3.0, 4.0, 2.0, 3.0])
    index = np.array([2.0, 3.0]) + 10.0 * np.sqrt(2 * np.log(5) / np.array([2, 3]))
    assert policy.shares().tolist() == [1.0, 0.0]
    assert index.argmax() == 0
    small = UCB1(2, objective="continuous", sigma=0.1)
    small.restore(policy.statistics())
    assert small.shares().tolist() == [0.0, 1.0]
    for sigma in (0.0, -1.0, float("nan"), "1"):
        with pytest.raises(InvalidInput, match="sigma"):
            UCB1(2, sigma=sigma)
