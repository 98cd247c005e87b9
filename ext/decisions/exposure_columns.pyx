# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Columns of the decisions that are in no batch yet, as `events.Exposed` has them."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from room cimport lengthened, room_for

cdef int64_t MAX_AGE_MS = (<int64_t> 1 << 32) - 1       # `events.MAX_AGE_MS`


cdef class ExposureColumns:
    """Rows `first` … `next - 1`, in runs that were each drawn from one vector of shares, at one revision.

    Ages count from `time_ms`. A row that can not be added leaves no trace. Vectors are compared by identity, so they
    must not change.
    """

    cdef readonly uint64_t first, next
    cdef readonly int64_t time_ms
    cdef readonly uint32_t revision
    cdef Py_ssize_t n_units, n_runs, room, run_room, most_rows
    cdef uint16_t *arm
    cdef uint32_t *age_ms
    cdef uint64_t *unit
    cdef uint8_t *is_held_out
    cdef uint32_t *run
    cdef object vector

    def __dealloc__(self):
        free(self.arm)
        free(self.age_ms)
        free(self.unit)
        free(self.is_held_out)
        free(self.run)

    cdef int make_room(self, Py_ssize_t n_rows) except -1:
        """Makes room for rows of the last run, which there must be."""
        cdef Py_ssize_t room
        if self.n_runs == 0:
            raise ValueError("expected a run, to which the rows belong")
        if n_rows > self.room:
            room = room_for(n_rows)
            self.arm = <uint16_t *> lengthened(self.arm, room * sizeof(uint16_t))
            self.age_ms = <uint32_t *> lengthened(self.age_ms, room * sizeof(uint32_t))
            self.unit = <uint64_t *> lengthened(self.unit, room * sizeof(uint64_t))
            self.is_held_out = <uint8_t *> lengthened(self.is_held_out, room)
            self.room = room
        return 0

    def begin(self, int64_t time_ms, uint32_t revision, Py_ssize_t most_rows):
        """Begins anew, without rows. The row that makes them `most_rows` is none for `add_plain`."""
        self.first = self.next
        self.time_ms, self.revision, self.most_rows = time_ms, revision, most_rows
        self.n_units = self.n_runs = 0
        self.vector = None

    def begin_run(self, vector not None):
        if self.n_runs == self.run_room:
            self.run = <uint32_t *> lengthened(self.run, room_for(self.n_runs + 1) * sizeof(uint32_t))
            self.run_room = room_for(self.n_runs + 1)
        self.run[self.n_runs] = 0
        self.n_runs += 1
        self.vector = vector

    cdef inline bint in_time(self, uint32_t revision, int64_t time_ms) noexcept:
        return revision == self.revision and 0 <= time_ms - self.time_ms <= MAX_AGE_MS

    def takes(self, uint32_t revision, int64_t time_ms):
        """Whether these rows may have one of this revision and time."""
        return self.in_time(revision, time_ms)

    def goes_on(self, vector not None, uint32_t revision, int64_t time_ms):
        """Whether a row of this vector, revision and time belongs to the last run."""
        return vector is self.vector and self.in_time(revision, time_ms)

    cdef int put(self, uint16_t arm, uint64_t unit, int64_t time_ms, bint held_out) except -1:
        cdef Py_ssize_t n = <Py_ssize_t> (self.next - self.first)
        self.make_room(n + 1)
        self.arm[n] = arm
        self.age_ms[n] = <uint32_t> (time_ms - self.time_ms)
        self.is_held_out[n] = held_out
        if unit:
            self.unit[self.n_units] = unit
            self.n_units += 1
        self.run[self.n_runs - 1] += 1
        self.next += 1
        return 0

    def add_plain(
        self, uint16_t arm, uint64_t unit, vector not None, uint32_t revision, int64_t time_ms, bint held_out
    ):
        """Adds a row to the last run; returns whether it belongs there and leaves room for another."""
        if vector is not self.vector or not self.in_time(revision, time_ms):
            return False
        if <Py_ssize_t> (self.next - self.first) + 1 >= self.most_rows:
            return False
        self.put(arm, unit, time_ms, held_out)
        return True

    def add_row(self, uint16_t arm, uint64_t unit, int64_t time_ms, bint held_out):
        """Adds a row to the last run, of a time that `takes` has allowed."""
        self.put(arm, unit, time_ms, held_out)

    def add_rows(
        self, const uint16_t[::1] arms, const uint64_t[::1] units, int64_t time_ms, const uint8_t[::1] held_out=None,
    ):
        """Adds n rows to the last run: arms uint16 (n,), units uint64 (n,) or (0,), held_out uint8 (n,) of 0 and 1."""
        cdef Py_ssize_t i, n = arms.shape[0], n_before = <Py_ssize_t> (self.next - self.first)
        if units.shape[0] not in (0, n) or (held_out is not None and held_out.shape[0] != n):
            raise ValueError("expected columns of one length")
        if n == 0:
            return
        self.make_room(n_before + n)
        memcpy(self.arm + n_before, &arms[0], n * sizeof(uint16_t))
        for i in range(n):
            self.age_ms[n_before + i] = <uint32_t> (time_ms - self.time_ms)
        if held_out is None:
            memset(self.is_held_out + n_before, 0, n)
        else:
            memcpy(self.is_held_out + n_before, &held_out[0], n)
        if units.shape[0]:
            memcpy(self.unit + self.n_units, &units[0], n * sizeof(uint64_t))
            self.n_units += n
        self.run[self.n_runs - 1] += <uint32_t> n
        self.next += n

    @property
    def arms(self):
        """uint16 (n,), as bytes; so are the columns below, in the types of `events.Exposed`."""
        return PyBytes_FromStringAndSize(<char *> self.arm, (self.next - self.first) * sizeof(uint16_t))

    @property
    def ages_ms(self):
        return PyBytes_FromStringAndSize(<char *> self.age_ms, (self.next - self.first) * sizeof(uint32_t))

    @property
    def units(self):
        return PyBytes_FromStringAndSize(<char *> self.unit, self.n_units * sizeof(uint64_t))

    @property
    def held_out(self):
        """uint8 (n,), as bytes: 1 where a decision is in the holdout."""
        return PyBytes_FromStringAndSize(<char *> self.is_held_out, self.next - self.first)

    @property
    def runs(self):
        return PyBytes_FromStringAndSize(<char *> self.run, self.n_runs * sizeof(uint32_t))
