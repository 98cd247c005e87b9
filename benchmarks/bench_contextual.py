"""Choices and updates of the contextual policies, against LinUCB's NumPy formula, one group each.

    python -m pytest benchmarks/bench_contextual.py --benchmark-enable --benchmark-columns=median,iqr

The figures are of 1,000 calls, so that milliseconds of the table are microseconds a call.
"""

import timeit

import numpy as np
import pytest

from bandit_serve.policies import LinTS, LinUCB, LogisticTS, SquareCB

CALLS = 1000
ARMS = 10
SIZES = (16, 64, 128)
POLICIES = (LinUCB, LinTS, LogisticTS, SquareCB)


def measure(benchmark, group, statement, calls=CALLS, rounds=30, **names):
    """Calls through `timeit`, whose loop costs less than a call of `benchmark`'s own."""
    benchmark.group = group
    timer = timeit.Timer(statement, globals=names)
    timer.timeit(calls)
    benchmark.pedantic(timer.timeit, args=(calls,), rounds=rounds, warmup_rounds=3)


def learned(policy, d):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, d))
    learner = policy(ARMS, d, seed=1)
    learner.update_many(rng.integers(0, ARMS, 2000), (rng.random(2000) < 0.3).astype(float), x)
    return learner, x[0].copy()


def formula(d, kind):
    """What LinUCB's formula needs, of one type throughout."""
    rng = np.random.default_rng(0)
    return {
        "np": np,
        "x": rng.standard_normal(d).astype(kind),
        "theta": rng.standard_normal((ARMS, d)).astype(kind),
        "inverse": np.tile(np.eye(d, dtype=kind) * kind(0.1), (ARMS, 1, 1)),
        "alpha": kind(1.0),
    }


CHOICE = {16: 0.25, 64: 0.5, 128: 0.7}
UPDATE = {16: 0.1, 64: 0.15, 128: 0.25}


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("policy", POLICIES)
def test_choose(benchmark, policy, d):
    learner, x = learned(policy, d)
    measure(benchmark, choice(d), "policy.choose(x)", policy=learner, x=x)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numpy_choose(benchmark, kind, d):
    statement = "(theta @ x + alpha * np.sqrt((inverse @ x) @ x)).argmax()"
    measure(benchmark, choice(d), statement, **formula(d, kind))


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("policy", POLICIES)
def test_update(benchmark, policy, d):
    learner, x = learned(policy, d)
    measure(benchmark, updating(d), "policy.update(3, 1.0, x)", policy=learner, x=x)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numpy_update(benchmark, kind, d):
    """Sherman and Morrison's update of one arm's inverse, its moment and its coefficients."""
    names = formula(d, kind)
    inverse, moment = names["inverse"][0].copy(), names["theta"][0].copy()
    statement = (
        "direction = inverse @ x; "
        "np.subtract(inverse, np.outer(direction, direction) / (1 + x @ direction), out=inverse); "
        "np.add(moment, reward * x, out=moment); theta = inverse @ moment"
    )
    measure(
        benchmark, updating(d), statement, inverse=inverse, moment=moment, x=names["x"], np=np, reward=kind(1)
    )


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("policy", POLICIES)
def test_shares(benchmark, policy, d):
    learner, x = learned(policy, d)
    measure(benchmark, f"shares, d = {d}", "policy.shares(x)", 100, policy=learner, x=x)


def choice(d):
    return f"choose of 10, d = {d}: LinUCB at most {CHOICE[d]} x the faster NumPy"


def updating(d):
    return f"update, d = {d}: LinUCB at most {UPDATE[d]} x the faster NumPy"
