# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Epsilon-greedy: the arm of the largest mean or, with a probability that may decay, any arm."""

from cpython.pycapsule cimport PyCapsule_New
from numpy.random cimport bitgen_t

from tally cimport chooser_name, chooser_t, tally_mean, tally_t
from uniform cimport uniform_below, uniform_double


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameters: epsilon and decay. A tie is drawn evenly: the j-th to tie takes over with probability 1/j."""
    cdef Py_ssize_t i, k, best = among[0], ties = 0
    cdef double trials = 0.0, mean, highest = 0.0
    cdef bint untried = False
    if tally.parameters[1] > 0.0:
        for i in range(count):
            trials += tally.n[among[i]]
    if uniform_double(bits) * (1.0 + tally.parameters[1] * trials) < tally.parameters[0]:
        return among[uniform_below(bits, count)]
    for i in range(count):
        k = among[i]
        if tally.n[k] == 0.0:
            # The first of those without observations puts the others behind.
            ties = ties + 1 if untried else 1
            untried = True
        elif untried:
            continue
        else:
            mean = tally_mean(tally, k)
            if ties > 0 and mean < highest:
                continue
            ties = ties + 1 if ties > 0 and mean == highest else 1
            highest = mean
        if ties == 1 or uniform_below(bits, ties) == 0:
            best = k
    return best


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 2, 0
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
