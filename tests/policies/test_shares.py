import numpy as np
import pytest
import reference_policies as reference
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.policies.shares import check_bounds, final_shares

# Ratios up to 1e300, as far as the reference can follow.
weight = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-150, 1.0), st.floats(1e-150, 1e150))


@st.composite
def problems(draw):
    """Raw shares of the eligible ones among K arms, a floor that K arms can have, and any cap."""
    n_arms = draw(st.integers(1, 40))
    eligible = draw(st.sets(st.integers(0, n_arms - 1), min_size=1))
    raw = draw(st.lists(weight, min_size=len(eligible), max_size=len(eligible)))
    min_share = draw(st.one_of(st.just(0.0), st.just(1.0 / n_arms), st.floats(1e-9, 1.0 / n_arms)))
    max_share = draw(st.one_of(st.just(1.0), st.floats(max(min_share, 1e-6), 1.0)))
    return n_arms, np.array(sorted(eligible)), np.array(raw), min_share, max_share


@given(problems())
def test_shares_are_valid_whatever_the_policy_says(problem):
    n_arms, eligible, raw, min_share, max_share = problem
    shares = final_shares(raw, eligible, n_arms, min_share, max_share)
    assert shares.shape == (n_arms,)
    assert abs(shares.sum() - 1.0) <= 1e-15 * n_arms
    assert (np.delete(shares, eligible) == 0.0).all()
    assert (shares[eligible] >= min_share * (1 - 1e-14)).all()
    assert (shares <= max(max_share, 1.0 / eligible.size) * (1 + 1e-14)).all()


def test_weights_whose_sum_overflows_are_shared_out():
    shares = final_shares(np.array([1e308, 1e308, 5e-324, 0.0]), np.arange(4), 4, 0.0, 0.4)
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.1, 0.1], rtol=1e-15)


@given(problems(), st.data())
def test_ramps_and_caps_hold_as_far_as_they_can(problem, data):
    n_arms, eligible, raw, min_share, max_share = problem
    ramp = st.one_of(st.just(1.0), st.just(0.0), st.floats(0.0, 1.0), st.floats(0.0, 0.1))
    ramps = np.array(data.draw(st.lists(ramp, min_size=n_arms, max_size=n_arms)))
    shares = final_shares(raw, eligible, n_arms, min_share, max_share, ramps)
    assert abs(shares.sum() - 1.0) <= 2e-15 * n_arms
    assert (shares >= 0.0).all()
    own = ramps[eligible]
    most = np.minimum(own, max(max_share, 1.0 / eligible.size))
    if most.sum() >= 1.0:
        assert (shares[eligible] <= most * (1 + 1e-12) + 1e-15).all()
    elif own.sum() >= 1.0:
        assert (shares[eligible] <= own * (1 + 1e-12) + 1e-15).all()
    else:
        assert (shares[eligible] <= np.maximum(own, 1.0 / eligible.size) * (1 + 1e-12)).all()
        assert (shares[eligible] >= own * (1 - 1e-12)).all()
    none = final_shares(raw, eligible, n_arms, min_share, max_share, np.ones(n_arms))
    assert none.tobytes() == final_shares(raw, eligible, n_arms, min_share, max_share).tobytes()


