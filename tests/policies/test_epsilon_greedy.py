import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import EpsilonGreedy


def test_shares_are_the_mixture():
    policy = EpsilonGreedy(4, epsilon=0.2, seed=1)
    policy.update_many([0, 1, 2, 3], [0.0, 1.0, 0.0, 1.0])
    assert policy.shares().tolist() == pytest.approx([0.05, 0.45, 0.05, 0.45], abs=1e-15)
    policy.update(3, 0.0)
    assert policy.shares().tolist() == pytest.approx([0.05, 0.85, 0.05, 0.05], abs=1e-15)


def test_exploration_decays_with_observations():
    policy = EpsilonGreedy(2, epsilon=0.8, decay=0.25)
    policy.update_counts([6, 6], 1.0)
    policy.update(0, 0.0)
    expected = 0.8 / (1 + 0.25 * 13)
    assert policy.shares().tolist() == pytest.approx([expected / 2, 1 - expected / 2], abs=1e-15)
    policy.forget(0.5)
    expected = 0.8 / (1 + 0.25 * 6.5)
    assert policy.shares().tolist() == pytest.approx([expected / 2, 1 - expected / 2], abs=1e-15)


def test_untried_arms_come_before_any_mean():
    policy = EpsilonGreedy(3, objective="continuous", epsilon=0.3, seed=1)
    policy.update(1, 1e9)
    assert policy.shares().tolist() == pytest.approx([0.45, 0.1, 0.45], abs=1e-15)
    drawn = np.bincount(policy.choose_many(40_000), minlength=3)
    assert np.abs(drawn - [18_000, 4_000, 18_000]).max() < 450


def test_negative_means_are_compared_too():
    policy = EpsilonGreedy(3, objective="continuous", epsilon=0.0, seed=1)
    policy.update_many([0, 1, 2], [-5.0, -3.0, -4.0])
    assert policy.shares().tolist() == [0.0, 1.0, 0.0]
    assert set(policy.choose_many(50).tolist()) == {1}


@pytest.mark.parametrize(
    "parameters",
    [{"epsilon": -0.1}, {"epsilon": 1.1}, {"epsilon": "a"}, {"decay": -1.0}, {"decay": float("inf")}],
)
def test_parameters_that_cannot_be_are_refused(parameters):
    with pytest.raises(InvalidInput, match=next(iter(parameters))):
        EpsilonGreedy(3, **parameters)
