"""P(arm is best): each kernel against the same integral in NumPy and SciPy.

The references evaluate every arm's distribution function at every node of a fixed grid, accurate for the
posteriors that they are timed on and no others. Run: pytest benchmarks/bench_best_arm.py --benchmark-enable
"""

import numpy as np
import pytest
from scipy import special, stats

from bandit_serve.policies._best_arm import beta_best, beta_expected_loss, student_best

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def numpy_beta_best(alpha, beta):
    mean = alpha / (alpha + beta)
    spread = np.sqrt(mean * (1 - mean) / (alpha + beta + 1))
    low, high = max(0.0, np.max(mean - 7 * spread)), min(1.0, np.max(mean + 7 * spread))
    x = (0.5 * (low + high) + 0.5 * (high - low) * NODES)[:, None]
    cdf = special.betainc(alpha, beta, x)
    shares = WEIGHTS @ (stats.beta.pdf(x, alpha, beta) / cdf * np.prod(cdf, axis=1, keepdims=True))
    return shares / np.sum(shares)


def numpy_student_best(loc, scale, df):
    low, high = np.max(loc - 10 * scale), np.max(loc + 10 * scale)
    x = (0.5 * (low + high) + 0.5 * (high - low) * NODES)[:, None]
    z = (x - loc) / scale
    cdf = special.stdtr(df, z)
    shares = WEIGHTS @ (stats.t.pdf(z, df) / scale / cdf * np.prod(cdf, axis=1, keepdims=True))
    return shares / np.sum(shares)


def typical_beta(size):
    rng = np.random.default_rng(size)
    trials = rng.uniform(500, 2000, size)
    rates = rng.uniform(0.08, 0.12, size)
    return 1 + rates * trials, 1 + (1 - rates) * trials


def unequal_beta(size):
    """Counts from 0 to 1e9, every arm near the upper end of what is still possible."""
    rng = np.random.default_rng(size)
    trials = np.where(rng.random(size) < 0.1, 0.0, 10.0 ** rng.uniform(0, 9, size))
    rates = np.clip(0.1 + 0.9 / np.sqrt(trials + 9), 0, 1)
    return 1 + rates * trials, 1 + (1 - rates) * trials


def typical_student(size):
    rng = np.random.default_rng(size)
    trials = rng.uniform(500, 2000, size)
    return rng.normal(1, 0.03, size), 1 / np.sqrt(trials), trials - 1


def unequal_student(size):
    """Infinite means, scales over 12 decades."""
    rng = np.random.default_rng(size)
    return rng.normal(size=size), 10.0 ** rng.uniform(-6, 6, size), np.full(size, 0.5)


BETA = {
    "typical": typical_beta,
    "fresh": lambda size: (np.ones(size), np.ones(size)),
    "unequal": unequal_beta,
}
STUDENT = {
    "typical": typical_student,
    "fresh": lambda size: (np.zeros(size), np.ones(size), np.ones(size)),
    "unequal": unequal_student,
}


@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("posteriors", BETA)
def test_beta_best(benchmark, size, posteriors):
    benchmark(beta_best, *BETA[posteriors](size))


@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("posteriors", STUDENT)
def test_student_best(benchmark, size, posteriors):
    benchmark(student_best, *STUDENT[posteriors](size))


@pytest.mark.parametrize("size", [10, 1000])
def test_beta_expected_loss(benchmark, size):
    benchmark(beta_expected_loss, *typical_beta(size))


@pytest.mark.parametrize("size", [10, 1000])
def test_beta_best_in_numpy(benchmark, size):
    alpha, beta = typical_beta(size)
    assert np.max(np.abs(benchmark(numpy_beta_best, alpha, beta) - beta_best(alpha, beta))) < 1e-5


@pytest.mark.parametrize("size", [10, 1000])
def test_student_best_in_numpy(benchmark, size):
    posteriors = typical_student(size)
    assert np.max(np.abs(benchmark(numpy_student_best, *posteriors) - student_best(*posteriors))) < 1e-5
