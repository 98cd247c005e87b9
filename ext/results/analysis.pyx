# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loops of the results fold: which share vector a decision was drawn from, what is still open, and the sums.

    ShareHistory    per worker, the runs of counters that were drawn from one vector
    Beginnings      per metric and arm, the first values themselves
    Accumulators    per metric and arm, the sums that every estimate is made from
    RewardedDecisions, OpenDecisions, Units
                    when a decision or unit enters the sums, one class for each way of analysing

Callers have checked every column (`results/columns.py`). Events are applied row by row, in scalar arithmetic, so
that a fold gives the same bits however the log is cut up; nothing that a state leaves out (spare room, the layout
of maps and heaps) has any influence on them.
"""

from libc.math cimport fabs
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

import numpy as np

from limits cimport LEAST_SPREAD
from outcome cimport outcome_learn, outcome_predict, outcome_see, outcome_t
from reward cimport Reward
from symmetric cimport symmetric_start
from timeheap cimport TimeHeap, heap_free, heap_pop, heap_push, heap_replace_top
from u64map cimport U64Map, map_find, map_free, map_make, map_put, map_remove

cdef enum:
    COUNTER_BITS = 42       # a decision's key: its worker's slot above, its counter below
    FEWEST = 64             # rows that a column has room for at first
    BLOCK_BITS = 6          # decisions are left out in blocks of 64 consecutive ones
    LEFT_OUT = -1           # in place of a run's vector: not analysed
    PAST = -2               # its decisions have been analysed, and its vector is not needed any more
    MOST_HALVINGS = 20
    UNIT_BYTES = 35         # of a unit's columns, without its values
    MOST_FIRST = 1000       # values that are kept of an arm
    MOST_KEPT = 1 << 20     # and of all arms on all metrics: 8 MB
    MOST_NUMBERS = 1 << 20  # in the matrices of a model of outcomes, M K d^2
    GIVEN_UP = -1           # in place of how many are kept
    ORPHANS_PART = 16       # of as many vectors as there may be, the part for what was analysed without its exposure

cdef uint16_t COUNTED = 65535           # in place of an exposure's arm: analysed before the exposure came
cdef double SAME_SHARE = 1e-9           # shares that differ by less are one share
# What is less counts as that where values are divided by it: no arm is ever drawn so, and all sums stay finite.
cdef double LEAST_SHARE = 1e-50

# Of a held reward or a unit.
cdef uint8_t SEEN = 1                   # its exposure has come
cdef uint8_t DONE = 2                   # it has been analysed
cdef uint8_t GONE = 4                   # the row is free
cdef uint8_t UNFLOORED = 8              # decided by an adaptive policy without a floor
cdef uint8_t CROSSED = 16               # the unit was later served another arm
cdef uint8_t PLAIN = 32                 # its share may depend on what moves the mean, so no weight may depend on it

cdef object longer(object column, Py_ssize_t rows):
    """`column` with room for `rows` rows."""
    column = np.asarray(column)
    wider = np.zeros((rows, *column.shape[1:]), column.dtype)
    wider[: len(column)] = column
    return wider


cdef object wider_by_arm(object column, Py_ssize_t n_arms):
    """`column` [rows, K] with room for `n_arms` arms, 0 for those that are new."""
    column = np.asarray(column)
    return np.pad(column, ((0, 0), (0, n_arms - column.shape[1])))


cdef object first_rows(object column, Py_ssize_t rows):
    return np.asarray(column)[:rows].copy()


cdef Py_ssize_t room_for(Py_ssize_t rows) noexcept:
    """A capacity that leaves a quarter free."""
    cdef Py_ssize_t room = FEWEST
    while 3 * room < 4 * rows:
        room *= 2
    return room


cdef int must_refer(object numbers, Py_ssize_t n, Py_ssize_t fewest) except -1:
    """A snapshot's references are checked, so that a damaged one is an error and not a crash."""
    if len(numbers) and not (fewest <= numbers.min() and numbers.max() < n):
        raise ValueError("the snapshot refers to share vectors that it does not hold")
    return 0


cdef struct Span:
    uint64_t first
    uint64_t end            # one past the last counter
    int64_t last_ms


cdef struct Timeline:
    uint64_t incarnation
    Py_ssize_t head         # runs [head, tail) are remembered
    Py_ssize_t tail
    Py_ssize_t capacity
    uint64_t *first
    uint64_t *end           # one past the run's last counter
    int64_t *last_ms        # when the run was last added to
    int32_t *vector         # or LEFT_OUT
    Span *past              # what was exposed before, without vectors, in the order of counters
    Py_ssize_t n_past
    Py_ssize_t most_past


