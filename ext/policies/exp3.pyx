# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Exp3's probabilities (Auer, Cesa-Bianchi, Freund & Schapire 2002, Figure 1)."""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport exp, fmin, log, sqrt
from numpy.random cimport bitgen_t

from tally cimport chooser_name, chooser_t, tally_t
from uniform cimport uniform_below, uniform_double

import numpy as np

cdef double E_LESS_1 = 1.71828182845904523536


cdef inline double mixing(double gamma, double trials, Py_ssize_t count) noexcept nogil:
    """`gamma`, or where that is 0 what Corollary 3.2 has for a horizon of the trials so far."""
    if gamma > 0.0:
        return gamma
    return fmin(1.0, sqrt(count * log(<double>count) / (E_LESS_1 * trials))) if trials > 0.0 else 1.0


def shares(const double[::1] n, const double[::1] gain, double gamma):
    """float64 (K,): the shares of arms from their observations and their gains, (K,) each; gamma 0: see `mixing`."""
    cdef Py_ssize_t k, count = n.shape[0]
    cdef double trials = 0.0, highest = 0.0, total = 0.0, mixed
    if gain.shape[0] != count:
        raise ValueError("n and gain must have one length")
    out = np.empty(count)
    cdef double[::1] share = out
    for k in range(count):
        trials += n[k]
        if gain[k] > highest:
            highest = gain[k]
    mixed = mixing(gamma, trials, count)
    for k in range(count):
        share[k] = exp(mixed * (gain[k] - highest) / count)
        total += share[k]
    for k in range(count):
        share[k] = (1.0 - mixed) * share[k] / total + mixed / count
    return out


cdef double weigh(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, double *mixed
) noexcept nogil:
    """Puts the arms' weights into their caches; returns the sum of these, and what is mixed in."""
    cdef Py_ssize_t i, k
    cdef double trials = 0.0, highest = 0.0, total = 0.0
    for i in range(count):
        k = among[i] if among is not NULL else i
        trials += tally.n[k]
        if tally.gain[k] > highest:
            highest = tally.gain[k]
    mixed[0] = mixing(tally.parameters[0], trials, count)
    for i in range(count):
        k = among[i] if among is not NULL else i
        tally.cache[k] = exp(mixed[0] * (tally.gain[k] - highest) / count)
        total += tally.cache[k]
    return total


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameter: gamma, 0 for one that decays. Cache: each arm's weight."""
    cdef Py_ssize_t i, k, chosen = among[0]
    cdef double mixed = 0.0, place
    cdef double total = weigh(tally, among, count, &mixed)
    if uniform_double(bits) < mixed:
        return among[uniform_below(bits, count)]
    place = uniform_double(bits) * total
    for i in range(count):
        k = among[i]
        if tally.cache[k] > 0.0:
            chosen = k
            place -= tally.cache[k]
            if place < 0.0:
                break
    return chosen


cdef double share_of(const tally_t *tally, Py_ssize_t arm) noexcept nogil:
    cdef double mixed = 0.0
    cdef double total = weigh(tally, NULL, tally.n_arms, &mixed)
    return (1.0 - mixed) * tally.cache[arm] / total + mixed / tally.n_arms


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, share_of, 1, 1
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
