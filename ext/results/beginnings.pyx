# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""First values of each metric and arm, themselves: exact intervals are made from them while they are few."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

import numpy as np

from room cimport lengthened

cdef enum:
    MAX_FIRST_VALUES = 1000       # values that are kept of an arm
    MAX_KEPT_VALUES = 1 << 20     # and of all arms on all metrics: 8 MB
    GIVEN_UP = -1           # in place of how many are kept


cdef class Beginnings:
    """First values of each arm on each `bounded` uint8 (M,) metric, in the order of their analysis, while they are few.

    They are given up for good: of an arm when there are more than `MAX_FIRST_VALUES`, or more than `MAX_KEPT_VALUES` in
    all, or when one of them changes; of a metric with the first decision that other arms had a share in than in the
    first, as such decisions may be about others; and of all by `close`.
    """

    def __init__(self, const uint8_t[::1] bounded, Py_ssize_t n_arms):
        self.n_metrics = bounded.shape[0]
        self.n_arms = 0
        self.closed = (np.asarray(bounded) == 0).astype(np.uint8)
        self.grow(n_arms)

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_metrics * self.n_arms):
            free(self.of[i].values)
        free(self.of)

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come."""
        cdef Beginning *wider
        cdef Py_ssize_t m
        if n_arms <= self.n_arms:
            return
        wider = <Beginning *> lengthened(NULL, self.n_metrics * n_arms * sizeof(Beginning))
        memset(wider, 0, self.n_metrics * n_arms * sizeof(Beginning))
        for m in range(self.n_metrics):
            if self.n_arms:
                memcpy(&wider[m * n_arms], &self.of[m * self.n_arms], self.n_arms * sizeof(Beginning))
        free(self.of)
        self.of = wider
        self.n_arms = n_arms

    def close(self):
        """Gives up everything."""
        cdef Py_ssize_t m
        for m in range(self.n_metrics):
            self.close_metric(m)

    def of_arm(self, Py_ssize_t metric, Py_ssize_t arm):
        """Values, float64 (n,); None where they were given up."""
        if not (0 <= metric < self.n_metrics and 0 <= arm < self.n_arms):
            raise IndexError("expected a metric and an arm that there are")
        cdef Beginning *beginning = &self.of[metric * self.n_arms + arm]
        if self.closed[metric] or beginning.n == GIVEN_UP:
            return None
        values = np.empty(beginning.n)
        cdef double[::1] view = values
        if beginning.n:
            memcpy(&view[0], beginning.values, beginning.n * sizeof(double))
        return values

    cdef void take(self, Py_ssize_t m, Py_ssize_t arm, const double *e, const double *first, double y) noexcept nogil:
        """Takes the next value of an arm, from a decision with shares `e`; `first` are the metric's first."""
        cdef Beginning *beginning = &self.of[m * self.n_arms + arm]
        cdef double *values
        cdef Py_ssize_t k
        if self.closed[m] or beginning.n == GIVEN_UP:
            return
        for k in range(self.n_arms):
            if (e[k] > 0.0) != (first[k] > 0.0):
                self.close_metric(m)
                return
        if beginning.n == MAX_FIRST_VALUES or self.kept == MAX_KEPT_VALUES:
            self.give_up(m, arm)
            return
        if beginning.n == beginning.room:
            values = <double *> realloc(beginning.values, (2 * beginning.room + 16) * sizeof(double))
            if values == NULL:
                self.give_up(m, arm)
                return
            beginning.values = values
            beginning.room = 2 * beginning.room + 16
        beginning.values[beginning.n] = y
        beginning.n += 1
        self.kept += 1

    cdef void give_up(self, Py_ssize_t m, Py_ssize_t arm) noexcept nogil:
        cdef Beginning *beginning = &self.of[m * self.n_arms + arm]
        if beginning.n > 0:
            self.kept -= beginning.n
        free(beginning.values)
        beginning.values = NULL
        beginning.room = 0
        beginning.n = GIVEN_UP

    cdef void close_metric(self, Py_ssize_t m) noexcept nogil:
        cdef Py_ssize_t k
        self.closed[m] = 1
        for k in range(self.n_arms):
            self.give_up(m, k)

    def state(self):
        """Columns for `from_state`."""
        counts = np.array(
            [[self.of[m * self.n_arms + k].n for k in range(self.n_arms)] for m in range(self.n_metrics)], np.int64
        ).reshape(self.n_metrics, self.n_arms)
        values = [self.of_arm(m, k) for m, k in zip(*np.nonzero(counts > 0))]
        return {
            "closed": np.array(self.closed),
            "counts": counts,
            "values": np.concatenate([np.empty(0), *values]),
        }

    @staticmethod
    def from_state(state):
        cdef Py_ssize_t m, k, i, at = 0, n
        counts = state["counts"]
        cdef const double[::1] values = state["values"]
        cdef Beginnings self = Beginnings((state["closed"] == 0).astype(np.uint8), counts.shape[1])
        if counts.min(initial=0) < GIVEN_UP or counts.max(initial=0) > MAX_FIRST_VALUES:
            raise ValueError("the snapshot counts values that can not have been kept")
        if counts[counts > 0].sum() != len(values) or len(values) > MAX_KEPT_VALUES:
            raise ValueError("the snapshot does not hold the values that it counts")
        for m in range(self.n_metrics):
            for k in range(self.n_arms):
                i = m * self.n_arms + k
                n = counts[m, k]
                self.of[i].n = n
                if n > 0:
                    self.of[i].values = <double *> lengthened(NULL, n * sizeof(double))
                    self.of[i].room = n
                    memcpy(self.of[i].values, &values[at], n * sizeof(double))
                    at += n
        self.kept = at
        return self
