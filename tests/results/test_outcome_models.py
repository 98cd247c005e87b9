"""Models of outcomes by cross-fitting, and clipped weights with the bound on their bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.tree import DecisionTreeRegressor

from bandit_serve.results import off_policy
from bandit_serve.results.off_policy import OutcomeMachine, Ridge, cross_fitted

Floats = NDArray[np.float64]


def world(n: int, seed: int) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Contexts, arms drawn evenly, and rewards of which the context says most."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 2))
    arms = random.integers(0, 2, n)
    rewards = np.where(arms == 0, x[:, 0], 1.0 - x[:, 1]) + 0.3 * random.normal(size=n)
    return x, arms, rewards


def test_ridge_is_scikit_learns_on_scaled_features() -> None:
    x, _, rewards = world(300, 1)
    x = x * [10.0, 0.1] + [5.0, -3.0]
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = SklearnRidge(alpha=2.5).fit(scaled, rewards).predict(scaled)
    assert Ridge(2.5).fit(x, rewards).predict(x) == pytest.approx(theirs, rel=1e-10)
    with pytest.raises(ValueError, match="penalty"):
        Ridge(0.0)


def test_ridge_of_a_feature_that_never_varies() -> None:
    assert Ridge().fit(np.ones((5, 1)), np.arange(5.0)).predict(np.ones((1, 1))) == pytest.approx(2.0)


def test_a_factorization_machine_learns_products() -> None:
    random = np.random.default_rng(9)
    x = random.normal(size=(600, 5)) * [1.0, 2.0, 1.0, 0.1, 1.0] + [0.0, 3.0, 0.0, 1.0, 0.0]
    x[:, 4] = 7.0
    truth = 2.0 + x[:, 0] - 0.5 * x[:, 2] * (x[:, 1] - 3.0)
    seen, rest = slice(0, 400), slice(400, 600)
    noisy = truth + 0.3 * random.normal(size=600)
    machine = OutcomeMachine().fit(x[seen], noisy[seen])
    linear = Ridge().fit(x[seen], noisy[seen])
    off, linearly_off = (np.mean((model.predict(x[rest]) - truth[rest]) ** 2) for model in (machine, linear))
    assert off < 0.02 < 0.5 < linearly_off
    again = OutcomeMachine().fit(x[seen], noisy[seen])
    assert (machine.predict(x[rest]) == again.predict(x[rest])).all()


def test_a_factorization_machine_of_one_feature_is_the_ridge_regression() -> None:
    x, _, rewards = world(300, 2)
    one = x[:, :1]
    assert OutcomeMachine(penalty=2.0).fit(one, rewards).predict(one) == pytest.approx(
        Ridge(2.0).fit(one, rewards).predict(one), abs=1e-9
    )
    assert OutcomeMachine().fit(np.ones((5, 1)), np.arange(5.0)).predict(np.ones((1, 1))) == pytest.approx(
        2.0
    )
    with pytest.raises(ValueError, match="n_factors"):
        OutcomeMachine(0)
    with pytest.raises(ValueError, match="penalty"):
        OutcomeMachine(penalty=0.0)


class Remembering(DecisionTreeRegressor):  # type: ignore[misc]
    """Regressor that has what it was fitted to by heart."""


@pytest.mark.parametrize("model", [Ridge, OutcomeMachine, Remembering])
def test_a_decision_is_predicted_by_models_that_have_not_seen_it(model: Any) -> None:
    random = np.random.default_rng(4)
    x, noise = random.normal(size=(400, 3)), random.normal(size=400)
    arms = random.integers(0, 2, 400)
    crossed = cross_fitted(noise, arms, 2, x, model=model)
    assert abs(np.corrcoef(crossed.of(arms), noise)[0, 1]) < 0.15
    seen = Remembering().fit(x, noise).predict(x)
    assert np.corrcoef(seen, noise)[0, 1] == pytest.approx(1.0)


def test_decisions_of_one_group_are_in_one_fold() -> None:
    units = np.repeat(np.arange(100), 4)
    rewards = np.random.default_rng(5).normal(size=100)[units]
    arms = np.zeros(400, int)
    alike = np.repeat(np.random.default_rng(6).normal(size=(100, 2)), 4, axis=0)
    together = cross_fitted(rewards, arms, 1, alike, model=Remembering, groups=units)
    apart = cross_fitted(rewards, arms, 1, alike, model=Remembering)
    assert abs(np.corrcoef(together.of(arms), rewards)[0, 1]) < 0.3
    assert np.corrcoef(apart.of(arms), rewards)[0, 1] > 0.9


def test_a_good_model_narrows_the_interval() -> None:
    x, arms, rewards = world(4_000, 7)
    best = np.stack([x[:, 0] > 1.0 - x[:, 1], x[:, 0] <= 1.0 - x[:, 1]], axis=1).astype(float)
    target, propensity = best[np.arange(len(arms)), arms], np.full(len(arms), 0.5)
    crossed = cross_fitted(rewards, arms, 2, x)
    plain = off_policy.ips(rewards, propensity, target)
    doubly = off_policy.dr(rewards, propensity, target, crossed.of(arms), crossed.under(best))
    truth = np.maximum(x[:, 0], 1.0 - x[:, 1]).mean()
    assert doubly.standard_error < 0.6 * plain.standard_error
    assert abs(doubly.value - truth) < 4 * doubly.standard_error
    assert abs(plain.value - truth) < 4 * plain.standard_error


def test_without_features_an_arm_has_its_mean_in_the_other_folds() -> None:
    rewards, arms = np.array([1.0, 3.0, 5.0, 7.0] * 5), np.array([0, 0, 1, 1] * 5)
    crossed = cross_fitted(rewards, arms, 3, folds=10)
    assert (crossed.outcomes[:, 0] < 3.0).all()
    assert (crossed.outcomes[:, 1] > 5.0).all()
    # Nobody was ever given the third arm: the mean of all.
    assert (np.abs(crossed.outcomes[:, 2] - 4.0) < 1.0).all()
    even = np.array([0.5, 0.5, 0.0])
    assert crossed.under(even) == pytest.approx(crossed.outcomes[:, :2].mean(axis=1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arms": [0, 3]}, "arms: expected a number from 0 to 1"),
        ({"arms": [0]}, "arms: expected a number from 0 to 1"),
        ({"folds": 1}, "folds: expected 2 at least"),
        ({"features": [[1.0]]}, "features: expected a row"),
        ({"features": [[1.0], [np.nan]]}, "features: expected a row"),
        ({"groups": [1]}, "groups: expected one for each reward"),
    ],
)
def test_what_cross_fitting_refuses(options: dict[str, Any], said: str) -> None:
    arms = options.pop("arms", [0, 1])
    with pytest.raises(ValueError, match=said):
        cross_fitted([1.0, 0.0], arms, 2, **options)


def test_clipping_says_what_it_took_away() -> None:
    """The policy does what the log hardly does; the clipped value is too low, and the interval knows."""
    random = np.random.default_rng(8)
    shares = np.array([0.995, 0.005])
    arms = random.choice(2, 20_000, p=shares)
    rewards = (random.random(20_000) < np.where(arms == 0, 0.2, 0.6)).astype(float)
    target = np.array([0.5, 0.5])[arms]
    estimate = off_policy.clipped(rewards, shares[arms], target, limit=10.0)
    assert estimate.interval is not None
    assert estimate.value < 0.2
    assert estimate.bias[0] == pytest.approx(0.0, abs=1e-12)
    assert estimate.bias[1] == pytest.approx(0.45, abs=0.02)
    assert estimate.interval[0] <= 0.4 <= estimate.interval[1]
    untouched = off_policy.clipped(rewards, shares[arms], target, limit=1e6)
    assert untouched.value == off_policy.ips(rewards, shares[arms], target).value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0.0}, "limit: expected a number above 0"),
        ({"limit": 1.0, "rewards": (1.0, 0.0)}, "rewards: expected a lowest and a highest"),
        ({"limit": 1.0, "rewards": (0.0, 0.5)}, "reward: expected numbers from 0.0 to 0.5"),
    ],
)
def test_what_clipping_refuses(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        off_policy.clipped([1.0, 0.0], [0.5, 0.5], [0.5, 0.5], **options)