cdef inline uint64_t scattered(uint64_t number) noexcept nogil:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    number = (number ^ (number >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    number = (number ^ (number >> 27)) * <uint64_t> 0x94D049BB133111EB
    return number ^ (number >> 31)


cdef class ShareHistory:
    """Which decisions each worker has exposed, in runs of one share vector, and the vectors, each stored once.

    `current` f8[K] stands in for a worker's vector until one has been logged. Vectors from before an arm was there
    have 0 for it.

    At most `most` vectors are kept (0: any number). When more would have to be, only decisions of every second block
    of 64 consecutive ones are analysed from then on, of the open ones too; and so on, until they fit. Which blocks those
    are is a hash of the worker and the block's number, so it has nothing to do with contexts, arms or rewards. Once
    an eighth of `most` would do, every second one of those left out is analysed again. `one_in` says where that stands.
    """

    cdef readonly Py_ssize_t n_arms
    cdef U64Map slots                   # incarnation -> index into timelines
    cdef Timeline *timelines
    cdef Py_ssize_t n_timelines
    cdef Py_ssize_t most_timelines
    cdef double[:, ::1] vectors
    cdef int32_t[::1] references        # how many runs and units refer to a vector; 0: free
    cdef int32_t[::1] spare
    cdef Py_ssize_t n_spare
    cdef int32_t current
    cdef double[::1] adjusted
    cdef Py_ssize_t most
    cdef int halvings

    def __cinit__(self, const double[::1] current, Py_ssize_t most=0):
        map_make(&self.slots, 64)
        self.most = most
        self.n_arms = current.shape[0]
        self.current = -1
        self.adjusted = np.zeros(self.n_arms)
        self.make_vectors(0)
        self.current = self.keep(&current[0])

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_timelines):
            free(self.timelines[i].first)
            free(self.timelines[i].end)
            free(self.timelines[i].last_ms)
            free(self.timelines[i].vector)
            free(self.timelines[i].past)
        free(self.timelines)
        map_free(&self.slots)

    cdef int make_vectors(self, Py_ssize_t rows) except -1:
        """Room for vectors, the first `rows` of them taken but not yet referred to."""
        cdef Py_ssize_t room = room_for(rows)
        self.vectors = np.zeros((room, self.n_arms))
        self.references = np.zeros(room, np.int32)
        self.spare = np.arange(room - 1, -1, -1, dtype=np.int32)
        self.n_spare = room - rows
        return 0

    cdef int32_t keep(self, const double *shares) except -2:
        """The number of a vector with these shares (not a row of `vectors`), with one reference more."""
        cdef int32_t vector
        cdef Py_ssize_t room, i
        if self.current >= 0 and memcmp(shares, &self.vectors[self.current, 0], self.n_arms * sizeof(double)) == 0:
            self.references[self.current] += 1
            return self.current
        if self.n_spare == 0:
            room = self.references.shape[0]
            self.vectors = longer(self.vectors, 2 * room)
            self.references = longer(self.references, 2 * room)
            self.spare = longer(self.spare, 2 * room)
            for i in range(room):
                self.spare[i] = <int32_t> (2 * room - 1 - i)
            self.n_spare = room
        self.n_spare -= 1
        vector = self.spare[self.n_spare]
        memcpy(&self.vectors[vector, 0], shares, self.n_arms * sizeof(double))
        self.references[vector] = 1
        return vector

    cdef void drop(self, int32_t vector) noexcept:
        if vector < 0:
            return
        self.references[vector] -= 1
        if self.references[vector] == 0:
            self.spare[self.n_spare] = vector
            self.n_spare += 1

    cdef Py_ssize_t slot(self, uint64_t incarnation) except -1:
        cdef Py_ssize_t at = map_find(&self.slots, incarnation), room
        cdef Timeline *timelines
        if at >= 0:
            return at
        at = self.n_timelines
        if at == 1 << (63 - COUNTER_BITS):
            raise OverflowError("the log names more workers than a fold can tell apart")
        if at == self.most_timelines:
            room = 2 * at if at else 16
            timelines = <Timeline *> realloc(self.timelines, room * sizeof(Timeline))
            if timelines == NULL:
                raise MemoryError()
            self.timelines = timelines
            self.most_timelines = room
        memset(&self.timelines[at], 0, sizeof(Timeline))
        self.timelines[at].incarnation = incarnation
        map_put(&self.slots, incarnation, <int32_t> at)
        self.n_timelines += 1
        return at

    cdef Py_ssize_t run_before(self, Py_ssize_t slot, uint64_t counter) noexcept:
        """The last run that starts at or before `counter`, or -1."""
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t low = line.head, high = line.tail, middle
        while low < high:
            middle = (low + high) >> 1
            if line.first[middle] <= counter:
                low = middle + 1
            else:
                high = middle
        return low - 1 if low > line.head else -1

    cdef Py_ssize_t past_before(self, Py_ssize_t slot, uint64_t counter) noexcept:
        """The last span of the past that starts at or before `counter`, or -1."""
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t low = 0, high = line.n_past, middle
        while low < high:
            middle = (low + high) >> 1
            if line.past[middle].first <= counter:
                low = middle + 1
            else:
                high = middle
        return low - 1

    cdef uint64_t exposed_to(self, Py_ssize_t slot, uint64_t counter) noexcept:
        """The end of what was exposed around `counter`, or 0 when it was not."""
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t at = self.run_before(slot, counter)
        if at >= 0 and counter < line.end[at]:
            return line.end[at]
        at = self.past_before(slot, counter)
        return line.past[at].end if at >= 0 and counter < line.past[at].end else 0

    cdef uint64_t next_exposed(self, Py_ssize_t slot, uint64_t counter, uint64_t end) noexcept:
        """Where something that was exposed begins after `counter`, at most `end`."""
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t run = max(self.run_before(slot, counter) + 1, line.head)
        cdef Py_ssize_t span = self.past_before(slot, counter) + 1
        if run < line.tail:
            end = min(end, line.first[run])
        return min(end, line.past[span].first) if span < line.n_past else end

    cdef bint left_out(self, Py_ssize_t slot, uint64_t counter) noexcept:
        cdef Py_ssize_t run = self.run_before(slot, counter)
        return run >= 0 and counter < self.timelines[slot].end[run] and self.timelines[slot].vector[run] == LEFT_OUT

    cdef int32_t vector_before(self, Py_ssize_t slot, uint64_t counter) noexcept:
        cdef Py_ssize_t run = self.run_before(slot, counter)
        return self.current if run < 0 or self.timelines[slot].vector[run] < 0 else self.timelines[slot].vector[run]

    cdef const double *shares_of(self, Py_ssize_t slot, const Reward *row) noexcept:
        """The shares that a rewarded decision was drawn from, as far as the log has told.

        Its own propensity is exact. While its exposure is missing, the other arms have what is left in the
        proportions of the vector before it. The pointer is good until the next call.
        """
        cdef const double *shares = &self.vectors[self.vector_before(slot, row.counter), 0]
        cdef double own = shares[row.arm], rest = 0.0
        cdef Py_ssize_t k
        if fabs(own - row.propensity) <= SAME_SHARE * row.propensity:
            return shares
        for k in range(self.n_arms):
            if k != row.arm:
                rest += shares[k]
        for k in range(self.n_arms):
            if rest > 0.0:
                self.adjusted[k] = shares[k] / rest * (1.0 - row.propensity)
            else:
                self.adjusted[k] = (1.0 - row.propensity) / (self.n_arms - 1)
        self.adjusted[row.arm] = row.propensity
        return &self.adjusted[0]

    cdef int32_t keep_shares_of(self, Py_ssize_t slot, const Reward *row) except -2:
        """As `shares_of`: the number of the vector, with one reference more."""
        cdef int32_t vector = self.vector_before(slot, row.counter)
        cdef const double *shares = self.shares_of(slot, row)
        if shares == &self.adjusted[0]:
            return self.keep(shares)
        self.references[vector] += 1
        return vector

    cdef int add_run(self, Py_ssize_t slot, uint64_t first, uint64_t end, int32_t vector, int64_t ms) except -1:
        """Decisions `first` … `end - 1` have been exposed with a vector, or are LEFT_OUT."""
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t at = self.run_before(slot, first) + 1
        if at == 0:
            at = line.head
        if at == line.tail and at > line.head and line.end[at - 1] == first and self.same(line.vector[at - 1], vector):
            line.end[at - 1] = end
            line.last_ms[at - 1] = max(line.last_ms[at - 1], ms)
            return 0
        at -= self.make_room(line)
        memmove(&line.first[at + 1], &line.first[at], (line.tail - at) * sizeof(uint64_t))
        memmove(&line.end[at + 1], &line.end[at], (line.tail - at) * sizeof(uint64_t))
        memmove(&line.last_ms[at + 1], &line.last_ms[at], (line.tail - at) * sizeof(int64_t))
        memmove(&line.vector[at + 1], &line.vector[at], (line.tail - at) * sizeof(int32_t))
        line.tail += 1
        line.first[at] = first
        line.end[at] = end
        line.last_ms[at] = ms
        line.vector[at] = vector
        if vector >= 0:
            self.references[vector] += 1
        return 0

    cdef bint same(self, int32_t one, int32_t other) noexcept:
        if one < 0 or other < 0:
            return one == other
        return memcmp(&self.vectors[one, 0], &self.vectors[other, 0], self.n_arms * sizeof(double)) == 0

    cdef bint analysed(self, Py_ssize_t slot, uint64_t block) noexcept:
        """Whether decisions of a block are analysed, as things stand."""
        cdef uint64_t number = scattered(self.timelines[slot].incarnation + block * <uint64_t> 0x9E3779B97F4A7C15)
        return number & ((<uint64_t> 1 << self.halvings) - 1) == 0

    cdef int add_parts(self, Py_ssize_t slot, uint64_t first, uint64_t end, int32_t vector, int64_t ms) except -1:
        """`add_run` for what is analysed of it and what is left out."""
        cdef uint64_t low = first, high
        cdef bint kept
        if self.halvings == 0:
            return self.add_run(slot, first, end, vector, ms)
        while low < end:
            kept = self.analysed(slot, low >> BLOCK_BITS)
            high = min(end, (low >> BLOCK_BITS) + 1 << BLOCK_BITS)
            while high < end and self.analysed(slot, high >> BLOCK_BITS) == kept:
                high = min(end, high + (1 << BLOCK_BITS))
            self.add_run(slot, low, high, vector if kept else LEFT_OUT, ms)
            low = high
        return 0

    cdef int thin(self) except -1:
        """Leaves every second block out of those that are still analysed."""
        cdef Py_ssize_t slot, at
        cdef Timeline *line
        cdef Timeline old
        self.halvings += 1
        for slot in range(self.n_timelines):
            line = &self.timelines[slot]
            old = line[0]
            line.head = line.tail = line.capacity = 0
            line.first = line.end = NULL
            line.last_ms = NULL
            line.vector = NULL
            try:
                for at in range(old.head, old.tail):
                    if old.vector[at] == LEFT_OUT:
                        self.add_run(slot, old.first[at], old.end[at], LEFT_OUT, old.last_ms[at])
                    else:
                        self.add_parts(slot, old.first[at], old.end[at], old.vector[at], old.last_ms[at])
                        self.drop(old.vector[at])
            finally:
                free(old.first)
                free(old.end)
                free(old.last_ms)
                free(old.vector)
        return 0

    cdef Py_ssize_t make_room(self, Timeline *line) except -1:
        """Room for one run more at the tail; how far the runs have moved down for it."""
        cdef Py_ssize_t runs = line.tail - line.head, moved = line.head, room
        if line.tail < line.capacity:
            return 0
        if 2 * runs > line.capacity or line.capacity == 0:
            room = 2 * line.capacity if line.capacity else 8
            line.first = <uint64_t *> lengthened(line.first, room * sizeof(uint64_t))
            line.end = <uint64_t *> lengthened(line.end, room * sizeof(uint64_t))
            line.last_ms = <int64_t *> lengthened(line.last_ms, room * sizeof(int64_t))
            line.vector = <int32_t *> lengthened(line.vector, room * sizeof(int32_t))
            line.capacity = room
            return 0
        memmove(line.first, &line.first[moved], runs * sizeof(uint64_t))
        memmove(line.end, &line.end[moved], runs * sizeof(uint64_t))
        memmove(line.last_ms, &line.last_ms[moved], runs * sizeof(int64_t))
        memmove(line.vector, &line.vector[moved], runs * sizeof(int32_t))
        line.head = 0
        line.tail = runs
        return moved

    def unseen(self, uint64_t incarnation, uint64_t first, Py_ssize_t n):
        """The parts [(low, high), …] of decisions `first` … `first + n - 1` that have not been exposed before."""
        cdef Py_ssize_t slot = self.slot(incarnation)
        cdef uint64_t low = first, end = first + <uint64_t> n, high
        parts = []
        while low < end:
            high = self.exposed_to(slot, low)
            if high == 0:
                high = self.next_exposed(slot, low, end)
                parts.append((low - first, high - first))
            low = high
        return parts

    def extend(self, uint64_t incarnation, uint64_t first, Py_ssize_t low, Py_ssize_t high, int64_t ms,
               const double[:, ::1] vectors, const uint32_t[::1] runs):
        """Remembers rows `low` … `high - 1` of an exposure that starts at counter `first`, seen at `ms`."""
        cdef Py_ssize_t slot = self.slot(incarnation), run, start = 0, end
        cdef int32_t before = self.current, vector
        for run in range(runs.shape[0]):
            end = start + <Py_ssize_t> runs[run]
            if max(start, low) < min(end, high):
                vector = self.keep(&vectors[run, 0])
                self.add_parts(slot, first + max(start, low), first + min(end, high), vector, ms)
                self.drop(vector)
            start = end
        self.current = self.keep(&vectors[runs.shape[0] - 1, 0])
        self.drop(before)
        while self.most and self.n_vectors > self.most and self.halvings < MOST_HALVINGS:
            self.thin()

    def forget(self, int64_t vectors_ms, int64_t before_ms):
        """Forgets the vectors of runs that were last added to before `vectors_ms`, and all of those before `before_ms`."""
        cdef Py_ssize_t i, gone
        cdef Timeline *line
        for i in range(self.n_timelines):
            line = &self.timelines[i]
            while line.head < line.tail and line.last_ms[line.head] < vectors_ms:
                self.add_past(i, line.first[line.head], line.end[line.head], line.last_ms[line.head])
                self.drop(line.vector[line.head])
                line.head += 1
            gone = 0
            while gone < line.n_past and line.past[gone].last_ms < before_ms:
                gone += 1
            if gone:
                line.n_past -= gone
                memmove(line.past, &line.past[gone], line.n_past * sizeof(Span))
        if self.halvings and 8 * self.n_vectors < self.most:
            self.halvings -= 1

    cdef int add_past(self, Py_ssize_t slot, uint64_t first, uint64_t end, int64_t last_ms) except -1:
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t at = self.past_before(slot, first) + 1
        if at > 0 and line.past[at - 1].end == first:
            line.past[at - 1].end = end
            line.past[at - 1].last_ms = max(line.past[at - 1].last_ms, last_ms)
            return 0
        if line.n_past == line.most_past:
            line.most_past = 2 * line.most_past if line.most_past else 4
            line.past = <Span *> lengthened(line.past, line.most_past * sizeof(Span))
        memmove(&line.past[at + 1], &line.past[at], (line.n_past - at) * sizeof(Span))
        line.past[at].first, line.past[at].end, line.past[at].last_ms = first, end, last_ms
        line.n_past += 1
        return 0

    @property
    def one_in(self):
        """Of how many decisions one is analysed now."""
        return 1 << self.halvings

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come: all that was remembered gave them nothing."""
        self.vectors = wider_by_arm(self.vectors, n_arms)
        self.adjusted = np.zeros(n_arms)
        self.n_arms = n_arms

    @property
    def n_vectors(self):
        """How many distinct vectors are remembered."""
        return self.references.shape[0] - self.n_spare

    @property
    def n_runs(self):
        return sum(self.timelines[i].tail - self.timelines[i].head for i in range(self.n_timelines))

    @property
    def n_past(self):
        return sum(self.timelines[i].n_past for i in range(self.n_timelines))

    def state(self, of_units):
        """What `from_state` takes; with it `of_units` i4[n], vectors that units refer to, as numbered in it."""
        cdef Py_ssize_t i, j, n_runs = self.n_past + self.n_runs
        cdef Timeline *line
        incarnations = np.zeros(n_runs, np.uint64)
        first = np.zeros(n_runs, np.uint64)
        end = np.zeros(n_runs, np.uint64)
        last_ms = np.zeros(n_runs, np.int64)
        numbers = np.zeros(n_runs, np.int32)
        i = 0
        for _, slot in sorted((self.timelines[k].incarnation, k) for k in range(self.n_timelines)):
            line = &self.timelines[<Py_ssize_t> slot]
            for j in range(line.n_past):
                incarnations[i] = line.incarnation
                first[i], end[i], last_ms[i] = line.past[j].first, line.past[j].end, line.past[j].last_ms
                numbers[i] = PAST
                i += 1
            for j in range(line.head, line.tail):
                incarnations[i] = line.incarnation
                first[i], end[i], last_ms[i] = line.first[j], line.end[j], line.last_ms[j]
                numbers[i] = line.vector[j]
                i += 1
        of_units = np.asarray(of_units, np.int32)
        everyone = np.concatenate(
            [np.array([self.current], np.int32), numbers[numbers >= 0], of_units[of_units >= 0]]
        )
        distinct, seen_at = np.unique(everyone, return_index=True)
        distinct = distinct[np.argsort(seen_at)]
        renumbered = np.full(self.references.shape[0], -1, np.int32)
        renumbered[distinct] = np.arange(len(distinct))
        renumbered_units = np.where(of_units >= 0, renumbered[np.maximum(of_units, 0)], of_units)
        return {
            "vectors": np.asarray(self.vectors)[distinct],
            "incarnations": incarnations, "first": first, "end": end, "last_ms": last_ms,
            "numbers": np.where(numbers >= 0, renumbered[np.maximum(numbers, 0)], numbers),
            "halvings": np.array([self.halvings]),
        }, renumbered_units

    @staticmethod
    def from_state(state, Py_ssize_t most=0):
        cdef const double[:, ::1] vectors = state["vectors"]
        cdef const uint64_t[::1] incarnations = state["incarnations"]
        cdef const uint64_t[::1] first = state["first"]
        cdef const uint64_t[::1] end = state["end"]
        cdef const int64_t[::1] last_ms = state["last_ms"]
        cdef const int32_t[::1] numbers = state["numbers"]
        cdef ShareHistory self = ShareHistory(vectors[0], most)
        cdef Py_ssize_t i
        cdef Timeline *line
        must_refer(state["numbers"], vectors.shape[0], PAST)
        # Those of before there was such a thing do not say so.
        self.halvings = state["halvings"][0] if "halvings" in state else 0
        if not 0 <= self.halvings <= MOST_HALVINGS:
            raise ValueError("the snapshot leaves more decisions out than there can be")
        self.make_vectors(vectors.shape[0])
        np.asarray(self.vectors)[: vectors.shape[0]] = vectors
        self.current = 0
        self.references[0] = 1
        for i in range(numbers.shape[0]):
            if numbers[i] == PAST:
                self.add_past(self.slot(incarnations[i]), first[i], end[i], last_ms[i])
                continue
            line = &self.timelines[self.slot(incarnations[i])]
            self.make_room(line)
            line.first[line.tail] = first[i]
            line.end[line.tail] = end[i]
            line.last_ms[line.tail] = last_ms[i]
            line.vector[line.tail] = numbers[i]
            if numbers[i] >= 0:
                self.references[numbers[i]] += 1
            line.tail += 1
        return self


cdef void *lengthened(void *column, size_t size) except NULL:
    cdef void *wider = realloc(column, size)
    if wider == NULL:
        raise MemoryError()
    return wider


cdef struct Beginning:
    double *values
    Py_ssize_t n            # or GIVEN_UP
    Py_ssize_t room


cdef class Beginnings:
    """The values of each arm on each `bounded` u1[M] metric, in the order of their analysis, while they are few.

    They are given up for good: of an arm when there are more than `MOST_FIRST`, or more than `MOST_KEPT` in all, or when
    one of them changes; of a metric with the first decision that other arms had a share in than in the first, as such
    decisions may be about others; and of all by `close`.
    """

    cdef readonly Py_ssize_t n_metrics, n_arms, kept
    cdef Beginning *of                  # [M, K]
    cdef uint8_t[::1] closed            # [M]

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
        """The values, f8[n]; None where they were given up."""
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
        """The next value of an arm, from a decision with shares `e`; `first` are those of the metric's first decision."""
        cdef Beginning *beginning = &self.of[m * self.n_arms + arm]
        cdef double *values
        cdef Py_ssize_t k
        if self.closed[m] or beginning.n == GIVEN_UP:
            return
        for k in range(self.n_arms):
            if (e[k] > 0.0) != (first[k] > 0.0):
                self.close_metric(m)
                return
        if beginning.n == MOST_FIRST or self.kept == MOST_KEPT:
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
        """What `from_state` takes."""
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
        if counts.min(initial=0) < GIVEN_UP or counts.max(initial=0) > MOST_FIRST:
            raise ValueError("the snapshot counts values that can not have been kept")
        if counts[counts > 0].sum() != len(values) or len(values) > MOST_KEPT:
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


# Of the model's columns those that all arms share.
OF_METRIC = ("centre", "spread", "lowest", "highest")


cdef double *place_of(column):
    cdef double[::1] view = np.asarray(column).reshape(-1)
    return &view[0]


cdef class Accumulators:
    """The sums over what has been analysed, M metrics by K arms; e is a decision's share vector, A its arm.

    Values enter scores and `shifted` less the metric's `origin`, its first value. What is analysed first gives that
    only: its scores would need a centre from before it, so it has none.

    Of each arm's own decisions: `n`, `total`, `shifted` and `cube` (sums of the values, of the shifted ones and of the
    cubes of these) and `m2` (squared deviations from the mean, Welford 1962). Over the decisions with e(k) > 0: `balance` (sum of
    1{A = k} - e(k)), `spread` (sum of e(k)(1 - e(k))); of those that have scores `eligible` (how many), `score` and
    `square` (sums of the AIPW scores and of their squares), `inverse` (sum of 1/e(k)). Over those of these with
    e(control) > 0, too, w the weight of the pair and d the difference of its scores: `pair_eligible` (how many),
    `pair_weight` (sum of w), `pair_score` (w d), `pair_control_score` (w times control's score), `pair_weight_square`
    (w^2), `pair_square_score` (w^2 d), `pair_square` (w^2 d^2), `pair_inverse` (w^2/e(k)), `pair_control_inverse`
    (w^2/e(control)). By metric: `analysed`, `grand` (sum of all shifted values), `unfloored` (how many an adaptive
    policy without a floor decided), `unsquared` (how many a former build analysed, which kept no squares), `moved`
    (1 when not all had one share vector), `split` f8[M, K] (the first's), `first_who` and `first_number` (which
    decision or unit was the first).

    What scores are made around, mu(k), is expected of an arm before its value is known: its past mean, or, where the
    sums are `contextual` and the features of decisions known, what a model of them says (`outcome.pxd`). Of an arm's
    own decisions that have scores: `residual` and `residual_cube` (sums of (y - mu)^2 and of (y - mu)^3). Of all that
    have: `predicted` and `predicted_square` (sums of mu(k) and of its square); of pairs `pair_predicted` (w^2 times the
    difference of mu) and `pair_predicted_square` (w^2 times its square). By metric `modelled`: of how many a model was
    asked. `n_features` is 0 where there is none, as where its matrices would have more than `MOST_NUMBERS` numbers.

    w = e(k) e(control) / (e(k) + e(control)), the inverse of the variance of d where all values vary alike. Where
    shares may depend on what moves the mean (`contextual`), or did so in what is `plain`, it is `plain_weight` for
    all, that of even shares of the arms at first.
    """

    COUNTS = ("n", "eligible", "pair_eligible")
    SUMS = ("total", "shifted", "m2", "cube", "score", "square", "inverse", "balance", "spread", "pair_weight",
            "pair_score", "pair_control_score", "pair_weight_square", "pair_square_score", "pair_square", "pair_inverse",
            "pair_control_inverse", "split", "residual", "residual_cube", "predicted", "predicted_square",
            "pair_predicted", "pair_predicted_square")
    BY_METRIC = ("analysed", "unfloored", "unsquared", "moved", "modelled")

    cdef readonly Py_ssize_t n_metrics, n_arms, control
    cdef public Beginnings beginnings   # or None: of what is analysed no value is kept
    cdef readonly bint former           # restored from a state of a build that kept no squares
    cdef public bint contextual
    cdef double plain_weight
    cdef int64_t[:, ::1] n_, eligible_, pair_eligible_
    cdef double[:, ::1] total_, shifted_, m2_, cube_, score_, square_, inverse_, balance_, spread_
    cdef double[:, ::1] pair_weight_, pair_score_, pair_control_score_, pair_weight_square_, pair_square_score_
    cdef double[:, ::1] pair_square_, pair_inverse_, pair_control_inverse_, split_, residual_, residual_cube_
    cdef double[:, ::1] predicted_, predicted_square_, pair_predicted_, pair_predicted_square_
    cdef int64_t[::1] analysed_, unfloored_, unsquared_, moved_, modelled_
    cdef double[::1] grand_, origin_, expected
    cdef uint64_t[::1] first_who_, first_number_
    cdef outcome_t model
    cdef dict of_model                  # the model's columns, by name
    cdef double[::1] room
    cdef int64_t[::1] learned_

    def __init__(self, Py_ssize_t n_metrics, Py_ssize_t n_arms, Py_ssize_t control, bint contextual=False):
        by_arm = (n_metrics, n_arms)
        state = {name: np.zeros(by_arm, np.int64) for name in self.COUNTS}
        state |= {name: np.zeros(by_arm) for name in self.SUMS}
        state |= {name: np.zeros(n_metrics, np.int64) for name in self.BY_METRIC}
        state |= {name: np.zeros(n_metrics) for name in ("grand", "origin")}
        state |= {name: np.zeros(n_metrics, np.uint64) for name in ("first_who", "first_number")}
        state |= {"plain_weight": np.array([0.5 / n_arms]), "contextual": np.array([contextual])}
        self.restore(state, control)

    cdef int restore(self, dict state, Py_ssize_t control) except -1:
        self.n_metrics, self.n_arms = state["n"].shape
        shapes = dict.fromkeys((*self.COUNTS, *self.SUMS), (self.n_metrics, self.n_arms))
        of_metrics = (*self.BY_METRIC, "grand", "origin", "first_who", "first_number")
        shapes |= dict.fromkeys(of_metrics, (self.n_metrics,))
        if any(state[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("the snapshot's sums are not of the same metrics and arms")
        self.control = control
        self.n_, self.eligible_, self.pair_eligible_ = (state[name].copy() for name in self.COUNTS)
        (self.total_, self.shifted_, self.m2_, self.cube_, self.score_, self.square_, self.inverse_, self.balance_,
         self.spread_, self.pair_weight_, self.pair_score_, self.pair_control_score_, self.pair_weight_square_,
         self.pair_square_score_, self.pair_square_, self.pair_inverse_, self.pair_control_inverse_,
         self.split_, self.residual_, self.residual_cube_, self.predicted_, self.predicted_square_,
         self.pair_predicted_, self.pair_predicted_square_) = (state[name].copy() for name in self.SUMS)
        self.analysed_, self.unfloored_, self.unsquared_, self.moved_, self.modelled_ = (
            state[name].copy() for name in self.BY_METRIC
        )
        self.expected = np.zeros(self.n_arms)
        self.grand_, self.origin_ = state["grand"].copy(), state["origin"].copy()
        self.first_who_, self.first_number_ = state["first_who"].copy(), state["first_number"].copy()
        self.plain_weight = state["plain_weight"][0]
        self.contextual = state["contextual"][0]
        self.make_model(0)
        return 0

    cdef dict views(self):
        return {
            "n": self.n_, "eligible": self.eligible_, "pair_eligible": self.pair_eligible_,
            "total": self.total_, "shifted": self.shifted_, "m2": self.m2_, "cube": self.cube_, "score": self.score_,
            "square": self.square_, "inverse": self.inverse_, "balance": self.balance_, "spread": self.spread_,
            "pair_weight": self.pair_weight_, "pair_score": self.pair_score_,
            "pair_control_score": self.pair_control_score_, "pair_weight_square": self.pair_weight_square_,
            "pair_square_score": self.pair_square_score_, "pair_square": self.pair_square_,
            "pair_inverse": self.pair_inverse_, "pair_control_inverse": self.pair_control_inverse_,
            "split": self.split_, "residual": self.residual_, "residual_cube": self.residual_cube_,
            "predicted": self.predicted_, "predicted_square": self.predicted_square_,
            "pair_predicted": self.pair_predicted_, "pair_predicted_square": self.pair_predicted_square_,
            "analysed": self.analysed_, "unfloored": self.unfloored_,
            "unsquared": self.unsquared_, "moved": self.moved_, "modelled": self.modelled_, "grand": self.grand_,
            "origin": self.origin_, "first_who": self.first_who_, "first_number": self.first_number_,
        }

    def state(self):
        """A copy of every sum, by its name."""
        numbers = {"plain_weight": np.array([self.plain_weight]), "contextual": np.array([self.contextual])}
        return {name: np.array(column) for name, column in self.views().items()} | numbers

    def of_metric(self, Py_ssize_t metric):
        """A copy of the sums of one metric, by name, [K] or a number."""
        if not 0 <= metric < self.n_metrics:
            raise IndexError(f"expected a metric below {self.n_metrics}")
        return {name: np.asarray(column)[metric].copy() for name, column in self.views().items()}

    @staticmethod
    def from_state(state, Py_ssize_t control, bint contextual=False):
        """`contextual`: what a state of a former build does not say."""
        cdef Accumulators self = Accumulators.__new__(Accumulators)
        self.former = "square" not in state
        if self.former:
            state = with_squares(state, control, contextual)
        self.restore(state if "residual" in state else with_residuals(state), control)
        return self

    # -- the model of what arms bring

    @property
    def n_features(self):
        return self.model.n_features

    def know_features(self, Py_ssize_t n_features):
        """From now on a model learns from decisions with so many features, if its matrices are not too large."""
        self.make_model(n_features)

    cdef int make_model(self, Py_ssize_t n_features, given=None) except -1:
        """An empty model, or that of the columns `given`; none for 0 features or too many."""
        cdef Py_ssize_t width = (n_features + 7) // 8 * 8, size = symmetric_start(width, width)
        cdef Py_ssize_t n_models = self.n_metrics * self.n_arms
        if n_features * n_features * n_models > MOST_NUMBERS:
            n_features = width = size = n_models = 0
        shapes = {
            **dict.fromkeys(("gram", "inverse"), (n_models, size)),
            **dict.fromkeys(("moment", "constant", "slope", "share", "precision"), (n_models, width)),
            **dict.fromkeys(("agreed", "offered", "learned"), (n_models,)),
            **dict.fromkeys(("centre", "spread"), (self.n_metrics if n_features else 0, width)),
            **dict.fromkeys(("lowest", "highest"), (self.n_metrics if n_features else 0,)),
        }
        columns = {name: np.zeros(shape, np.int64 if name == "learned" else float) for name, shape in shapes.items()}
        columns["spread"][:] = LEAST_SPREAD
        if given is not None:
            for name, column in columns.items():
                if given[name].shape != column.shape or not np.isfinite(given[name]).all():
                    raise ValueError(f"the snapshot's model has a {name} that does not fit its experiment")
                column[:] = given[name]
            if (columns["learned"] < 0).any() or (columns["spread"] < LEAST_SPREAD).any():
                raise ValueError("the snapshot holds a model that can not have been learned")
        self.of_model = columns
        self.room = np.zeros(2 * width + 2 * width * width)
        self.model.n_arms, self.model.n_features, self.model.width, self.model.size = (
            self.n_arms, n_features, width, size
        )
        if n_features == 0:
            return 0
        self.model.gram, self.model.inverse = place_of(columns["gram"]), place_of(columns["inverse"])
        self.model.moment, self.model.constant = place_of(columns["moment"]), place_of(columns["constant"])
        self.model.slope, self.model.share = place_of(columns["slope"]), place_of(columns["share"])
        self.model.precision = place_of(columns["precision"])
        self.model.agreed, self.model.offered = place_of(columns["agreed"]), place_of(columns["offered"])
        self.learned_ = columns["learned"]
        self.model.learned = &self.learned_[0]
        self.model.centre, self.model.spread = place_of(columns["centre"]), place_of(columns["spread"])
        self.model.lowest, self.model.highest = place_of(columns["lowest"]), place_of(columns["highest"])
        self.model.x = place_of(self.room)
        self.model.direction = self.model.x + width
        self.model.work = self.model.direction + width
        return 0

    def model_state(self):
        """Copies of the model's columns, by name; all of them empty where there is none."""
        return {name: column.copy() for name, column in self.of_model.items()}

    def restore_model(self, Py_ssize_t n_features, state):
        """Takes over what `model_state()` gave of a model of so many features; `ValueError` for anything else."""
        self.make_model(n_features, state)

    def counts(self):
        """How many have been analysed, i8[M]: a view."""
        return np.asarray(self.analysed_)

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come: no decision so far had a share for them."""
        state = self.state()
        for name in (*self.COUNTS, *self.SUMS):
            state[name] = wider_by_arm(state[name], n_arms)
        former, of_model, n_before = self.n_features, self.model_state(), self.n_arms
        self.restore(state, self.control)
        self.make_model(former)
        for name in self.of_model if self.n_features else ():
            mine, its = self.of_model[name], of_model[name]
            if name in OF_METRIC:
                mine[:] = its
            else:
                shape = self.n_metrics, n_before, *its.shape[1:]
                mine.reshape(self.n_metrics, n_arms, *its.shape[1:])[:, :n_before] = its.reshape(shape)
        if self.beginnings is not None:
            self.beginnings.grow(n_arms)

    cdef double centre(self, Py_ssize_t m, Py_ssize_t k) noexcept nogil:
        """What arm k is thought to bring, shifted: its mean with one observation of the pooled mean added."""
        cdef double pooled = self.grand_[m] / self.analysed_[m] if self.analysed_[m] else 0.0
        return (self.shifted_[m, k] + pooled) / (self.n_[m, k] + 1)

    cdef double weight(self, const double *e, Py_ssize_t k, bint plain) noexcept nogil:
        return self.plain_weight if plain else e[k] * e[self.control] / (e[k] + e[self.control])

    cdef void expect(self, Py_ssize_t m, const double *e, const float *x) noexcept nogil:
        """What each arm with a share is expected to bring with the features x, or with any where that is NULL."""
        cdef Py_ssize_t k
        for k in range(self.n_arms):
            if e[k] > 0.0:
                self.expected[k] = self.centre(m, k)
        if x == NULL:
            return
        outcome_see(&self.model, m, x)
        self.modelled_[m] += 1
        for k in range(self.n_arms):
            if e[k] > 0.0:
                self.expected[k] = outcome_predict(&self.model, m, k, self.expected[k])

    cdef void analyse(self, Py_ssize_t m, Py_ssize_t arm, const double *e, double y, bint unfloored, bint plain,
                      uint64_t who, uint64_t number, const float *x) noexcept nogil:
        """One decision or unit enters, with arm `arm`, shares `e` (e[arm] > 0) and value `y`; `who` and `number` name it.

        The score of arm k is mu(k) + 1{A = k} (y - mu(k)) / e(k), with mu(k) from before. `x` are the features, finite
        numbers, or NULL where they are not known.
        """
        cdef Py_ssize_t k, c = self.control
        cdef double value, control_inverse = 0.0, control_score = 0.0, inverse, score, difference, w, before, after
        cdef double mu
        cdef bint first = self.analysed_[m] == 0
        if first:
            self.origin_[m] = y
            self.first_who_[m] = who
            self.first_number_[m] = number
            for k in range(self.n_arms):
                self.split_[m, k] = e[k]
        elif not self.moved_[m]:
            for k in range(self.n_arms):
                if fabs(self.split_[m, k] - e[k]) > SAME_SHARE:
                    self.moved_[m] = 1
                    break
        value = y - self.origin_[m]
        if self.model.n_features == 0:
            x = NULL
        self.expect(m, e, x)
        if e[c] > 0.0:
            control_inverse = 1.0 / max(e[c], LEAST_SHARE)
            control_score = self.expected[c]
            if c == arm:
                control_score += (value - control_score) * control_inverse
        for k in range(self.n_arms):
            if e[k] <= 0.0:
                continue
            self.balance_[m, k] -= e[k]
            self.spread_[m, k] += e[k] * (1.0 - e[k])
            if first:
                continue
            inverse = 1.0 / max(e[k], LEAST_SHARE)
            score = mu = self.expected[k]
            if k == arm:
                score += (value - mu) * inverse
                self.residual_[m, k] += (value - mu) * (value - mu)
                self.residual_cube_[m, k] += (value - mu) * (value - mu) * (value - mu)
            self.eligible_[m, k] += 1
            self.score_[m, k] += score
            self.square_[m, k] += score * score
            self.inverse_[m, k] += inverse
            self.predicted_[m, k] += mu
            self.predicted_square_[m, k] += mu * mu
            if e[c] > 0.0 and k != c:
                w = self.weight(e, k, plain)
                difference = w * (score - control_score)
                mu = w * (mu - self.expected[c])
                self.pair_eligible_[m, k] += 1
                self.pair_weight_[m, k] += w
                self.pair_score_[m, k] += difference
                self.pair_control_score_[m, k] += w * control_score
                self.pair_weight_square_[m, k] += w * w
                self.pair_square_score_[m, k] += w * difference
                self.pair_square_[m, k] += difference * difference
                self.pair_inverse_[m, k] += w * w * inverse
                self.pair_control_inverse_[m, k] += w * w * control_inverse
                self.pair_predicted_[m, k] += w * mu
                self.pair_predicted_square_[m, k] += mu * mu
        if x != NULL:
            outcome_learn(&self.model, m, arm, value, self.centre(m, arm))
        self.balance_[m, arm] += 1.0
        before = self.shifted_[m, arm] / self.n_[m, arm] if self.n_[m, arm] else value
        self.n_[m, arm] += 1
        self.total_[m, arm] += y
        self.shifted_[m, arm] += value
        self.cube_[m, arm] += value * value * value
        after = self.shifted_[m, arm] / self.n_[m, arm]
        # Of one sign, but for what rounding makes of means next to the value.
        self.m2_[m, arm] += max(0.0, (value - before) * (value - after))
        self.analysed_[m] += 1
        self.grand_[m] += value
        self.unfloored_[m] += unfloored
        if self.beginnings is not None:
            self.beginnings.take(m, arm, e, &self.split_[m, 0], y)

    cdef void update(self, Py_ssize_t m, Py_ssize_t arm, const double *e, Py_ssize_t all_of, double propensity,
                     double old, double new, bint plain, uint64_t who, uint64_t number) noexcept nogil:
        """One that has been analysed with value `old` now has `new`.

        `e` NULL: the first `all_of` arms had a share, and it was `plain`. What its scores were around is not known any
        more; their squares change as if that had been the arms' centres of now.
        """
        cdef Py_ssize_t k, c = self.control
        cdef double change = new - old, inverse = 1.0 / max(propensity, LEAST_SHARE), step = change * inverse
        cdef double before, after, score, difference, w, centre = self.centre(m, arm)
        cdef bint control = e == NULL or e[c] > 0.0
        old -= self.origin_[m]
        new -= self.origin_[m]
        if self.n_[m, arm]:
            before = self.shifted_[m, arm] / self.n_[m, arm]
            after = (self.shifted_[m, arm] + change) / self.n_[m, arm]
            self.m2_[m, arm] = max(0.0, self.m2_[m, arm] + change * ((new - after) + (old - before)))
        self.cube_[m, arm] += new * new * new - old * old * old
        if who != self.first_who_[m] or number != self.first_number_[m]:
            score = centre + (old - centre) * inverse
            before, after = old - centre, new - centre
            self.residual_[m, arm] += change * (before + after)
            self.residual_cube_[m, arm] += after * after * after - before * before * before
            self.score_[m, arm] += step
            self.square_[m, arm] += step * (2.0 * score + step)
            for k in range(self.n_arms):
                if k == c or not control or (arm != c and arm != k):
                    continue
                if not (k < all_of if e == NULL else e[k] > 0.0):
                    continue
                w = self.weight(e, k, plain)
                difference = score - self.centre(m, c) if arm == k else self.centre(m, k) - score
                self.change_pair(m, k, w, difference, step if arm == k else -step)
                if arm == c:
                    self.pair_control_score_[m, k] += w * step
        if change != 0.0 and self.beginnings is not None:
            self.beginnings.give_up(m, arm)
        self.total_[m, arm] += change
        self.shifted_[m, arm] += change
        self.grand_[m] += change

    cdef void change_pair(self, Py_ssize_t m, Py_ssize_t k, double w, double difference, double step) noexcept nogil:
        """A difference of scores becomes larger by `step`."""
        self.pair_score_[m, k] += w * step
        self.pair_square_score_[m, k] += w * w * step
        self.pair_square_[m, k] += w * w * step * (2.0 * difference + step)


cdef dict with_squares(dict state, Py_ssize_t control, bint contextual):
    """A state of a former build, with what it did not keep.

    All its decisions had scores, around 0, and weighed alike. Their squares are thought to be what the arms' variances
    and the shares say, their values not to be skewed.
    """
    n_metrics, n_arms = state["n"].shape
    weight = 0.5 / n_arms
    n, eligible, pairs = (state[name].astype(np.float64) for name in ("n", "eligible", "pair_eligible"))
    variance = state["m2"] / np.maximum(n - 1.0, 1.0)
    of_sample = state["total"] / np.maximum(n, 1.0)
    mean = state["score"] / np.maximum(eligible, 1.0)
    difference = state["pair_score"] / np.maximum(pairs, 1.0)
    of_arm, of_control = weight**2 * state["pair_inverse"], weight**2 * state["pair_control_inverse"]
    spread = variance * of_arm + variance[:, [control]] * of_control
    nobody = np.full(n_metrics, 2**64 - 1, np.uint64)
    return state | {
        "shifted": state["total"], "origin": np.zeros(n_metrics), "first_who": nobody, "first_number": nobody,
        "cube": 3.0 * of_sample * state["m2"] + n * of_sample**3,
        "square": variance * state["inverse"] + eligible * mean**2,
        "pair_weight": weight * pairs,
        "pair_score": weight * state["pair_score"],
        "pair_control_score": weight * pairs * mean[:, [control]],
        "pair_weight_square": weight**2 * pairs,
        "pair_square_score": weight**2 * state["pair_score"],
        "pair_square": spread + weight**2 * pairs * difference**2,
        "pair_inverse": of_arm,
        "pair_control_inverse": of_control,
        "unsquared": state["analysed"],
        "plain_weight": np.array([weight]),
        "contextual": np.array([contextual]),
    }


cdef dict with_residuals(dict state):
    """A state of a build that made no model of outcomes, with what it did not keep: as if each arm and each difference
    had been predicted by one number, from which values deviate as they do from their mean."""
    n, mean = np.maximum(state["n"], 1), state["shifted"] / np.maximum(state["n"], 1)
    predicted = state["score"] / np.maximum(state["eligible"], 1)
    squares = state["pair_weight_square"]
    difference = state["pair_square_score"] / np.where(squares > 0.0, squares, 1.0)
    return state | {
        "residual": state["m2"],
        "residual_cube": state["cube"] - 3.0 * mean * state["m2"] - n * mean**3,
        "predicted": state["eligible"] * predicted,
        "predicted_square": state["eligible"] * predicted**2,
        "pair_predicted": squares * difference,
        "pair_predicted_square": squares * difference**2,
        "modelled": np.zeros_like(state["moved"]),
    }


cdef class RewardedDecisions:
    """`missing: ignore`, `unit: request`: a decision is analysed, per metric, when its reward comes."""

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

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None):
        """`x` f4[n, d]: the features of the rows' decisions, where they are known."""
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

    def vectors(self):
        return np.zeros(0, np.int32)

    def state(self, vectors):
        return {}

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state):
        return RewardedDecisions(sums, shares)


cdef class OpenDecisions:
    """`missing: zero`, `unit: request`: a decision is analysed when its window has closed.

    Exposures are kept as they came, in blocks of consecutive counters whose times do not fall (6 bytes a decision);
    rewards are held by decision until its window closes. A held reward whose exposure has not come by then is
    analysed by its own row, and remembered for `linger_ms` so that the exposure, if it still comes, is not
    analysed again. A reward for a decision that is already closed changes its value from 0, and all that was made of
    it with the shares that it was analysed with: of one whose exposure came after that, they are kept `grace_ms` longer.

    Features are kept as they came, too, of an exposure, or of a reward while its exposure has not come, in at most
    `most_x` bytes (0: any number): what comes when that is full is analysed without.
    """

    cdef Accumulators sums
    cdef ShareHistory shares
    cdef readonly int64_t linger_ms, grace_ms
    cdef Py_ssize_t most_x
    cdef readonly Py_ssize_t n_x        # open decisions whose features are kept
    cdef list block_x                   # of each block: f4[its rows, d], or None
    cdef dict held_x                    # of held rows: f4[d]
    cdef int64_t closed_ms              # decisions before this time have been analysed
    cdef readonly Py_ssize_t pending_exposures
    cdef readonly Py_ssize_t pending_orphans     # decisions with a held reward whose exposure has not come
    cdef Py_ssize_t unseen              # held rows whose exposure has not come, analysed or not

    cdef uint16_t[::1] arms
    cdef uint32_t[::1] ages_ms
    cdef Py_ssize_t n_rows

    cdef int32_t[::1] block_slot
    cdef uint64_t[::1] block_first
    cdef int64_t[::1] block_ms
    cdef int64_t[::1] block_start, block_size, block_cursor
    cdef uint8_t[::1] block_unfloored
    cdef Py_ssize_t n_blocks
    cdef TimeHeap due_blocks            # the time of the block's first decision that is still open

    cdef uint64_t[::1] held_key
    cdef int64_t[::1] held_due_ms       # decision time, or until when to remember it once DONE
    cdef double[::1] held_propensity
    cdef uint16_t[::1] held_arm
    cdef uint32_t[::1] held_metrics     # bit m: a value for metric m has come
    cdef uint8_t[::1] held_flags
    cdef double[:, ::1] held_values
    cdef int32_t[::1] held_vector       # once DONE: what it was analysed with, -1 where that is not kept
    cdef Py_ssize_t n_held, n_gone, n_kept
    cdef U64Map held
    cdef TimeHeap due_held

    def __cinit__(self, Accumulators sums not None, ShareHistory shares not None, int64_t linger_ms,
                  int64_t grace_ms, Py_ssize_t most_x=0):
        map_make(&self.held, FEWEST)
        self.most_x = most_x
        self.block_x = []
        self.held_x = {}
        self.sums = sums
        self.shares = shares
        self.linger_ms = linger_ms
        self.grace_ms = grace_ms
        self.closed_ms = -(<int64_t> 1 << 62)
        self.arms = np.zeros(FEWEST, np.uint16)
        self.ages_ms = np.zeros(FEWEST, np.uint32)
        self.block_slot = np.zeros(FEWEST, np.int32)
        self.block_first = np.zeros(FEWEST, np.uint64)
        self.block_ms, self.block_start, self.block_size, self.block_cursor = np.zeros((4, FEWEST), np.int64)
        self.block_unfloored = np.zeros(FEWEST, np.uint8)
        self.held_key = np.zeros(FEWEST, np.uint64)
        self.held_due_ms = np.zeros(FEWEST, np.int64)
        self.held_propensity = np.zeros(FEWEST)
        self.held_arm = np.zeros(FEWEST, np.uint16)
        self.held_metrics = np.zeros(FEWEST, np.uint32)
        self.held_flags = np.zeros(FEWEST, np.uint8)
        self.held_values = np.zeros((FEWEST, sums.n_metrics))
        self.held_vector = np.zeros(FEWEST, np.int32)

    def __dealloc__(self):
        map_free(&self.held)
        heap_free(&self.due_blocks)
        heap_free(&self.due_held)

    crossovers = 0

    @property
    def pending(self):
        return self.pending_exposures + self.pending_orphans

    cdef uint64_t key(self, Py_ssize_t slot, uint64_t counter) noexcept:
        return (<uint64_t> slot << COUNTER_BITS) | counter

    def expose(self, uint64_t incarnation, uint64_t first, Py_ssize_t low, Py_ssize_t high, int64_t ms,
               const uint16_t[::1] arms, const uint32_t[::1] ages_ms, const uint64_t[::1] units, bint unfloored, x=None):
        """Opens rows `low` … `high - 1` of an exposure that starts at counter `first` and time `ms`.

        `x` f4[n, d]: the features of all its decisions, where they are known.
        """
        cdef Py_ssize_t slot = self.shares.slot(incarnation), start = low, i
        for i in range(low + 1, high + 1):
            if i == high or ages_ms[i] < ages_ms[i - 1]:
                kept = x[start:i].copy() if x is not None and self.has_room(i - start, x.shape[1]) else None
                self.open_block(slot, first + start, ms, arms[start:i], ages_ms[start:i], unfloored, kept)
                start = i

    cdef bint has_room(self, Py_ssize_t n, Py_ssize_t width) noexcept:
        """For the features of n decisions more."""
        return self.most_x == 0 or (self.n_x + n) * width * <Py_ssize_t> sizeof(float) <= self.most_x

    def forget_features(self):
        """Of all that is open: there is no model any more that would take them."""
        self.block_x = [None] * self.n_blocks
        self.held_x = {}
        self.n_x = 0

    cdef int forget_held_x(self, int32_t held) except -1:
        if self.held_x and self.held_x.pop(held, None) is not None:
            self.n_x -= 1
        return 0

    cdef int open_block(self, Py_ssize_t slot, uint64_t first, int64_t ms, const uint16_t[::1] arms,
                        const uint32_t[::1] ages_ms, bint unfloored, x) except -1:
        cdef Py_ssize_t n = arms.shape[0], at, b, i
        cdef int32_t held
        if self.n_rows + n > self.arms.shape[0] or self.n_blocks == self.block_ms.shape[0]:
            self.tidy_blocks(n)
        at, b = self.n_rows, self.n_blocks
        self.arms[at:at + n] = arms
        self.ages_ms[at:at + n] = ages_ms
        self.block_slot[b] = <int32_t> slot
        self.block_first[b] = first
        self.block_ms[b] = ms
        self.block_start[b], self.block_size[b], self.block_cursor[b] = at, n, 0
        self.block_unfloored[b] = unfloored
        self.block_x.append(x)
        self.n_x += 0 if x is None else n
        self.n_rows += n
        self.n_blocks += 1
        self.pending_exposures += n
        heap_push(&self.due_blocks, ms + ages_ms[0], b)
        if self.unseen == 0:
            return 0
        for i in range(n):
            held = map_find(&self.held, self.key(slot, first + <uint64_t> i))
            if held < 0 or self.held_flags[held] & SEEN:
                continue
            self.unseen -= 1
            self.held_flags[held] |= SEEN
            self.forget_held_x(held)
            if self.held_flags[held] & DONE:
                self.arms[at + i] = COUNTED
                self.pending_exposures -= 1
                self.held_due_ms[held] = min(self.held_due_ms[held], self.closed_ms + self.grace_ms)
                heap_push(&self.due_held, self.held_due_ms[held], held)
            else:
                self.pending_orphans -= 1
        return 0

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None):
        """`x` f4[n, d]: the features of the rows' decisions, where they are known."""
        cdef Py_ssize_t i, slot
        cdef const Reward *row
        cdef uint64_t key
        cdef int32_t held
        cdef bint seen
        for i in range(rows.shape[0]):
            row = &rows[i]
            slot = self.shares.slot(row.incarnation)
            key = self.key(slot, row.counter)
            held = map_find(&self.held, key)
            if held < 0:
                seen = self.shares.exposed_to(slot, row.counter) > 0
                if seen and row.time_ms < self.closed_ms:
                    if not self.shares.left_out(slot, row.counter):
                        self.late(slot, row, row.metric, self.shares.shares_of(slot, row), row.value,
                                  self.sums.contextual)
                    continue
                held = self.hold(key, row, seen, unfloored[i])
                if x is not None and not seen and self.has_room(1, x.shape[1]):
                    self.held_x[held] = x[i].copy()
                    self.n_x += 1
            elif self.held_flags[held] & DONE:
                self.late_orphan(slot, row, held)
                continue
            self.held_metrics[held] |= <uint32_t> 1 << row.metric
            self.held_values[held, row.metric] = row.value

    cdef void late(self, Py_ssize_t slot, const Reward *row, Py_ssize_t m, const double *shares, double value,
                   bint plain) noexcept:
        """What was analysed without a reward has one now."""
        self.sums.update(m, row.arm, shares, 0, row.propensity, 0.0, value, plain,
                         self.shares.timelines[slot].incarnation, row.counter)

    cdef void late_orphan(self, Py_ssize_t slot, const Reward *row, int32_t held) noexcept:
        """What was analysed before its exposure came has a reward on another metric."""
        cdef int32_t vector = self.held_vector[held]
        if vector < 0:
            self.late(slot, row, row.metric, self.shares.shares_of(slot, row), row.value, self.sums.contextual)
        else:
            self.late(slot, row, row.metric, &self.shares.vectors[vector, 0], row.value,
                      self.held_flags[held] & PLAIN != 0)

    cdef int32_t hold(self, uint64_t key, const Reward *row, bint seen, bint unfloored) except -1:
        cdef int32_t held
        if self.n_held == self.held_key.shape[0]:
            self.tidy_held()
        held = <int32_t> self.n_held
        self.n_held += 1
        self.held_key[held] = key
        self.held_due_ms[held] = row.time_ms
        self.held_propensity[held] = row.propensity
        self.held_arm[held] = row.arm
        self.held_metrics[held] = 0
        self.held_flags[held] = (SEEN if seen else 0) | (UNFLOORED if unfloored else 0)
        self.held_values[held, :] = 0.0
        self.held_vector[held] = -1
        map_put(&self.held, key, held)
        heap_push(&self.due_held, row.time_ms, held)
        if not seen:
            self.unseen += 1
            self.pending_orphans += 1
        return held

    cdef void let_go(self, int32_t held) noexcept:
        map_remove(&self.held, self.held_key[held])
        self.held_flags[held] = GONE
        if self.held_vector[held] >= 0:
            self.shares.drop(self.held_vector[held])
            self.held_vector[held] = -1
            self.n_kept -= 1
        self.n_gone += 1

    def close(self, int64_t before_ms):
        """Analyses what was decided before `before_ms`: blocks by their first open decision, then what is held."""
        cdef int32_t held
        self.closed_ms = max(self.closed_ms, before_ms)
        while self.due_blocks.size and self.due_blocks.items[0].time < self.closed_ms:
            self.close_block(self.due_blocks.items[0].row)
        while self.due_held.size and self.due_held.items[0].time < self.closed_ms:
            held = <int32_t> self.due_held.items[0].row
            heap_pop(&self.due_held)
            if not self.held_flags[held] & GONE:
                self.close_held(held)

    cdef int close_block(self, Py_ssize_t b) except -1:
        cdef Py_ssize_t slot = self.block_slot[b], i = self.block_cursor[b], at = 0, m
        cdef uint64_t counter = self.block_first[b] + <uint64_t> i
        cdef Py_ssize_t run = self.shares.run_before(slot, counter)
        cdef Timeline *line = &self.shares.timelines[slot]
        cdef const double *shares
        cdef int32_t held
        cdef double value
        cdef const float[:, ::1] x = self.block_x[b]
        cdef bint known = x is not None
        while i < self.block_size[b]:
            at = self.block_start[b] + i
            if self.block_ms[b] + self.ages_ms[at] >= self.closed_ms:
                break
            if self.arms[at] != COUNTED:
                while run + 1 < line.tail and line.first[run + 1] <= counter:
                    run += 1
                held = map_find(&self.held, self.key(slot, counter)) if self.n_held > self.n_gone else -1
                if line.vector[run] != LEFT_OUT:
                    shares = &self.shares.vectors[line.vector[run], 0]
                    for m in range(self.sums.n_metrics):
                        value = self.held_values[held, m] if held >= 0 else 0.0
                        self.sums.analyse(m, self.arms[at], shares, value, self.block_unfloored[b],
                                          self.sums.contextual, line.incarnation, counter,
                                          &x[i, 0] if known else NULL)
                if held >= 0:
                    self.let_go(held)
                self.pending_exposures -= 1
            self.n_x -= known
            i += 1
            counter += 1
        self.block_cursor[b] = i
        if i == self.block_size[b]:
            heap_pop(&self.due_blocks)
            self.block_x[b] = None
        else:
            heap_replace_top(&self.due_blocks, self.block_ms[b] + self.ages_ms[at], b)
        return 0

    cdef int close_held(self, int32_t held) except -1:
        """What no block took: an orphan is analysed; one that was analysed has been remembered long enough."""
        cdef Py_ssize_t slot = self.held_key[held] >> COUNTER_BITS, m
        cdef Reward row
        cdef const double *shares
        cdef const float[::1] x = self.held_x.get(held)
        if self.held_flags[held] & DONE:
            self.unseen -= self.held_flags[held] & SEEN == 0
            self.let_go(held)
            return 0
        row.counter = self.held_key[held] & ((<uint64_t> 1 << COUNTER_BITS) - 1)
        row.arm = self.held_arm[held]
        row.propensity = self.held_propensity[held]
        shares = self.shares.shares_of(slot, &row)
        if self.held_flags[held] & SEEN:
            # Its exposure and its token disagree about the time of the decision: it counts, as a late reward does.
            for m in range(self.sums.n_metrics):
                if self.held_metrics[held] >> m & 1 and not self.shares.left_out(slot, row.counter):
                    self.late(slot, &row, m, shares, self.held_values[held, m], self.sums.contextual)
            self.let_go(held)
            return 0
        for m in range(self.sums.n_metrics):
            self.sums.analyse(m, row.arm, shares, self.held_values[held, m], self.held_flags[held] & UNFLOORED != 0,
                              self.sums.contextual, self.shares.timelines[slot].incarnation, row.counter,
                              &x[0] if x is not None else NULL)
        self.forget_held_x(held)
        if self.n_kept < self.shares.most // ORPHANS_PART:
            self.held_vector[held] = self.shares.keep_shares_of(slot, &row)
            self.n_kept += 1
        self.pending_orphans -= 1
        self.held_flags[held] |= DONE | (PLAIN if self.sums.contextual else 0)
        self.held_due_ms[held] = self.closed_ms + self.linger_ms
        heap_push(&self.due_held, self.held_due_ms[held], held)
        return 0

    def still_open(self):
        """By arm, how many decisions are open, i8[K], and the sum of the rewards that they have had, f8[M, K]."""
        cdef Py_ssize_t b, i, at, slot, run, held, m
        cdef Timeline *line
        cdef uint64_t counter
        cdef int64_t[::1] n = np.zeros(self.sums.n_arms, np.int64)
        cdef double[:, ::1] total = np.zeros((self.sums.n_metrics, self.sums.n_arms))
        for b in range(self.n_blocks):
            slot = self.block_slot[b]
            line = &self.shares.timelines[slot]
            counter = self.block_first[b] + <uint64_t> self.block_cursor[b]
            run = self.shares.run_before(slot, counter)
            for i in range(self.block_cursor[b], self.block_size[b]):
                while run + 1 < line.tail and line.first[run + 1] <= counter:
                    run += 1
                counter += 1
                at = self.block_start[b] + i
                if self.arms[at] != COUNTED and line.vector[run] != LEFT_OUT:
                    n[self.arms[at]] += 1
        for held in range(self.n_held):
            slot, counter = self.held_key[held] >> COUNTER_BITS, self.held_key[held] & ((<uint64_t> 1 << COUNTER_BITS) - 1)
            if self.held_flags[held] & (GONE | DONE) or self.shares.left_out(slot, counter):
                continue
            n[self.held_arm[held]] += not self.held_flags[held] & SEEN
            for m in range(self.sums.n_metrics):
                total[m, self.held_arm[held]] += self.held_values[held, m]
        return np.asarray(n), np.asarray(total)

    cdef int tidy_blocks(self, Py_ssize_t n) except -1:
        """Drops what has been analysed and makes room for a block of `n` rows."""
        cdef Py_ssize_t b, start, left, rows = 0, blocks = 0, room
        cdef list kept = []
        self.due_blocks.size = 0
        for b in range(self.n_blocks):
            start = self.block_start[b] + self.block_cursor[b]
            left = self.block_size[b] - self.block_cursor[b]
            if left == 0:
                continue
            memmove(&self.arms[rows], &self.arms[start], left * sizeof(uint16_t))
            memmove(&self.ages_ms[rows], &self.ages_ms[start], left * sizeof(uint32_t))
            self.block_slot[blocks] = self.block_slot[b]
            self.block_first[blocks] = self.block_first[b] + <uint64_t> self.block_cursor[b]
            self.block_ms[blocks] = self.block_ms[b]
            x = self.block_x[b]
            kept.append(x if x is None or self.block_cursor[b] == 0 else x[self.block_cursor[b]:].copy())
            self.block_start[blocks], self.block_size[blocks], self.block_cursor[blocks] = rows, left, 0
            self.block_unfloored[blocks] = self.block_unfloored[b]
            heap_push(&self.due_blocks, self.block_ms[blocks] + self.ages_ms[rows], blocks)
            rows += left
            blocks += 1
        self.n_rows, self.n_blocks, self.block_x = rows, blocks, kept
        room = room_for(rows + n)
        if room > self.arms.shape[0]:
            self.arms = longer(self.arms, room)
            self.ages_ms = longer(self.ages_ms, room)
        room = room_for(blocks + 1)
        if room > self.block_ms.shape[0]:
            self.block_slot = longer(self.block_slot, room)
            self.block_first = longer(self.block_first, room)
            self.block_ms = longer(self.block_ms, room)
            self.block_start = longer(self.block_start, room)
            self.block_size = longer(self.block_size, room)
            self.block_cursor = longer(self.block_cursor, room)
            self.block_unfloored = longer(self.block_unfloored, room)
        return 0

    cdef int tidy_held(self) except -1:
        """Drops what was let go, and makes room for one more."""
        cdef Py_ssize_t held, kept = 0, room
        cdef dict kept_x = {}
        self.due_held.size = 0
        for held in range(self.n_held):
            if self.held_flags[held] & GONE:
                continue
            self.held_key[kept] = self.held_key[held]
            self.held_due_ms[kept] = self.held_due_ms[held]
            self.held_propensity[kept] = self.held_propensity[held]
            self.held_arm[kept] = self.held_arm[held]
            self.held_metrics[kept] = self.held_metrics[held]
            self.held_flags[kept] = self.held_flags[held]
            self.held_values[kept, :] = self.held_values[held, :]
            self.held_vector[kept] = self.held_vector[held]
            if held in self.held_x:
                kept_x[kept] = self.held_x[held]
            map_put(&self.held, self.held_key[kept], <int32_t> kept)
            heap_push(&self.due_held, self.held_due_ms[kept], kept)
            kept += 1
        self.n_held, self.n_gone, self.held_x = kept, 0, kept_x
        room = room_for(kept + 1)
        if room > self.held_key.shape[0]:
            self.widen_held(room)
        return 0

    cdef int widen_held(self, Py_ssize_t room) except -1:
        self.held_key = longer(self.held_key, room)
        self.held_due_ms = longer(self.held_due_ms, room)
        self.held_propensity = longer(self.held_propensity, room)
        self.held_arm = longer(self.held_arm, room)
        self.held_metrics = longer(self.held_metrics, room)
        self.held_flags = longer(self.held_flags, room)
        self.held_values = longer(self.held_values, room)
        self.held_vector = longer(self.held_vector, room)
        return 0

    def vectors(self):
        """The vectors that what is held refers to, i4[n]; below 0: none."""
        self.tidy_held()
        return first_rows(self.held_vector, self.n_held)

    def state(self, vectors):
        """`vectors` i4[n]: what `vectors()` gave, as the state of the share history numbers them."""
        cdef Py_ssize_t i
        self.tidy_blocks(0)
        incarnations = np.array([self.shares.timelines[i].incarnation for i in range(self.shares.n_timelines)],
                                np.uint64)
        keys = first_rows(self.held_key, self.n_held)
        rows, blocks, held = self.n_rows, self.n_blocks, self.n_held
        features = [x for x in self.block_x if x is not None]
        features += [self.held_x[i][None] for i in sorted(self.held_x)]
        return {
            "x": np.concatenate(features) if features else np.zeros((0, 0), np.float32),
            "block_has_x": np.array([x is not None for x in self.block_x], np.uint8),
            "held_has_x": np.array([i in self.held_x for i in range(held)], np.uint8),
            "closed_ms": np.array([self.closed_ms]),
            "linger_ms": np.array([self.linger_ms]),
            "arms": first_rows(self.arms, rows),
            "ages_ms": first_rows(self.ages_ms, rows),
            "block_incarnation": incarnations[first_rows(self.block_slot, blocks)],
            "block_first": first_rows(self.block_first, blocks),
            "block_ms": first_rows(self.block_ms, blocks),
            "block_size": first_rows(self.block_size, blocks),
            "block_unfloored": first_rows(self.block_unfloored, blocks),
            "held_incarnation": incarnations[(keys >> np.uint64(COUNTER_BITS)).astype(np.int64)],
            "held_counter": keys & np.uint64((<uint64_t> 1 << COUNTER_BITS) - 1),
            "held_due_ms": first_rows(self.held_due_ms, held),
            "held_propensity": first_rows(self.held_propensity, held),
            "held_arm": first_rows(self.held_arm, held),
            "held_metrics": first_rows(self.held_metrics, held),
            "held_flags": first_rows(self.held_flags, held),
            "held_values": first_rows(self.held_values, held),
            "held_vector": vectors,
        }

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state, int64_t grace_ms,
                   Py_ssize_t most_x=0):
        cdef OpenDecisions self = OpenDecisions(sums, shares, state["linger_ms"][0], grace_ms, most_x)
        cdef Py_ssize_t b, i, start = 0
        cdef uint8_t flags
        cdef const uint16_t[::1] arms = state["arms"]
        cdef const uint32_t[::1] ages_ms = state["ages_ms"]
        features, block_has_x, held_has_x = features_of(state, sums.n_features)
        for b in range(len(state["block_ms"])):
            end = start + state["block_size"][b]
            x = None
            if block_has_x[b]:
                x, features = features[: end - start].copy(), features[end - start:]
            self.open_block(shares.slot(state["block_incarnation"][b]), state["block_first"][b], state["block_ms"][b],
                            arms[start:end], ages_ms[start:end], state["block_unfloored"][b], x)
            start = end
        for i in np.flatnonzero(held_has_x):
            self.held_x[i], features = features[0].copy(), features[1:]
            self.n_x += 1
        self.pending_exposures -= np.count_nonzero(state["arms"] == COUNTED)
        self.closed_ms = state["closed_ms"][0]
        self.n_held = len(state["held_counter"])
        self.widen_held(room_for(self.n_held + 1))
        slots = np.array([shares.slot(incarnation) for incarnation in state["held_incarnation"]], np.uint64)
        np.asarray(self.held_key)[: self.n_held] = (slots << np.uint64(COUNTER_BITS)) | state["held_counter"]
        np.asarray(self.held_due_ms)[: self.n_held] = state["held_due_ms"]
        np.asarray(self.held_propensity)[: self.n_held] = state["held_propensity"]
        np.asarray(self.held_arm)[: self.n_held] = state["held_arm"]
        np.asarray(self.held_metrics)[: self.n_held] = state["held_metrics"]
        np.asarray(self.held_flags)[: self.n_held] = state["held_flags"]
        np.asarray(self.held_values)[: self.n_held] = state["held_values"]
        # Those of before there was such a thing do not say so.
        vectors = state["held_vector"] if "held_vector" in state else np.full(self.n_held, -1, np.int32)
        must_refer(vectors, shares.references.shape[0] - shares.n_spare, -1)
        np.asarray(self.held_vector)[: self.n_held] = vectors
        for i in range(self.n_held):
            if self.held_vector[i] >= 0:
                shares.references[self.held_vector[i]] += 1
                self.n_kept += 1
            map_put(&self.held, self.held_key[i], <int32_t> i)
            heap_push(&self.due_held, self.held_due_ms[i], i)
            flags = self.held_flags[i]
            self.unseen += not flags & SEEN
            self.pending_orphans += not flags & (SEEN | DONE)
        return self


