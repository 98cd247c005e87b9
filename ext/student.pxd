# cython: cdivision=True
"""Student's t distribution function: near the centre by a series, beyond by a continued fraction.

With h = df/2, t = z²/df, y = t/(1 + t), x = 1/(1 + t) and the density f,

    P(0 < T < z) = z f(z) Σ_n (h + 1/2)_n / (3/2)_n yⁿ

(DLMF 8.17.8), and P(T > z) is z f(z) / 2 over the even part of the continued fraction of I_x(h, 1/2) (DLMF 8.17.22;
Didonato and Morris 1992). Both are of terms that do not cancel, however large df is, where y stands for 1 - x.
"""

from libc.math cimport exp, fabs, log, log1p

cdef enum:
    MAX_STEPS = 1000        # the series takes up to 50, the fraction up to 80


cdef inline double student_series(double h, double y) noexcept nogil:
    cdef double term = 1.0, total = 1.0
    cdef Py_ssize_t n
    for n in range(MAX_STEPS):
        term *= (h + 0.5 + n) / (1.5 + n) * y
        total += term
        if term < 3e-17 * total:
            break
    return total


cdef inline double student_fraction(double h, double x, double y) noexcept nogil:
    """b_0 + a_1 / (b_1 + a_2 / (b_2 + ...)), from the front (Lentz 1976)."""
    cdef double b = h * (h * y - 0.5 * x + 1.0) / (h + 1.0)
    cdef double value = b, above = b, below = 0.0
    cdef double a, odd, change
    cdef Py_ssize_t n
    for n in range(1, MAX_STEPS):
        odd = h + (2 * n - 1)
        a = ((h + (n - 1)) / odd) * ((h + (n - 0.5)) / odd) * (n * (0.5 - n)) * (x * x)
        b = n + n * (0.5 - n) * x / odd + (h + n) * (h * y - 0.5 * x + 1.0 + n * (1.0 + y)) / (h + (2 * n + 1))
        below = 1.0 / (b + a * below)
        above = b + a / above
        change = above * below
        value *= change
        if fabs(change - 1.0) < 3e-16:
            break
    return value


cdef inline double student_above(double df, double log_peak, double z) noexcept nogil:
    """P(T > z), z >= 0, to about 1e-13 of itself; log_peak: log f(0)."""
    cdef double h = 0.5 * df
    cdef double t = z * z / df
    cdef double x = 1.0 / (1.0 + t)
    cdef double y = t * x if t < 1.0 else 1.0 / (1.0 + 1.0 / t)
    # Far out t may be infinite.
    cdef double z_density = z * exp(log_peak - (h + 0.5) * (log1p(t) if t < 1e200 else 2.0 * log(z) - log(df)))
    if (h + 2.5) * y < 1.2:
        return 0.5 - z_density * student_series(h, y)
    return 0.5 * z_density / student_fraction(h, x, y)
