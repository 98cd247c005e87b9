# cython: cdivision=True
"""Observations of each arm, summed, and the form of a function that chooses an arm from them.

Rewards with bounds are kept scaled to [0, 1] as a count and a sum; rewards without as a count, a mean and a sum
of squared deviations (Welford 1962), which stays exact where a sum of squares cancels. A policy that weighs its
rewards keeps the sum of rewards over propensities, too.
"""

from libc.float cimport DBL_EPSILON
from libc.math cimport fmax
from libc.stdint cimport int64_t
from numpy.random cimport bitgen_t

ctypedef struct tally_t:
    Py_ssize_t n_arms
    bint unbounded             # keeps mean and m2; otherwise total
    bint whole                 # a reward is low or high and nothing between
    bint weighs                # keeps gain
    double low
    double high
    double *n
    double *total              # sum of the rewards, scaled to [0, 1]
    double *mean
    double *m2                 # sum of squared deviations from the mean
    double *gain               # sum of the scaled rewards, each over the propensity of its arm
    int64_t *observed          # observations ever: forgetting leaves them
    const double *parameters   # the chooser's own
    Py_ssize_t stride          # from one arm's parameters to the next one's; 0 where all have the same
    double *cache              # `cache_width` numbers an arm, the chooser's own
    unsigned char *fresh       # whether the arm's cache is of its present statistics

