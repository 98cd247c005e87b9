"""P(arm is best) and expected loss: known values, an independent quadrature, Monte Carlo and properties."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_best_arm import Vector, beta_loss, beta_share, gamma_share, student_loss, student_share
from scipy import special, stats

from bandit_serve.errors import InvalidInput
from bandit_serve.policies._best_arm import (
    beta_best,
    beta_best_deviation,
    beta_expected_loss,
    gamma_best,
    gamma_best_deviation,
    student_below_at,
    student_best,
    student_best_deviation,
    student_expected_loss,
)


def assert_shares(shares: Vector, size: int) -> None:
    assert shares.shape == (size,)
    assert shares.dtype == np.float64
    assert np.all(np.isfinite(shares))
    assert np.all(shares >= 0.0)
    assert abs(np.sum(shares) - 1.0) <= 1e-12


def some_arms(shares: Vector, extra: int) -> Vector:
    """The likely arms, the unlikeliest and a few from between."""
    order = np.argsort(-shares, kind="stable")
    return np.unique(np.concatenate([order[:2], order[-1:], order[:: max(1, order.size // extra)]]))


def of_rates(rates: Vector, trials: Vector, prior: float = 1.0) -> tuple[Vector, Vector]:
    return prior + rates * trials, prior + (1.0 - rates) * trials


def beta_problems() -> dict[str, tuple[Vector, Vector]]:
    rng = np.random.default_rng(20)
    trials = 10.0 ** rng.uniform(0.0, 9.0, 30)
    mixed = np.where(rng.random(30) < 0.3, 0.0, trials)
    near = 0.1 + 0.6 / np.sqrt(trials + 9.0) * rng.normal(size=30)
    many = 10.0 ** rng.uniform(0.0, 6.0, 1000)
    few = np.array([0.0, 1e9, 3.0, 1e5])
    return {
        "two fresh": (np.ones(2), np.ones(2)),
        "thousand fresh": (np.ones(1000), np.ones(1000)),
        "thousand Jeffreys": (np.full(1000, 0.5), np.full(1000, 0.5)),
        "no observation beside 1e9": of_rates(np.array([0.0, 0.5]), np.array([0.0, 1e9])),
        "rare and certain": of_rates(np.array([0.0, 1e-8, 0.0, 1.0]), few),
        "next to one": of_rates(np.array([0.5, 1 - 3e-9, 1.0, 1 - 1e-5]), few),
        "ten equal of 1e9": of_rates(np.full(10, 0.3), np.full(10, 1e9)),
        "ten close of 1e9": of_rates(0.3 + 1e-5 * rng.normal(size=10), np.full(10, 1e9)),
        "thirty of 1 to 1e9": of_rates(np.clip(near, 0.0, 1.0), trials),
        "thirty of 0 to 1e9": of_rates(rng.uniform(0.0, 0.2, 30), mixed),
        "weak priors": of_rates(rng.uniform(0.0, 1.0, 10), rng.integers(0, 3, 10).astype(float), 0.05),
        "thousand of 1 to 1e6": of_rates(
            np.clip(0.1 + 0.3 / np.sqrt(many) * rng.normal(size=1000), 0, 1), many
        ),
        "thousand, every other fresh": of_rates(np.full(1000, 0.9), np.tile([0.0, 1e6], 500)),
    }


def student_problems() -> dict[str, tuple[Vector, Vector, Vector]]:
    rng = np.random.default_rng(21)
    wide = 10.0 ** rng.uniform(-8.0, 8.0, 10)
    trials = 10.0 ** rng.uniform(0.5, 9.0, 30)
    return {
        "two Cauchy": (np.array([0.0, 1.0]), np.array([1.0, 3.0]), np.ones(2)),
        "Cauchy beside Normal": (np.array([0.0, 1.0]), np.array([1.0, 1e-6]), np.array([1.0, 1e9])),
        "thousand fresh": (np.zeros(1000), np.ones(1000), np.ones(1000)),
        "thousand of df 0.5": (np.zeros(1000), np.ones(1000), np.full(1000, 0.5)),
        "scales 1e-8 to 1e8, df 0.5": (rng.normal(size=10), wide, np.full(10, 0.5)),
        "scales 1e-8 to 1e8, df 0.5 to 1e9": (
            wide * rng.normal(size=10),
            wide,
            10.0 ** rng.uniform(-0.3, 9, 10),
        ),
        "far from zero": (
            1e8 + 1e-6 * rng.normal(size=5),
            np.full(5, 1e-6),
            np.array([1.0, 3.0, 10.0, 100.0, 1e9]),
        ),
        "observed 3 to 1e9 times": (
            1.0 + rng.normal(size=30) / np.sqrt(trials),
            1 / np.sqrt(trials),
            trials - 1.0,
        ),
        "thousand scattered": (
            rng.normal(size=1000),
            10.0 ** rng.uniform(-3.0, 0.0, 1000),
            10.0 ** rng.uniform(0.0, 6.0, 1000),
        ),
    }


def gamma_problems() -> dict[str, tuple[Vector, Vector]]:
    rng = np.random.default_rng(23)
    # SciPy's incomplete gamma function errs by 3e-6 at shapes of 1e9; those are held against their limit below.
    trials = 10.0 ** rng.uniform(0.0, 6.0, 30)
    many = 10.0 ** rng.uniform(0.0, 6.0, 1000)
    means = 3.0 + 2.0 / np.sqrt(trials + 9.0) * rng.normal(size=30)
    return {
        "two fresh": (np.ones(2), np.full(2, 1e-6)),
        "thousand fresh": (np.ones(1000), np.full(1000, 1e-6)),
        "no observation beside 1e6": (np.array([1.0, 3e6]), np.array([1e-6, 1e6])),
        "nothing seen beside much": (np.array([1.0, 1.0, 200.0]), np.array([1e9, 3.0, 90.0])),
        "ten equal": (np.full(10, 5e6), np.full(10, 1e6)),
        "ten close": (5e6 + 2e3 * rng.normal(size=10), np.full(10, 1e6)),
        "thirty of 1 to 1e6": (1.0 + means * trials, 1e-6 + trials),
        "weak priors": (rng.integers(0, 3, 10) + 0.05, rng.integers(0, 3, 10) + 0.01),
        "small shapes": (np.array([0.02, 0.03, 0.5]), np.array([1.0, 2.0, 3.0])),
        "rates far apart": (10.0 ** rng.uniform(-1, 3, 20), 10.0 ** rng.uniform(-40, -38, 20)),
        "thousand of 1 to 1e6": (
            1.0 + many * np.abs(2.0 + 2.0 / np.sqrt(many) * rng.normal(size=1000)),
            many,
        ),
    }


@pytest.mark.parametrize("name", gamma_problems())
def test_gamma_shares_agree_with_another_quadrature(name: str) -> None:
    shape, rate = gamma_problems()[name]
    shares = gamma_best(shape, rate)
    assert_shares(shares, shape.size)
    assert gamma_best_deviation(shape, rate)[0] < 2e-9
    arms = some_arms(shares, 6) if shape.size < 100 else np.argsort(-shares, kind="stable")[[0, 1, 30]]
    for k in arms:
        assert shares[k] == pytest.approx(gamma_share(shape, rate, int(k)), abs=1e-6, rel=0)


def test_gamma_shares_of_a_billion_observations_are_those_of_their_normal_limit() -> None:
    rng = np.random.default_rng(24)
    for trials in (np.full(10, 1e9), 10.0 ** rng.uniform(8.5, 9.0, 10)):
        means = 5.0 + np.sqrt(5.0 / trials) * rng.normal(size=10)
        shape = means * trials
        normal = student_best(means, np.sqrt(shape) / trials, np.full(10, 1e100))
        # The skewness of a gamma law is 2 / sqrt(shape).
        assert gamma_best(shape, trials) == pytest.approx(normal, abs=1e-5)
        assert np.ptp(normal) > 0.1
    assert gamma_best(np.full(10, 5e9), np.full(10, 1e9)) == pytest.approx(np.full(10, 0.1), abs=1e-12)
    assert gamma_best([1.0, 3e9], [1e-6, 1e9]) == pytest.approx([np.exp(-3e-6), -np.expm1(-3e-6)], abs=1e-9)


def test_known_gamma_values() -> None:
    # Of two exponentials, and by the beta law of the ratio of two gammas: P(x/(x + y) > 1/2).
    assert gamma_best([1, 1], [2, 1]) == pytest.approx([1 / 3, 2 / 3], abs=1e-9)
    assert gamma_best([5, 3], [1, 1])[0] == pytest.approx(stats.beta(5, 3).sf(0.5), abs=1e-9)
    assert gamma_best([2.0], [3.0]).tolist() == [1.0]
    with pytest.raises(InvalidInput, match="shape must lie between"):
        gamma_best([0, 1], [1, 1])
    with pytest.raises(InvalidInput, match="rate must lie between"):
        gamma_best([1, 1], [1, -1])
    with pytest.raises(InvalidInput, match="shape has 2 arms and rate 3"):
        gamma_best([1, 1], [1, 1, 1])


@given(
    st.lists(
        st.tuples(st.one_of(st.floats(1e-3, 20.0), st.floats(1.0, 1e10)), st.floats(1e-6, 1e9)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_gamma_shares_are_a_distribution_that_follows_the_arms(arms: list[tuple[float, float]]) -> None:
    shape, rate = np.array(arms).T
    shares = gamma_best(shape, rate)
    assert_shares(shares, shape.size)
    assert gamma_best_deviation(shape, rate)[0] < 1e-7
    order = np.random.default_rng(shape.size).permutation(shape.size)
    assert np.array_equal(gamma_best(shape[order], rate[order]), shares[order])


@pytest.mark.slow
@pytest.mark.parametrize("name", beta_problems())
def test_beta_shares_agree_with_another_quadrature(name: str) -> None:
    alpha, beta = beta_problems()[name]
    shares = beta_best(alpha, beta)
    assert_shares(shares, alpha.size)
    # Halving panels keeps it there at once; a second round on shorter panels would only see to 1e-7.
    assert beta_best_deviation(alpha, beta)[0] < 2e-9
    arms = some_arms(shares, 6) if alpha.size < 100 else np.argsort(-shares, kind="stable")[[0, 1, 30]]
    for k in arms:
        assert shares[k] == pytest.approx(beta_share(alpha, beta, int(k)), abs=1e-6, rel=0)


@pytest.mark.parametrize("name", student_problems())
def test_student_shares_agree_with_another_quadrature(name: str) -> None:
    loc, scale, df = student_problems()[name]
    shares = student_best(loc, scale, df)
    assert_shares(shares, loc.size)
    assert student_best_deviation(loc, scale, df)[0] < 2e-9
    arms = some_arms(shares, 6) if loc.size < 100 else np.argsort(-shares, kind="stable")[[0, 1, 30]]
    for k in arms:
        assert shares[k] == pytest.approx(student_share(loc, scale, df, int(k)), abs=1e-6, rel=0)


def test_the_reference_tells_wrong_shares_apart() -> None:
    alpha, beta = np.array([3.0, 4.0, 5.0]), np.array([7.0, 8.0, 9.0])
    shares = beta_best(alpha, beta)
    moved = beta_best([3.001, 4.0, 5.0], beta)
    assert abs(moved[0] - beta_share(alpha, beta, 0)) > 1e-5
    assert abs(shares[0] - beta_share(alpha, beta, 0)) < 1e-8


def test_known_values() -> None:
    assert beta_best([51, 41], [351, 361]) == pytest.approx(
        [0.8672593960239896, 1 - 0.8672593960239896], abs=1e-9
    )
    assert beta_best([41, 51, 46], [361, 351, 356]) == pytest.approx(
        [0.08139906978114239, 0.6544747838317091, 0.26412614638714826], abs=1e-9
    )
    assert beta_expected_loss([51, 41], [351, 361])[0] == pytest.approx(0.0014992415717766472, abs=1e-11)
    # Beta(2, 1) has the law of the larger of two uniforms.
    assert beta_best([2, 1], [1, 1]) == pytest.approx([2 / 3, 1 / 3], abs=1e-9)
    # The difference of two Cauchy variables is Cauchy, their scales added.
    assert student_best([1, 0], [1, 2], [1, 1])[0] == pytest.approx(0.5 + np.arctan(1 / 3) / np.pi, abs=1e-9)
    assert student_expected_loss([0, 0], [1, 1], [1e9, 1e9])[0] == pytest.approx(1 / np.sqrt(np.pi), abs=1e-8)


def test_one_arm_is_best_at_no_loss() -> None:
    for shares in (beta_best([3.0], [0.5]), student_best([1.0], [1e-9], [0.5])):
        assert shares.tolist() == [1.0]
    assert beta_expected_loss([3.0], [0.5]).tolist() == [0.0]
    assert student_expected_loss([1.0], [1e-9], [0.5]).tolist() == [0.0]


def monte_carlo(draw: Callable[[np.random.Generator, int], Vector], size: int, seed: int) -> Vector:
    rng = np.random.default_rng(seed)
    wins = np.zeros(size)
    for _ in range(20):
        wins += np.bincount(np.argmax(draw(rng, 20_000), axis=1), minlength=size)
    assert np.count_nonzero(wins) > 1
    return wins / 400_000


def test_shares_lie_within_the_error_of_monte_carlo() -> None:
    alpha, beta = of_rates(np.array([0.3, 0.32, 0.1, 0.5, 0.31]), np.array([100.0, 40.0, 3.0, 0.0, 1e6]))
    loc, scale, df = (
        np.array([0.0, 0.5, -1.0, 0.4]),
        np.array([1.0, 0.1, 4.0, 1e-5]),
        np.array([3.0, 50.0, 0.7, 1e9]),
    )
    cases = [
        (beta_best(alpha, beta), lambda rng, n: rng.beta(alpha, beta, (n, 5))),
        (student_best(loc, scale, df), lambda rng, n: loc + scale * rng.standard_t(df, (n, 4))),
    ]
    for seed, (shares, draw) in enumerate(cases):
        error = np.sqrt(shares * (1.0 - shares) / 400_000)
        assert np.all(np.abs(monte_carlo(draw, shares.size, seed) - shares) <= 4.5 * error + 1e-9)


def test_losses_agree_with_another_quadrature() -> None:
    rng = np.random.default_rng(22)
    for trials in (np.zeros(3), 10.0 ** rng.uniform(0, 4, 3), np.array([0.0, 50.0, 1e9])):
        alpha, beta = of_rates(rng.uniform(0.2, 0.8, 3), trials)
        assert beta_expected_loss(alpha, beta) == pytest.approx(beta_loss(alpha, beta), abs=1e-8)
    for df in (np.full(3, 1.5), np.array([3.0, 2.0, 30.0]), np.array([1e9, 5.0, 1.3])):
        loc, scale = rng.normal(size=3), 10.0 ** rng.uniform(-2, 1, 3)
        expected = student_loss(loc, scale, df)
        assert student_expected_loss(loc, scale, df) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_loss_without_expectation_is_infinite() -> None:
    assert student_expected_loss([0, 9, 1], [1, 1, 1], [5, 1, 7]).tolist() == [np.inf] * 3
    assert np.all(np.isfinite(student_expected_loss([0, 9, 1], [1, 1, 1], [5, 1.01, 7])))


counts = st.one_of(st.just(0.0), st.floats(0.0, 20.0), st.floats(0.0, 1e9))
beta_arms = st.lists(st.tuples(counts, counts), min_size=1, max_size=12)
student_arms = st.lists(
    st.tuples(
        st.one_of(st.floats(-10, 10), st.floats(-1e9, 1e9)),
        st.floats(-12.0, 12.0).map(lambda x: 10.0**x),
        st.one_of(st.floats(0.5, 5.0), st.floats(0.5, 1e9)),
    ),
    min_size=1,
    max_size=12,
)


@given(beta_arms, st.sampled_from([1.0, 0.5, 0.01]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_beta_shares_are_a_distribution_that_follows_the_arms(
    arms: list[tuple[float, float]], prior: float
) -> None:
    alpha, beta = np.array(arms).T + prior
    shares = beta_best(alpha, beta)
    assert_shares(shares, alpha.size)
    assert beta_best_deviation(alpha, beta)[0] < 1e-7
    order = np.random.default_rng(alpha.size).permutation(alpha.size)
    assert np.array_equal(beta_best(alpha[order], beta[order]), shares[order])
    losses = beta_expected_loss(alpha, beta)
    assert np.all(np.isfinite(losses) & (losses >= 0.0))
    assert np.array_equal(beta_expected_loss(alpha[order], beta[order]), losses[order])
    if alpha.size > 1:
        assert np.all(losses <= 1.0)
        means = alpha / (alpha + beta)
        assert losses - np.min(losses) == pytest.approx(np.max(means) - means, abs=1e-9)


@given(student_arms)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_student_shares_are_a_distribution_that_follows_the_arms(
    arms: list[tuple[float, float, float]],
) -> None:
    loc, scale, df = np.array(arms).T
    shares = student_best(loc, scale, df)
    assert_shares(shares, loc.size)
    assert student_best_deviation(loc, scale, df)[0] < 1e-7
    order = np.random.default_rng(loc.size).permutation(loc.size)
    assert np.array_equal(student_best(loc[order], scale[order], df[order]), shares[order])
    losses = student_expected_loss(loc, scale, df)
    assert np.all(losses >= 0.0)
    assert np.all(np.isfinite(losses)) == (np.all(df > 1.0) or loc.size == 1)


def test_arms_may_lie_at_the_edges_of_what_is_allowed() -> None:
    ends = np.array([1e-6, 1e15])
    for alpha in ends:
        for beta in ends:
            assert_shares(beta_best([alpha, 1.0, beta], [beta, 1.0, alpha]), 3)
            assert beta_best([alpha] * 2, [beta] * 2) == pytest.approx([0.5, 0.5], abs=1e-12)
    assert student_best([1e100, 1e100], [1e-100, 1e-100], [0.1, 0.1]) == pytest.approx([0.5, 0.5], abs=1e-12)
    assert_shares(student_best([1e100, 0, -1e100], [1e-100, 1, 1e100], [0.1, 1e100, 0.1]), 3)


def test_arms_come_as_lists_integers_and_read_only_or_strided_arrays() -> None:
    expected = beta_best(np.array([3.0, 5.0]), np.array([4.0, 2.0]))
    locked = np.array([3.0, 5.0])
    locked.flags.writeable = False
    for alpha in (
        [3, 5],
        np.array([3, 5], np.int32),
        np.array([3, 5], np.float32),
        locked,
        np.array([3.0, 9, 5])[::2],
    ):
        assert np.array_equal(beta_best(alpha, [4, 2]), expected)
    assert locked.tolist() == [3.0, 5.0]


@pytest.mark.parametrize(
    ("alpha", "says"),
    [
        ([], "alpha must hold at least one arm"),
        ([[1, 2]], "alpha must be a vector"),
        (["1", "2"], "alpha must be a vector of numbers"),
        ([1, None], "alpha must be a vector of numbers"),
        ([1, [2, 3]], "alpha must be a vector of numbers"),
        ([1j, 2], "alpha must be a vector of numbers"),
        ([1, 2, 3], "alpha has 3 arms and beta 2"),
        ([1, np.nan], "alpha must lie between"),
        ([1, np.inf], "alpha must lie between"),
        ([1, 0], "alpha must lie between"),
        ([1, -1], "alpha must lie between"),
    ],
)
def test_what_is_no_beta_posterior_is_refused(alpha: list[float], says: str) -> None:
    for function in (beta_best, beta_expected_loss):
        with pytest.raises(InvalidInput, match=says):
            function(alpha, [1, 1])


@pytest.mark.parametrize(
    ("loc", "scale", "df", "says"),
    [
        ([0, np.nan], [1, 1], [1, 1], "loc must lie between"),
        ([0, 0], [1, 0], [1, 1], "scale must lie between"),
        ([0, 0], [1, 1], [1, 0], "df must lie between"),
        ([0, 0], [1, 1], [1, np.inf], "df must lie between"),
        ([0, 0], [1, 1, 1], [1, 1], "loc has 2 arms, scale 3 and df 2"),
    ],
)
def test_what_is_no_student_posterior_is_refused(
    loc: list[float], scale: list[float], df: list[float], says: str
) -> None:
    for function in (student_best, student_expected_loss):
        with pytest.raises(InvalidInput, match=says):
            function(loc, scale, df)


@pytest.mark.parametrize("df", [0.1, 0.5, 1.0, 2.0, 5.5, 20.0, 100.0, 1e4, 1e6])
def test_students_distribution_function_is_scipys(df: float) -> None:
    z = 10.0 ** np.linspace(-9.0, 12.0, 4_001)
    with np.errstate(under="ignore"):
        t = z * z / df
        # From the side whose argument keeps its digits.
        middle = 0.5 - 0.5 * special.betainc(0.5, 0.5 * df, t / (1.0 + t))
        tail = 0.5 * special.betainc(0.5 * df, 0.5, 1.0 / (1.0 + t))
    # SciPy's tail of a normal-like law has lost its digits where t is small, and is 0 or nearly so far out.
    expected = np.where(z < 1.0, middle, tail)
    seen = (expected > 1e-250) & ((z < 1.0) | (t > 1e-2))
    assert seen.sum() > 1_500
    freedom = np.full(len(z), df)
    assert student_below_at(-z, freedom)[seen] == pytest.approx(expected[seen], rel=1e-13)
    assert student_below_at(z, freedom)[seen] == pytest.approx(1.0 - expected[seen], rel=1e-14)
    assert np.all(np.diff(student_below_at(z, freedom)) >= -1e-14)


@pytest.mark.parametrize("df", [1e16, 1e30, 1e100])
def test_students_distribution_function_becomes_the_normal_one(df: float) -> None:
    z = np.linspace(-30.0, 8.0, 3_001)
    expected = special.ndtr(z)
    # It lies above by z^4 / 4 df.
    assert student_below_at(z, np.full(len(z), df)) == pytest.approx(expected, rel=3e-13 + z[0] ** 4 / df)


def test_students_distribution_function_at_its_ends() -> None:
    # Far out P(T < -z) falls as z^-df; the square of 1e200 is infinite.
    far = 0.5 * special.betainc(0.05, 0.5, 0.1 / 1e100) * 1e-15
    z = np.array([0.0, -1e-300, -1e200, 1e200, -1e200, 1e200])
    df = np.array([3.0, 1e100, 0.1, 0.1, 1e100, 1e100])
    assert student_below_at(z, df) == pytest.approx([0.5, 0.5, far, 1.0, 0.0, 1.0], rel=1e-12)


def test_threads_get_the_same_bits() -> None:
    alpha, beta = beta_problems()["thirty of 0 to 1e9"]
    expected = beta_best(alpha, beta)
    equal: list[bool] = []

    def work() -> None:
        equal.append(all(np.array_equal(beta_best(alpha, beta), expected) for _ in range(50)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 4


@pytest.mark.parametrize("scale", [1e-90, 1e-3, 1.0, 1e3, 1e90])
@pytest.mark.parametrize("apart", [0.0, 0.1, 1.0, 3.0, 6.0, 9.0])
def test_two_normal_arms_have_their_closed_form(apart: float, scale: float) -> None:
    """From 1e9 degrees of freedom on a Student-t arm is Normal: P(b is best) is Φ of the standardised difference."""
    scales = np.array([0.6, 0.8]) * scale
    df = np.full(2, 1e9)
    best = student_best(np.array([0.0, apart * scale]), scales, df)
    # Φ(z) by its complement, which loses nothing.
    assert best[0] == pytest.approx(0.5 * math.erfc(apart / math.sqrt(2.0)), rel=1e-9, abs=1e-12)
    just_below = student_best(np.array([0.0, apart * scale]), scales, np.nextafter(df, 0.0))
    assert best == pytest.approx(just_below, rel=1e-6, abs=1e-10)
