import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandit_serve.errors import InvalidInput
from bandit_serve.policies._draw import ShareSampler

weight = st.one_of(st.just(0.0), st.floats(1e-300, 1.0), st.floats(0.01, 1.0))


@given(st.lists(weight, min_size=1, max_size=60).filter(any))
def test_each_arm_has_its_share_as_probability(weights):
    shares = np.array(weights) / sum(weights)
    probabilities = ShareSampler(shares, seed=1).probabilities
    np.testing.assert_allclose(probabilities, shares, rtol=0, atol=1e-15)
    assert (probabilities[shares == 0.0] == 0.0).all()


@pytest.mark.parametrize("n_arms", [1, 2, 3, 10, 1000, 4096, 100_003])
def test_probabilities_hold_at_any_number_of_arms(n_arms):
    rng = np.random.default_rng(n_arms)
    for concentration in (0.01, 1.0, 100.0):
        shares = rng.dirichlet(np.full(n_arms, concentration))
        probabilities = ShareSampler(shares, seed=1).probabilities
        np.testing.assert_allclose(probabilities, shares, rtol=0, atol=1e-15)
        assert (probabilities[shares == 0.0] == 0.0).all()


def test_arms_of_no_share_are_never_drawn():
    shares = np.zeros(1000)
    shares[::7] = np.random.default_rng(3).dirichlet(np.ones(shares[::7].size))
    drawn = np.bincount(ShareSampler(shares, seed=1).choose_many(1_000_000), minlength=1000)
    assert (drawn[shares == 0.0] == 0).all()
    assert (drawn > 0).sum() > 130


@pytest.mark.parametrize("n_arms", [2, 10, 1000])
def test_draws_follow_the_shares(n_arms):
    shares = np.random.default_rng(5).dirichlet(np.full(n_arms, 3.0))
    drawn = np.bincount(ShareSampler(shares, seed=6).choose_many(2_000_000), minlength=n_arms)
    assert stats.chisquare(drawn, shares * drawn.sum()).pvalue > 1e-3


def test_a_wrong_share_would_show():
    shares = np.random.default_rng(5).dirichlet(np.full(10, 3.0))
    drawn = np.bincount(ShareSampler(shares, seed=6).choose_many(2_000_000), minlength=10)
    assert stats.chisquare(drawn, np.roll(shares, 1) * drawn.sum()).pvalue < 1e-6


def test_draws_are_independent_of_each_other():
    arms = ShareSampler([0.2, 0.3, 0.5], seed=8).choose_many(900_000)
    pairs = np.bincount(3 * arms[:-1] + arms[1:], minlength=9).reshape(3, 3)
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_many_draws_are_those_of_as_many_single_ones():
    shares = [0.1, 0.2, 0.3, 0.4]
    one, many = ShareSampler(shares, seed=7), ShareSampler(shares, seed=7)
    arms = many.choose_many(200)
    assert arms.dtype == np.intp
    assert [one.choose() for _ in range(200)] == arms.tolist()
    assert len(set(arms.tolist())) == 4
    assert ShareSampler(shares, seed=8).choose_many(200).tolist() != arms.tolist()
    assert ShareSampler(shares).choose_many(200).tolist() != ShareSampler(shares).choose_many(200).tolist()
    assert many.choose_many(0).shape == (0,)


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ([], "at least one"),
        ([[0.5, 0.5]], "vector"),
        ([0.5, 0.6], "sum to 1"),
        ([0.5, 0.4], "sum to 1"),
        ([1.5, -0.5], "arm 1 is -0.5"),
        ([float("nan"), 1.0], "arm 0 is nan"),
        ([float("inf"), 1.0], "arm 0 is inf"),
        (["a", "b"], "numbers"),
        ([None, 1.0], "arm 0 is nan"),
        (None, "vector"),
    ],
)
def test_what_are_no_shares_is_refused(shares, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        ShareSampler(shares, seed=1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, object])
def test_other_types_of_numbers_work(dtype):
    assert ShareSampler(np.array([0, 1, 0], dtype=dtype), seed=1).choose() == 1


def test_read_only_and_strided_shares_work():
    shares = np.zeros(6)
    shares[2] = 1.0
    shares.flags.writeable = False
    assert ShareSampler(shares[::2], seed=1).choose() == 1


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(InvalidInput, match="seed"):
        ShareSampler([1.0], seed=seed)


@pytest.mark.parametrize("n", [-1, 1.5, "a", None, True])
def test_what_is_no_number_of_choices_is_refused(n):
    with pytest.raises(InvalidInput, match="whole number"):
        ShareSampler([1.0], seed=1).choose_many(n)


def test_a_sampler_without_shares_refuses_to_draw():
    empty = ShareSampler.__new__(ShareSampler)
    for draw in (empty.choose, lambda: empty.choose_many(1), lambda: empty.probabilities):
        with pytest.raises(InvalidInput, match="without shares"):
            draw()
