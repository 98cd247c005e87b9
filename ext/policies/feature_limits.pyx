# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Limits of features, and the first rows that they are made of.

One wild value must not rule a model, as the square of a feature is what a row weighs. So each feature has limits
(`limits.pxd`), which the first `FIRST_ROWS` rows give and each later row moves. Scores and learning both go by the
limits of the state. The first rows are learned as they are, and once more, within the limits, when those are known.
"""

from libc.math cimport fmax

cimport limits
from limits cimport MIN_SPREAD, usual
from place cimport place_of

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.policies.arguments import arrays_like

# How many spreads from its centre a value is taken as it is.
MAX_SPREADS = limits.MAX_SPREADS

cdef enum:
    MIN_VALUES = 8          # in fewer nothing is a quartile


cdef class FeatureLimits:
    """Limits of `n_features` features, d; they are known once there were `FIRST_ROWS` rows."""

    LIMITS = ("centre", "spread", "first_x", "first_arms", "first_rewards")

    def __init__(self, Py_ssize_t n_features):
        self.n_features, self.n_first, self.known = n_features, 0, False
        self.arrays = {
            "centre": np.zeros(n_features),
            "spread": np.zeros(n_features),
            "first_x": np.zeros((FIRST_ROWS, n_features), dtype=np.float32),
            "first_arms": np.zeros(FIRST_ROWS, dtype=np.int64),
            "first_rewards": np.zeros(FIRST_ROWS),
        }
        self.centre, self.spread = place_of(self.arrays["centre"]), place_of(self.arrays["spread"])

    cdef void limit(self, double *x) noexcept:
        """Takes the features x, [d], within their limits."""
        cdef Py_ssize_t j
        if self.known:
            for j in range(self.n_features):
                x[j] = usual(x[j], self.centre[j], self.spread[j])

    cdef int keep(self, const double *x, Py_ssize_t arm, double reward) except -1:
        """One of the first rows, as it came."""
        cdef float[:, ::1] rows = self.arrays["first_x"]
        cdef Py_ssize_t j
        for j in range(self.n_features):
            rows[self.n_first, j] = <float>(x[j] + 0.0)  # -0.0 is 0.0
        self.arrays["first_arms"][self.n_first], self.arrays["first_rewards"][self.n_first] = arm, reward
        self.n_first += 1
        return 0

    cdef bint settle(self) except -1:
        """Makes the limits of the first rows; whether some of their values are beyond them."""
        cdef const float[:, ::1] rows = self.arrays["first_x"]
        cdef Py_ssize_t i, j
        cdef bint beyond = False
        self.arrays["spread"][:] = MIN_SPREAD
        for j in range(self.n_features):
            column = self.arrays["first_x"][:, j].astype(np.float64)
            column = column[column != 0.0]
            if len(column) >= MIN_VALUES:
                self.centre[j] = middle = np.median(column)
                self.spread[j] = fmax(MIN_SPREAD, np.quantile(np.abs(column - middle), 0.75))
        self.known = True
        for i in range(FIRST_ROWS):
            for j in range(self.n_features):
                beyond |= usual(rows[i, j], self.centre[j], self.spread[j]) != rows[i, j]
        return beyond

    cdef dict state(self):
        """Copies of centre and spread, float64 (d,), 0 while they are not known, and of the first rows until then."""
        n = 0 if self.known else self.n_first
        return {name: self.arrays[name][: n if name.startswith("first") else None].copy() for name in self.LIMITS}

    cdef int restore(self, given, Py_ssize_t n_arms) except -1:
        """Takes over what `state()` gives; InvalidInput when it cannot be of these features and so many arms."""
        n = min(np.size(given.get("first_arms", ())), FIRST_ROWS - 1)
        mine = {name: self.arrays[name][: n if name.startswith("first") else None] for name in self.LIMITS}
        arrays = arrays_like(given, mine, "factors")
        known = bool((arrays["spread"] >= MIN_SPREAD).all())
        arms = arrays["first_arms"]
        if not known and arrays["spread"].any() or known and n or ((arms < 0) | (arms >= n_arms)).any():
            raise InvalidInput("factors.spread must be at least 1, or 0 and the first rows of arms that are there")
        for name, array in arrays.items():
            self.arrays[name][: len(array)] = array
        self.known, self.n_first = known, n
        return 0

    cdef int suppose(self, double count, squares) except -1:
        """Limits for what a former build learned without: spreads of the root mean squares, centres of 0.

        squares: float64 (d,), the sums of x² in `count` rows; of no rows there are no limits.
        """
        self.arrays["centre"][:] = 0.0
        if count > 0.0:
            self.arrays["spread"][:] = np.maximum(np.sqrt(squares / count), MIN_SPREAD)
        self.known, self.n_first = count > 0.0, 0
        return 0
