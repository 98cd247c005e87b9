# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""UCB1's index and the arms on which it is the largest (Auer, Cesa-Bianchi & Fischer 2002, Figure 1).

Its width is of rewards whose deviations are no larger than those of a Normal law of standard deviation 1; `scale`
makes it one for others; where it is NaN, it is the standard deviation of an arm's rewards, as the arms to choose among
have shown it (`tally.pxd`). In [0, 1] they are no larger than those of 1/2, and UCB1 is on the safe side with 1.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY, isnan, log, sqrt
from numpy.random cimport bitgen_t

from tally cimport chooser_name, chooser_t, scale_of, tally_mean, tally_t
from uniform cimport uniform_below

import numpy as np


cdef inline double twice_log(double trials) noexcept nogil:
    """2 ln t; 0 below one trial, which only pending observations of part weight can leave."""
    return 2.0 * log(trials) if trials > 1.0 else 0.0


cdef inline double sum_of(const double *n, const Py_ssize_t *among, Py_ssize_t count) noexcept nogil:
    """Sum, in four parts that need not wait for one another, of n over the arms in `among`; NULL: the first `count`."""
    cdef double a = 0.0, b = 0.0, c = 0.0, d = 0.0
    cdef Py_ssize_t i, whole = count - count % 4
    for i in range(0, whole, 4):
        a += n[among[i] if among is not NULL else i]
        b += n[among[i + 1] if among is not NULL else i + 1]
        c += n[among[i + 2] if among is not NULL else i + 2]
        d += n[among[i + 3] if among is not NULL else i + 3]
    for i in range(whole, count):
        a += n[among[i] if among is not NULL else i]
    return (a + b) + (c + d)


def shares(const double[::1] n, const double[::1] mean, double scale):
    """float64 (K,): the whole share on the arm of the largest index, evenly divided where several tie.

    n, mean: (K,), observations and mean rewards; the mean is not read where n is 0.
    """
    cdef Py_ssize_t k
    cdef double width, highest = -INFINITY
    if mean.shape[0] != n.shape[0]:
        raise ValueError("n and mean must have one length")
    index = np.empty(n.shape[0])
    cdef double[::1] indices = index
    width = scale * scale * twice_log(sum_of(&n[0], NULL, n.shape[0]))
    for k in range(n.shape[0]):
        indices[k] = mean[k] + sqrt(width / n[k]) if n[k] > 0.0 else INFINITY
        if indices[k] > highest:
            highest = indices[k]
    best = index == highest
    return best / np.count_nonzero(best)


cdef inline bint surely_below(const tally_t *tally, Py_ssize_t k, double width, double highest) noexcept nogil:
    """Return whether the arm's index is below `highest`, without a root or a quotient.

    It is where highest - mean > 0 and n (highest - mean)^2 > width; the margins are far above rounding. Never where
    n is 0, as nothing is above 0 then.
    """
    cdef double n = tally.n[k], distance, bound
    if tally.unbounded:
        distance = highest - tally.mean[k]
        return (distance > 0.0) & (distance * distance * n > width * (1.0 + 1e-6))
    bound = highest * n
    distance = bound - tally.total[k]
    return (distance > 1e-12 * bound) & (distance * distance > width * n * (1.0 + 1e-6))


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameter: the scale. A tie is drawn evenly: the j-th to tie takes over with probability 1/j."""
    cdef Py_ssize_t i, k, best = among[0], ties = 0
    cdef double width, index, highest = -INFINITY, variance = tally.parameters[0] * tally.parameters[0]
    # Indices ascend, so that as many as there are arms are all of them.
    cdef bint everyone = count == tally.n_arms
    if isnan(variance):
        variance = scale_of(tally.n, tally.mean, tally.m2, NULL if everyone else among, count).variance
    width = variance * twice_log(sum_of(tally.n, NULL if everyone else among, count))
    for i in range(count):
        k = i if everyone else among[i]
        if surely_below(tally, k, width, highest):
            continue
        index = tally_mean(tally, k) + sqrt(width / tally.n[k]) if tally.n[k] > 0.0 else INFINITY
        if index > highest:
            best, highest, ties = k, index, 1
        elif index == highest:
            ties += 1
            if uniform_below(bits, ties) == 0:
                best = k
    return best


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 1, 0
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
