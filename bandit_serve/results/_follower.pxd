# cython: cdivision=True
"""Declarations of `ext/results/follower.pyx` for the kernels that say what is analysed, and for those that follow."""

from libc.stdint cimport int64_t, uint64_t


cdef struct Analysed:
    Py_ssize_t metric
    Py_ssize_t arm
    const double *e         # shares (K,); NULL, of a change only: the first `all_of` arms had one
    Py_ssize_t all_of
    double propensity
    double value
    double companion        # of a ratio: the denominator's value
    bint unfloored
    bint plain              # pairs of arms weigh alike, whatever their shares
    bint dated              # the value may change: scored around the centres of its time
    uint64_t who            # who and number name the decision or unit
    uint64_t number
    int64_t time_ms         # of the decision, where it is dated
    const float *x          # features (d,), or NULL where they are not known
    const float *note       # note (w,), or NULL where w is 0 or it is not known


cdef class Follower:
    cdef int enter(self, const Analysed *one) except -1
    cdef int update(self, const Analysed *one, double old, double old_companion) except -1
    cdef int withdraw(self, const Analysed *one) except -1
