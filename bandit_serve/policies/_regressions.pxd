# cython: cdivision=True
"""Declarations of `ext/policies/regressions.pyx` for the policy that scores arms by them."""

from libc.stdint cimport int64_t, uint8_t


cdef class Regressions:
    cdef Py_ssize_t n_models, order, stale_models
    cdef Py_ssize_t width, size         # numbers in a row, and in a matrix
    cdef bint logistic
    cdef double least_precision
    cdef int64_t all_updates
    cdef double *gram                   # [M, size]: A
    cdef double *inverse                # [M, size]: (A + λ)⁻¹
    cdef double *moment                 # [M, width]: b
    cdef double *theta                  # [M, width]
    cdef double *squares                # [width]: sums of x²
    cdef double *precision              # [width]: λ
    cdef double *noise                  # [2]: weight of what was learned, and sum of squared residuals
    cdef double *direction              # [width]
    cdef int64_t *updates               # (M,)
    cdef uint8_t *stale                 # (M,): the inverse is yet to be made anew
    cdef dict arrays                    # behind the pointers, by name

    cdef void fit(self, Py_ssize_t m, const double *row, double target) noexcept
    cdef bint is_rounding(self, double variance) noexcept
    cdef bint time_to_factorize(self, Py_ssize_t m) noexcept
    cdef void mark(self, Py_ssize_t m) noexcept
    cdef void read_precisions(self) noexcept
    cdef void factorize(self, Py_ssize_t m) noexcept
    cdef void invert(self, Py_ssize_t m, double *inverse, double *theta) noexcept nogil
    cdef void freshen(self) noexcept
    cdef bint freshen_one(self) except -1
    cdef int start_anew(self) except -1
    cdef void forget(self, double factor) noexcept
    cdef double variance_of_noise(self) noexcept
    cdef draws(self, double scale)
    cdef triangles(self, str name)
    cdef unpack(self, str name, packed)
    cdef dict sums(self)
    cdef int restore(self, dict sums, n) except -1
    cdef dict factors(self)
    cdef int restore_factors(self, dict factors) except -1
