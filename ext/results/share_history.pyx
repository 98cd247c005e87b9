# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Share vectors that decisions were drawn from: per worker, the runs of counters that were drawn from one vector.

Events are applied row by row, in scalar arithmetic, so that a fold gives the same bits however the log is cut up.
Nothing that a state leaves out (spare room, the layout of maps) has any influence on them. Callers have checked every
column (`results/columns.py`).
"""

from libc.math cimport fabs
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memmove, memset

import numpy as np

from propensity cimport SAME_SHARE
from reward cimport Reward
from room cimport lengthened, room_for
from thinning cimport MAX_HALVINGS, is_taken
from u64map cimport map_find, map_free, map_make, map_put

from bandit_serve.results.room import longer, widened

cdef enum:
    BLOCK_BITS = 6          # decisions are left out in blocks of 64 consecutive ones
    PAST = -2               # in place of a run's vector: it is not needed any more, as its decisions have been analysed


cdef class ShareHistory:
    """Decisions that each worker has exposed, in runs of one share vector, and the vectors, each stored once.

    `current` float64 (K,) stands in for a worker's vector until one has been logged. Vectors from before an arm was
    there have 0 for it.

    At most `most` vectors are kept (0: any number). When more would have to be, only decisions of every second block
    of 64 consecutive ones are analysed from then on, of the open ones too; and so on, until they fit. Which blocks
    those are is a hash of the worker and the block's number, so it has nothing to do with contexts, arms or rewards.
    Once an eighth of `most` would do, every second one of those left out is analysed again. `one_in` says where that
    stands.
    """

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
        """Number of a vector with these shares (not a row of `vectors`), with one reference more."""
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
        if at >= 0:
            return at
        at = self.n_timelines
        if at == 1 << (63 - COUNTER_BITS):
            raise OverflowError("the log names more workers than a fold can tell apart")
        if at == self.most_timelines:
            room = 2 * at if at else 16
            self.timelines = <Timeline *> lengthened(self.timelines, room * sizeof(Timeline))
            self.most_timelines = room
        memset(&self.timelines[at], 0, sizeof(Timeline))
        self.timelines[at].incarnation = incarnation
        map_put(&self.slots, incarnation, <int32_t> at)
        self.n_timelines += 1
        return at

    cdef Py_ssize_t run_before(self, Py_ssize_t slot, uint64_t counter) noexcept:
        """Last run that starts at or before `counter`, or -1."""
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
        """Last span of the past that starts at or before `counter`, or -1."""
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
        """End of what was exposed around `counter`, or 0 when it was not."""
        cdef Timeline *line = &self.timelines[slot]
        cdef Py_ssize_t at = self.run_before(slot, counter)
        if at >= 0 and counter < line.end[at]:
            return line.end[at]
        at = self.past_before(slot, counter)
        return line.past[at].end if at >= 0 and counter < line.past[at].end else 0

    cdef uint64_t next_exposed(self, Py_ssize_t slot, uint64_t counter, uint64_t end) noexcept:
        """Counter after `counter`, at most `end`, at which something begins that was exposed."""
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
        """Shares that a rewarded decision was drawn from, as far as the log says.

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
        """Number of the vector of `shares_of`, with one reference more."""
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
        """Return whether decisions of a block are analysed, as things stand."""
        return is_taken(self.timelines[slot].incarnation + block * <uint64_t> 0x9E3779B97F4A7C15, self.halvings)

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
        """Parts [(low, high), …] of decisions `first` … `first + n - 1` that have not been exposed before."""
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
        while self.most and self.n_vectors > self.most and self.halvings < MAX_HALVINGS:
            self.thin()

    def forget(self, int64_t vectors_ms, int64_t before_ms):
        """Forgets the vectors of runs last added to before `vectors_ms`, and all of those before `before_ms`."""
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
        """Number of decisions of which one is analysed now."""
        return 1 << self.halvings

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come: all that was remembered gave them nothing."""
        self.vectors = widened(self.vectors, n_arms)
        self.adjusted = np.zeros(n_arms)
        self.n_arms = n_arms

    @property
    def n_vectors(self):
        """Number of distinct vectors that are remembered."""
        return self.references.shape[0] - self.n_spare

    @property
    def n_runs(self):
        return sum(self.timelines[i].tail - self.timelines[i].head for i in range(self.n_timelines))

    @property
    def n_past(self):
        return sum(self.timelines[i].n_past for i in range(self.n_timelines))

    cdef int check_references(self, object numbers, Py_ssize_t least) except -1:
        """A snapshot's references are checked, so that a damaged one is an error and not a crash."""
        if len(numbers) and not (least <= numbers.min() and numbers.max() < self.n_vectors):
            raise ValueError("the snapshot refers to share vectors that it does not hold")
        return 0

    def state(self, unit_vectors):
        """Columns for `from_state`, and `unit_vectors`, int32 (n,): the units' vectors, as numbered in the columns."""
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
        unit_vectors = np.asarray(unit_vectors, np.int32)
        everyone = np.concatenate(
            [np.array([self.current], np.int32), numbers[numbers >= 0], unit_vectors[unit_vectors >= 0]]
        )
        distinct, seen_at = np.unique(everyone, return_index=True)
        distinct = distinct[np.argsort(seen_at)]
        renumbered = np.full(self.references.shape[0], -1, np.int32)
        renumbered[distinct] = np.arange(len(distinct))
        renumbered_units = np.where(unit_vectors >= 0, renumbered[np.maximum(unit_vectors, 0)], unit_vectors)
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
        if {len(state[name]) for name in ("incarnations", "first", "end", "last_ms")} != {numbers.shape[0]}:
            raise ValueError("the snapshot does not say everything of all its runs")
        # Those of before there was such a thing do not say so.
        self.halvings = state["halvings"][0] if "halvings" in state else 0
        if not 0 <= self.halvings <= MAX_HALVINGS:
            raise ValueError("the snapshot leaves more decisions out than there can be")
        self.make_vectors(vectors.shape[0])
        self.check_references(state["numbers"], PAST)
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
