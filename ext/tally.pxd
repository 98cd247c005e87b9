"""What was observed on each arm, and the form of a function that chooses an arm from it.

Rewards with bounds are kept scaled to [0, 1] as a count and a sum; rewards without as a count, a mean and a sum
of squared deviations (Welford 1962), which stays exact where a sum of squares cancels.
"""

from libc.stdint cimport int64_t
from numpy.random cimport bitgen_t

ctypedef struct tally_t:
    Py_ssize_t n_arms
    bint unbounded             # keeps mean and m2; otherwise total
    bint whole                 # a reward is low or high and nothing between
    double low
    double high
    double *n
    double *total              # sum of the rewards, scaled to [0, 1]
    double *mean
    double *m2                 # sum of squared deviations from the mean
    const double *parameters   # the chooser's own
    double *cache              # `cache_width` numbers an arm, the chooser's own
    unsigned char *fresh       # whether the arm's cache is of its present statistics

# Chooses one of the `count` arms in `among`.
ctypedef Py_ssize_t (*choose_t)(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil

# What a kernel offers as a capsule of this name, for `_arms.Arms` to choose with.
cdef inline const char *chooser_name() noexcept nogil:
    return b"bandit_serve.chooser"

ctypedef struct chooser_t:
    choose_t choose
    Py_ssize_t parameters
    Py_ssize_t cache_width


cdef inline bint tally_accepts(const tally_t *tally, double reward) noexcept nogil:
    """False for NaN, too."""
    if tally.whole:
        return reward == tally.low or reward == tally.high
    return tally.low <= reward <= tally.high


cdef inline double tally_scaled(const tally_t *tally, double reward) noexcept nogil:
    return (reward - tally.low) / (tally.high - tally.low)


cdef inline void tally_add(tally_t *tally, Py_ssize_t arm, double reward) noexcept nogil:
    cdef double deviation
    tally.fresh[arm] = 0
    tally.n[arm] += 1.0
    if tally.unbounded:
        deviation = reward - tally.mean[arm]
        tally.mean[arm] += deviation / tally.n[arm]
        tally.m2[arm] += deviation * (reward - tally.mean[arm])
    else:
        tally.total[arm] += tally_scaled(tally, reward)


cdef inline void tally_merge(tally_t *tally, Py_ssize_t arm, double weight, double reward) noexcept nogil:
    """`weight` observations of `reward` at once (Chan, Golub & LeVeque 1983, the second sample of variance 0)."""
    cdef double deviation, before
    if weight == 0.0:
        return
    tally.fresh[arm] = 0
    before = tally.n[arm]
    tally.n[arm] = before + weight
    if tally.unbounded:
        deviation = reward - tally.mean[arm]
        tally.mean[arm] += deviation * (weight / tally.n[arm])
        tally.m2[arm] += deviation * deviation * before * (weight / tally.n[arm])
    else:
        tally.total[arm] += weight * tally_scaled(tally, reward)
