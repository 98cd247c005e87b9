# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decisions that enter the sums when their windows have closed: `missing: zero`, `unit: request`."""

from libc.math cimport isnan
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove

import numpy as np

from bandit_serve.results._accumulators cimport Accumulators
from bandit_serve.results._follower cimport Analysed
from bandit_serve.results._share_history cimport COUNTER_BITS, LEFT_OUT, ShareHistory, Timeline
from marks cimport DONE, GONE, PLAIN, SEEN, UNFLOORED
from reward cimport Reward, Revision
from room cimport MIN_ROOM, room_for
from timeheap cimport TimeHeap, heap_free, heap_pop, heap_push, heap_replace_top
from u64map cimport U64Map, map_find, map_free, map_make, map_put, map_remove

from bandit_serve.results.room import first_rows, longer, notes_of

cdef enum:
    ORPHANS_PART = 16       # of as many vectors as there may be, the part for what was analysed without its exposure
    COUNTED = 65535         # in place of an exposure's arm: analysed before the exposure came


cdef class OpenDecisions:
    """`missing: zero`, `unit: request`: a decision is analysed when its window has closed.

    Exposures are kept as they came, in blocks of consecutive counters whose times do not fall (6 bytes a decision);
    rewards are held by decision until its window closes. A held reward whose exposure has not come by then is
    analysed by its own row, and remembered for `linger_ms` so that the exposure, if it still comes, is not
    analysed again. A reward for a decision that is already closed changes its value, from 0 or what it was, and all
    that was made of it with the shares that it was analysed with: of one whose exposure came after that, they are kept
    `grace_ms` longer.

    `counts_missing` uint8 (M,): metrics of which a decision without a reward has the value 0 (without it, all). A
    decision without one is not analysed for the others; a late reward is then the decision's first value.

    Features are kept as they came, too, of an exposure, or of a reward while its exposure has not come, in at most
    `most_x` bytes (0: any number): what comes when that is full is analysed without. Notes are kept of each, 4 bytes a
    column.
    """

    cdef Accumulators sums
    cdef ShareHistory shares
    cdef int64_t linger_ms, grace_ms
    cdef Py_ssize_t most_x
    cdef const uint8_t[::1] counts_missing
    cdef readonly Py_ssize_t n_x        # open decisions whose features are kept
    cdef list block_x                   # of each block: float32 (its rows, d), or None
    cdef dict held_x                    # of held rows: float32 (d,)
    cdef int64_t closed_ms              # decisions before this time have been analysed
    cdef Py_ssize_t pending_exposures
    cdef Py_ssize_t pending_orphans     # decisions with a held reward whose exposure has not come
    cdef Py_ssize_t unseen              # held rows whose exposure has not come, analysed or not

    cdef uint16_t[::1] arms
    cdef uint32_t[::1] ages_ms
    cdef float[:, ::1] notes            # (n, w)
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
    cdef float[:, ::1] held_notes       # (n, w)
    cdef int32_t[::1] held_vector       # once DONE: what it was analysed with, -1 where that is not kept
    cdef Py_ssize_t n_held, n_gone, n_kept
    cdef U64Map held
    cdef TimeHeap due_held

    def __cinit__(self, Accumulators sums not None, ShareHistory shares not None, int64_t linger_ms,
                  int64_t grace_ms, Py_ssize_t most_x=0, const uint8_t[::1] counts_missing=None):
        if counts_missing is None:
            counts_missing = np.ones(sums.n_metrics, np.uint8)
        if counts_missing.shape[0] != sums.n_metrics:
            raise ValueError(f"expected counts_missing of {sums.n_metrics} metrics, not of {counts_missing.shape[0]}")
        self.counts_missing = counts_missing
        map_make(&self.held, MIN_ROOM)
        self.most_x = most_x
        self.block_x = []
        self.held_x = {}
        self.sums = sums
        self.shares = shares
        self.linger_ms = linger_ms
        self.grace_ms = grace_ms
        self.closed_ms = -(<int64_t> 1 << 62)
        self.arms = np.zeros(MIN_ROOM, np.uint16)
        self.ages_ms = np.zeros(MIN_ROOM, np.uint32)
        self.notes, self.held_notes = np.zeros((2, MIN_ROOM, sums.note_width), np.float32)
        self.block_slot = np.zeros(MIN_ROOM, np.int32)
        self.block_first = np.zeros(MIN_ROOM, np.uint64)
        self.block_ms, self.block_start, self.block_size, self.block_cursor = np.zeros((4, MIN_ROOM), np.int64)
        self.block_unfloored = np.zeros(MIN_ROOM, np.uint8)
        self.held_key = np.zeros(MIN_ROOM, np.uint64)
        self.held_due_ms = np.zeros(MIN_ROOM, np.int64)
        self.held_propensity = np.zeros(MIN_ROOM)
        self.held_arm = np.zeros(MIN_ROOM, np.uint16)
        self.held_metrics = np.zeros(MIN_ROOM, np.uint32)
        self.held_flags = np.zeros(MIN_ROOM, np.uint8)
        self.held_values = np.zeros((MIN_ROOM, sums.n_metrics))
        self.held_vector = np.zeros(MIN_ROOM, np.int32)

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
               const uint16_t[::1] arms, const uint32_t[::1] ages_ms, const uint64_t[::1] units, bint unfloored,
               x=None, const float[:, ::1] notes=None):
        """Opens rows `low` … `high - 1` of an exposure that starts at counter `first` and time `ms`.

        `x` float32 (n, d): the features of all its decisions, where they are known; `notes` float32 (n, w).
        """
        cdef Py_ssize_t slot = self.shares.slot(incarnation), start = low, i
        for i in range(low + 1, high + 1):
            if i == high or ages_ms[i] < ages_ms[i - 1]:
                kept = x[start:i].copy() if x is not None and self.has_room(i - start, x.shape[1]) else None
                noted = None if notes is None else notes[start:i]
                self.open_block(slot, first + start, ms, arms[start:i], ages_ms[start:i], unfloored, kept, noted)
                start = i

    cdef bint has_room(self, Py_ssize_t n, Py_ssize_t width) noexcept:
        """Return whether there is room for the features of n more decisions."""
        return self.most_x == 0 or (self.n_x + n) * width * <Py_ssize_t> sizeof(float) <= self.most_x

    def forget_features(self):
        """Forgets those of all that is open: there is no model any more that would take them."""
        self.block_x = [None] * self.n_blocks
        self.held_x = {}
        self.n_x = 0

    cdef int forget_held_x(self, int32_t held) except -1:
        if self.held_x and self.held_x.pop(held, None) is not None:
            self.n_x -= 1
        return 0

    cdef int open_block(self, Py_ssize_t slot, uint64_t first, int64_t ms, const uint16_t[::1] arms,
                        const uint32_t[::1] ages_ms, bint unfloored, x, const float[:, ::1] notes) except -1:
        cdef Py_ssize_t n = arms.shape[0], at, b, i
        cdef int32_t held
        if self.n_rows + n > self.arms.shape[0] or self.n_blocks == self.block_ms.shape[0]:
            self.tidy_blocks(n)
        at, b = self.n_rows, self.n_blocks
        self.arms[at:at + n] = arms
        self.ages_ms[at:at + n] = ages_ms
        self.notes[at:at + n, :] = 0.0
        if notes is not None:
            self.notes[at:at + n, :] = notes
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

    def reward(self, const Reward[::1] rows, const uint8_t[::1] unfloored, x=None, const float[:, ::1] notes=None):
        """`x` float32 (n, d): the features of the rows' decisions, where they are known; `notes` float32 (n, w)."""
        cdef Py_ssize_t i
        for i in range(rows.shape[0]):
            self.take(&rows[i], 0.0, rows[i].value, True, unfloored[i], x, self.noted(notes, i), i)

    def revise(self, const Revision[::1] rows, const uint8_t[::1] unfloored, x=None, const float[:, ::1] notes=None):
        """As `reward`, for values that are sums of events; one that is gone is 0."""
        cdef Py_ssize_t i
        cdef double former, value
        for i in range(rows.shape[0]):
            former = 0.0 if isnan(rows[i].former) else rows[i].former
            value = 0.0 if isnan(rows[i].reward.value) else rows[i].reward.value
            self.take(&rows[i].reward, former, value, not isnan(rows[i].reward.value), unfloored[i], x,
                      self.noted(notes, i), i)

    cdef const float *noted(self, const float[:, ::1] notes, Py_ssize_t i) noexcept:
        """Row i of `notes`; NULL where there are none."""
        return NULL if self.sums.note_width == 0 or notes is None else &notes[i, 0]

    cdef int take(self, const Reward *row, double former, double value, bint there, bint unfloored, x,
                  const float *note, Py_ssize_t i) except -1:
        """A decision whose value was `former`, 0 where it had none, has `value`; `there`: it is not one that is gone.

        Row i of `x` has its features, where they are known.
        """
        cdef Py_ssize_t slot = self.shares.slot(row.incarnation), j
        cdef uint64_t key = self.key(slot, row.counter)
        cdef uint32_t metric = <uint32_t> 1 << row.metric
        cdef int32_t held = map_find(&self.held, key)
        cdef bint seen
        if held < 0:
            seen = self.shares.exposed_to(slot, row.counter) > 0
            if seen and row.time_ms < self.closed_ms:
                if not self.shares.left_out(slot, row.counter):
                    self.late(slot, row, row.metric, self.shares.shares_of(slot, row), former, value, unfloored,
                              self.sums.contextual, note)
                return 0
            held = self.hold(key, row, seen, unfloored)
            for j in range(self.sums.note_width if note != NULL else 0):
                self.held_notes[held, j] = note[j]
            if x is not None and not seen and self.has_room(1, x.shape[1]):
                self.held_x[held] = x[i].copy()
                self.n_x += 1
        elif self.held_flags[held] & DONE:
            self.late_orphan(slot, row, held, former, value)
            return 0
        self.held_metrics[held] = self.held_metrics[held] | metric if there else self.held_metrics[held] & ~metric
        self.held_values[held, row.metric] = value
        return 0

    cdef int late(self, Py_ssize_t slot, const Reward *row, Py_ssize_t m, const double *shares, double former,
                  double value, bint unfloored, bint plain, const float *note) except -1:
        """Changes what was analysed with `former`, 0 for no reward: it has another value now."""
        cdef Analysed one
        self.fill(&one, self.shares.timelines[slot].incarnation, row.counter, m, row.arm, shares, value)
        one.propensity, one.unfloored, one.plain, one.note = row.propensity, unfloored, plain, note
        if self.counts_missing[m]:
            self.sums.revalue(&one, former)
        else:
            self.sums.take_in(&one)
        return 0

    cdef int late_orphan(self, Py_ssize_t slot, const Reward *row, int32_t held, double former,
                         double value) except -1:
        """Changes what was analysed before its exposure came: it has another value on a metric."""
        cdef int32_t vector = self.held_vector[held]
        cdef bint unfloored = self.held_flags[held] & UNFLOORED != 0
        cdef const float *note = self.noted(self.held_notes, held)
        if vector < 0:
            return self.late(slot, row, row.metric, self.shares.shares_of(slot, row), former, value, unfloored,
                             self.sums.contextual, note)
        return self.late(slot, row, row.metric, &self.shares.vectors[vector, 0], former, value, unfloored,
                         self.held_flags[held] & PLAIN != 0, note)

    cdef void fill(self, Analysed *one, uint64_t incarnation, uint64_t counter, Py_ssize_t m, Py_ssize_t arm,
                   const double *shares, double value) noexcept:
        one.metric, one.arm, one.e, one.all_of, one.propensity = m, arm, shares, 0, shares[arm]
        one.value, one.companion, one.dated, one.who, one.number = value, 0.0, False, incarnation, counter
        one.time_ms, one.x = 0, NULL

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
        self.held_notes[held, :] = 0.0
        self.held_vector[held] = -1
        map_put(&self.held, key, held)
        heap_push(&self.due_held, row.time_ms, held)
        if not seen:
            self.unseen += 1
            self.pending_orphans += 1
        return held

    cdef bint has_reward(self, int32_t held, Py_ssize_t m) noexcept:
        """Return whether a decision is held (−1: it is not) with a value of metric m."""
        return held >= 0 and self.held_metrics[held] >> m & 1

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
        cdef Analysed one
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
                        if not (self.counts_missing[m] or self.has_reward(held, m)):
                            continue
                        self.fill(&one, line.incarnation, counter, m, self.arms[at], shares,
                                  self.held_values[held, m] if held >= 0 else 0.0)
                        one.unfloored, one.plain = self.block_unfloored[b], self.sums.contextual
                        one.x, one.note = &x[i, 0] if known else NULL, self.noted(self.notes, at)
                        self.sums.take_in(&one)
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
        """Closes what no block took: an orphan is analysed; one that was analysed has been remembered long enough."""
        cdef Py_ssize_t slot = self.held_key[held] >> COUNTER_BITS, m
        cdef Reward row
        cdef const double *shares
        cdef Analysed one
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
                if self.has_reward(held, m) and not self.shares.left_out(slot, row.counter):
                    self.late(slot, &row, m, shares, 0.0, self.held_values[held, m],
                              self.held_flags[held] & UNFLOORED != 0, self.sums.contextual,
                              self.noted(self.held_notes, held))
            self.let_go(held)
            return 0
        for m in range(self.sums.n_metrics):
            if not (self.counts_missing[m] or self.has_reward(held, m)):
                continue
            self.fill(&one, self.shares.timelines[slot].incarnation, row.counter, m, row.arm, shares,
                      self.held_values[held, m])
            one.unfloored, one.plain = self.held_flags[held] & UNFLOORED != 0, self.sums.contextual
            one.x, one.note = &x[0] if x is not None else NULL, self.noted(self.held_notes, held)
            self.sums.take_in(&one)
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
        """Numbers of open decisions by arm, int64 (K,), and sums of their rewards so far, float64 (M, K)."""
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
            slot = self.held_key[held] >> COUNTER_BITS
            counter = self.held_key[held] & ((<uint64_t> 1 << COUNTER_BITS) - 1)
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
            if self.sums.note_width:
                memmove(&self.notes[rows, 0], &self.notes[start, 0], left * self.sums.note_width * sizeof(float))
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
            self.notes = longer(self.notes, room)
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
            self.held_notes[kept, :] = self.held_notes[held, :]
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
        self.held_notes = longer(self.held_notes, room)
        self.held_vector = longer(self.held_vector, room)
        return 0

    def vectors(self):
        """Vectors of held rows, int32 (n,); below 0: none."""
        self.tidy_held()
        return first_rows(self.held_vector, self.n_held)

    def state(self, vectors):
        """`vectors` int32 (n,): what `vectors()` gave, as the state of the share history numbers them."""
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
            **({"notes": first_rows(self.notes, rows), "held_notes": first_rows(self.held_notes, held)}
               if self.sums.note_width else {}),
        }

    @staticmethod
    def from_state(Accumulators sums not None, ShareHistory shares not None, state, int64_t grace_ms,
                   Py_ssize_t most_x=0, const uint8_t[::1] counts_missing=None):
        cdef OpenDecisions self = OpenDecisions(sums, shares, state["linger_ms"][0], grace_ms, most_x, counts_missing)
        cdef Py_ssize_t b, i, slot, start = 0
        cdef uint8_t flags
        cdef const uint16_t[::1] arms = state["arms"]
        cdef const uint32_t[::1] ages_ms = state["ages_ms"]
        features, block_has_x, held_has_x = features_of(state, sums.n_features)
        notes = notes_of(state, "notes", len(arms), sums.note_width) if sums.note_width else None
        for b in range(len(state["block_ms"])):
            end = start + state["block_size"][b]
            x = None
            if block_has_x[b]:
                x, features = features[: end - start].copy(), features[end - start:]
            slot = shares.slot(state["block_incarnation"][b])
            if shares.run_before(slot, state["block_first"][b]) < 0:
                raise ValueError("the snapshot lacks the shares of open decisions")
            self.open_block(slot, state["block_first"][b], state["block_ms"][b], arms[start:end], ages_ms[start:end],
                            state["block_unfloored"][b], x, None if notes is None else notes[start:end])
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
        if sums.note_width:
            np.asarray(self.held_notes)[: self.n_held] = notes_of(state, "held_notes", self.n_held, sums.note_width)
        # Those of before there was such a thing do not say so.
        vectors = state["held_vector"] if "held_vector" in state else np.full(self.n_held, -1, np.int32)
        shares.check_references(vectors, -1)
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
    """Features in a state of `OpenDecisions`, float32 (n, d), and which blocks and held rows have some."""
    blocks, held = len(state["block_ms"]), len(state["held_counter"])
    if "x" not in state:
        # A former build kept none.
        return None, np.zeros(blocks, np.uint8), np.zeros(held, np.uint8)
    x, block_has_x, held_has_x = state["x"], state["block_has_x"], state["held_has_x"]
    if block_has_x.shape != (blocks,) or held_has_x.shape != (held,):
        raise ValueError("the snapshot does not say which decisions have features")
    n = state["block_size"][block_has_x > 0].sum() + np.count_nonzero(held_has_x)
    if x.dtype != np.float32 or not np.isfinite(x).all() or x.shape != ((n, n_features) if n else (0, 0)):
        raise ValueError("the snapshot does not hold the features that it counts")
    return x, block_has_x, held_has_x
