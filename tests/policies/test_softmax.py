import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import Softmax


def test_shares_are_exponential_in_the_means():
    policy = Softmax(3, temperature=0.5)
    policy.update_counts([2, 1, 0], 1.0)
    policy.update_counts([2, 3, 4], 0.0)
    weights = np.exp(np.array([0.5, 0.25, 0.0]) / 0.5)
    np.testing.assert_allclose(policy.shares(), weights / weights.sum(), rtol=1e-14)


def test_means_are_scaled_where_rewards_have_bounds_and_in_their_own_units_elsewhere():
    bounded = Softmax(2, objective="bounded", low=0.0, high=10.0, temperature=1.0)
    free = Softmax(2, objective="continuous", temperature=1.0)
    for policy in (bounded, free):
        policy.update_many([0, 1], [2.0, 7.0])
    for policy, difference in ((bounded, 0.5), (free, 5.0)):
        assert policy.shares()[1] / policy.shares()[0] == pytest.approx(np.exp(difference), rel=1e-12)


def test_untried_arms_come_first_evenly():
    policy = Softmax(4, seed=1)
    policy.update(2, 1.0)
    assert policy.shares().tolist() == [1 / 3, 1 / 3, 0.0, 1 / 3]
    drawn = np.bincount(policy.choose_many(30_000), minlength=4)
    assert drawn[2] == 0
    assert np.abs(drawn[[0, 1, 3]] - 10_000).max() < 400


def test_means_far_apart_do_not_overflow():
    policy = Softmax(3, objective="continuous", temperature=1e-12, seed=1)
    policy.update_many([0, 1, 2], [-1e80, 1e80, 0.0])
    assert policy.shares().tolist() == [0.0, 1.0, 0.0]
    assert set(policy.choose_many(50).tolist()) == {1}


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), "hot"])
def test_a_temperature_that_cannot_be_is_refused(temperature):
    with pytest.raises(InvalidInput, match="temperature"):
        Softmax(3, temperature=temperature)
