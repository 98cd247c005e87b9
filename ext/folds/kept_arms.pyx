# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Arms that units were first given, and the shares that these were drawn from."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

import numpy as np

from room cimport MIN_ROOM, room_for
from u64map cimport U64Map, map_find, map_free, map_make, map_put

from bandit_serve.results.room import first_rows, longer, widened

cdef enum:
    ARM_BITS = 16


cdef class KeptArms:
    """Arm of each unit's first logged exposure, of `n_arms` arms, and the share vector of that exposure.

    It is another one once that arm is removed. At most `most_units` units and `most_vectors` different vectors are
    kept; further exposures, of units that are not, are counted in `missed`.
    """

    cdef readonly Py_ssize_t n_arms
    cdef readonly int64_t missed
    cdef Py_ssize_t most_units, most_vectors
    cdef Py_ssize_t n_units, n_vectors
    cdef U64Map rows
    cdef uint64_t[::1] unit
    cdef uint16_t[::1] arm
    cdef int32_t[::1] vector
    cdef double[:, ::1] vectors
    cdef dict known                 # numbers of the vectors, by their bytes

    def __cinit__(self, Py_ssize_t n_arms, Py_ssize_t most_units, Py_ssize_t most_vectors):
        map_make(&self.rows, MIN_ROOM)
        self.n_arms = n_arms
        self.most_units = most_units
        self.most_vectors = most_vectors
        self.unit = np.zeros(MIN_ROOM, np.uint64)
        self.arm = np.zeros(MIN_ROOM, np.uint16)
        self.vector = np.zeros(MIN_ROOM, np.int32)
        self.vectors = np.zeros((MIN_ROOM, n_arms))
        self.known = {}

    def __dealloc__(self):
        map_free(&self.rows)

    def __len__(self):
        return self.n_units

    def meet(self, const uint64_t[::1] units, const uint16_t[::1] arms, const double[:, ::1] vectors,
             const uint32_t[::1] runs, const uint8_t[::1] removed, Py_ssize_t low, Py_ssize_t high):
        """Rows `low` … `high - 1` of an exposure. removed: uint8 (K,), arms that give way to another one."""
        cdef Py_ssize_t run, i, start = 0, end
        cdef int32_t row, number
        for run in range(runs.shape[0]):
            end = start + <Py_ssize_t> runs[run]
            number = -1
            for i in range(max(start, low), min(end, high)):
                row = map_find(&self.rows, units[i])
                if row >= 0 and (self.arm[row] == arms[i] or not removed[self.arm[row]]):
                    continue
                if number == -1:
                    number = self.number_of(vectors[run])
                if number < 0 or (row < 0 and self.n_units >= self.most_units):
                    self.missed += 1
                    continue
                if row < 0:
                    row = self.enrol(units[i])
                self.arm[row] = arms[i]
                self.vector[row] = number
            start = end

    cdef int32_t number_of(self, const double[::1] shares) except -3:
        """Number of a vector; -2 where there is no room for another one."""
        cdef Py_ssize_t k
        padded = np.zeros(self.n_arms)
        padded[: shares.shape[0]] = shares
        text = padded.tobytes()
        number = self.known.get(text)
        if number is not None:
            return number
        if self.n_vectors >= self.most_vectors:
            return -2
        if self.n_vectors == self.vectors.shape[0]:
            self.vectors = longer(self.vectors, 2 * self.n_vectors)
        for k in range(shares.shape[0]):
            self.vectors[self.n_vectors, k] = shares[k]
        self.known[text] = self.n_vectors
        self.n_vectors += 1
        return <int32_t> (self.n_vectors - 1)

    cdef int32_t enrol(self, uint64_t unit) except -1:
        cdef int32_t row = <int32_t> self.n_units
        if row == self.unit.shape[0]:
            self.widen(2 * row)
        self.unit[row] = unit
        map_put(&self.rows, unit, row)
        self.n_units += 1
        return row

    cdef int widen(self, Py_ssize_t room) except -1:
        self.unit = longer(self.unit, room)
        self.arm = longer(self.arm, room)
        self.vector = longer(self.vector, room)
        return 0

    def find(self, uint64_t unit):
        """Unit's arm + 2^16 · the number of its vector; -1 for a unit that is not kept."""
        return self.place_of(unit)

    def find_many(self, const uint64_t[::1] units):
        """int64[n]: `find` of n units."""
        cdef Py_ssize_t i
        places = np.empty(units.shape[0], np.int64)
        cdef int64_t[::1] out = places
        for i in range(units.shape[0]):
            out[i] = self.place_of(units[i])
        return places

    cdef int64_t place_of(self, uint64_t unit) noexcept:
        cdef int32_t row = map_find(&self.rows, unit)
        return -1 if row < 0 else (<int64_t> self.vector[row] << ARM_BITS) + self.arm[row]

    def shares(self, Py_ssize_t number):
        """float64 (K,): the vector with this number."""
        if not 0 <= number < self.n_vectors:
            raise IndexError("there is no such vector")
        return np.asarray(self.vectors)[number].copy()

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come: the vectors so far gave them nothing."""
        self.vectors = widened(self.vectors, n_arms)
        self.n_arms = n_arms
        self.know()

    cdef int know(self) except -1:
        cdef Py_ssize_t number
        table = np.asarray(self.vectors)
        self.known = {table[number].tobytes(): number for number in range(self.n_vectors)}
        return 0

    def state(self):
        """Columns: `unit`, `arm` and `vector` in the order of first exposures, `vectors`, and how many were missed."""
        return {
            "unit": first_rows(self.unit, self.n_units),
            "arm": first_rows(self.arm, self.n_units),
            "vector": first_rows(self.vector, self.n_units),
            "vectors": first_rows(self.vectors, self.n_vectors),
            "missed": np.array([self.missed], np.int64),
        }

    @classmethod
    def from_state(cls, state, Py_ssize_t n_arms, Py_ssize_t most_units, Py_ssize_t most_vectors):
        """Arms with this state; `ValueError` for columns that are no state."""
        cdef KeptArms kept = cls(n_arms, most_units, most_vectors)
        cdef Py_ssize_t i
        cdef const uint64_t[::1] units
        unit, arm, vector = state["unit"], state["arm"], state["vector"]
        vectors, missed = state["vectors"], state["missed"]
        columns = ((unit, np.uint64), (arm, np.uint16), (vector, np.int32))
        n = len(unit)
        if any(column.dtype != kind or column.shape != (n,) for column, kind in columns):
            raise ValueError("expected a unit, an arm and a vector in each row")
        if vectors.dtype != np.float64 or vectors.ndim != 2 or vectors.shape[1] != n_arms:
            raise ValueError("expected vectors of a share for each arm")
        if missed.dtype != np.int64 or missed.shape != (1,) or missed[0] < 0:
            raise ValueError("expected one number of exposures that were missed")
        if n and (arm.max() >= n_arms or vector.min() < 0 or vector.max() >= len(vectors)):
            raise ValueError("expected arms and vectors that are there")
        if not (np.isfinite(vectors).all() and (vectors >= 0.0).all()):
            raise ValueError("expected vectors of shares")
        if not (vectors[vector, arm] > 0.0).all():
            raise ValueError("expected arms that had a share")
        if len(np.unique(unit)) != n:
            raise ValueError("expected every unit once")
        kept.unit = np.zeros(room_for(n + 1), np.uint64)
        kept.arm = longer(arm, room_for(n + 1))
        kept.vector = longer(vector, room_for(n + 1))
        kept.vectors = longer(vectors, room_for(len(vectors) + 1))
        kept.n_vectors = len(vectors)
        kept.missed = missed[0]
        units = np.ascontiguousarray(unit)
        for i in range(n):
            kept.enrol(units[i])
        kept.know()
        return kept
