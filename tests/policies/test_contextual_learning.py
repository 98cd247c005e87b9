"""Contextual policies with their defaults, in one pass over real data and in a linear environment."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler

from bandit_serve.policies import POLICIES, LinTS, LinUCB, LogisticTS, SquareCB

CONTEXTUAL = {kind: policy for kind, policy in POLICIES.items() if policy.contextual}


def progressive_reward(policy, load, seed):
    """The mean of 1 for the right class and 0 for others, in a random order of the data."""
    x, y = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = StandardScaler().fit_transform(x)[order], y[order]
    learner = policy(len(set(y.tolist())), x.shape[1], seed=seed)
    right = 0
    for row, label in zip(x, y, strict=True):
        arm = learner.choose(row)
        learner.update(arm, float(arm == label), row)
        right += arm == label
    return right / len(y)


# What each is to reach at least, a standard error or two below what it does over ten orders.
@pytest.mark.parametrize(
    ("policy", "digits", "cancer"),
    [(LinUCB, 0.84, 0.955), (LinTS, 0.84, 0.95), (LogisticTS, 0.81, 0.96), (SquareCB, 0.83, 0.94)],
)
def test_classes_are_learned_from_rewards_alone(policy, digits, cancer):
    assert np.mean([progressive_reward(policy, load_digits, seed) for seed in range(3)]) >= digits
    assert np.mean([progressive_reward(policy, load_breast_cancer, seed) for seed in range(5)]) >= cancer


def test_the_best_policies_reach_what_is_known_to_be_reached():
    best = {
        load: max(
            np.mean([progressive_reward(policy, load, seed) for seed in range(5)])
            for policy in CONTEXTUAL.values()
        )
        for load in (load_digits, load_breast_cancer)
    }
    assert best[load_digits] >= 0.85
    assert best[load_breast_cancer] >= 0.965


def linear_regret(policy, seed, n_arms=10, d=16, noise=0.5, horizon=10_000):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((n_arms, d))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    x = rng.standard_normal((horizon, d))
    means = x @ theta.T
    learner = policy(n_arms, d, objective="continuous", seed=seed)
    regret = 0.0
    for row, mean in zip(x, means, strict=True):
        arm = learner.choose(row)
        learner.update(arm, mean[arm] + noise * rng.standard_normal(), row)
        regret += mean.max() - mean[arm]
    return regret / horizon


@pytest.mark.parametrize(("policy", "most"), [(LinUCB, 0.035), (LinTS, 0.042), (SquareCB, 0.04)])
def test_regret_in_a_linear_world(policy, most):
    assert np.mean([linear_regret(policy, seed) for seed in range(3)]) <= most


@pytest.mark.parametrize("policy", CONTEXTUAL.values(), ids=CONTEXTUAL)
def test_propensities_are_right_over_twenty_thousand_decisions(policy):
    """Learning all the while, with eligibility that changes by request and a holdout; rare arms keep their weight."""
    rng = np.random.default_rng(1)
    n, n_arms, d = 20_000, 5, 4
    learner = policy(n_arms, d, seed=2, holdout=0.05)
    x = rng.standard_normal((n, d)).astype(np.float32)
    theta = rng.standard_normal((n_arms, d))
    eligible = rng.random((n, n_arms)) < 0.7
    eligible[np.arange(n), rng.integers(0, n_arms, n)] = True
    excess, variance = np.zeros(n_arms), np.zeros(n_arms)
    for i in range(n):
        shares = learner.shares(x[i], eligible[i])
        arm = learner.choose(x[i], eligible[i])
        may = eligible[i]
        excess[may] += (np.arange(n_arms)[may] == arm) / shares[may] - 1
        variance[may] += 1 / shares[may] - 1
        learner.update(arm, float(rng.random() < 1 / (1 + np.exp(-theta[arm] @ x[i]))), x[i])
    assert (np.abs(excess) <= 4 * np.sqrt(variance)).all()


def test_draws_that_were_made_before_an_inverse_are_due_again():
    learner = LinTS(3, 5, objective="continuous", arm_features=np.eye(3), seed=1)
    learner.patient = True
    rng = np.random.default_rng(2)
    for at in range(64):
        learner.update(at % 3, rng.standard_normal(), rng.standard_normal(5))
    assert learner.stale_models
    while learner.stale_models:
        learner.redraw()
        assert not learner.to_redraw
        learner.freshen_one()
        assert learner.to_redraw


@pytest.mark.parametrize("policy", CONTEXTUAL.values(), ids=CONTEXTUAL)
def test_rows_that_are_dependent_but_for_rounding_leave_all_finite(policy):
    """As many as there are orders of magnitude between features and the prior, so that each pivot is rounding alone."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        arm_features = 10.0 ** rng.integers(-40, 10, (3, 3)) * rng.choice([-1.0, 1.0], (3, 3))
        learner = policy(3, 7, arm_features=arm_features, prior={"precision": 1e-6}, seed=seed)
        base = 10.0 ** rng.integers(-30, 10, (2, 7))
        for at in range(300):
            x = (rng.standard_normal(2) @ base) * (rng.random(7) < 0.7)
            arm = int(rng.integers(3))
            learner.update(arm, float(rng.random() < 0.5), x)
            if at % 50 == 49:
                assert np.isfinite(learner.shares(x)).all()
        state = learner.state()
        assert np.isfinite(state["factors"]["inverse"]).all()
        assert (
            policy.from_state(state).state()["factors"]["inverse"].tobytes()
            == state["factors"]["inverse"].tobytes()
        )
