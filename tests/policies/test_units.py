"""Policies with their defaults behave the same for any unit and any zero of the rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import created, experiment
from hypothesis import given
from hypothesis import strategies as st
from scale import scaled

from bandit_serve.folds.experiment import _CODEC, LiveExperiment
from bandit_serve.policies import POLICIES, UCB1, EpsilonGreedy, Softmax, Thompson, TopTwoThompson, _poisson
from bandit_serve.policies.policy import Policy
from bandit_serve.policies.thompson import prior_by_arm

EQUIVARIANT: list[type[Policy]] = [Thompson, TopTwoThompson, Softmax, UCB1, EpsilonGreedy]
MEANS = np.array([0.0, 0.3, 0.1, 0.2, 0.0])


def learned(policy: type[Policy], arms: list[int], values: np.ndarray[Any, Any]) -> Policy:
    learner = policy(3, objective="continuous", seed=1)
    learner.update_many(arms, values)
    return learner


@pytest.mark.parametrize("policy", EQUIVARIANT, ids=lambda policy: policy.kind)
@given(
    observed=st.lists(
        st.tuples(st.integers(0, 2), st.floats(-3.0, 3.0).map(lambda value: round(value, 3))), max_size=12
    ),
    unit=st.sampled_from([1e-9, 0.01, 1.0, 100.0, 1e12]),
    zero=st.sampled_from([0.0, -40.0, 1_000.0]),
)
def test_shares_know_no_unit_and_no_zero(
    policy: type[Policy], observed: list[tuple[int, float]], unit: float, zero: float
) -> None:
    arms, values = [arm for arm, _ in observed], np.array([value for _, value in observed])
    shares = learned(policy, arms, values).shares()
    other = learned(policy, arms, unit * (values + zero))
    if policy in (UCB1, EpsilonGreedy) and len(set(np.round(other.means, 6))) < len(shares):
        return  # which of equal means is the largest is for rounding to say
    np.testing.assert_allclose(other.shares(), shares, atol=1e-5)


@pytest.mark.parametrize("policy", [Thompson, TopTwoThompson, Softmax], ids=lambda policy: policy.kind)
@pytest.mark.parametrize("eligible", [None, np.array([True, False, True, True])])
def test_choices_have_the_probabilities_of_the_shares(policy: type[Policy], eligible: Any) -> None:
    rng = np.random.default_rng(7)
    arms = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    learner = policy(4, objective="continuous", seed=1)
    learner.update_many(arms, 1_000.0 + 0.01 * rng.standard_normal(len(arms)))
    n = scaled(20_000, 1_000_000)
    chosen = np.bincount(learner.choose_many(n, eligible=eligible), minlength=4) / n
    shares = learner.shares(eligible=eligible)
    assert (np.abs(chosen - shares) <= 5.0 * np.sqrt(shares * (1.0 - shares) / n) + 1e-9).all()


def regret_in_deviations(policy: type[Policy], sd: float, seed: int, horizon: int) -> float:
    noise = np.random.default_rng([13, seed]).standard_normal((horizon, len(MEANS)))
    learner = policy(len(MEANS), objective="continuous", seed=seed)
    lost = 0.0
    for row in noise:
        arm = learner.choose()
        learner.update(arm, sd * (MEANS[arm] + row[arm]))
        lost += MEANS.max() - MEANS[arm]
    return lost


@pytest.mark.parametrize("policy", [Thompson, Softmax, UCB1], ids=lambda policy: policy.kind)
def test_regret_in_standard_deviations_is_the_same_in_any_unit(policy: type[Policy]) -> None:
    seeds, horizon = scaled(3, 100), scaled(1_000, 5_000)
    regrets = {
        sd: np.mean([regret_in_deviations(policy, sd, seed, horizon) for seed in range(seeds)])
        for sd in (0.01, 1.0, 100.0)
    }
    assert regrets[0.01] == pytest.approx(regrets[1.0], rel=0.05)
    assert regrets[100.0] == pytest.approx(regrets[1.0], rel=0.05)
    assert regrets[1.0] < 0.18 * horizon, "an even split loses .18 a decision"


def overdispersed_regret(seed: int, horizon: int, size: float) -> float:
    """Orders of `size` items or so: few are placed, and their number is what is better in one arm."""
    rng = np.random.default_rng([14, seed])
    rates = np.array([0.02, 0.03, 0.02])
    counts = (rng.random((horizon, 3)) < rates) * np.round(size * rng.exponential(1.0, (horizon, 3)))
    learner = Thompson(3, objective="count", seed=seed)
    lost = 0.0
    for row in counts:
        arm = learner.choose()
        learner.update(arm, row[arm])
        lost += rates.max() - rates[arm]
    return lost / rates.max()


def test_counts_that_vary_more_than_poissons_are_believed_less() -> None:
    """In the number of orders lost, which depends little on their size: without, it grows with it."""
    seeds, horizon = scaled(6, 100), scaled(4_000, 20_000)
    small, large = (
        np.mean([overdispersed_regret(seed, horizon, size) for seed in range(seeds)]) for size in (2.0, 200.0)
    )
    assert large < 1.5 * small + 0.02 * horizon


def test_the_posterior_of_counts_is_as_wide_as_their_means_vary() -> None:
    """Standard deviation of the posterior beside that of means over samples, for a negative binomial law."""
    rng = np.random.default_rng(8)
    samples = rng.negative_binomial(0.2, 0.02, (400, 500)).astype(np.float64)
    widths = []
    prior = np.repeat(prior_by_arm(Thompson(2, objective="count").own["prior"]), 2, axis=0)
    for sample in samples[:50]:
        learner = Thompson(2, objective="count", seed=1)
        learner.update_many(np.zeros(500, np.int64), sample)
        learner.update_many(np.ones(500, np.int64), sample)
        shape, rate = _poisson.posterior(**learner.statistics(), prior=prior)
        widths.append(np.sqrt(shape[0]) / rate[0])
    assert np.mean(widths) == pytest.approx(samples.mean(axis=1).std(), rel=0.15)


@pytest.mark.parametrize(
    ("policy", "parameter", "former"),
    [
        ({"kind": "thompson"}, "prior", {"mean": 0.0, "kappa": 1e-4, "alpha": 0.5, "beta": 1.0}),
        ({"kind": "softmax"}, "temperature", 0.05),
        ({"kind": "ucb1"}, "sigma", 1.0),
    ],
)
def test_a_state_of_before_goes_on_without_a_unit_unless_one_was_given(
    policy: dict[str, Any], parameter: str, former: Any
) -> None:
    metrics = [{"name": "m", "kind": "continuous"}]
    live = LiveExperiment(created(experiment(policy=policy, metrics=metrics)))
    fields = _CODEC.unpack(live.state())
    fields.policy["parameters"][parameter] = former
    restored = LiveExperiment.from_state(live.offset, _CODEC.pack(fields))
    assert restored.digest() == live.digest()
    given = former if parameter != "prior" else {"beta": 1.0}
    live = LiveExperiment(created(experiment(policy={**policy, parameter: given}, metrics=metrics)))
    assert LiveExperiment.from_state(live.offset, live.state()).digest() == live.digest()
    kept = live.policy.own[parameter]
    assert (kept["beta"] if parameter == "prior" else kept) == (1.0 if parameter == "prior" else former)


def test_all_policies_without_bounds_are_tried_here() -> None:
    without = {kind for kind, policy in POLICIES.items() if "continuous" in policy.objectives}
    here = {policy.kind for policy in EQUIVARIANT}
    assert here == {kind for kind in without if not POLICIES[kind].contextual} - {"fixed_split"}
