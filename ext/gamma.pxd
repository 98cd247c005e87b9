# cython: cdivision=True
"""Gamma draws of a shape of at least 1 (Marsaglia & Tsang 2000), their two constants made beforehand."""

from libc.math cimport log, sqrt
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_standard_normal
from uniform cimport uniform_double


cdef inline void gamma_prepare(double shape, double *d, double *c) noexcept nogil:
    d[0] = shape - 1.0 / 3.0
    c[0] = 1.0 / sqrt(9.0 * d[0])


cdef inline double gamma_draw(double d, double c, bitgen_t *bits) noexcept nogil:
    """Scale 1.

    The exact test accepts u < exp(h) with h = x²/2 + d(1 - v + ln v) and v = (1 + t)³, t = cx. As
    ln(1 + t) = t - t²/2 + t³/3 - ∫₀ᵗ s³/(1 + s) ds, the lower terms cancel and h = -3d ∫₀ᵗ s³/(1 + s) ds, which is
    at least -3dt⁴/4 where t > 0 and at least that over 1 + t where t < 0. So 1 - u > x⁴c²/12 over min(1, 1 + t)
    implies the exact test; it spares the logarithms in all but a few draws, and in nearly all of large shapes.
    """
    cdef double x, q, v, rest, square
    while True:
        x = random_standard_normal(bits)
        q = 1.0 + c * x
        if q <= 0.0:
            continue
        v = q * q * q
        rest = 1.0 - uniform_double(bits)
        square = x * c * x
        if rest * (q if q < 1.0 else 1.0) > square * square * (1.0 / 12.0):
            return d * v
        if log(1.0 - rest) < 0.5 * x * x + d * (1.0 - v + log(v)):
            return d * v
