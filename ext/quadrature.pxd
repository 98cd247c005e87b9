# cython: cdivision=True
"""Gauss-Legendre quadrature on [0, 1]; `make_quadrature` fills its tables, once in each kernel that includes it."""

from libc.math cimport M_PI, cos

cdef enum:
    NODES = 12

cdef extern from *:
    """
    static double NODE[12];
    static double WEIGHT[12];
    static double PARTIAL[12][12];
    """
    double NODE[NODES]
    double WEIGHT[NODES]
    double PARTIAL[NODES][NODES]    # [j][i]: the j-th Lagrange polynomial's integral from 0 to NODE[i]


cdef inline void legendre_polynomials(double x, double* p) noexcept nogil:
    """P_0 .. P_NODES at x."""
    cdef Py_ssize_t k
    p[0] = 1.0
    p[1] = x
    for k in range(1, NODES):
        p[k + 1] = ((2 * k + 1) * x * p[k] - k * p[k - 1]) / (k + 1)


cdef inline void make_quadrature() noexcept nogil:
    cdef double at[NODES][NODES + 1]
    cdef double x, slope, total
    cdef Py_ssize_t _, i, j, k
    for i in range(NODES):
        x = -cos(M_PI * (i + 0.75) / (NODES + 0.5))
        for _ in range(8):
            legendre_polynomials(x, at[i])
            slope = NODES * (x * at[i][NODES] - at[i][NODES - 1]) / (x * x - 1.0)
            x -= at[i][NODES] / slope
        legendre_polynomials(x, at[i])
        slope = NODES * (x * at[i][NODES] - at[i][NODES - 1]) / (x * x - 1.0)
        NODE[i] = 0.5 * (1.0 + x)
        WEIGHT[i] = 1.0 / ((1.0 - x * x) * slope * slope)
    for j in range(NODES):
        for i in range(NODES):
            # The polynomial's Legendre series is (k + 1/2) w_j P_k(x_j); (2k + 1) P_k integrates to P_k+1 - P_k-1.
            total = 2.0 * NODE[i]
            for k in range(1, NODES):
                total += at[j][k] * (at[i][k + 1] - at[i][k - 1])
            PARTIAL[j][i] = WEIGHT[j] * 0.5 * total