@pytest.mark.parametrize(
    ("raw", "max_share", "ramps", "holdout", "expected"),
    [
        ([0.6, 0.3, 0.1], 1.0, [0.1, 1, 1], 0.0, [0.1, 0.675, 0.225]),
        ([0.6, 0.3, 0.1], 0.5, [0.1, 1, 1], 0.0, [0.1, 0.5, 0.4]),
        ([0.6, 0.3, 0.1], 0.4, [0.1, 1, 1], 0.0, [0.1, 0.45, 0.45]),
        ([0.6, 0.3, 0.1], 0.4, [0.1, 0.2, 1], 0.0, [0.1, 0.2, 0.7]),
        ([0.6, 0.3, 0.1], 1.0, [0.1, 0.1, 0.1], 0.0, [1 / 3, 1 / 3, 1 / 3]),
        ([0.6, 0.3, 0.1], 1.0, [0.5, 0.1, 0.1], 0.0, [0.5, 0.25, 0.25]),
        ([1.0, 0.0, 0.0], 1.0, [0.0, 1, 1], 0.0, [0.0, 0.5, 0.5]),
        ([0.6, 0.3, 0.1], 1.0, [0.1, 1, 1], 0.3, [0.17, 0.5725, 0.2575]),
        ([1.0, 0.0, 0.0], 1.0, [1, 1, 1], 1.0, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_known_values_of_ramps_and_holdouts(raw, max_share, ramps, holdout, expected):
    shares = final_shares(np.array(raw), np.arange(3), 3, 0.0, max_share, np.array(ramps, float), holdout)
    np.testing.assert_allclose(shares, expected, rtol=1e-14)


def test_a_ramp_is_below_the_floor_and_a_holdout_is_among_the_eligible():
    ramps = np.array([1.0, 0.01, 1.0, 1.0])
    shares = final_shares(np.array([1.0, 1.0, 2.0]), np.array([0, 1, 3]), 4, 0.1, 1.0, ramps)
    np.testing.assert_allclose(shares[[1, 2]], [0.01, 0.0])
    mixed = final_shares(np.array([1.0, 1.0, 2.0]), np.array([0, 1, 3]), 4, 0.1, 1.0, ramps, 0.3)
    np.testing.assert_allclose(mixed, 0.7 * shares + [0.1, 0.1, 0.0, 0.1])


@given(problems())
def test_floor_is_a_mixture_and_cap_fills_as_water_does(problem):
    n_arms, eligible, raw, min_share, max_share = problem
    total = raw / raw.max() if raw.any() else np.ones(eligible.size)
    mixed = min_share + (1 - eligible.size * min_share) * total / total.sum()
    expected = np.zeros(n_arms)
    expected[eligible] = reference.capped(mixed, max_share)
    shares = final_shares(raw, eligible, n_arms, min_share, max_share)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-9)


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_the_arms_does_not_matter(problem, random):
    _, _, raw, min_share, max_share = problem
    n_arms = raw.size
    order = random.sample(range(n_arms), n_arms)
    everyone = np.arange(n_arms)
    shares = final_shares(raw, everyone, n_arms, min_share, max_share)
    permuted = final_shares(raw[order], everyone, n_arms, min_share, max_share)
    np.testing.assert_allclose(permuted, shares[order], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("raw", "min_share", "max_share", "expected"),
    [
        ([0.7, 0.2, 0.1], 0.0, 1.0, [0.7, 0.2, 0.1]),
        ([7.0, 2.0, 1.0], 0.0, 1.0, [0.7, 0.2, 0.1]),
        ([1.0, 0.0, 0.0], 0.1, 1.0, [0.8, 0.1, 0.1]),
        ([0.7, 0.2, 0.1], 0.0, 0.4, [0.4, 0.4, 0.2]),
        ([0.7, 0.2, 0.1], 0.0, 0.5, [0.5, 1 / 3, 1 / 6]),
        ([1.0, 0.0, 0.0], 0.0, 0.6, [0.6, 0.2, 0.2]),
        ([1.0, 0.0, 0.0], 0.0, 0.2, [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], 0.0, 1.0, [1 / 3, 1 / 3, 1 / 3]),
        ([1.0, 0.0, 0.0], 1 / 3, 1.0, [1 / 3, 1 / 3, 1 / 3]),
        ([1.0, 0.0, 0.0], 0.1, 0.5, [0.5, 0.25, 0.25]),
    ],
)
def test_known_values(raw, min_share, max_share, expected):
    shares = final_shares(np.array(raw), np.arange(3), 3, min_share, max_share)
    np.testing.assert_allclose(shares, expected, rtol=1e-15)


@pytest.mark.parametrize("raw", [[float("nan"), 1.0], [-0.1, 1.1], [float("inf"), 1.0]])
def test_raw_shares_that_are_none_are_refused(raw):
    with pytest.raises(InvalidInput, match="finite and not negative"):
        final_shares(np.array(raw), np.arange(2), 2)


@pytest.mark.parametrize(
    ("n_arms", "min_share", "max_share", "sentence"),
    [
        (3, 0.34, 1.0, "3 arms of at least min_share 0.34"),
        (3, -0.1, 1.0, "min_share must be a number from 0 to 1"),
        (3, float("nan"), 1.0, "min_share must be a number"),
        (3, "a", 1.0, "min_share must be a number"),
        (3, True, 1.0, "min_share must be a number"),
        (3, 0.0, 0.0, "max_share must be above 0"),
        (3, 0.0, 1.5, "max_share must be a number"),
        (3, 0.2, 0.1, "must not exceed max_share"),
    ],
)
def test_bounds_that_cannot_be_are_refused(n_arms, min_share, max_share, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        check_bounds(n_arms, min_share, max_share)


@pytest.mark.parametrize("n_arms", [1, 3, 7, 49, 1000])
def test_an_even_floor_is_possible_for_any_number_of_arms(n_arms):
    check_bounds(n_arms, 1.0 / n_arms, 1.0)
