# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decisions that enter the sums with their rewards: `missing: ignore`, `unit: request`."""

from libc.math cimport isnan
from libc.stdint cimport uint8_t

import numpy as np

from bandit_serve.results._accumulators cimport Accumulators
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

    def know_since(self, since_ms):
        """What was decided before a metric joined has no reward of it here."""

    def expose(self, *exposure):
        """Nothing is open: a reward says what its exposure said."""

    def close(self, before_ms):
        """Nothing is open."""

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None):
        """`x` float32 (n, d): the features of the rows' decisions, where they are known."""
        cdef Py_ssize_t i, slot
        cdef const Reward *row
        cdef const float[:, ::1] features = x
        for i in range(rows.shape[0]):
            row = &rows[i]
            slot = self.shares.slot(row.incarnation)
            if not self.shares.left_out(slot, row.counter):
                self.sums.analyse(row.metric, row.arm, self.shares.shares_of(slot, row), row.value, unfloored[i],
                                  self.sums.contextual, row.incarnation, row.counter,
                                  NULL if x is None else &features[i, 0])

    def revise(self, const Revision[::1] rows, const uint8_t[::1] unfloored, x=None):
        """As `reward`, for values that are sums of events: one that is gone takes its decision out of the sums."""
        cdef Py_ssize_t i, slot
        cdef const Reward *row
        cdef const double *shares
        cdef bint plain = self.sums.contextual
        for i in range(rows.shape[0]):
            row = &rows[i].reward
            slot = self.shares.slot(row.incarnation)
            if self.shares.left_out(slot, row.counter):
                continue
            shares = self.shares.shares_of(slot, row)
            if isnan(row.value):
                self.sums.withdraw(row.metric, row.arm, shares, rows[i].former, unfloored[i], plain, row.incarnation,
                                   row.counter, True, row.time_ms)
            elif isnan(rows[i].former):
                self.sums.analyse_dated(row.metric, row.arm, shares, row.value, unfloored[i], plain, row.incarnation,
                                        row.counter, row.time_ms)
            else:
                self.sums.update(row.metric, row.arm, shares, 0, row.propensity, rows[i].former, row.value, plain,
                                 row.incarnation, row.counter, True, row.time_ms)

    def vectors(self):
        return np.zeros(0, np.int32)

    def state(self, vectors):
        return {}

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state):
        return RewardedDecisions(sums, shares)
