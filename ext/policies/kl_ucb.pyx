# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""KL-UCB's index and the arms on which it is the largest (Garivier & Cappe 2011, Algorithm 1, with c = 0)."""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY, expm1, fmin, log, log1p, sqrt
from numpy.random cimport bitgen_t

from tally cimport chooser_name, chooser_t, tally_t
from uniform cimport uniform_below

import numpy as np

cdef enum:
    MAX_STEPS = 50      # 3 to 6 are usual


# Below it a mean is as good as 0, and what is divided by it overflows.
cdef double MIN_MEAN = 1e-300


cdef inline double log_of(double trials) noexcept nogil:
    return log(trials) if trials > 1.0 else 0.0


cdef inline double above(double p, double d) noexcept nogil:
    """A bound on the index, from KL(p, q) >= (q - p)^2 / (2 q)."""
    return p + d + sqrt(d * (d + 2.0 * p))


cdef double index_of(double p, double d) noexcept nogil:
    """Largest q in [p, 1] with KL(p, q) <= d, for Bernoulli laws of means p and q.

    Over e = ln((1 - p)/(1 - q)), the divergence is (1 - p) e - p ln(1 + (q - p)/p): convex, and it cancels neither
    next to p nor next to 1. Newton's method from above the root comes down to it and never falls short.
    """
    cdef double rest = 1.0 - p, e, step, x, high
    cdef Py_ssize_t _
    if p < MIN_MEAN:
        return -expm1(-d)
    if rest <= 0.0:
        return 1.0
    if d <= 0.0:
        return p
    e = (d - p * log(p)) / rest
    high = above(p, d)
    if high < 1.0:
        e = fmin(e, -log1p((p - high) / rest))
    for _ in range(MAX_STEPS):
        x = -expm1(-e)
        step = (rest * e - p * log1p(rest * x / p) - d) * (p + rest * x) / (rest * x)
        e -= step
        if step <= 1e-9 * e:
            # The next step would be of the square of this one.
            break
    return fmin(1.0, p - rest * expm1(-e))


cdef inline bint surely_below(double p, double d, double highest) noexcept nogil:
    """Return whether the index of mean p is below `highest`, without solving for it where that is easy to see."""
    cdef double distance = highest - p
    if distance <= 0.0:
        return False
    if distance * distance > 2.0 * fmin(highest, 0.25) * d * (1.0 + 1e-9):
        return True
    # 1 - highest has too few digits there.
    if p <= 0.0 or highest > 1.0 - 1e-7:
        return False
    return p * log(p / highest) + (1.0 - p) * log((1.0 - p) / (1.0 - highest)) > d * (1.0 + 1e-6) + 1e-13


def index(p, d):
    """float64 of the shape of p and d: the largest q with KL(p, q) <= d; p in [0, 1], d at least 0."""
    means, bounds = np.broadcast_arrays(np.asarray(p, dtype=np.float64), np.asarray(d, dtype=np.float64))
    out = np.empty(means.shape)
    for place in np.ndindex(means.shape):
        out[place] = index_of(means[place], bounds[place])
    return out


cdef double fill(
    const double *n, const double *total, const Py_ssize_t *among, Py_ssize_t count, double *indices
) noexcept nogil:
    """Puts the index of each arm that may have the largest into `indices`, -1 for the others; returns the largest."""
    cdef Py_ssize_t i, k, likely = -1
    cdef double trials = 0.0, width, p, d, bound, first, highest = -1.0
    for i in range(count):
        trials += n[among[i] if among is not NULL else i]
    width = log_of(trials)
    for i in range(count):
        k = among[i] if among is not NULL else i
        if n[k] == 0.0:
            highest = INFINITY
            break
        bound = fmin(1.0, above(total[k] / n[k], width / n[k]))
        if likely < 0 or bound > highest:
            likely, highest = k, bound
    if highest == INFINITY:
        for i in range(count):
            k = among[i] if among is not NULL else i
            indices[k] = INFINITY if n[k] == 0.0 else -1.0
        return INFINITY
    first = highest = index_of(total[likely] / n[likely], width / n[likely])
    for i in range(count):
        k = among[i] if among is not NULL else i
        p = total[k] / n[k]
        d = width / n[k]
        if k == likely:
            indices[k] = first
        elif surely_below(p, d, highest):
            indices[k] = -1.0
        else:
            indices[k] = index_of(p, d)
        if indices[k] > highest:
            highest = indices[k]
    return highest


def shares(const double[::1] n, const double[::1] total):
    """float64 (K,): the whole share on the arm of the largest index, evenly divided where several tie.

    n, total: (K,), observations and sums of rewards in [0, 1].
    """
    cdef double highest
    if total.shape[0] != n.shape[0]:
        raise ValueError("n and total must have one length")
    indices = np.empty(n.shape[0])
    cdef double[::1] view = indices
    highest = fill(&n[0], &total[0], NULL, n.shape[0], &view[0])
    best = indices == highest
    return best / np.count_nonzero(best)


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """No parameters. Cache: each arm's index. Ties are drawn evenly."""
    cdef Py_ssize_t i, k, best = among[0], ties = 0
    cdef double highest = fill(tally.n, tally.total, among, count, tally.cache)
    for i in range(count):
        k = among[i]
        if tally.cache[k] == highest:
            ties += 1
            if uniform_below(bits, ties) == 0:
                best = k
    return best


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 0, 1
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
