# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decisions that enter the sums with their rewards: `missing: ignore`, `unit: request`."""

from libc.math cimport isnan
from libc.stdint cimport uint8_t

import numpy as np

from bandit_serve.results._accumulators cimport Accumulators
from bandit_serve.results._follower cimport Analysed
from bandit_serve.results._share_history cimport ShareHistory
from reward cimport Reward, Revision


cdef class RewardedDecisions:
    """`missing: ignore`, `unit: request`: a decision is analysed, per metric, when its reward comes.

    A value that changes changes what was made of it, with the shares that the log has of the decision by then.
    """

    cdef Accumulators sums
    cdef ShareHistory shares

    def __init__(self, Accumulators sums not None, ShareHistory shares not None):
        self.sums = sums
        self.shares = shares

    pending = 0
    crossovers = 0

    def expose(self, *exposure):
        """Nothing is open: a reward says what its exposure said."""

    def close(self, before_ms):
        """Nothing is open."""

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None, notes=None):
        """`x` float32 (n, d): the features of the rows' decisions, where they are known; `notes` float32 (n, w)."""
        cdef Py_ssize_t i
        cdef Analysed one
        cdef const float[:, ::1] features = x, noted = notes
        for i in range(rows.shape[0]):
            if self.take(&one, &rows[i], unfloored[i], False, noted, i):
                one.x = NULL if x is None else &features[i, 0]
                self.sums.take_in(&one)

    def revise(self, const Revision[::1] rows, const uint8_t[::1] unfloored, x=None, notes=None):
        """As `reward`, for values that are sums of events: one that is gone takes its decision out of the sums."""
        cdef Py_ssize_t i
        cdef Analysed one
        cdef const float[:, ::1] noted = notes
        for i in range(rows.shape[0]):
            if not self.take(&one, &rows[i].reward, unfloored[i], True, noted, i):
                continue
            if isnan(one.value):
                one.value = rows[i].former
                self.sums.take_back(&one)
            elif isnan(rows[i].former):
                self.sums.take_in(&one)
            else:
                self.sums.revalue(&one, rows[i].former)

    cdef bint take(self, Analysed *one, const Reward *row, bint unfloored, bint dated, const float[:, ::1] notes,
                   Py_ssize_t i) except -1:
        """Fills `one` with a row; false for one that is left out."""
        cdef Py_ssize_t slot = self.shares.slot(row.incarnation)
        if self.shares.left_out(slot, row.counter):
            return False
        one.metric, one.arm, one.e, one.all_of = row.metric, row.arm, self.shares.shares_of(slot, row), 0
        one.propensity, one.value, one.companion = row.propensity, row.value, 0.0
        one.unfloored, one.plain, one.dated = unfloored, self.sums.contextual, dated
        one.who, one.number, one.time_ms = row.incarnation, row.counter, row.time_ms
        one.x, one.note = NULL, NULL if self.sums.note_width == 0 or notes is None else &notes[i, 0]
        return True

    def vectors(self):
        return np.zeros(0, np.int32)

    def state(self, vectors):
        return {}

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state):
        return RewardedDecisions(sums, shares)
