"""Choices and updates, each beside its NumPy formula or an empty call, in one group each.

    python -m pytest benchmarks/bench_policies.py --benchmark-enable --benchmark-columns=median,iqr

The figures are of 1,000 calls, so that microseconds of the table are nanoseconds a call, unless the
group's name says otherwise.
"""

import timeit

import numpy as np
import pytest

from bandit_serve import _draw
from bandit_serve.policies import UCB1, FixedSplit, Thompson

CALLS = 1000
REWARDS = 1000


def measure(benchmark, group, statement, calls=CALLS, **names):
    """Calls through `timeit`, whose loop costs less than a call of `benchmark`'s own."""
    benchmark.group = group
    benchmark.name = benchmark.name.replace(f"[{group}]", "")
    timer = timeit.Timer(statement, globals=names)
    timer.timeit(calls)
    benchmark.pedantic(timer.timeit, args=(calls,), rounds=100, warmup_rounds=3)


def rewards(n_arms=10, n=REWARDS):
    rng = np.random.default_rng(0)
    arms = rng.integers(0, n_arms, n)
    return arms, (rng.random(n) < 0.1).astype(float)


def learned(policy, n_arms=10, objective="binary"):
    learner = policy(n_arms, seed=1, objective=objective)
    learner.update_many(*rewards(n_arms, 100 * n_arms))
    return learner


CHOICE = "choose from current shares: at most 3 x an empty call"


def test_empty_call(benchmark):
    measure(benchmark, CHOICE, "kernel.nothing()", kernel=_draw)


@pytest.mark.parametrize("n_arms", [10, 1000])
def test_share_sampler(benchmark, n_arms):
    shares = np.random.default_rng(0).dirichlet(np.ones(n_arms))
    measure(benchmark, CHOICE, "sampler.choose()", sampler=_draw.ShareSampler(shares, seed=1))


@pytest.mark.parametrize("n_arms", [10, 1000])
def test_fixed_split(benchmark, n_arms):
    shares = np.random.default_rng(0).dirichlet(np.ones(n_arms))
    measure(benchmark, CHOICE, "policy.choose()", policy=FixedSplit(n_arms, shares=shares, seed=1))


@pytest.mark.parametrize("n_arms", [10, 1000])
def test_numpy_choice(benchmark, n_arms):
    cumulative = np.random.default_rng(0).dirichlet(np.ones(n_arms)).cumsum()
    measure(
        benchmark,
        CHOICE,
        "cumulative.searchsorted(rng.random())",
        cumulative=cumulative,
        rng=np.random.default_rng(1),
    )


THOMPSON = "choose by a fresh draw from 10 Beta posteriors: at most 0.06 x NumPy"


@pytest.mark.parametrize("state", ["fresh", "learned"])
def test_thompson(benchmark, state):
    policy = learned(Thompson) if state == "learned" else Thompson(10, seed=1)
    measure(benchmark, f"{THOMPSON} ({state})", "policy.choose()", policy=policy)


@pytest.mark.parametrize("state", ["fresh", "learned"])
def test_numpy_beta(benchmark, state):
    seen = learned(Thompson).statistics() if state == "learned" else Thompson(10).statistics()
    measure(
        benchmark,
        f"{THOMPSON} ({state})",
        "rng.beta(alpha, beta).argmax()",
        rng=np.random.default_rng(1),
        alpha=1.0 + seen["total"],
        beta=1.0 + seen["n"] - seen["total"],
    )


NORMAL = "choose by a fresh draw from 10 Student t posteriors"


def test_thompson_normal(benchmark):
    measure(benchmark, NORMAL, "policy.choose()", policy=learned(Thompson, objective="continuous"))


def test_numpy_student(benchmark):
    measure(
        benchmark,
        NORMAL,
        "(loc + scale * rng.standard_t(df)).argmax()",
        rng=np.random.default_rng(1),
        loc=np.linspace(0.05, 0.15, 10),
        scale=np.full(10, 0.03),
        df=np.full(10, 200.0),
    )


UPPER = "choose the largest of 10 upper bounds"


def test_ucb1(benchmark):
    measure(benchmark, UPPER, "policy.choose()", policy=learned(UCB1))


def test_numpy_ucb1(benchmark):
    seen = learned(UCB1).statistics()
    measure(
        benchmark,
        UPPER,
        "(total / n + np.sqrt(2 * np.log(n.sum()) / n)).argmax()",
        np=np,
        **seen,
    )


SINGLE = "one update: at most 0.25 x NumPy"
BATCH = f"updates in a batch of {REWARDS}, so microseconds are nanoseconds a reward: at most 0.03 x NumPy"


@pytest.mark.parametrize("objective", ["binary", "continuous"])
def test_update(benchmark, objective):
    measure(benchmark, SINGLE, "policy.update(3, 1.0)", policy=learned(Thompson, objective=objective))


@pytest.mark.parametrize("group", [SINGLE, BATCH])
def test_numpy_update(benchmark, group):
    statement = "total[arm] += reward; n[arm] += 1"
    measure(benchmark, group, statement, total=np.zeros(10), n=np.zeros(10), arm=3, reward=1.0)


@pytest.mark.parametrize("objective", ["binary", "continuous"])
def test_update_many(benchmark, objective):
    arms, values = rewards()
    policy = learned(Thompson, objective=objective)
    measure(
        benchmark, BATCH, "policy.update_many(arms, values)", calls=1, policy=policy, arms=arms, values=values
    )


SHARES = "shares, one call"


@pytest.mark.parametrize("policy", [FixedSplit, Thompson, UCB1])
@pytest.mark.parametrize("n_arms", [10, 1000])
def test_shares(benchmark, policy, n_arms):
    group = f"{SHARES}, {n_arms} arms"
    measure(benchmark, group, "policy.shares()", calls=1, policy=learned(policy, n_arms))
