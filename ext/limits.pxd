# cython: cdivision=True
"""Limits of features: within which a value is taken as it is, so that one wild one does not rule a model.

A feature has a centre c and a spread v of its values other than 0: a median, and the third quartile of |x_j - c|, at
least 1, which each value moves by a step (Robbins & Monro 1951). So a run of wild values moves them little, and a
lasting change of unit moves them in the end. A value farther than `MAX_SPREADS` · v from c is taken as that far; one of
`UNKNOWN` times that tells nothing and is taken as c. 0 says that a feature is not there, and is always that.
"""

from libc.math cimport fabs

cdef extern from *:
    """
    static const double MAX_SPREADS = 8.0;
    static const double UNKNOWN = 10.0;
    static const double PACE = 0.05;
    static const double MIN_SPREAD = 1.0;
    """
    const double MAX_SPREADS
    const double UNKNOWN
    const double PACE
    const double MIN_SPREAD


cdef inline double usual(double value, double centre, double spread) noexcept nogil:
    """`value` as it is taken."""
    cdef double off = value - centre, most = MAX_SPREADS * spread
    cdef double size = fabs(off)
    cdef double edge = centre + most if off > 0.0 else centre - most
    cdef double beyond = centre if size > UNKNOWN * most else edge
    return value if (size <= most) | (value == 0.0) else beyond


cdef inline void limit_and_move(double *x, double *centre, double *spread, Py_ssize_t n) noexcept nogil:
    """Takes the `n` values of x as usual; then a step of each centre and spread towards the quartiles of what comes."""
    cdef Py_ssize_t j
    cdef double value, off, step, factor, moved
    # Without branches, so that several are done at once.
    for j in range(n):
        value, off, step = x[j], x[j] - centre[j], PACE * spread[j]
        x[j] = usual(value, centre[j], spread[j])
        factor = 1.0 - 0.25 * PACE if fabs(off) <= spread[j] else 1.0 + 0.75 * PACE
        step = 0.0 if value == 0.0 else step
        factor = 1.0 if value == 0.0 else factor
        moved = off if off < step else step
        centre[j] += moved if moved > -step else -step
        moved = spread[j] * factor
        spread[j] = moved if moved > MIN_SPREAD else MIN_SPREAD
