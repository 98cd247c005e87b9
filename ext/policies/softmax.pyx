# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Boltzmann exploration: an arm's probability is proportional to exp(mean / temperature).

Of rewards without bounds the temperature may be in standard deviations of an arm's rewards, as the arms to choose
among have shown it (`tally.pxd`).
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport exp, sqrt
from numpy.random cimport bitgen_t

from tally cimport chooser_name, chooser_t, scale_of, tally_mean, tally_t
from uniform cimport uniform_below, uniform_double


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameters: the temperature, and whether it is in standard deviations. Cache: each arm's weight. Arms without
    observations come first, evenly."""
    cdef Py_ssize_t i, k, chosen = among[0], untried = 0
    cdef double mean, highest = 0.0, total = 0.0, place, temperature = tally.parameters[0]
    for i in range(count):
        k = among[i]
        if tally.n[k] == 0.0:
            untried += 1
            if uniform_below(bits, untried) == 0:
                chosen = k
        else:
            mean = tally_mean(tally, k)
            if i == 0 or mean > highest:
                highest = mean
    if untried > 0:
        return chosen
    if tally.parameters[1] != 0.0:
        temperature *= sqrt(scale_of(tally.n, tally.mean, tally.m2, among, count).variance)
    for i in range(count):
        k = among[i]
        tally.cache[k] = exp((tally_mean(tally, k) - highest) / temperature)
        total += tally.cache[k]
    place = uniform_double(bits) * total
    for i in range(count):
        k = among[i]
        if tally.cache[k] > 0.0:
            chosen = k
            place -= tally.cache[k]
            if place < 0.0:
                break
    return chosen


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 2, 1
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
