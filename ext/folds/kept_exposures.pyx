# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Exposures of units that may be in force: a ring in the order of the log, with a chain for each unit."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

import numpy as np

from reward cimport Reward
from room cimport MIN_ROOM
from u64map cimport U64Map, map_find, map_free, map_make, map_put, map_remove

cdef enum:
    HELD_OUT = 1            # `events.HELD_OUT`
    GONE = 128              # of a row that is in no chain any more
    ROW_BYTES = 51          # of a row's columns, without its features
    PLACE_BITS = 31
    APART = 16              # parts of a window; within one, a unit's further exposures to an arm are not kept
    MAX_OF_UNIT = 32

cdef uint32_t PLACES = (<uint32_t> 1 << PLACE_BITS) - 1
cdef uint32_t NONE = 0xFFFFFFFF


cdef class KeptExposures:
    """Exposures that may be in force for their units, for an experiment of K arms and d features.

    Each unit's are in a chain from the latest to the earliest decision. An exposure to the arm that was in force, less
    than a sixteenth of the window after it, is not kept; nor is one from before `closed_ms`. Of a unit the latest
    `MAX_OF_UNIT` are kept, and in all the last `max_rows` that the log has shown; what goes before its time is counted
    in `dropped`.
    """

    cdef readonly Py_ssize_t n_features
    cdef readonly int64_t dropped
    cdef int64_t apart_ms
    cdef Py_ssize_t max_rows
    cdef uint64_t low, high         # numbers of the first row, and of the next one
    cdef uint64_t mask
    cdef U64Map latest              # by unit: the place of its chain's first row

    cdef uint64_t[::1] unit
    cdef uint64_t[::1] incarnation
    cdef uint64_t[::1] counter
    cdef int64_t[::1] time_ms
    cdef double[::1] propensity
    cdef uint32_t[::1] revision
    cdef uint32_t[::1] older        # place of the row before it in its unit's chain
    cdef uint16_t[::1] arm
    cdef uint8_t[::1] flags
    cdef float[:, ::1] x

    def __cinit__(self, int64_t window_ms, Py_ssize_t n_features, Py_ssize_t max_rows):
        if not 0 < max_rows <= PLACES >> 1:
            raise ValueError(f"expected at least one row, at most {PLACES >> 1}")
        map_make(&self.latest, MIN_ROOM)
        self.apart_ms = window_ms // APART
        self.n_features = n_features
        self.max_rows = max_rows
        self.mask = MIN_ROOM - 1
        self.unit = np.zeros(MIN_ROOM, np.uint64)
        self.incarnation = np.zeros(MIN_ROOM, np.uint64)
        self.counter = np.zeros(MIN_ROOM, np.uint64)
        self.time_ms = np.zeros(MIN_ROOM, np.int64)
        self.propensity = np.zeros(MIN_ROOM)
        self.revision = np.zeros(MIN_ROOM, np.uint32)
        self.older = np.zeros(MIN_ROOM, np.uint32)
        self.arm = np.zeros(MIN_ROOM, np.uint16)
        self.flags = np.zeros(MIN_ROOM, np.uint8)
        self.x = np.zeros((MIN_ROOM, n_features), np.float32)

    def __dealloc__(self):
        map_free(&self.latest)

    def __len__(self):
        return <Py_ssize_t> (self.high - self.low)

    @property
    def nbytes(self):
        """Bytes of all columns and of the table of units."""
        return (<Py_ssize_t> (self.mask + 1) * (ROW_BYTES + 4 * self.n_features)
                + <Py_ssize_t> (self.latest.mask + 1) * (sizeof(uint64_t) + sizeof(int32_t)))

    def expose(self, uint64_t incarnation, uint64_t first, uint32_t revision, int64_t ms, const uint16_t[::1] arms,
               const uint32_t[::1] ages_ms, const uint64_t[::1] units, const double[:, ::1] vectors,
               const uint32_t[::1] runs, const uint8_t[::1] held_out, const float[:, ::1] x, int64_t closed_ms):
        """Exposures of one worker, as `events.Exposed` has them; `held_out` uint8 (n,) and x float32 (n, d) or None."""
        cdef Py_ssize_t i, v = -1
        cdef uint64_t left = 0
        cdef int64_t at_ms
        cdef uint8_t flags
        for i in range(arms.shape[0]):
            while left == 0:
                v += 1
                left = runs[v]
            left -= 1
            at_ms = ms + ages_ms[i]
            if at_ms < closed_ms:
                continue
            flags = HELD_OUT if held_out is not None and held_out[i] else 0
            if self.adds(units[i], at_ms, arms[i], flags):
                self.append(units[i], incarnation, first + <uint64_t> i, at_ms, vectors[v, arms[i]], revision, arms[i],
                            flags)
                if self.n_features:
                    self.x[(self.high - 1) & self.mask, :] = x[i, :]

    cdef bint adds(self, uint64_t unit, int64_t at_ms, uint16_t arm, uint8_t flags) noexcept:
        """Return whether an exposure is one to keep: another than the one that was in force, or well after it."""
        cdef uint32_t place = self.before(unit, at_ms)
        cdef uint64_t row = place & self.mask
        return (place == NONE or self.arm[row] != arm or self.flags[row] != flags
                or at_ms - self.time_ms[row] >= self.apart_ms)

    cdef uint32_t before(self, uint64_t unit, int64_t at_ms) noexcept:
        """Place of a unit's exposure in force at `at_ms`; NONE without one."""
        cdef int32_t first = map_find(&self.latest, unit)
        cdef uint32_t place = NONE if first < 0 else <uint32_t> first
        while place != NONE and self.time_ms[place & self.mask] > at_ms:
            place = self.older[place & self.mask]
        return place

    cdef int append(self, uint64_t unit, uint64_t incarnation, uint64_t counter, int64_t at_ms, double propensity,
                    uint32_t revision, uint16_t arm, uint8_t flags) except -1:
        cdef uint64_t row
        if <Py_ssize_t> (self.high - self.low) == self.max_rows:
            self.dropped += self.flags[self.low & self.mask] & GONE == 0
            self.drop_first()
        if self.high - self.low > self.mask:
            self.make_room(<Py_ssize_t> (2 * (self.mask + 1)))
        row = self.high & self.mask
        self.unit[row] = unit
        self.incarnation[row] = incarnation
        self.counter[row] = counter
        self.time_ms[row] = at_ms
        self.propensity[row] = propensity
        self.revision[row] = revision
        self.arm[row] = arm
        self.flags[row] = flags
        self.high += 1
        if flags & GONE == 0:
            self.chain(<uint32_t> ((self.high - 1) & PLACES))
        return 0

    cdef int chain(self, uint32_t place) except -1:
        """Puts a new row into its unit's chain, and takes the last out of one that is too long."""
        cdef uint64_t row = place & self.mask
        cdef int32_t first = map_find(&self.latest, self.unit[row])
        cdef uint32_t at = NONE if first < 0 else <uint32_t> first
        cdef uint32_t newer = NONE
        cdef int n = 1
        while at != NONE and self.time_ms[at & self.mask] > self.time_ms[row]:
            newer = at
            at = self.older[at & self.mask]
            n += 1
        self.older[row] = at
        if newer == NONE:
            map_put(&self.latest, self.unit[row], <int32_t> place)
        else:
            self.older[newer & self.mask] = place
        newer = place
        while at != NONE:
            n += 1
            if n > MAX_OF_UNIT:
                self.older[newer & self.mask] = NONE
                self.flags[at & self.mask] |= GONE
                self.dropped += 1
                return 0
            newer = at
            at = self.older[at & self.mask]
        if n > MAX_OF_UNIT:
            self.unchain(place)
            self.flags[row] |= GONE
            self.dropped += 1
        return 0

    cdef int unchain(self, uint32_t place) except -1:
        cdef uint64_t row = place & self.mask
        cdef uint32_t at = <uint32_t> map_find(&self.latest, self.unit[row])
        if at & self.mask == row:
            if self.older[row] == NONE:
                map_remove(&self.latest, self.unit[row])
            else:
                map_put(&self.latest, self.unit[row], <int32_t> self.older[row])
            return 0
        while self.older[at & self.mask] & self.mask != row:
            at = self.older[at & self.mask]
        self.older[at & self.mask] = self.older[row]
        return 0

    cdef int drop_first(self) except -1:
        if self.flags[self.low & self.mask] & GONE == 0:
            self.unchain(<uint32_t> (self.low & PLACES))
        self.low += 1
        return 0

    def close(self, int64_t closed_ms):
        """Drops exposures of decisions from before `closed_ms`, in the order of the log up to the first that stays."""
        cdef uint64_t row
        while self.low < self.high:
            row = self.low & self.mask
            if self.flags[row] & GONE == 0 and self.time_ms[row] >= closed_ms:
                return
            self.drop_first()

    def in_force(self, const uint64_t[::1] units, const int64_t[::1] at_ms, Reward[::1] rows, float[:, ::1] x):
        """Fills in the decisions that were in force for n units, each at its own time, Unix milliseconds.

        rows: `events.REWARD` (n,), whose values and metrics stay; x: float32 (n, d). Returns bool (n,): whether there
        was one.
        """
        cdef Py_ssize_t i, n = units.shape[0]
        cdef uint64_t row
        cdef uint32_t place
        matched = np.zeros(n, np.bool_)
        cdef uint8_t[::1] is_there = matched.view(np.uint8)
        if at_ms.shape[0] != n or rows.shape[0] != n or x.shape[0] != n or x.shape[1] != self.n_features:
            raise ValueError(f"expected times, rows and features of {n} units")
        for i in range(n):
            place = self.before(units[i], at_ms[i])
            if place == NONE:
                continue
            is_there[i] = 1
            row = place & self.mask
            rows[i].incarnation = self.incarnation[row]
            rows[i].counter = self.counter[row]
            rows[i].time_ms = self.time_ms[row]
            rows[i].propensity = self.propensity[row]
            rows[i].unit = units[i]
            rows[i].revision = self.revision[row]
            rows[i].arm = self.arm[row]
            rows[i].flags = self.flags[row]
            x[i, :] = self.x[row, :]
        return matched

    cdef int make_room(self, Py_ssize_t room) except -1:
        rows = np.arange(self.low, self.high, dtype=np.uint64)
        places = room, rows & np.uint64(self.mask), rows & np.uint64(room - 1)
        self.unit = moved(self.unit, *places)
        self.incarnation = moved(self.incarnation, *places)
        self.counter = moved(self.counter, *places)
        self.time_ms = moved(self.time_ms, *places)
        self.propensity = moved(self.propensity, *places)
        self.revision = moved(self.revision, *places)
        self.older = moved(self.older, *places)
        self.arm = moved(self.arm, *places)
        self.flags = moved(self.flags, *places)
        self.x = moved(self.x, *places)
        self.mask = <uint64_t> room - 1
        return 0

    def state(self):
        """Columns of the rows in the order of the log, by name."""
        rows = np.arange(self.low, self.high, dtype=np.uint64) & np.uint64(self.mask)
        return {
            "unit": np.asarray(self.unit)[rows],
            "incarnation": np.asarray(self.incarnation)[rows],
            "counter": np.asarray(self.counter)[rows],
            "time_ms": np.asarray(self.time_ms)[rows],
            "propensity": np.asarray(self.propensity)[rows],
            "revision": np.asarray(self.revision)[rows],
            "arm": np.asarray(self.arm)[rows],
            "flags": np.asarray(self.flags)[rows],
            "x": np.asarray(self.x)[rows],
        }

    def restore(self, columns, int64_t dropped):
        """Appends the rows of a `state`, whose columns fit, to a new object. ValueError where they are too many."""
        cdef const uint64_t[::1] unit = columns["unit"], incarnation = columns["incarnation"]
        cdef const uint64_t[::1] counter = columns["counter"]
        cdef const int64_t[::1] time_ms = columns["time_ms"]
        cdef const double[::1] propensity = columns["propensity"]
        cdef const uint32_t[::1] revision = columns["revision"]
        cdef const uint16_t[::1] arm = columns["arm"]
        cdef const uint8_t[::1] flags = columns["flags"]
        cdef const float[:, ::1] x = columns["x"]
        cdef Py_ssize_t i, n = unit.shape[0]
        if n > self.max_rows:
            raise ValueError(f"{n} exposures, of at most {self.max_rows}")
        for i in range(n):
            self.append(unit[i], incarnation[i], counter[i], time_ms[i], propensity[i], revision[i], arm[i], flags[i])
            self.x[(self.high - 1) & self.mask, :] = x[i, :]
        self.dropped = dropped


def moved(column, Py_ssize_t room, before, after):
    """`column` with `room` rows: those at `before` stand at `after`."""
    former = np.asarray(column)
    wider = np.zeros((room, *former.shape[1:]), former.dtype)
    wider[after] = former[before]
    return wider
