# cython: cdivision=True
"""Logistic regression's update by one observation."""

from libc.math cimport exp, fmax

cdef enum:
    MAX_STEPS = 60

cdef extern from *:
    """
    static const double MIN_WEIGHT = 1e-10;
    """
    const double MIN_WEIGHT


cdef inline double sigmoid(double value) noexcept nogil:
    cdef double rest
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    rest = exp(value)
    return rest / (1.0 + rest)


cdef inline double logistic_weight(double value) noexcept nogil:
    """p(1 - p): what an observation adds to the precision in its direction."""
    cdef double p = sigmoid(-value if value > 0.0 else value)
    return fmax(p * (1.0 - p), MIN_WEIGHT)


cdef inline double logistic_step(double mean, double variance, double target) noexcept nogil:
    """s with s = target - σ(mean + s · variance): the coefficients at the maximum are θ + s (A + λ)⁻¹x.

    Newton's steps within the bracket in which the increasing function s + σ(…) - target changes its sign.
    """
    cdef double low = target - 1.0, high = target, s = target - sigmoid(mean), p, rest, following
    cdef int _
    for _ in range(MAX_STEPS):
        p = sigmoid(mean + s * variance)
        rest = s + p - target
        if rest > 0.0:
            high = s
        else:
            low = s
        following = s - rest / (1.0 + p * (1.0 - p) * variance)
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if following == s:
            break
        s = following
    return s
