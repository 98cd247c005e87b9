# cython: cdivision=True
"""Declarations of `ext/results/beginnings.pyx` for the kernel that adds values."""

from libc.stdint cimport uint8_t


cdef struct Beginning:
    double *values
    Py_ssize_t n            # or GIVEN_UP
    Py_ssize_t room


cdef class Beginnings:
    cdef Py_ssize_t n_metrics, n_arms, kept
    cdef Beginning *of                  # (M, K)
    cdef uint8_t[::1] closed            # (M,)

    cdef void take(self, Py_ssize_t m, Py_ssize_t arm, const double *e, const double *first, double y) noexcept nogil
    cdef void give_up(self, Py_ssize_t m, Py_ssize_t arm) noexcept nogil
    cdef void close_metric(self, Py_ssize_t m) noexcept nogil
