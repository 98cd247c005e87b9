# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Raw shares to the vector that arms are drawn from, where no cap binds: contextual policies need one a decision."""

from libc.math cimport isfinite

import numpy as np

from bandit_serve.errors import InvalidInput


def uncapped_shares(raw, eligible, Py_ssize_t n_arms, double min_share, double holdout):
    """Shares of all `n_arms` arms, float64 (n_arms,): `raw` scaled to the sum 1, floor, holdout, in this order.

    raw: (E,), the policy's shares of the arms `eligible`, intp (E,), ascending; even where all are 0. InvalidInput
        unless they are finite and not negative.
    min_share, holdout: what is split evenly among the eligible arms, E · min_share before and `holdout` after the
        policy's own.
    """
    cdef const double[::1] weights = np.ascontiguousarray(raw, dtype=np.float64)
    cdef const Py_ssize_t[::1] arms = eligible
    cdef Py_ssize_t count = weights.shape[0], k
    if count == 0 or arms.shape[0] != count or arms[0] < 0 or arms[count - 1] >= n_arms:
        raise InvalidInput("raw shares must be of the eligible arms")
    cdef double largest = 0.0, total = 0.0, share, rest, even = 1.0 / <double>count
    for k in range(count):
        if not (isfinite(weights[k]) and weights[k] >= 0.0):
            raise InvalidInput("weights of arms must be finite and not negative")
        largest = max(largest, weights[k])
    out = np.zeros(n_arms)
    cdef double[::1] shares = out
    # By the largest first: neither the sum nor the quotients of extreme weights can overflow then.
    if largest > 0.0:
        for k in range(count):
            total += weights[k] / largest
    rest = max(0.0, 1.0 - <double>count * min_share)
    for k in range(count):
        share = weights[k] / largest / total if largest > 0.0 else even
        share = min(min_share + rest * share, 1.0)
        shares[arms[k]] = (1.0 - holdout) * share + holdout * even
    return out
