import numpy as np
import pytest
import reference_policies as reference
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import Thompson, _normal

BILLION = 1_000_000_000


def observed(wins, losses, **parameters):
    policy = Thompson(len(wins), **parameters)
    policy.update_counts(wins, 1.0)
    policy.update_counts(losses, 0.0)
    return policy


def frequency_of(policy, arm, draws):
    return np.count_nonzero(policy.choose_many(draws) == arm) / draws


def assert_fits(drawn, shares):
    """Chi-square over the arms expected five times or more; the others together must be rare."""
    expected = shares * drawn.sum()
    likely = expected >= 5
    rest = expected[~likely].sum()
    assert drawn[~likely].sum() <= rest + 6 * np.sqrt(rest) + 6
    if likely.sum() > 1:
        scaled = expected[likely] * drawn[likely].sum() / expected[likely].sum()
        assert stats.chisquare(drawn[likely], scaled).pvalue > 1e-4


def test_shares_are_the_known_ones():
    shares = observed([40, 50, 45], [320, 300, 310]).shares()
    expected = stats.beta([41, 51, 46], [321, 301, 311])
    draws = expected.rvs((400_000, 3), random_state=np.random.default_rng(1)).argmax(axis=1)
    np.testing.assert_allclose(shares, np.bincount(draws) / 400_000, atol=0.004)
    np.testing.assert_allclose(
        observed([40, 50, 45], [360, 350, 355]).shares(),
        [0.08139906978114239, 0.6544747838317091, 0.26412614638714826],
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1, 1), (1, 2), (1.5, 40), (3, 2), (1000, 9000), (0.3, 0.7), (0.5, 30), (1e-3, 2e-3)]
)
def test_draws_have_the_posterior_as_distribution(alpha, beta):
    """An arm with a billion observations is a point: arm 0 beats it as often as its posterior is above."""
    draws = 200_000
    posterior = stats.beta(alpha, beta)
    values = []
    for level in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        wins = round(posterior.ppf(level) * BILLION)
        if 0.001 < wins / BILLION < 0.999:
            policy = observed(
                [0, wins], [0, BILLION - wins], prior={"alpha": alpha, "beta": beta}, seed=int(level * 100)
            )
            above = posterior.sf(wins / BILLION)
            noise = np.sqrt(above * (1 - above) / draws)
            values.append((frequency_of(policy, 0, draws) - above) / noise)
    if values:
        assert np.abs(values).max() < 4.5
        assert len(values) < 2 or len(set(values)) > 1
    else:
        # All mass within .001 of the ends: even then the arms must be told apart.
        policy = observed([0, BILLION // 2], [0, BILLION // 2], prior={"alpha": alpha, "beta": beta}, seed=3)
        above = posterior.sf(0.5)
        assert abs(frequency_of(policy, 0, draws) - above) < 4.5 * np.sqrt(above * (1 - above) / draws)


@pytest.mark.parametrize("rewards", [[], [0.3], [1.0, 2.0, 4.0], list(np.linspace(-1, 3, 50))])
def test_draws_of_means_have_the_posterior_as_distribution(rewards):
    draws = 200_000
    prior = {"mean": 0.5, "kappa": 0.5, "alpha": 0.5, "beta": 0.7}
    loc, scale, df = reference.normal_posterior(rewards, *prior.values())
    posterior = stats.t(df, loc, scale)
    for level in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        point = posterior.ppf(level)
        policy = Thompson(2, objective="continuous", prior=prior, seed=int(level * 100))
        policy.update_many(np.zeros(len(rewards), dtype=int), rewards)
        policy.update_counts([0, 10 * BILLION], point)
        assert abs(frequency_of(policy, 0, draws) - (1 - level)) < 4.5 * np.sqrt(level * (1 - level) / draws)


@given(
    st.lists(st.floats(-1e3, 1e3), max_size=30),
    st.floats(-10, 10),
    st.floats(1e-4, 10),
    st.floats(0.05, 10),
    st.floats(1e-3, 10),
)
def test_posterior_of_a_mean_is_the_textbook_one(rewards, mean, kappa, alpha, beta):
    policy = Thompson(1, objective="continuous")
    policy.update_many(np.zeros(len(rewards), dtype=int), rewards)
    posterior = _normal.posterior(**policy.statistics(), prior=np.array([[mean, kappa, alpha, beta]]))
    expected = reference.normal_posterior(rewards, mean, kappa, alpha, beta)
    np.testing.assert_allclose(np.ravel(posterior), expected, rtol=1e-9, atol=1e-9)


def test_variance_survives_a_large_offset():
    rng = np.random.default_rng(2)
    rewards = 1e9 + rng.standard_normal(1000)
    policy = Thompson(1, objective="continuous")
    policy.update_many(np.zeros(1000, dtype=int), rewards)
    assert policy.statistics()["m2"][0] / 1000 == pytest.approx(rewards.var(), rel=1e-6)


@pytest.mark.parametrize("objective", ["binary", "bounded", "continuous"])
@pytest.mark.parametrize(
    ("min_share", "max_share"), [(0.0, 1.0), (0.05, 1.0), (0.2, 1.0), (0.0, 0.4), (0.1, 0.35), (0.0, 0.01)]
)
@pytest.mark.parametrize("eligible", [None, [True, True, False, True, True]])
def test_choices_follow_the_shares(objective, min_share, max_share, eligible):
    low, high = (-2.0, 3.0) if objective == "bounded" else (None, None)
    policy = Thompson(
        5, objective=objective, low=low, high=high, min_share=min_share, max_share=max_share, seed=11
    )
    rng = np.random.default_rng(12)
    arms = rng.integers(0, 5, 60)
    rewards = (rng.random(60) < 0.2 + 0.1 * arms).astype(float)
    policy.update_many(arms, rewards)
    shares = policy.shares(eligible=eligible)
    assert np.ptp(shares) > 0.01 or max_share < 0.2 or min_share == 0.2
    assert_fits(np.bincount(policy.choose_many(100_000, eligible=eligible), minlength=5), shares)


def test_wrong_shares_would_not_fit():
    policy = observed([3, 5, 9], [20, 20, 20], seed=4)
    drawn = np.bincount(policy.choose_many(100_000), minlength=3)
    assert_fits(drawn, policy.shares())
    policy.update(0, 1.0)
    with pytest.raises(AssertionError):
        assert_fits(drawn, policy.shares())


def update_singly(policy, arms, rewards):
    for arm, reward in zip(arms, rewards, strict=True):
        policy.update(arm, reward)


def update_counted(policy, arms, rewards):
    policy.update_counts(np.bincount(arms[rewards == 1], minlength=3), 1.0)
    policy.update_counts(np.bincount(arms[rewards == 0], minlength=3), 0.0)


def update_restored(policy, arms, rewards):
    other = Thompson(3)
    other.update_many(arms, rewards)
    policy.restore(other.statistics())


@pytest.mark.parametrize("max_share", [1.0, 0.9999999])
@pytest.mark.parametrize("update", [update_singly, Thompson.update_many, update_counted, update_restored])
def test_a_choice_follows_the_update_before_it(update, max_share):
    """What is kept for choosing is made again when statistics change, by whatever way."""
    arms = np.repeat([0, 1, 2], 1000)
    policy = Thompson(3, seed=5, max_share=max_share)
    assert set(policy.choose_many(50).tolist()) == {0, 1, 2}
    update(policy, arms, (arms == 1).astype(float))
    assert set(policy.choose_many(50).tolist()) == {1}


def test_fractions_count_as_fractions():
    policy = Thompson(2, objective="bounded", low=-1.0, high=3.0)
    policy.update_many([0, 0, 1], [0.0, 2.0, 3.0])
    np.testing.assert_array_equal(policy.statistics()["total"], [0.25 + 0.75, 1.0])
    np.testing.assert_allclose(policy.means, [1.0, 3.0])
    expected = observed([1, 1], [1, 0]).shares()
    np.testing.assert_allclose(policy.shares(), expected, atol=1e-12)


def test_pending_observations_are_failures_of_part_weight():
    policy = observed([3, 5], [10, 10])
    pending = np.array([7.5, 0.0])
    direct = Thompson(2)
    direct.restore({"n": np.array([20.5, 15.0]), "total": np.array([3.0, 5.0])})
    np.testing.assert_array_equal(policy.shares(pending=pending), direct.shares())
    assert policy.shares(pending=pending)[0] < policy.shares()[0] - 0.01


def test_parts_of_a_prior_may_be_given():
    assert Thompson(2, prior={"beta": 9}).own["prior"] == {"alpha": 1.0, "beta": 9.0}
    normal = Thompson(2, objective="continuous", prior={"beta": 9, "mean": 2})
    assert normal.own["prior"] == {"mean": 2.0, "kappa": 1e-4, "alpha": 0.5, "beta": 9.0}
    assert list(normal.own["prior"]) == ["mean", "kappa", "alpha", "beta"]


@pytest.mark.parametrize(
    ("objective", "prior", "sentence"),
    [
        ("binary", {"alpha": 0}, "prior.alpha must be from"),
        ("binary", {"beta": -1}, "prior.beta must be from"),
        ("binary", {"beta": float("nan")}, "finite"),
        ("binary", {"beta": "1"}, "finite"),
        ("binary", {"mean": 1}, "mapping of alpha, beta"),
        ("binary", [1, 1], "mapping of alpha, beta"),
        ("continuous", {"kappa": 0}, "prior.kappa must be from"),
        ("continuous", {"mean": float("inf")}, "finite"),
        ("continuous", {"alpha": 0.01}, "prior.alpha must be from"),
        ("count", {"alpha": 0}, "prior.alpha must be from"),
        ("ordinal", {}, "takes an objective of binary, bounded, continuous, count"),
        ([], {}, "takes an objective"),
    ],
)
def test_priors_that_cannot_be_are_refused(objective, prior, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        Thompson(2, objective=objective, prior=prior)


def test_counts_are_poisson_under_a_gamma_prior():
    policy = Thompson(3, objective="count", prior={"alpha": [2.0, 1.0, 5.0], "beta": 0.5}, seed=1)
    policy.update_many([0, 0, 1, 2, 2, 2], [3.0, 4.0, 2.0, 1.0, 3.0, 3.5])
    shape, rate = np.array([9.0, 3.0, 12.5]), np.array([2.5, 1.5, 3.5])
    draws = np.random.default_rng(1).gamma(shape, 1 / rate, (400_000, 3)).argmax(axis=1)
    np.testing.assert_allclose(policy.shares(), np.bincount(draws) / 400_000, atol=0.004)
    assert_fits(np.bincount(policy.choose_many(100_000), minlength=3), policy.shares())


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e5])
def test_every_arm_of_counts_is_tried_and_the_best_is_found(scale):
    policy, rng = Thompson(5, objective="count", seed=2), np.random.default_rng(3)
    means = scale * np.array([1.0, 1.1, 2.0, 0.5, 1.2])
    chosen = []
    for _ in range(20_000):
        arm = policy.choose()
        policy.update(arm, float(rng.poisson(means[arm])))
        chosen.append(arm)
    assert set(chosen[:50]) == {0, 1, 2, 3, 4}
    assert np.mean(np.array(chosen[10_000:]) == 2) > 0.95


@pytest.mark.parametrize("value", [0.0, 1e-3, 7.0, 1e80])
def test_counts_at_the_ends_have_valid_shares(value):
    policy = Thompson(3, objective="count", seed=4)
    policy.update_counts([BILLION, 0, 1], value)
    shares = policy.shares()
    assert np.isfinite(shares).all()
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert_fits(np.bincount(policy.choose_many(10_000), minlength=3), shares)


@pytest.mark.parametrize(
    ("objective", "prior"),
    [
        ("binary", {"alpha": [1.0, 8.0, 3.0], "beta": 4.0}),
        ("continuous", {"mean": [0.0, 0.5, 1.0], "kappa": [1.0, 2.0, 0.5], "alpha": 2.0}),
        ("count", {"alpha": [1.0, 8.0, 3.0], "beta": [2.0, 4.0, 1.0]}),
    ],
)
def test_priors_may_be_by_arm(objective, prior):
    policy = Thompson(3, objective=objective, prior=prior, seed=5)
    shares = policy.shares()
    assert np.ptp(shares) > 0.1
    assert_fits(np.bincount(policy.choose_many(100_000), minlength=3), shares)
    assert policy.shares(eligible=[True, False, True])[2] > shares[2]
    again = Thompson.from_state(policy.state())
    assert again.shares().tobytes() == shares.tobytes()
    grown = policy.grown(4)
    assert grown.shares(eligible=[True] * 3 + [False])[:3] == pytest.approx(shares, abs=1e-12)
    name = next(iter(prior))
    assert grown.own["prior"][name] == [*prior[name], Thompson(1, objective=objective).own["prior"][name]]
    policy.forget(1e-200)
    assert policy.shares().tobytes() == shares.tobytes(), "a prior is not forgotten"


@pytest.mark.parametrize(
    "prior", [{"alpha": [1.0, 2.0]}, {"alpha": [1.0, 2.0, 0.0]}, {"alpha": [1.0, 2.0, "a"]}]
)
def test_priors_by_arm_that_cannot_be_are_refused(prior):
    with pytest.raises(InvalidInput, match=r"prior\.alpha"):
        Thompson(3, prior=prior)
