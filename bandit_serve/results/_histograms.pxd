# cython: cdivision=True
"""Declarations of `ext/results/histograms.pyx` for the kernel that adds values."""

from libc.stdint cimport int32_t, int64_t, uint8_t


cdef struct Histogram:
    int32_t *keys           # of the bins, ascending
    int32_t *rows           # of each bin, its row of counts
    int64_t *counts         # (room, K), in the order in which the bins came
    Py_ssize_t n            # number of bins
    Py_ssize_t room
    int halvings            # how often pairs of bins were put together
    bint kept               # values of the metric are counted


cdef class Histograms:
    cdef Py_ssize_t n_metrics, n_arms, most
    cdef Histogram *of      # (M,)

    cdef int know_most(self) except -1
    cdef Py_ssize_t place(self, const Histogram *here, int32_t key) noexcept nogil
    cdef void put_in(self, Histogram *here, Py_ssize_t at, int32_t key) noexcept nogil
    cdef bint empty(self, const Histogram *here, Py_ssize_t at) noexcept nogil
    cdef void make_room(self, Histogram *here) noexcept nogil
    cdef void move(self, Histogram *here, int halvings, Py_ssize_t room) noexcept nogil
    cdef int take_over(self, Histograms other) except -1
    cdef columns_of(self, Py_ssize_t metric)
    cdef void add(self, Py_ssize_t m, Py_ssize_t arm, double value, int64_t step) noexcept nogil
    cdef void clear(self, Py_ssize_t m) noexcept nogil
