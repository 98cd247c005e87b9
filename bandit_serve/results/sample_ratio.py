"""Sample-ratio test, valid at any time: did the arms get the traffic that their logged shares say?"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.results.sequence import TUNED_FOR, Floats, Sequence

ALPHA = 0.01
PRIOR_WEIGHT = 1_000.0
# The gamma function of less has no end, and no arm is ever drawn so.
MIN_SHARE = 1e-50
MIN_EXPECTED_COUNT = 5.0
"""Below this many expected in any arm (of those with a share at all) the verdict is `insufficient`."""

Verdict = Literal["ok", "mismatch", "insufficient"]


def log_e_constant(counts: ArrayLike, shares: ArrayLike) -> float:
    """Logarithm of the Dirichlet-multinomial e-value (Lindon & Malek 2022) of `counts` (K,) under a
    constant split.

    `shares` (K,) sum to 1; arms without a share have no count and are left out, as are those of next to none.
    """
    theta = np.asarray(shares, np.float64)
    n = np.asarray(counts, np.float64)[theta > MIN_SHARE]
    theta = theta[theta > MIN_SHARE]
    prior = PRIOR_WEIGHT * theta
    arms = _log_gamma(prior + n) - _log_gamma(prior) - n * np.log(theta)
    return math.lgamma(PRIOR_WEIGHT) - math.lgamma(PRIOR_WEIGHT + float(n.sum())) + math.fsum(arms)


def _log_gamma(x: Floats) -> Floats:
    return np.array([math.lgamma(each) for each in x.tolist()])


def log_e_moving(balance: ArrayLike, spread: ArrayLike, peers: ArrayLike | None = None) -> float:
    """Logarithm of the e-value for shares that moved: the largest of the arms' e-values, each divided by its `peers`.

    `balance` (K,) is the sum over decisions of 1{A = k} - e(k), a martingale with variance `spread` (K,), the
    sum of e(k)(1 - e(k)). Arms without spread are left out. `peers` (K,) is among how many arms each came, by default
    among those with some spread. Where arms have come to K_0 first ones, a level of alpha is one of at most
    alpha (1 + ln(K / K_0)).
    """
    variance = np.asarray(spread, np.float64)
    some = variance > 0
    n = int(np.count_nonzero(some))
    if n < 2:
        return 0.0
    # An arm that came alone has spread only since others came to it.
    k = np.full(n, n) if peers is None else np.maximum(np.asarray(peers)[some], 2)
    total: Floats = np.asarray(balance, np.float64)[some]
    largest = -math.inf
    for among in np.unique(k).tolist():
        mine = k == among
        tightest_at = np.full(int(mine.sum()), TUNED_FOR * (1.0 / among) * (1.0 - 1.0 / among))
        arms = Sequence(np.ones(len(tightest_at)), total[mine], variance[some][mine], tightest_at)
        largest = max(largest, float(arms.log_e_value(ALPHA / among).max()) - math.log(among))
    return largest


def sufficient(counts: ArrayLike, balance: ArrayLike) -> bool:
    """Return whether every arm that had a share was expected often enough for a verdict."""
    expected = np.asarray(counts, np.float64) - np.asarray(balance, np.float64)
    expected = expected[expected > 1e-9]
    return bool(expected.size) and bool(expected.min() >= MIN_EXPECTED_COUNT)


def verdict(p: float) -> Verdict:
    """Verdict at level `ALPHA` of the always-valid p-value of sufficient data."""
    return "mismatch" if p <= ALPHA else "ok"