cdef features_of(state, Py_ssize_t n_features):
    """What a state of `OpenDecisions` holds of features, f4[n, d], and which blocks and held rows have some."""
    blocks, held = len(state["block_ms"]), len(state["held_counter"])
    if "x" not in state:
        # A former build kept none.
        return None, np.zeros(blocks, np.uint8), np.zeros(held, np.uint8)
    x, of_blocks, of_held = state["x"], state["block_has_x"], state["held_has_x"]
    if of_blocks.shape != (blocks,) or of_held.shape != (held,):
        raise ValueError("the snapshot does not say which decisions have features")
    n = state["block_size"][of_blocks > 0].sum() + np.count_nonzero(of_held)
    if x.dtype != np.float32 or not np.isfinite(x).all() or x.shape != ((n, n_features) if n else (0, 0)):
        raise ValueError("the snapshot does not hold the features that it counts")
    return x, of_blocks, of_held


cdef class Units:
    """`unit: user`: a unit is analysed once, with the arm and shares of its first exposure and all its rewards.

    With `ignore` it enters, per metric, with its first reward; with `zero` when the window of its first exposure
    closes. Later rewards change its value. The first exposure is that of the earliest decision, of those that the
    log shows before the unit enters; until an exposure has come, a reward's row stands in for it.
    `takes_max` u1[M]: a metric whose value is the largest of the unit's rewards, in place of their sum.

    Units that are here stay, and take `UNIT_BYTES` and 8 bytes a metric each, and what their share vectors take. Once that is more than `most`
    (0: any number), only every second unit that comes is analysed, from an eighth of `most` further on every fourth, and
    so on, up to 2^20. Which those are is a hash of the unit, so it has nothing to do with arms or rewards, and one that
    was not taken is not taken later either. `one_in` says where that stands.
    """

    cdef Accumulators sums
    cdef ShareHistory shares
    cdef readonly bint zero
    cdef const uint8_t[::1] takes_max
    cdef uint32_t all_metrics
    cdef readonly Py_ssize_t pending
    cdef readonly Py_ssize_t crossovers
    cdef int64_t closed_ms

    cdef uint64_t[::1] unit
    cdef int64_t[::1] first_ms
    cdef double[::1] propensity
    cdef int32_t[::1] vector            # -K once it has entered PLAIN and all K arms that there were had a share
    cdef uint32_t[::1] entered          # bit m: analysed for metric m
    cdef uint16_t[::1] arm
    cdef uint8_t[::1] flags
    cdef double[:, ::1] values
    cdef Py_ssize_t n_units
    cdef U64Map rows
    cdef TimeHeap due
    cdef Py_ssize_t most
    cdef int halvings

    def __cinit__(self, Accumulators sums not None, ShareHistory shares not None, bint zero,
                  const uint8_t[::1] takes_max, Py_ssize_t most=0):
        self.most = most
        map_make(&self.rows, FEWEST)
        self.sums = sums
        self.shares = shares
        self.zero = zero
        self.takes_max = takes_max
        self.all_metrics = <uint32_t> ((<uint64_t> 1 << sums.n_metrics) - 1)
        self.closed_ms = -(<int64_t> 1 << 62)
        self.unit = np.zeros(FEWEST, np.uint64)
        self.first_ms = np.zeros(FEWEST, np.int64)
        self.propensity = np.zeros(FEWEST)
        self.vector = np.zeros(FEWEST, np.int32)
        self.entered = np.zeros(FEWEST, np.uint32)
        self.arm = np.zeros(FEWEST, np.uint16)
        self.flags = np.zeros(FEWEST, np.uint8)
        self.values = np.zeros((FEWEST, sums.n_metrics))

    def __dealloc__(self):
        map_free(&self.rows)
        heap_free(&self.due)

    def expose(self, uint64_t incarnation, uint64_t first, Py_ssize_t low, Py_ssize_t high, int64_t ms,
               const uint16_t[::1] arms, const uint32_t[::1] ages_ms, const uint64_t[::1] units, bint unfloored, x=None):
        """Rows `low` … `high - 1` of an exposure that starts at counter `first` and time `ms`."""
        cdef Py_ssize_t slot = self.shares.slot(incarnation), run, i
        cdef Timeline *line = &self.shares.timelines[slot]
        cdef uint64_t counter = first + <uint64_t> low
        cdef int32_t row, vector
        run = self.shares.run_before(slot, counter)
        for i in range(low, high):
            while run + 1 < line.tail and line.first[run + 1] <= counter:
                run += 1
            counter += 1
            vector = line.vector[run]
            row = map_find(&self.rows, units[i])
            if row < 0:
                if not self.taken(units[i]):
                    continue
                self.shares.references[vector] += 1
                row = self.enrol(units[i], ms + ages_ms[i], arms[i], vector, self.shares.vectors[vector, arms[i]],
                                 unfloored)
                self.flags[row] |= SEEN
                continue
            self.cross(row, arms[i])
            if self.entered[row] == 0 and ms + ages_ms[i] - (self.flags[row] & SEEN == 0) < self.first_ms[row]:
                self.shares.references[vector] += 1
                self.shares.drop(self.vector[row])
                self.begin(row, ms + ages_ms[i], arms[i], vector, self.shares.vectors[vector, arms[i]], unfloored)
            self.flags[row] |= SEEN

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None):
        cdef Py_ssize_t i, m
        cdef const Reward *reward
        cdef int32_t row, vector
        cdef double old, new
        for i in range(rows.shape[0]):
            reward = &rows[i]
            m = reward.metric
            row = map_find(&self.rows, reward.unit)
            if row < 0:
                if not self.taken(reward.unit):
                    continue
                vector = self.shares.keep_shares_of(self.shares.slot(reward.incarnation), reward)
                row = self.enrol(reward.unit, reward.time_ms, reward.arm, vector, reward.propensity, unfloored[i])
            else:
                self.cross(row, reward.arm)
            old = self.values[row, m]
            new = max(old, reward.value) if self.takes_max[m] else old + reward.value
            self.values[row, m] = new
            if self.entered[row] >> m & 1:
                self.sums.update(m, self.arm[row], self.shares_or_null(row), -self.vector[row], self.propensity[row],
                                 old, new, self.flags[row] & PLAIN != 0, self.unit[row], 0)
            elif not self.zero:
                self.enter(row, m)

    @property
    def one_in(self):
        """Of how many units that come one is analysed now."""
        return 1 << self.halvings

    cdef bint taken(self, uint64_t unit) noexcept:
        """Whether a unit that comes is analysed, as things stand."""
        return scattered(unit + <uint64_t> 0x9E3779B97F4A7C15) & ((<uint64_t> 1 << self.halvings) - 1) == 0

    cdef void thin(self) noexcept:
        """Takes fewer of the units that come, where there are many."""
        cdef Py_ssize_t n_vectors = min(self.shares.references.shape[0] - self.shares.n_spare, self.n_units)
        cdef Py_ssize_t size = (UNIT_BYTES + 8 * self.sums.n_metrics) * self.n_units + 8 * self.sums.n_arms * n_vectors
        while self.halvings < MOST_HALVINGS and size > self.most + self.halvings * (self.most >> 3):
            self.halvings += 1

    cdef void cross(self, int32_t row, uint16_t arm) noexcept:
        if arm != self.arm[row] and not self.flags[row] & CROSSED:
            self.flags[row] |= CROSSED
            self.crossovers += 1

    cdef int32_t enrol(self, uint64_t unit, int64_t ms, uint16_t arm, int32_t vector, double propensity,
                       bint unfloored) except -1:
        """A new unit; the reference to `vector` becomes its own."""
        cdef int32_t row = <int32_t> self.n_units
        if self.n_units == 0x7FFFFFFF:
            raise OverflowError("a fold holds at most 2147483647 units")
        if self.n_units == self.unit.shape[0]:
            self.widen(2 * self.n_units)
        self.unit[row] = unit
        self.entered[row] = 0
        self.flags[row] = 0
        self.values[row, :] = 0.0
        map_put(&self.rows, unit, row)
        self.n_units += 1
        if self.zero:
            self.pending += 1
        self.begin(row, ms, arm, vector, propensity, unfloored)
        if self.most:
            self.thin()
        return row

    cdef int begin(self, int32_t row, int64_t ms, uint16_t arm, int32_t vector, double propensity,
                   bint unfloored) except -1:
        self.first_ms[row] = ms
        self.arm[row] = arm
        self.vector[row] = vector
        self.propensity[row] = propensity
        self.flags[row] = (self.flags[row] & (CROSSED | SEEN)) | (UNFLOORED if unfloored else 0)
        if self.sums.contextual:
            self.flags[row] |= PLAIN
        if self.zero:
            heap_push(&self.due, ms, row)
        return 0

    cdef const double *shares_or_null(self, int32_t row) noexcept:
        return NULL if self.vector[row] < 0 else &self.shares.vectors[self.vector[row], 0]

    cdef void enter(self, int32_t row, Py_ssize_t m) noexcept:
        cdef const double *shares = &self.shares.vectors[self.vector[row], 0]
        cdef Py_ssize_t k, n = self.sums.n_arms
        self.sums.analyse(m, self.arm[row], shares, self.values[row, m], self.flags[row] & UNFLOORED != 0,
                          self.flags[row] & PLAIN != 0, self.unit[row], 0, NULL)
        self.entered[row] |= <uint32_t> 1 << m
        if self.entered[row] == self.all_metrics and self.flags[row] & PLAIN:
            while n > 0 and shares[n - 1] <= 0.0:
                n -= 1
            for k in range(n):
                if shares[k] <= 0.0:
                    return
            self.shares.drop(self.vector[row])
            self.vector[row] = <int32_t> -n

    def close(self, int64_t before_ms):
        """With `zero`: units first exposed before `before_ms` enter, in that order."""
        cdef int32_t row
        cdef int64_t ms
        cdef Py_ssize_t m
        self.closed_ms = max(self.closed_ms, before_ms)
        while self.due.size and self.due.items[0].time < self.closed_ms:
            row = <int32_t> self.due.items[0].row
            ms = self.due.items[0].time
            heap_pop(&self.due)
            if self.entered[row] or self.first_ms[row] != ms:
                continue
            self.pending -= 1
            for m in range(self.sums.n_metrics):
                self.enter(row, m)

    def still_open(self):
        """With `zero`: by arm, how many units are open, i8[K], and the sum of their values so far, f8[M, K]."""
        cdef Py_ssize_t row, m
        cdef int64_t[::1] n = np.zeros(self.sums.n_arms, np.int64)
        cdef double[:, ::1] total = np.zeros((self.sums.n_metrics, self.sums.n_arms))
        for row in range(self.n_units):
            if self.entered[row] == 0:
                n[self.arm[row]] += 1
                for m in range(self.sums.n_metrics):
                    total[m, self.arm[row]] += self.values[row, m]
        return np.asarray(n), np.asarray(total)

    cdef int widen(self, Py_ssize_t room) except -1:
        self.unit = longer(self.unit, room)
        self.first_ms = longer(self.first_ms, room)
        self.propensity = longer(self.propensity, room)
        self.vector = longer(self.vector, room)
        self.entered = longer(self.entered, room)
        self.arm = longer(self.arm, room)
        self.flags = longer(self.flags, room)
        self.values = longer(self.values, room)
        return 0

    def vectors(self):
        """The vectors that units refer to, i4[n]; below 0: none."""
        return first_rows(self.vector, self.n_units)

    def state(self, vectors):
        """`vectors` i4[n]: what `vectors()` gave, as the state of the share history numbers them."""
        return {
            "zero": np.array([self.zero]),
            "takes_max": np.array(self.takes_max),
            "halvings": np.array([self.halvings]),
            "closed_ms": np.array([self.closed_ms]),
            "unit": first_rows(self.unit, self.n_units),
            "first_ms": first_rows(self.first_ms, self.n_units),
            "propensity": first_rows(self.propensity, self.n_units),
            "vector": vectors,
            "entered": first_rows(self.entered, self.n_units),
            "arm": first_rows(self.arm, self.n_units),
            "flags": first_rows(self.flags, self.n_units),
            "values": first_rows(self.values, self.n_units),
        }

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state, Py_ssize_t most=0):
        cdef Units self = Units(sums, shares, state["zero"][0], state["takes_max"], most)
        cdef Py_ssize_t i, n = len(state["unit"])
        must_refer(state["vector"], shares.references.shape[0] - shares.n_spare, -sums.n_arms)
        # Those of before there was such a thing do not say so.
        self.halvings = state["halvings"][0] if "halvings" in state else 0
        if not 0 <= self.halvings <= MOST_HALVINGS:
            raise ValueError("the snapshot leaves more units out than there can be")
        self.closed_ms = state["closed_ms"][0]
        self.widen(room_for(n + 1))
        np.asarray(self.unit)[:n] = state["unit"]
        np.asarray(self.first_ms)[:n] = state["first_ms"]
        np.asarray(self.propensity)[:n] = state["propensity"]
        np.asarray(self.vector)[:n] = state["vector"]
        np.asarray(self.entered)[:n] = state["entered"]
        np.asarray(self.arm)[:n] = state["arm"]
        np.asarray(self.flags)[:n] = state["flags"]
        if sums.former:
            np.asarray(self.flags)[:n] |= PLAIN
        np.asarray(self.values)[:n] = state["values"]
        self.n_units = n
        for i in range(n):
            map_put(&self.rows, self.unit[i], <int32_t> i)
            if self.vector[i] >= 0:
                shares.references[self.vector[i]] += 1
            self.crossovers += self.flags[i] & CROSSED != 0
            if self.zero and self.entered[i] == 0:
                self.pending += 1
                heap_push(&self.due, self.first_ms[i], i)
        return self
