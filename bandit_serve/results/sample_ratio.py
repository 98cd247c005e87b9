"""Whether the arms got the traffic that their logged shares say: the sample-ratio test, valid at any time."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from bandit_serve.results.sequence import TUNED_FOR, Floats, Sequence

ALPHA = 0.01
PRIOR_WEIGHT = 1_000.0
FEWEST_EXPECTED = 5.0
"""Below this many expected in any arm (of those with a share at all) the verdict is `insufficient`."""

Verdict = Literal["ok", "mismatch", "insufficient"]


def log_e_constant(counts: ArrayLike, shares: ArrayLike) -> float:
    """The logarithm of the Dirichlet-multinomial e-value (Lindon & Malek 2022) of `counts` [K] under a
    constant split.

    `shares` [K] sum to 1; arms without a share have no count and are left out.
    """
    theta = np.asarray(shares, np.float64)
    n = np.asarray(counts, np.float64)[theta > 0]
    theta = theta[theta > 0]
    prior = PRIOR_WEIGHT * theta
    arms = gammaln(prior + n) - gammaln(prior) - n * np.log(theta)
    return float(gammaln(PRIOR_WEIGHT) - gammaln(PRIOR_WEIGHT + n.sum()) + math.fsum(arms))


def log_e_moving(balance: ArrayLike, spread: ArrayLike) -> float:
    """The same for shares that moved: of the K arms' e-values the largest, divided by K.

    `balance` [K] is the sum over decisions of 1{A = k} - e(k), a martingale with variance `spread` [K], the
    sum of e(k)(1 - e(k)). Arms without spread are left out.
    """
    variance = np.asarray(spread, np.float64)
    some = variance > 0
    k = int(np.count_nonzero(some))
    if k < 2:
        return 0.0
    tightest_at = np.full(k, TUNED_FOR * (1.0 / k) * (1.0 - 1.0 / k))
    total: Floats = np.asarray(balance, np.float64)[some]
    arms = Sequence(np.ones(k), total, variance[some], tightest_at)
    return float(arms.log_e_value(ALPHA / k).max()) - math.log(k)


def sufficient(counts: ArrayLike, balance: ArrayLike) -> bool:
    """Whether every arm that had a share was expected often enough for a verdict."""
    expected = np.asarray(counts, np.float64) - np.asarray(balance, np.float64)
    expected = expected[expected > 1e-9]
    return bool(expected.size) and bool(expected.min() >= FEWEST_EXPECTED)


def verdict(p: float) -> Verdict:
    """What the always-valid p-value of enough data says at level `ALPHA`."""
    return "mismatch" if p <= ALPHA else "ok"
