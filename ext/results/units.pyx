# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Units that enter the sums once, with all their rewards: `unit: user`."""

from libc.math cimport NAN, fmax, fmin, isnan
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

import numpy as np

from bandit_serve.results._accumulators cimport Accumulators
from bandit_serve.results._follower cimport Analysed
from bandit_serve.results._share_history cimport ShareHistory, Timeline
from expansion cimport expansion_add
from marks cimport CROSSED, PLAIN, SEEN, UNFLOORED
from reward cimport Reward, Revision
from room cimport MIN_ROOM, room_for
from thinning cimport MAX_HALVINGS, is_taken
from timeheap cimport TimeHeap, heap_free, heap_pop, heap_push
from u64map cimport U64Map, map_find, map_free, map_make, map_put

from bandit_serve.results.room import first_rows, longer, notes_of

cdef enum:
    UNIT_BYTES = 39         # of a unit's columns, without its values
    FOR_GOOD = 255          # in place of how many values there are: more than are counted, or some that never go


cdef class Units:
    """`unit: user`: a unit is analysed once, with the arm and shares of its first exposure and all its rewards.

    With `ignore` it enters, per metric, with its first reward; with `zero` when the window of its first exposure
    closes. Later rewards change its value, also those of decisions that it comes back for: so it is scored around the
    centres of its first exposure's time (`dated`), which stay what they were. The first exposure is that of the
    earliest decision, of those that the log shows before the unit enters; until an exposure has come, a reward's row
    stands in for it.
    `takes_max` uint8 (M,): a metric of rewards 0 and 1 whose value is the largest of the unit's, in place of their sum.
    `counts_missing` uint8 (M,): metrics of which, with `zero`, a unit without a reward has the value 0 (without it,
    all); for the others it enters with its first reward, after the window has closed too.

    From the first revision on (`counting`), values can go, too: with `takes_max` those that are 1 are counted, and with
    `ignore` those that are there, up to 254 of a unit and metric, so that the unit leaves the sums with the last one.
    What came before stays, as rewards that are no sums of events do. A value is then the correctly rounded sum of its
    rewards: `rests` keeps what rounding took from it (`expansion.pxd`).

    `parts` int64 (M, 2): of a ratio its numerator and denominator, -1 of other metrics. A ratio has no rewards: a unit
    enters with the first of one of its parts (with `zero`, as for the others), and one without either has 0 there.

    A unit's note is that of its first exposure, and of the reward that stands in for it.

    A metric may have joined later, at `since_ms` int64 (M,): units first exposed before are not analysed on it.

    Units that are here stay. Each takes `UNIT_BYTES`, 8 bytes a metric (once `counting`, 17 bytes a metric more), 4
    bytes a column of its note, and its part of the share vectors. Once that is more than `most` (0: any number), only
    every second unit that comes is analysed, from an eighth of `most` further on every fourth, and so on, up to 2^20.
    A unit that was not taken is not taken later either, as that is a hash of the unit. `one_in` says where that
    stands.
    """

    cdef Accumulators sums
    cdef ShareHistory shares
    cdef bint zero
    cdef const uint8_t[::1] takes_max
    cdef const uint8_t[::1] counts_missing
    cdef const int64_t[:, ::1] parts
    cdef bint has_ratios
    cdef const int64_t[::1] since_ms
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
    # NaN: no reward yet, of a metric that does not count what is missing. Once `counting`, with `takes_max`: how many
    # are 1.
    cdef double[:, ::1] values
    cdef float[:, ::1] notes            # (n, w)
    cdef double[:, :, ::1] rests        # once `counting`: what is missing in values, larger one first
    cdef uint8_t[:, ::1] present        # once `counting`, with `ignore`: how many values there are, or FOR_GOOD
    cdef uint32_t[::1] dated            # bit m: entered for metric m with centres of its time; former builds did not
    cdef bint counting
    cdef Py_ssize_t n_units
    cdef U64Map rows
    cdef TimeHeap due
    cdef Py_ssize_t most
    cdef int halvings

    def __cinit__(self, Accumulators sums not None, ShareHistory shares not None, bint zero,
                  const uint8_t[::1] takes_max, Py_ssize_t most=0, const uint8_t[::1] counts_missing=None,
                  const int64_t[:, ::1] parts=None):
        if parts is None:
            parts = np.full((sums.n_metrics, 2), -1, np.int64)
        self.parts = parts
        self.has_ratios = np.max(parts, initial=-1) >= 0
        if counts_missing is None:
            counts_missing = np.ones(sums.n_metrics, np.uint8)
        if counts_missing.shape[0] != sums.n_metrics:
            raise ValueError(f"expected counts_missing of {sums.n_metrics} metrics, not of {counts_missing.shape[0]}")
        self.counts_missing = counts_missing
        self.since_ms = np.full(sums.n_metrics, np.iinfo(np.int64).min)
        self.most = most
        map_make(&self.rows, MIN_ROOM)
        self.sums = sums
        self.shares = shares
        self.zero = zero
        if takes_max.shape[0] != sums.n_metrics:
            raise ValueError(f"expected takes_max of {sums.n_metrics} metrics, not of {takes_max.shape[0]}")
        self.takes_max = takes_max
        self.all_metrics = <uint32_t> ((<uint64_t> 1 << sums.n_metrics) - 1)
        self.closed_ms = -(<int64_t> 1 << 62)
        self.unit = np.zeros(MIN_ROOM, np.uint64)
        self.first_ms = np.zeros(MIN_ROOM, np.int64)
        self.propensity = np.zeros(MIN_ROOM)
        self.vector = np.zeros(MIN_ROOM, np.int32)
        self.entered = np.zeros(MIN_ROOM, np.uint32)
        self.arm = np.zeros(MIN_ROOM, np.uint16)
        self.flags = np.zeros(MIN_ROOM, np.uint8)
        self.values = np.zeros((MIN_ROOM, sums.n_metrics))
        self.notes = np.zeros((MIN_ROOM, sums.note_width), np.float32)
        self.present = np.zeros((0, sums.n_metrics), np.uint8)
        self.dated = np.zeros(MIN_ROOM, np.uint32)
        self.rests = np.zeros((0, sums.n_metrics, 2))

    def __dealloc__(self):
        map_free(&self.rows)
        heap_free(&self.due)

    def know_since(self, const int64_t[::1] since_ms):
        self.since_ms = since_ms

    def expose(self, uint64_t incarnation, uint64_t first, Py_ssize_t low, Py_ssize_t high, int64_t ms,
               const uint16_t[::1] arms, const uint32_t[::1] ages_ms, const uint64_t[::1] units, bint unfloored,
               x=None, const float[:, ::1] notes=None):
        """Rows `low` … `high - 1` of an exposure that starts at counter `first` and time `ms`.

        `notes` float32 (n, w): the notes of all its decisions.
        """
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
                self.note(row, notes, i)
                self.flags[row] |= SEEN
                continue
            self.cross(row, arms[i])
            if self.entered[row] == 0 and ms + ages_ms[i] - (self.flags[row] & SEEN == 0) < self.first_ms[row]:
                self.shares.references[vector] += 1
                self.shares.drop(self.vector[row])
                self.begin(row, ms + ages_ms[i], arms[i], vector, self.shares.vectors[vector, arms[i]], unfloored)
                self.note(row, notes, i)
            self.flags[row] |= SEEN

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None, const float[:, ::1] notes=None):
        """`notes` float32 (n, w): those of the rows' decisions."""
        cdef Py_ssize_t i
        cdef int32_t row
        for i in range(rows.shape[0]):
            row = self.row_of(&rows[i], unfloored[i], notes, i)
            if row < 0 or not self.is_analysed_on(row, rows[i].metric):
                continue
            if self.counts_present():
                self.present[row, rows[i].metric] = FOR_GOOD
            self.change(row, rows[i].metric, rows[i].value, 0.0)

    def revise(self, const Revision[::1] rows, const uint8_t[::1] unfloored, x=None, const float[:, ::1] notes=None):
        """As `reward`, for values that are sums of events. With `ignore` a unit leaves with the last that is gone."""
        cdef Py_ssize_t i, m
        cdef int32_t row
        cdef uint8_t there
        cdef bint new, gone
        self.begin_to_count()
        for i in range(rows.shape[0]):
            m, new, gone = rows[i].reward.metric, isnan(rows[i].former), isnan(rows[i].reward.value)
            row = self.row_of(&rows[i].reward, unfloored[i], notes, i)
            if row < 0 or not self.is_analysed_on(row, m):
                continue
            if self.counts_present():
                there = self.present[row, m]
                if there != FOR_GOOD:
                    there += new
                    there -= gone and there > 0
                    self.present[row, m] = there
                if there == 0:
                    self.leave(row, m)
                    continue
            self.change(row, m, 0.0 if gone else rows[i].reward.value, 0.0 if new else rows[i].former)

    cdef bint is_analysed_on(self, int32_t row, Py_ssize_t m) noexcept:
        """Return whether a unit came since there was a metric, and has its shares if it is still to enter."""
        return self.first_ms[row] >= self.since_ms[m] and (self.vector[row] >= 0 or self.entered[row] >> m & 1)

    cdef bint counts_present(self) noexcept:
        return self.counting and not self.zero

    cdef int begin_to_count(self) except -1:
        """All values so far are such as never go."""
        cdef Py_ssize_t row, m
        if self.counting:
            return 0
        self.counting = True
        self.rests = np.zeros((self.unit.shape[0], self.sums.n_metrics, 2))
        if self.zero:
            return 0
        self.present = np.zeros((self.unit.shape[0], self.sums.n_metrics), np.uint8)
        for row in range(self.n_units):
            for m in range(self.sums.n_metrics):
                if self.entered[row] >> m & 1:
                    self.present[row, m] = FOR_GOOD
        return 0

    cdef int note(self, int32_t row, const float[:, ::1] notes, Py_ssize_t i) except -1:
        """Gives a unit row i of `notes`."""
        if self.sums.note_width and notes is not None:
            self.notes[row, :] = notes[i, :]
        return 0

    cdef int32_t row_of(self, const Reward *reward, bint unfloored, const float[:, ::1] notes, Py_ssize_t i) except -2:
        """Row of a reward's unit, which it enrols if it is new; -1 if it is not analysed."""
        cdef int32_t row = map_find(&self.rows, reward.unit), vector
        if row >= 0:
            self.cross(row, reward.arm)
            return row
        if not self.taken(reward.unit):
            return -1
        vector = self.shares.keep_shares_of(self.shares.slot(reward.incarnation), reward)
        row = self.enrol(reward.unit, reward.time_ms, reward.arm, vector, reward.propensity, unfloored)
        self.note(row, notes, i)
        return row

    cdef int change(self, int32_t row, Py_ssize_t m, double reward, double former) except -1:
        """A unit has a reward in place of a former one, 0 where it had none."""
        cdef double old = self.value(row, m)
        cdef Analysed one
        cdef Py_ssize_t r
        if isnan(self.values[row, m]):
            self.values[row, m] = reward - former
        elif self.counting:
            self.values[row, m] = expansion_add(self.values[row, m], &self.rests[row, m, 0], reward)
            self.values[row, m] = expansion_add(self.values[row, m], &self.rests[row, m, 0], -former)
        elif self.takes_max[m]:
            self.values[row, m] = max(old, reward)
        else:
            self.values[row, m] += reward
        if self.entered[row] >> m & 1:
            self.fill(&one, row, m)
            self.sums.revalue(&one, old)
        elif not self.zero or (self.entered[row] and not self.counts_missing[m]):
            self.enter(row, m)
        if self.has_ratios:
            for r in range(self.sums.n_metrics):
                if self.parts[r, 0] == m or self.parts[r, 1] == m:
                    self.change_ratio(row, r, m, old)
        return 0

    cdef int change_ratio(self, int32_t row, Py_ssize_t r, Py_ssize_t m, double old) except -1:
        """Metric m, whose value was `old`, has another one: so has the ratio r of which it is a part."""
        cdef Analysed one
        cdef double numerator, denominator
        if not self.entered[row] >> r & 1:
            if not self.zero:
                self.enter(row, r)
            return 0
        self.fill(&one, row, r)
        numerator = old if self.parts[r, 0] == m else one.value
        denominator = old if self.parts[r, 1] == m else one.companion
        self.sums.revalue(&one, numerator, denominator)
        return 0

    cdef int leave_ratios(self, int32_t row, Py_ssize_t m, double old) except -1:
        """Metric m, whose value was `old`, has none any more: a ratio whose other part has none either goes with it."""
        cdef Analysed one
        cdef Py_ssize_t r, other
        for r in range(self.sums.n_metrics):
            if self.parts[r, 0] != m and self.parts[r, 1] != m:
                continue
            other = self.parts[r, 1] if self.parts[r, 0] == m else self.parts[r, 0]
            if self.entered[row] >> other & 1:
                self.change_ratio(row, r, m, old)
            elif self.entered[row] >> r & 1:
                self.fill(&one, row, r)
                if self.parts[r, 0] == m:
                    one.value = old
                else:
                    one.companion = old
                self.sums.take_back(&one)
                self.entered[row] &= ~(<uint32_t> 1 << r)
                self.dated[row] &= ~(<uint32_t> 1 << r)
        return 0

    cdef double value(self, int32_t row, Py_ssize_t m) noexcept:
        """Value that is analysed."""
        return fmax(0.0, fmin(self.values[row, m], 1.0)) if self.takes_max[m] else self.values[row, m]

    cdef int leave(self, int32_t row, Py_ssize_t m) except -1:
        cdef Analysed one
        cdef double old = self.value(row, m)
        if self.entered[row] >> m & 1:
            self.fill(&one, row, m)
            self.sums.take_back(&one)
            self.entered[row] &= ~(<uint32_t> 1 << m)
            self.dated[row] &= ~(<uint32_t> 1 << m)
        self.values[row, m] = 0.0
        self.rests[row, m, :] = 0.0
        if self.has_ratios:
            self.leave_ratios(row, m, old)
        return 0

    @property
    def one_in(self):
        """Number of units that come of which one is analysed now."""
        return 1 << self.halvings

    cdef bint taken(self, uint64_t unit) noexcept:
        """Return whether a unit that comes is analysed, as things stand."""
        return is_taken(unit + <uint64_t> 0x9E3779B97F4A7C15, self.halvings)

    cdef void thin(self) noexcept:
        """Takes fewer of the units that come, where there are many."""
        cdef Py_ssize_t n_vectors = min(self.shares.references.shape[0] - self.shares.n_spare, self.n_units)
        cdef Py_ssize_t a_unit = UNIT_BYTES + 8 * self.sums.n_metrics + 4 * self.sums.note_width
        cdef Py_ssize_t size
        if self.counting:
            a_unit += (16 + 1) * self.sums.n_metrics
        size = a_unit * self.n_units + 8 * self.sums.n_arms * n_vectors
        while self.halvings < MAX_HALVINGS and size > self.most + self.halvings * (self.most >> 3):
            self.halvings += 1

    cdef void cross(self, int32_t row, uint16_t arm) noexcept:
        if arm != self.arm[row] and not self.flags[row] & CROSSED:
            self.flags[row] |= CROSSED
            self.crossovers += 1

    cdef int32_t enrol(self, uint64_t unit, int64_t ms, uint16_t arm, int32_t vector, double propensity,
                       bint unfloored) except -1:
        """A new unit; the reference to `vector` becomes its own."""
        cdef int32_t row = <int32_t> self.n_units
        cdef Py_ssize_t m
        if self.n_units == 0x7FFFFFFF:
            raise OverflowError("a fold holds at most 2147483647 units")
        if self.n_units == self.unit.shape[0]:
            self.widen(2 * self.n_units)
        self.unit[row] = unit
        self.entered[row] = 0
        self.flags[row] = 0
        for m in range(self.sums.n_metrics):
            self.values[row, m] = NAN if self.zero and not self.counts_missing[m] else 0.0
        self.notes[row, :] = 0.0
        if self.counting:
            self.rests[row, :, :] = 0.0
        if self.counts_present():
            self.present[row, :] = 0
        self.dated[row] = 0
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

    cdef bint is_dated(self, int32_t row, Py_ssize_t m) noexcept:
        """Return whether a unit was scored around the centres of its time."""
        return self.dated[row] >> m & 1

    cdef void fill(self, Analysed *one, int32_t row, Py_ssize_t m) noexcept:
        one.metric, one.arm, one.e, one.all_of = m, self.arm[row], self.shares_or_null(row), -self.vector[row]
        one.propensity, one.value, one.companion = self.propensity[row], self.value(row, m), 0.0
        one.unfloored, one.plain = self.flags[row] & UNFLOORED != 0, self.flags[row] & PLAIN != 0
        one.dated, one.who, one.number, one.time_ms = self.is_dated(row, m), self.unit[row], 0, self.first_ms[row]
        one.x, one.note = NULL, NULL if self.sums.note_width == 0 else &self.notes[row, 0]
        if self.parts[m, 0] >= 0:
            one.value, one.companion = self.value(row, self.parts[m, 0]), self.value(row, self.parts[m, 1])

    cdef int enter(self, int32_t row, Py_ssize_t m) except -1:
        cdef const double *shares = &self.shares.vectors[self.vector[row], 0]
        cdef Py_ssize_t k, n = self.sums.n_arms
        cdef Analysed one
        self.dated[row] |= <uint32_t> 1 << m
        self.fill(&one, row, m)
        self.sums.take_in(&one)
        self.entered[row] |= <uint32_t> 1 << m
        # One that may leave needs them for that.
        if self.entered[row] == self.all_metrics and self.flags[row] & PLAIN and not self.counts_present():
            while n > 0 and shares[n - 1] <= 0.0:
                n -= 1
            for k in range(n):
                if shares[k] <= 0.0:
                    return 0
            self.shares.drop(self.vector[row])
            self.vector[row] = <int32_t> -n
        return 0

    def close(self, int64_t before_ms):
        """Enters units first exposed before `before_ms`, in that order, with `zero`."""
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
                if not isnan(self.values[row, m]) and ms >= self.since_ms[m]:
                    self.enter(row, m)

    def still_open(self):
        """Numbers of open units by arm, int64 (K,), and sums of their values so far, float64 (M, K), with `zero`."""
        cdef Py_ssize_t row, m
        cdef int64_t[::1] n = np.zeros(self.sums.n_arms, np.int64)
        cdef double[:, ::1] total = np.zeros((self.sums.n_metrics, self.sums.n_arms))
        for row in range(self.n_units):
            if self.entered[row] == 0:
                n[self.arm[row]] += 1
                for m in range(self.sums.n_metrics):
                    if not isnan(self.values[row, m]):
                        total[m, self.arm[row]] += self.sums.cut(m, self.value(<int32_t> row, m))
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
        self.notes = longer(self.notes, room)
        if self.counting:
            self.rests = longer(self.rests, room)
        if self.counts_present():
            self.present = longer(self.present, room)
        self.dated = longer(self.dated, room)
        return 0

    def vectors(self):
        """Vectors that units refer to, int32 (n,); below 0: none."""
        return first_rows(self.vector, self.n_units)

    def state(self, vectors):
        """`vectors` int32 (n,): what `vectors()` gave, as the state of the share history numbers them."""
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
            "counting": np.array([self.counting]),
            "present": first_rows(self.present, self.n_units if self.counts_present() else 0),
            "rests": first_rows(self.rests, self.n_units if self.counting else 0),
            "dated": first_rows(self.dated, self.n_units),
            **({"notes": first_rows(self.notes, self.n_units)} if self.sums.note_width else {}),
        }

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state, Py_ssize_t most=0,
                   const uint8_t[::1] counts_missing=None, const int64_t[:, ::1] parts=None):
        cdef Units self = Units(sums, shares, state["zero"][0], state["takes_max"], most, counts_missing, parts)
        cdef Py_ssize_t i, n = len(state["unit"])
        shares.check_references(state["vector"], -sums.n_arms)
        # Those of before there was such a thing do not say so.
        self.halvings = state["halvings"][0] if "halvings" in state else 0
        if not 0 <= self.halvings <= MAX_HALVINGS:
            raise ValueError("the snapshot leaves more units out than there can be")
        self.closed_ms = state["closed_ms"][0]
        self.counting = "counting" in state and state["counting"][0]
        self.rests = np.zeros((self.unit.shape[0] if self.counting else 0, sums.n_metrics, 2))
        self.widen(room_for(n + 1))
        if self.counting and "rests" in state:
            if state["rests"].shape != (n, sums.n_metrics, 2):
                raise ValueError("the snapshot's values are not those of its units")
            np.asarray(self.rests)[:n] = state["rests"]
        if self.counts_present():
            if state["present"].shape != (n, sums.n_metrics):
                raise ValueError("the snapshot does not count the values of all its units")
            np.asarray(self.present)[:n] = state["present"]
            # Of a metric that joined after a unit gave its shares up, it never has a value.
            entered = state["entered"][:, None] >> np.arange(sums.n_metrics, dtype=np.uint32) & 1 > 0
            if (entered & (state["vector"] < 0)[:, None] & (state["present"] != FOR_GOOD)).any():
                raise ValueError("the snapshot lacks shares of units that may leave")
        # Those of former builds have none, or none of some modes.
        if len(state.get("dated", ())):
            np.asarray(self.dated)[:n] = state["dated"]
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
        if sums.note_width:
            np.asarray(self.notes)[:n] = notes_of(state, "notes", n, sums.note_width)
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
