# cython: cdivision=True
"""Sums as expansions of three doubles, of which the first is the sum, correctly rounded.

Numbers are added by Shewchuk's grow-expansion (1997). Three doubles hold a sum exactly while its bits span no more than
about 159, as those of numbers from 1e-16 to 1e31 do. What goes beyond that is rounded to them.
"""

from libc.math cimport isfinite


cdef inline double two_sum(double a, double b, double *rest) noexcept nogil:
    """a + b, rounded, and in `rest` what that leaves out (Knuth)."""
    cdef double s = a + b, bb = s - a
    rest[0] = (a - (s - bb)) + (b - bb)
    return s


cdef inline double expansion_add(double value, double *rests, double number) noexcept nogil:
    """Sum of `number` and the expansion of `value` and two `rests`, largest first, which become those of the sum."""
    cdef double h[4]
    cdef double q = number, e, rounded
    cdef int i, _n
    q = two_sum(q, rests[1], &h[0])
    q = two_sum(q, rests[0], &h[1])
    q = two_sum(q, value, &h[2])
    h[3] = q
    if not isfinite(q):
        rests[0] = rests[1] = 0.0
        return q
    # Twice from the smallest on, so that each is the rounded sum of all below it, and zeros sink.
    for _n in range(2):
        for i in range(1, 4):
            h[i] = two_sum(h[i], h[i - 1], &h[i - 1])
    for i in range(2, 0, -1):
        if h[i] == 0.0:
            h[i], h[i - 1] = h[i - 1], 0.0
    if h[2] == 0.0:
        h[2], h[1] = h[1], h[0]
        h[0] = 0.0
    value, rests[0], rests[1] = h[3], h[2], h[1] + h[0]
    # Half a unit in the last place was rounded to even, but what is below it decides.
    if (rests[0] > 0.0 and rests[1] > 0.0) or (rests[0] < 0.0 and rests[1] < 0.0):
        e = 2.0 * rests[0]
        rounded = value + e
        if rounded - value == e:
            value, rests[0] = rounded, -rests[0]
    return value
