"""Models under the contextual policies, against the formulas in NumPy and known values."""

import numpy as np
import pytest
import reference_contextual as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import LinTS, LinUCB, LogisticTS, SquareCB, Thompson


def inverse_of(policy, model=0):
    order = policy.order
    full = np.zeros((order, order))
    full[np.triu_indices(order)] = policy.factors()["inverse"][model]
    return full + np.triu(full, 1).T


def gram_of(policy, model=0):
    order = policy.order
    full = np.zeros((order, order))
    full[np.triu_indices(order)] = policy.statistics()["gram"][model]
    return full + np.triu(full, 1).T


def traffic(n, d, seed, n_arms=3, scale=1.0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, d)) * scale).astype(np.float32).astype(float)
    arms = rng.integers(0, n_arms, n)
    return arms, (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(float), x


def test_known_values():
    policy = LinUCB(n_arms=2, n_features=3, seed=7)
    for x, reward in (((1, 0.5, -1), 1), ((1, -0.2, 0.3), 0), ((1, 1, 0), 1)):
        policy.update(0, reward, x)
    expected = [0.3214661522272887, 0.40862855138547877, -0.2613118204138899]
    # 0.2, 0.3 and 0.4 are rounded to float32, which moves the values by some 1e-8.
    np.testing.assert_allclose(policy.factors()["coefficients"][0], expected, rtol=0, atol=1e-7)
    rows = np.array([[1, 0.5, -1], [1, -0.2, 0.3], [1, 1, 0]], dtype=np.float32).astype(float)
    theta, inverse = reference.ridge(rows, [1, 0, 1], np.ones(3))
    np.testing.assert_allclose(policy.factors()["coefficients"][0], theta, rtol=1e-13)
    x = np.array([1, 0.4, 0.4], dtype=np.float32).astype(float)
    means, widths = policy.scores_of(x)
    np.testing.assert_allclose([means[0], widths[0]], reference.scores(theta, inverse, x), rtol=1e-13)
    np.testing.assert_allclose(
        [means[0], widths[0]], [0.3803928446159242, 0.6590970939895782], rtol=0, atol=1e-7
    )


def test_known_values_in_numbers_that_float32_holds():
    """Each x of the known rows times 10, with λ times 100: θ and mean · width are a tenth and the same."""
    policy = LinUCB(n_arms=1, n_features=3, prior={"precision": 100.0})
    rows = [(10, 5, -10), (10, -2, 3), (10, 10, 0)]
    x = (10, 4, 4)
    theta, inverse = reference.ridge(rows, [1, 0, 1], np.full(3, 100.0))
    np.testing.assert_allclose(
        10 * theta, [0.3214661522272887, 0.40862855138547877, -0.2613118204138899], rtol=1e-9
    )
    np.testing.assert_allclose(
        reference.scores(theta, inverse, np.array(x)), [0.3803928446159242, 0.6590970939895782], rtol=1e-9
    )
    for row, reward in zip(rows, (1, 0, 1), strict=True):
        policy.update(0, reward, row)
    # What the prior is read to be grows with the rows' scale; that apart the model is the reference's.
    precision = policy.factors()["precision"]
    theta, inverse = reference.ridge(rows, [1, 0, 1], precision)
    np.testing.assert_allclose(policy.factors()["coefficients"][0], theta, rtol=1e-12)
    np.testing.assert_allclose(
        np.ravel(policy.scores_of(x)), reference.scores(theta, inverse, np.array(x)), rtol=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 70),
    d=st.integers(1, 20),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_ridge_is_the_reference(n, d, seed, scale):
    arms, rewards, x = traffic(n, d, seed, scale=scale)
    policy = LinUCB(3, d, seed=1)
    policy.update_many(arms, rewards, x)
    precision = policy.factors()["precision"]
    for k in range(3):
        theta, inverse = reference.ridge(x[arms == k].reshape(-1, d), rewards[arms == k], precision)
        np.testing.assert_allclose(policy.factors()["coefficients"][k], theta, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(inverse_of(policy, k), inverse, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(gram_of(policy, k), x[arms == k].T @ x[arms == k], rtol=1e-12, atol=1e-12)
    if n and n & (n - 1) == 0:
        np.testing.assert_allclose(precision, reference.precisions(x), rtol=1e-12)


def test_precisions_are_read_at_powers_of_two_and_when_forgetting():
    arms, rewards, x = traffic(40, 5, seed=2, scale=3.0)
    policy = LinUCB(3, 5, prior={"precision": 2.0})
    for n in range(40):
        policy.update(arms[n], rewards[n], x[n])
        read = 1 << (n + 1).bit_length() - 1
        np.testing.assert_allclose(
            policy.factors()["precision"], reference.precisions(x[:read], 2.0), rtol=1e-12
        )
    policy.forget(0.5)
    np.testing.assert_allclose(policy.factors()["precision"], reference.precisions(x, 2.0), rtol=1e-12)


def test_one_model_for_all_arms_is_the_reference():
    arm_features = np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    arms, rewards, x = traffic(200, 4, seed=3)
    policy = LinUCB(3, 4, arm_features=arm_features)
    policy.update_many(arms, rewards, x)
    own = arm_features[arms]
    rows = np.hstack([x, own, *(x * own[:, [j]] for j in range(2))])
    theta, inverse = reference.ridge(rows, rewards, policy.factors()["precision"])
    np.testing.assert_allclose(policy.factors()["coefficients"][0], theta, rtol=1e-9, atol=1e-12)
    means, widths = policy.scores_of(x[0])
    for k in range(3):
        row = np.concatenate([x[0], arm_features[k], np.outer(arm_features[k], x[0]).ravel()])
        np.testing.assert_allclose([means[k], widths[k]], reference.scores(theta, inverse, row), rtol=1e-9)


def test_what_is_learned_on_one_arm_holds_for_arms_like_it():
    arm_features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    rng = np.random.default_rng(4)
    policy = LinTS(3, 2, arm_features=arm_features, seed=1)
    x = np.column_stack([np.ones(300), rng.standard_normal(300)])
    arms = rng.integers(0, 2, 300)
    policy.update_many(arms, (arms == 0).astype(float), x)
    shares = policy.shares([1.0, 0.0])
    assert shares[2] == pytest.approx(shares[0])
    assert shares[2] > 0.45


def test_upper_bounds_are_the_reference():
    arms, rewards, x = traffic(100, 4, seed=5)
    for alpha in (0.5, 3.0):
        policy = LinUCB(3, 4, alpha=alpha)
        policy.update_many(arms, rewards, x)
        for row in x[:20]:
            means, widths = policy.scores_of(row)
            expected = reference.upper_bound_shares(means, widths, alpha * policy.noise_scale)
            np.testing.assert_array_equal(policy.shares(row), expected)
    assert LinUCB(4, 2).shares([1.0, 0.0]).tolist() == [0.25] * 4


def test_inverse_gaps_are_the_reference():
    arms, rewards, x = traffic(100, 4, seed=6)
    for gamma in (None, 7.0):
        for optimism in (0.0, 1.0, 0.5):
            policy = SquareCB(3, 4, gamma=gamma, optimism=optimism)
            policy.update_many(arms, rewards, x)
            scheduled = 30 * np.sqrt(3 * 101 / (4 * policy.noise_scale**2))
            for row in x[:20]:
                means, widths = policy.scores_of(row)
                predicted = means + optimism * policy.noise_scale * widths
                expected = reference.inverse_gap_shares(predicted, gamma or scheduled)
                np.testing.assert_allclose(policy.shares(row), expected, rtol=0, atol=1e-13)
    assert SquareCB(4, 2).shares([1.0, 0.0]).tolist() == [0.25] * 4
    for wrong in (-0.5, float("nan"), "a", None):
        with pytest.raises(InvalidInput, match="optimism"):
            SquareCB(3, 4, optimism=wrong)


@pytest.mark.parametrize("policy", [LinTS, LogisticTS])
def test_posterior_draws_are_the_reference(policy):
    arms, rewards, x = traffic(60, 4, seed=7)
    learner = policy(3, 4, scale=0.7)
    learner.update_many(arms, rewards, x)
    for i, row in enumerate(x[:5]):
        means, widths = learner.scores_of(row)
        expected, error = reference.best_of_normals(means, 0.7 * learner.noise_scale * widths, 40_000, seed=i)
        assert (np.abs(learner.shares(row) - expected) <= 4.5 * error + 1e-4).all()
    assert learner.shares(np.zeros(4)).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("policy", [LinTS, LogisticTS])
def test_shares_from_draws_are_near_those_of_the_quadrature(policy):
    """With one-hot arm features and none of x beside, the shared model is a model for each arm."""
    arms, rewards, _ = traffic(60, 1, seed=8)
    apart, shared = policy(3, 1, scale=0.9), policy(3, 1, scale=0.9, arm_features=np.eye(3))
    for learner in (apart, shared):
        learner.update_many(arms, rewards, np.ones((60, 1)))
    assert np.abs(apart.shares([1.0]) - shared.shares([1.0])).max() < 0.12
    assert shared.shares([1.0]).tobytes() == policy.from_state(shared.state()).shares([1.0]).tobytes()


def test_the_noise_is_what_least_squares_leaves():
    rng = np.random.default_rng(9)
    x = rng.standard_normal((5000, 3))
    arms = rng.integers(0, 2, 5000)
    for noise in (2.0, 20.0):
        policy = LinUCB(2, 3, objective="continuous")
        policy.update_many(arms, x @ [1.0, -2.0, 0.5] * (arms + 1) + noise * rng.standard_normal(5000), x)
        assert policy.noise_scale == pytest.approx(noise, rel=0.05)
    assert LinUCB(2, 3).noise_scale == 0.5
    assert LogisticTS(2, 3).noise_scale == 1.0


def test_logistic_observations_are_the_reference():
    _, rewards, x = traffic(40, 4, seed=10)
    policy = LogisticTS(1, 4)
    gram, moment = np.zeros((4, 4)), np.zeros(4)
    for row, reward in zip(x, rewards, strict=True):
        precision = policy.factors()["precision"]
        inverse = np.linalg.inv(gram + np.diag(precision))
        weight, target = reference.logistic_observation(inverse @ moment, inverse, row, reward)
        gram += weight * np.outer(row, row)
        moment += weight * target * row
        policy.update(0, reward, row)
        np.testing.assert_allclose(gram_of(policy), gram, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(policy.statistics()["moment"][0], moment, rtol=1e-8, atol=1e-10)
    inverse = np.linalg.inv(gram + np.diag(policy.factors()["precision"]))
    np.testing.assert_allclose(policy.factors()["coefficients"][0], inverse @ moment, rtol=1e-8)


@pytest.mark.parametrize("reward", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3, 1e8])
def test_logistic_steps_converge_from_anywhere(reward, size):
    policy = LogisticTS(1, 2, objective="bounded")
    for sign in (1, -1, 1, 1):
        policy.update(0, reward, [sign * size, size])
    means, widths = policy.scores_of([size, size])
    assert np.isfinite([*means, *widths]).all()
    assert (means[0] > 0) == (reward > 0.5)


@pytest.mark.parametrize("policy", [LinUCB, LogisticTS])
def test_coefficients_stay_those_of_a_fresh_solve(policy):
    """Over many re-factorisations and between them; the full length is in benchmarks/contextual_accuracy.py."""
    d, rows = 16, 4096
    rng = np.random.default_rng(11)
    x = rng.standard_normal((rows, d)).astype(np.float32)
    rewards = (rng.random(rows) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    learner = policy(1, d)
    arms = np.zeros(rows, dtype=int)
    for _ in range(20):
        learner.update_many(arms, rewards, x)
    learner.update_many(arms[:777], rewards[:777], x[:777])
    factors, statistics = learner.factors(), learner.statistics()
    hessian = gram_of(learner) + np.diag(factors["precision"])
    fresh = np.linalg.solve(hessian, statistics["moment"][0])
    assert np.abs(factors["coefficients"][0] / fresh - 1).max() < 1e-9
    np.testing.assert_allclose(inverse_of(learner) @ hessian, np.eye(d), atol=1e-9)


def test_features_of_a_large_scale_keep_their_digits():
    """The first such vector takes away all but a millionth of the variance, and with it the digits of an update."""
    rng = np.random.default_rng(12)
    x = (rng.standard_normal((300, 6)) * [1, 1e3, 1, 1e-2, 1e4, 1]).astype(np.float32).astype(float)
    rewards = (x[:, 1] > 0).astype(float)
    policy = LinUCB(1, 6)
    for row, reward in zip(x, rewards, strict=True):
        policy.update(0, reward, row)
    theta, inverse = reference.ridge(x, rewards, policy.factors()["precision"])
    np.testing.assert_allclose(policy.factors()["coefficients"][0], theta, rtol=1e-7)
    np.testing.assert_allclose(inverse_of(policy), inverse, rtol=1e-7, atol=1e-14)


def test_all_widths_of_vectors_have_one_way_of_summing():
    """The lanes of the blocks do not show: features of 0 at the end change nothing."""
    for d in (1, 7, 8, 9, 15, 16, 17, 33):
        arms, rewards, x = traffic(30, d, seed=d)
        short, long = LinUCB(3, d), LinUCB(3, d + 9)
        short.update_many(arms, rewards, x)
        long.update_many(arms, rewards, np.pad(x, [(0, 0), (0, 9)]))
        for a, b in zip(short.scores_of(x[0]), long.scores_of(np.pad(x[0], (0, 9))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("kind", [LinUCB, LinTS, LogisticTS, SquareCB])
def test_what_was_observed_without_features_leaves_the_models_as_if_new(kind):
    """Their prior goes by the features' scale, which those observations say nothing of."""
    former = Thompson(n_arms=3)
    former.update_many(np.repeat([0, 1, 2], 30_000), np.tile([0.0, 1.0], 45_000))
    arms, rewards, x = traffic(3_000, 4, seed=11, scale=100.0)
    policy, fresh = kind(3, 4, seed=1), kind(3, 4, seed=1)
    policy.take_over(former)
    for learner in (policy, fresh):
        learner.update_many(arms, rewards, x)
    assert policy.counts.sum() == 93_000
    for name, values in fresh.factors().items():
        np.testing.assert_array_equal(policy.factors()[name], values, err_msg=name)
    again = kind.from_state(policy.state())
    for learner in (policy, again):
        learner.update_many(arms, rewards, x)
    for name, values in policy.factors().items():
        np.testing.assert_array_equal(again.factors()[name], values, err_msg=name)


def test_rows_of_different_lengths_are_refused():
    ragged = [[1.0], [1.0, 2.0]]
    policy = LinUCB(2, 2)
    for wrong in (
        lambda: LinUCB(2, 2, arm_features=ragged),
        lambda: policy.choose(ragged),
        lambda: policy.shares(ragged),
        lambda: policy.shares_many(ragged),
        lambda: policy.choose_many(ragged),
        lambda: policy.choose_many([[1.0, 2.0]], [[True], [True, False]]),
        lambda: policy.update(0, 1.0, ragged),
        lambda: policy.update_many([0, 1], [1.0, 0.0], ragged),
        lambda: policy.grown(3).grown(4, arm_features=ragged),
    ):
        with pytest.raises(InvalidInput):
            wrong()


@pytest.mark.parametrize("policy", [LinUCB, LinTS, LogisticTS, SquareCB])
@pytest.mark.parametrize("with_arm_features", [False, True])
def test_effects_are_what_scores_move_by(policy, with_arm_features):
    rng, d = np.random.default_rng(4), 5
    own = rng.standard_normal((3, 2)) if with_arm_features else None
    learner = policy(n_arms=3, n_features=d, seed=1, arm_features=own)
    assert learner.effects() is None
    x = np.c_[np.ones(400), rng.normal(3.0, 2.0, 400), rng.standard_normal((400, 2)), rng.random(400) < 0.3]
    arms = rng.integers(0, 3, 400)
    learner.update_many(arms, (rng.random(400) < 0.3 + 0.1 * arms * (x[:, 2] > 0)).astype(float), x)
    effects, limits = learner.effects(), learner.limits
    assert effects is not None
    assert limits is not None
    centre, spread = limits
    assert effects.shape == (3, d)
    for j in range(d):
        base = centre.astype(np.float32).astype(np.float64)
        moved = base.copy()
        moved[j] = np.float32(base[j] + spread[j])
        by = learner.scores_of(moved)[0] - learner.scores_of(base)[0]
        assert by == pytest.approx(effects[:, j] * (moved[j] - base[j]) / spread[j], rel=1e-6, abs=1e-9)
