# cython: cdivision=True
"""Declarations of `ext/policies/feature_limits.pyx` for the policy that learns within them."""


cdef enum:
    FIRST_ROWS = 128


cdef class FeatureLimits:
    cdef Py_ssize_t n_features, n_first
    cdef bint known
    cdef double *centre                 # [d]
    cdef double *spread                 # [d]
    cdef dict arrays                    # behind the pointers, by name, and the first rows

    cdef void limit(self, double *x) noexcept
    cdef int keep(self, const double *x, Py_ssize_t arm, double reward) except -1
    cdef bint settle(self) except -1
    cdef dict state(self)
    cdef int restore(self, given, Py_ssize_t n_arms) except -1
    cdef int suppose(self, double count, squares) except -1
