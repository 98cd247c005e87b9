# cython: cdivision=True
"""Shares from scores of arms, and an arm from shares."""

from libc.math cimport fmax

cdef extern from *:
    """
    /* How many standard deviations one score may lie from another, or one deviation be shorter, and still matter. */
    static const double MAX_DEVIATIONS = 1e15;
    """
    const double MAX_DEVIATIONS


cdef inline bint normal_scores(
    const double *means, const double *widths, double scale, Py_ssize_t count, double *locations, double *scales
) noexcept nogil:
    """Locations and scales of the scores in units of the largest scale and from the largest mean: which is best does
    not depend on these. False when no score has a scale."""
    cdef Py_ssize_t i
    cdef double largest = means[0], widest = 0.0
    for i in range(count):
        largest = fmax(largest, means[i])
        widest = fmax(widest, scale * widths[i])
    if widest == 0.0:
        return False
    for i in range(count):
        locations[i] = fmax((means[i] - largest) / widest, -MAX_DEVIATIONS)
        scales[i] = fmax(scale * widths[i] / widest, 1.0 / MAX_DEVIATIONS)
    return True


cdef inline void gap_shares(const double *means, Py_ssize_t count, double weight, double *shares) noexcept nogil:
    """1 / (E + γ gap) for every arm below the best, the rest to the best, evenly where several are; γ = `weight`."""
    cdef Py_ssize_t i, best = 0
    cdef double largest = means[0], rest = 1.0
    for i in range(count):
        largest = fmax(largest, means[i])
    for i in range(count):
        if means[i] == largest:
            best += 1
        else:
            shares[i] = 1.0 / (<double>count + weight * (largest - means[i]))
            rest -= shares[i]
    for i in range(count):
        if means[i] == largest:
            shares[i] = rest / best


cdef inline Py_ssize_t share_at(const double *shares, Py_ssize_t count, double place) noexcept nogil:
    """Index of the arm in whose share `place` lies, from 0 to 1; the last that has one where rounding passes it."""
    cdef Py_ssize_t i, last = 0
    for i in range(count):
        place -= shares[i]
        if shares[i] > 0.0:
            if place < 0.0:
                return i
            last = i
    return last
