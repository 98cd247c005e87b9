import numpy as np
import pytest
from scipy import stats

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import FixedSplit


def test_shares_are_the_weights():
    assert FixedSplit(4).shares().tolist() == [0.25] * 4
    np.testing.assert_allclose(FixedSplit(3, shares=[5, 3, 2]).shares(), [0.5, 0.3, 0.2], rtol=1e-15)
    np.testing.assert_allclose(
        FixedSplit(3, shares=[5, 3, 2]).shares(eligible=[False, True, True]), [0.0, 0.6, 0.4], rtol=1e-15
    )
    assert FixedSplit(3, shares=[1, 0, 0]).shares(eligible=[False, True, True]).tolist() == [0.0, 0.5, 0.5]


def test_weights_may_be_given_by_arm():
    np.testing.assert_allclose(FixedSplit(3, shares={2: 3, 0: 1}).shares(), [0.25, 0.0, 0.75], rtol=1e-15)
    made = FixedSplit(3, shares={0: 5, 1: 3, 2: 2}, seed=1)
    assert FixedSplit.from_state(made.state()).shares().tolist() == made.shares().tolist()


@pytest.mark.parametrize("shares", [{}, {3: 1}, {-1: 1}, {"a": 1}, {True: 1}, {0.0: 1}, {0: -1}, {0: None}])
def test_weights_of_no_arm_are_refused(shares):
    with pytest.raises(InvalidInput, match="shares"):
        FixedSplit(3, shares=shares)


def test_floor_and_cap_work_here_too():
    np.testing.assert_allclose(FixedSplit(2, shares=[1, 0], min_share=0.1).shares(), [0.9, 0.1], rtol=1e-15)
    np.testing.assert_allclose(
        FixedSplit(3, shares=[8, 1, 1], max_share=0.5).shares(), [0.5, 0.25, 0.25], rtol=1e-15
    )


def test_choices_follow_the_weights():
    shares = np.array([0.5, 0.0, 0.3, 0.2])
    drawn = np.bincount(FixedSplit(4, shares=shares, seed=1).choose_many(200_000), minlength=4)
    assert drawn[1] == 0
    assert stats.chisquare(drawn[shares > 0], 200_000 * shares[shares > 0]).pvalue > 1e-3


def test_rewards_are_counted_and_change_no_share():
    policy = FixedSplit(2, shares=[3, 1], objective="count")
    policy.update_many([0, 0, 1], [4, 0, 7])
    assert policy.shares().tolist() == [0.75, 0.25]
    assert policy.means.tolist() == [2.0, 7.0]
    assert policy.counts.tolist() == [2.0, 1.0]
    with pytest.raises(InvalidInput, match="from 0"):
        policy.update(0, -1)


@pytest.mark.parametrize(
    "shares",
    [[1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], "ab", [[1, 1]], ["a", "b"]],
)
def test_weights_that_cannot_be_are_refused(shares):
    with pytest.raises(InvalidInput, match="shares must"):
        FixedSplit(2, shares=shares)
