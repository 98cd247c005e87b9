# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changes of an arm's mean: the counts of its watch, a reward at a time, and what they are worth at a look."""

from libc.math cimport INFINITY, exp, fabs, log1p, sqrt
from libc.stdint cimport int64_t

# Below, a deviance is better known from its series than from a difference.
cdef double SMALL = 0.01
# So likely that more makes no difference, and exp of it is a number.
cdef double MAX_HALF_DEVIANCE = 600.0


def watch(
    const Py_ssize_t[::1] arms, const double[::1] values, const double[::1] low, const double[::1] width,
    int64_t[::1] n, double[::1] total, double[::1] m2, double[::1] m3, const int64_t[::1] next_look,
):
    """Counts rewards of `arms`, below K, each scaled to [0, 1] by its arm's `low` and `width`, into `n`, `total`, and
    `m2` and `m3`, the sums of the second and third powers of deviations from their mean (Terriberry 2007), (K,).

    Whether an arm has come to its next look.
    """
    cdef Py_ssize_t i, k
    cdef bint due = False
    cdef double scaled, step, square
    for i in range(arms.shape[0]):
        k = arms[i]
        scaled = min(max((values[i] - low[k]) / width[k], 0.0), 1.0)
        if n[k] > 0:
            step = (scaled - total[k] / n[k]) / (n[k] + 1)
            square = step * step * n[k] * (n[k] + 1)
            m3[k] += square * step * (n[k] - 1) - 3.0 * step * m2[k]
            m2[k] += square
        n[k] += 1
        total[k] += scaled
        due |= n[k] >= next_look[k]
    return due


cdef inline double half_deviance(double n, double from_mean, double variance, double skew) noexcept nogil:
    """Half the deviance of n values with a mean this far from that of all.

    The law is Poisson's, moved and stretched to these moments.
    """
    cdef double u = skew * from_mean / variance
    if fabs(u) < SMALL:
        return n * from_mean * from_mean / variance * (0.5 - u * (1 / 6.0 - u * (1 / 12.0 - u * (0.05 - u / 30.0))))
    if u <= -1.0:
        return n * variance / (skew * skew)
    return n * variance / (skew * skew) * ((1.0 + u) * log1p(u) - u)


def evidence(
    const double[:, ::1] candidates, double n, double total, double variance, double skew, double shift
):
    """Sum, over `candidates` for when a mean changed, of their weights times how much likelier the first n values,
    with sum `total`, are if it did; and which of them makes them the likeliest.

    candidates: n, sum, weight, and a column that is not read; a row or more, each n from 1 to below this n.
    variance: of the values, above 0. skew: their third central moment over it, in their unit. shift: as
    bandit_serve/folds/alarms.py has it.
    """
    cdef Py_ssize_t i, best = 0
    cdef double mean = total / n, before, after, prior, half, largest = -INFINITY, added = 0.0
    for i in range(candidates.shape[0]):
        before = candidates[i, 0]
        after = n - before
        prior = shift * shift * before * after / n
        half = half_deviance(before, candidates[i, 1] / before - mean, variance, skew)
        half += half_deviance(after, (total - candidates[i, 1]) / after - mean, variance, skew)
        half *= prior / (1.0 + prior)
        added += candidates[i, 2] / sqrt(1.0 + prior) * exp(min(half, MAX_HALF_DEVIANCE))
        if half > largest:
            largest, best = half, i
    return added, best


def forget(double[:, ::1] candidates):
    """Takes out the one of `candidates`, 3 rows or more as `evidence` has them, that is missed the least, and adds its
    weight to the one before it; the last row is then free.

    Neither the first nor the last: of the others the one whose neighbours are closest together, in parts of how long
    ago it was. What is kept is then spaced evenly in the logarithm of that.
    """
    cdef Py_ssize_t i, j, least = 1, rows = candidates.shape[0]
    cdef double last = candidates[rows - 1, 0], between, smallest = INFINITY
    for i in range(1, rows - 1):
        between = (candidates[i + 1, 0] - candidates[i - 1, 0]) / (last - candidates[i, 0])
        if between < smallest:
            smallest, least = between, i
    candidates[least - 1, 2] += candidates[least, 2]
    for i in range(least, rows - 1):
        for j in range(candidates.shape[1]):
            candidates[i, j] = candidates[i + 1, j]
