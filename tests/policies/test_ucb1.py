import numpy as np
import pytest
import reference_policies as reference
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import UCB1, _ucb1


def test_reference_has_the_known_value():
    assert reference.ucb1_index(0.1, 500, 10_000) == pytest.approx(0.29194103648752323, rel=1e-12)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), min_size=2, max_size=20))
def test_whole_share_goes_to_the_largest_index(arms):
    n = np.array([float(trials) for trials, _ in arms])
    total = n * [mean for _, mean in arms]
    index = np.array([reference.ucb1_index(t / k, k, n.sum()) for t, k in zip(total, n, strict=True)])
    shares = _ucb1.shares(n, total / n, 1.0)
    # Indices that differ in the last bits only may fall either way.
    assert (index[shares > 0] >= index.max() - 1e-12).all()
    assert (shares[shares > 0] == 1 / np.count_nonzero(shares)).all()
    policy = UCB1(n.size, seed=1)
    policy.restore({"n": n, "total": np.minimum(total, n)})
    assert set(policy.choose_many(50).tolist()) <= set(np.flatnonzero(policy.shares()).tolist())


def test_an_index_just_above_another_takes_all():
    n = np.array([500.0, 9500.0])
    width = reference.ucb1_index(0.0, 9500, 10_000)
    tie = reference.ucb1_index(0.1, 500, 10_000) - width
    assert _ucb1.shares(n, np.array([0.1, tie - 1e-9]), 1.0).tolist() == [1.0, 0.0]
    assert _ucb1.shares(n, np.array([0.1, tie + 1e-9]), 1.0).tolist() == [0.0, 1.0]


def test_untried_arms_come_first_and_evenly():
    policy = UCB1(4, seed=2)
    assert policy.shares().tolist() == [0.25] * 4
    policy.update(1, 1.0)
    assert policy.shares().tolist() == [1 / 3, 0.0, 1 / 3, 1 / 3]
    drawn = np.bincount(policy.choose_many(30_000), minlength=4)
    assert drawn[1] == 0
    assert np.abs(drawn[[0, 2, 3]] - 10_000).max() < 400
    assert policy.shares(eligible=[True, True, False, False]).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_exact_ties_share_evenly():
    policy = UCB1(5, seed=3)
    policy.update_counts([4, 4, 4, 4, 8], 1.0)
    policy.update_counts([4, 4, 4, 4, 0], 0.0)
    policy.update_counts([4, 0, 0, 0, 0], 0.0)
    assert policy.shares(eligible=[True, True, True, True, False]).tolist() == [0, 1 / 3, 1 / 3, 1 / 3, 0]
    drawn = np.bincount(policy.choose_many(30_000, eligible=[True, True, True, True, False]), minlength=5)
    assert drawn[[0, 4]].tolist() == [0, 0]
    assert np.abs(drawn[1:4] - 10_000).max() < 400


def test_time_is_that_of_the_eligible_arms():
    """Over a subset, the policy is as if the other arms had never been."""
    policy = UCB1(3, seed=4)
    policy.update_counts([5, 20, 10**6], 1.0)
    policy.update_counts([3, 5, 10**6], 0.0)
    alone = UCB1(2, seed=4)
    alone.update_counts([5, 20], 1.0)
    alone.update_counts([3, 5], 0.0)
    assert policy.shares(eligible=[True, True, False])[:2].tolist() == alone.shares().tolist()


def test_bounded_rewards_are_scaled():
    scaled, plain = UCB1(2, objective="bounded", low=-10.0, high=30.0), UCB1(2, objective="bounded")
    scaled.update_many([0, 0, 1], [0.0, 30.0, 10.0])
    plain.update_many([0, 0, 1], [0.25, 1.0, 0.5])
    assert scaled.statistics()["total"].tolist() == plain.statistics()["total"].tolist()
    assert scaled.shares().tolist() == plain.shares().tolist()


def test_pending_observations_are_trials():
    policy = UCB1(2)
    policy.update_counts([10, 10], 1.0)
    policy.update_counts([10, 9], 0.0)
    assert policy.shares().tolist() == [0.0, 1.0]
    assert policy.shares(pending=[0.0, 2.5]).tolist() == [1.0, 0.0]
    assert UCB1(2).shares(pending=[0.5, 0.0]).tolist() == [0.0, 1.0]
    assert UCB1(2).shares(pending=[0.25, 0.25]).tolist() == [0.5, 0.5]


def test_every_arm_is_tried_before_any_is_repeated_and_the_best_wins():
    policy = UCB1(10, seed=5)
    rng = np.random.default_rng(6)
    chosen = []
    for _ in range(5000):
        arm = policy.choose()
        policy.update(arm, rng.random() < (0.9 if arm == 7 else 0.3))
        chosen.append(arm)
    assert sorted(chosen[:10]) == list(range(10))
    assert chosen[:10] != list(range(10))
    assert np.mean(np.array(chosen[2500:]) == 7) > 0.8


def test_counts_are_refused():
    with pytest.raises(InvalidInput, match="takes an objective of binary, bounded, continuous"):
        UCB1(2, objective="count")
