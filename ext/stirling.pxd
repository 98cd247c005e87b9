# cython: cdivision=True
"""Gamma function by Stirling's series, in forms whose large terms have cancelled on paper (DLMF 5.11.1, 5.12.1)."""

from libc.math cimport log

cdef extern from *:
    """
    #define BANDIT_SERVE_HALF_LOG_2PI 0.91893853320467274178
    """
    double HALF_LOG_2PI "BANDIT_SERVE_HALF_LOG_2PI"


cdef inline double stirling_rest(double z) noexcept nogil:
    """log Gamma(z) - [(z - 1/2) log z - z + log(2 pi)/2], z > 0, to about 1e-14."""
    cdef double product = 1.0, shifted = z
    cdef double r, rest
    # Gamma(z) = Gamma(z + n) / (z (z + 1) ... (z + n - 1)).
    while shifted < 10.0:
        product *= shifted
        shifted += 1.0
    r = 1.0 / (shifted * shifted)
    rest = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r * (
        1.0 / 1188.0 - r * (691.0 / 360360.0)))))) / shifted
    if z < 10.0:
        rest += ((shifted - 0.5) * log(shifted) - shifted) - log(product) - ((z - 0.5) * log(z) - z)
    return rest
