# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sums by segment, which follow those of all."""

from libc.stdint cimport int64_t

import numpy as np

from bandit_serve.results._accumulators cimport Accumulators
from bandit_serve.results._follower cimport Analysed, Follower


cdef class SegmentFollower(Follower):
    """Enters each decision or unit into the sums of its segment of each of D dimensions.

    `sums` has a row for each metric and segment, segment s of metric m at m S + s, S segments of all dimensions
    together. sizes: int64 (D,), the number of segments of each dimension, of which the last is that of unknown values.
    place: where in a note the dimensions begin; each has 1 + the segment's number within its dimension there, 0 if
    that is not known.
    """

    cdef public Accumulators sums
    cdef int64_t[::1] sizes
    cdef Py_ssize_t place, n_segments

    def __init__(self, Accumulators sums not None, sizes, Py_ssize_t place):
        self.sums = sums
        self.sizes = np.array(sizes, np.int64)
        self.place = place
        self.n_segments = sum(sizes)
        if self.n_segments == 0 or sums.n_metrics % self.n_segments:
            raise ValueError(f"expected sums of whole metrics with {self.n_segments} segments each")

    cdef Py_ssize_t row_of(self, const Analysed *one, Py_ssize_t d, Py_ssize_t first) noexcept:
        """Row of dimension d, whose segments begin with number `first`."""
        cdef float noted = one.note[self.place + d] if one.note != NULL else 0.0
        cdef Py_ssize_t segment = self.sizes[d] - 1
        if 1.0 <= noted <= self.sizes[d]:
            segment = <Py_ssize_t> noted - 1
        return one.metric * self.n_segments + first + segment

    cdef int enter(self, const Analysed *one) except -1:
        cdef Py_ssize_t d, first = 0
        cdef Analysed mine = one[0]
        mine.x = mine.note = NULL
        for d in range(self.sizes.shape[0]):
            mine.metric = self.row_of(one, d, first)
            self.sums.take_in(&mine)
            first += self.sizes[d]
        return 0

    cdef int update(self, const Analysed *one, double old, double old_companion) except -1:
        cdef Py_ssize_t d, first = 0
        cdef Analysed mine = one[0]
        mine.x = mine.note = NULL
        for d in range(self.sizes.shape[0]):
            mine.metric = self.row_of(one, d, first)
            self.sums.revalue(&mine, old, old_companion)
            first += self.sizes[d]
        return 0

    cdef int withdraw(self, const Analysed *one) except -1:
        cdef Py_ssize_t d, first = 0
        cdef Analysed mine = one[0]
        mine.x = mine.note = NULL
        for d in range(self.sizes.shape[0]):
            mine.metric = self.row_of(one, d, first)
            self.sums.take_back(&mine)
            first += self.sizes[d]
        return 0

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come."""
        self.sums.grow(n_arms)
