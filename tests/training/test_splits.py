import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.training.splits import holdout, latest, latest_of_each_user, random_folds, random_split


@pytest.mark.parametrize(("n", "n_folds"), [(10, 2), (103, 5), (7, 7)])
def test_folds_are_a_partition(n, n_folds):
    folds = random_folds(n, n_folds, seed=1)
    assert len(folds) == n_folds
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(n))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(n))
        assert n // n_folds <= len(test) <= -(-n // n_folds)


def test_folds_and_holdout_follow_the_seed():
    users = np.repeat([1, 2, 3], 20)
    for split in (lambda seed: random_folds(60, 3, seed)[0][1], lambda seed: holdout(users, 0.5, seed)[1]):
        assert split(1).tolist() == split(1).tolist()
        assert split(1).tolist() != split(2).tolist()


@pytest.mark.parametrize(("n", "n_folds"), [(10, 1), (10, 11), (0, 2)])
def test_folds_that_cannot_be_are_refused(n, n_folds):
    with pytest.raises(InvalidInput):
        random_folds(n, n_folds, seed=0)


def test_holdout_takes_its_share_of_each_user():
    users = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c", "d"], [1, 10, 25, 100]))
    train, test = holdout(users, 0.3, seed=4)
    assert sorted([*train, *test]) == list(range(136))
    assert {user: int((users[test] == user).sum()) for user in "abcd"} == {"a": 0, "b": 3, "c": 7, "d": 30}


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InvalidInput, match="share"):
        holdout([1, 2], share, seed=0)


@pytest.mark.parametrize(
    ("n", "share", "n_test"), [(10, 0.2, 2), (10, 0.01, 1), (10, 0.99, 9), (101, 0.5, 50)]
)
def test_a_random_split_has_its_share(n, share, n_test):
    train, test = random_split(n, share, seed=2)
    assert len(test) == n_test
    assert sorted([*train, *test]) == list(range(n))
    assert random_split(n, share, seed=2)[1].tolist() == test.tolist()


def test_the_latest_are_the_last_in_time():
    times = np.array([5, 1, 9, 9, 3, 7, 9, 2, 8, 4])
    train, test = latest(times, 0.3)
    assert test.tolist() == [2, 3, 6]
    assert sorted([*train, *test]) == list(range(10))
    with pytest.raises(InvalidInput):
        latest([1, 2, 3], 0.1)


def test_the_latest_of_each_user_are_the_last_of_theirs():
    random = np.random.default_rng(0)
    users = random.permutation(np.repeat(["a", "b", "c"], [4, 10, 55]))
    times = random.integers(0, 40, users.size)
    train, test = latest_of_each_user(users, times, 0.1)
    assert {user: int((users[test] == user).sum()) for user in "abc"} == {"a": 0, "b": 1, "c": 5}
    for user in "bc":
        assert times[train][users[train] == user].max() <= times[test][users[test] == user].min()
    with pytest.raises(InvalidInput, match="No user"):
        latest_of_each_user(["a", "b"], [1, 2], 0.5)