# Chooses one of the `count` arms in `among`.
ctypedef Py_ssize_t (*choose_t)(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil

# The share of one of all arms, before floor and holdout.
ctypedef double (*share_t)(const tally_t *tally, Py_ssize_t arm) noexcept nogil

# What a kernel offers as a capsule of this name, for `_arms.Arms` to choose with.
cdef inline const char *chooser_name() noexcept nogil:
    return b"bandit_serve.chooser"

# What the arms that were chosen among have shown, as far as it says in which unit rewards are.
ctypedef struct scale_t:
    double mean
    double variance            # of an arm's rewards; above 0

ctypedef struct chooser_t:
    choose_t choose
    share_t share              # for a policy that weighs; otherwise NULL
    Py_ssize_t parameters      # how many an arm has
    Py_ssize_t cache_width


cdef inline bint tally_accepts(const tally_t *tally, double reward) noexcept nogil:
    """False for NaN, too."""
    if tally.whole:
        return reward == tally.low or reward == tally.high
    return tally.low <= reward <= tally.high


cdef inline double tally_scaled(const tally_t *tally, double reward) noexcept nogil:
    return (reward - tally.low) / (tally.high - tally.low)


cdef inline const double *tally_parameters(const tally_t *tally, Py_ssize_t arm) noexcept nogil:
    return tally.parameters + tally.stride * arm


cdef inline scale_t scale_of(
    const double *n, const double *mean, const double *m2, const Py_ssize_t *among, Py_ssize_t count
) noexcept nogil:
    """Mean of all rewards of the arms in `among`, NULL: all `count`, and the variance within arms.

    The variance has one more observation, which deviates as rewards do from the mean of all: so there is a variance as
    soon as two rewards differ. Before that it does not matter, and is 1."""
    cdef scale_t scale
    cdef double weight = 0.0, within = 0.0, between = 0.0, freedom = 0.0, deviation
    cdef Py_ssize_t i, k
    scale.mean = 0.0
    for i in range(count):
        k = i if among is NULL else among[i]
        if n[k] > 0.0:
            weight += n[k]
            scale.mean += (mean[k] - scale.mean) * (n[k] / weight)
            within += m2[k]
            freedom += fmax(n[k] - 1.0, 0.0)
    for i in range(count):
        k = i if among is NULL else among[i]
        if n[k] > 0.0:
            deviation = mean[k] - scale.mean
            between += n[k] * deviation * deviation
    scale.variance = (within + (within + between) / weight) / (freedom + 1.0) if weight > 0.0 else 0.0
    # What rounding leaves of rewards that are all the same is no variance.
    if scale.variance <= 1e-28 * scale.mean * scale.mean or scale.variance < 1e-290:
        scale.variance = 1.0
    return scale


cdef inline double tally_gain(double scaled, double propensity) noexcept nogil:
    """A scaled reward over the propensity of its arm. What is below 1e-100 counts as that: sums stay finite so."""
    return scaled / fmax(propensity, 1e-100)


cdef inline double tally_mean(const tally_t *tally, Py_ssize_t arm) noexcept nogil:
    """Mean reward of an arm that was observed, scaled to [0, 1] where rewards have bounds."""
    return tally.mean[arm] if tally.unbounded else tally.total[arm] / tally.n[arm]


cdef inline double tally_between(double mean, double reward, double step, bint keeps_sign) noexcept nogil:
    """mean + step, a step towards `reward`: rounding alone could take it past that, where deviations change sign.

    Of 0 and -0 it is the reward's where `keeps_sign`, otherwise the sum's."""
    cdef double moved = mean + step
    # Not by fmin and fmax: which of 0 and -0 they give is for the compiler to say, each time.
    if moved == reward:
        return reward if keeps_sign else moved
    return reward if (moved > reward) == (reward > mean) else moved


cdef inline void tally_add(
    tally_t *tally, Py_ssize_t arm, double reward, double propensity, bint keeps_sign
) noexcept nogil:
    """`propensity` is read only by a tally that weighs. `keeps_sign`: a mean of -0 stays one.

    The first build left that to the compiler, and logs are to give the same bits as then: tallies of policies without
    context keep the sign, those of contextual ones do not."""
    cdef double deviation, scaled
    tally.fresh[arm] = 0
    tally.observed[arm] += 1
    tally.n[arm] += 1.0
    if tally.unbounded:
        deviation = reward - tally.mean[arm]
        tally.mean[arm] = tally_between(tally.mean[arm], reward, deviation / tally.n[arm], keeps_sign)
        tally.m2[arm] += deviation * (reward - tally.mean[arm])
    else:
        scaled = tally_scaled(tally, reward)
        tally.total[arm] += scaled
        if tally.weighs:
            tally.gain[arm] += tally_gain(scaled, propensity)


cdef inline void tally_merge(
    tally_t *tally, Py_ssize_t arm, double weight, double reward, double propensity
) noexcept nogil:
    """`weight` observations of `reward` at once (Chan, Golub & LeVeque 1983, the second sample of variance 0)."""
    cdef double deviation, before, scaled
    if weight == 0.0:
        return
    tally.fresh[arm] = 0
    before = tally.n[arm]
    tally.n[arm] = before + weight
    if tally.unbounded:
        deviation = reward - tally.mean[arm]
        tally.mean[arm] = tally_between(tally.mean[arm], reward, deviation * (weight / tally.n[arm]), False)
        tally.m2[arm] += deviation * deviation * before * (weight / tally.n[arm])
    else:
        scaled = tally_scaled(tally, reward)
        tally.total[arm] += weight * scaled
        if tally.weighs:
            tally.gain[arm] += weight * tally_gain(scaled, propensity)


cdef inline double tally_held(double value, double low, double high) noexcept nogil:
    """`value`, which rounding may have taken out of [low, high], within it."""
    return low if value < low else high if value > high else value


cdef inline bint tally_is_rest(double rest, double weight) noexcept nogil:
    """Return whether what is left beside an observation of `weight` is no more than rounding leaves of nothing."""
    return rest <= 1e-9 * weight


cdef inline double tally_left(double m2, double n, double change) noexcept nogil:
    """`m2`, which a correction by `change` has left, or what rounding may have taken from it if that is more."""
    return fmax(m2, DBL_EPSILON * n * change * change)


cdef inline void tally_revise(
    tally_t *tally, Py_ssize_t arm, double weight, double former, double reward, double propensity
) noexcept nogil:
    """An observation of `former`, of which forgetting has left `weight`, is one of `reward`."""
    cdef double change, before, scaled
    if not tally.n[arm] > 0.0 or not weight > 0.0:
        return
    tally.fresh[arm] = 0
    weight = weight if weight < tally.n[arm] else tally.n[arm]
    if tally.unbounded:
        if tally_is_rest(tally.n[arm] - weight, weight):
            tally.mean[arm], tally.m2[arm] = reward, 0.0
            return
        change, before = reward - former, tally.mean[arm]
        tally.mean[arm] = tally_held(before + change * (weight / tally.n[arm]), tally.low, tally.high)
        tally.m2[arm] = tally_left(
            tally.m2[arm] + weight * change * ((reward - tally.mean[arm]) + (former - before)), tally.n[arm], change
        )
    else:
        scaled = tally_scaled(tally, reward)
        change = scaled - tally_scaled(tally, former)
        tally.total[arm] = tally_held(tally.total[arm] + weight * change, 0.0, tally.n[arm])
        if tally.weighs:
            tally.gain[arm] = fmax(0.0, tally.gain[arm] + weight * tally_gain(change, propensity))


cdef inline void tally_withdraw(
    tally_t *tally, Py_ssize_t arm, double weight, double reward, double propensity
) noexcept nogil:
    """An observation of `reward`, of which forgetting has left `weight`, was none. Of the last one nothing stays."""
    cdef double left = tally.n[arm] - weight, before
    if not weight > 0.0:
        return
    tally.fresh[arm] = 0
    if tally_is_rest(left, weight):
        tally.n[arm] = 0.0
        if tally.unbounded:
            tally.mean[arm] = tally.m2[arm] = 0.0
        else:
            tally.total[arm] = 0.0
            if tally.weighs:
                tally.gain[arm] = 0.0
        return
    tally.n[arm] = left
    if tally.unbounded:
        before = tally.mean[arm]
        tally.mean[arm] = tally_held(before + (before - reward) * (weight / left), tally.low, tally.high)
        tally.m2[arm] = tally_left(
            tally.m2[arm] - weight * (reward - before) * (reward - tally.mean[arm]), left, reward - tally.mean[arm]
        )
    else:
        before = tally_scaled(tally, reward)
        tally.total[arm] = tally_held(tally.total[arm] - weight * before, 0.0, left)
        if tally.weighs:
            tally.gain[arm] = fmax(0.0, tally.gain[arm] - weight * tally_gain(before, propensity))


cdef inline void tally_forget(tally_t *tally, double factor) noexcept nogil:
    """Multiplies the weight of all observations by `factor`. Below a weight of 1e-100 it is gone: quotients of still
    smaller numbers lose their digits."""
    cdef Py_ssize_t k
    cdef double kept
    for k in range(tally.n_arms):
        tally.fresh[k] = 0
        kept = factor if tally.n[k] * factor >= 1e-100 else 0.0
        tally.n[k] *= kept
        if tally.unbounded:
            tally.m2[k] *= kept
            if kept == 0.0:
                tally.mean[k] = 0.0
        else:
            tally.total[k] *= kept
            if tally.weighs:
                tally.gain[k] *= kept
