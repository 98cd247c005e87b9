# cython: cdivision=True
"""Declarations of `ext/results/share_history.pyx` for the kernels that look decisions up."""

from libc.stdint cimport int32_t, int64_t, uint64_t

from reward cimport Reward
from u64map cimport U64Map

cdef enum:
    COUNTER_BITS = 42       # a decision's key: its worker's slot above, its counter below
    LEFT_OUT = -1           # in place of a run's vector: not analysed


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


cdef class ShareHistory:
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

    cdef int make_vectors(self, Py_ssize_t rows) except -1
    cdef int32_t keep(self, const double *shares) except -2
    cdef void drop(self, int32_t vector) noexcept
    cdef Py_ssize_t slot(self, uint64_t incarnation) except -1
    cdef Py_ssize_t run_before(self, Py_ssize_t slot, uint64_t counter) noexcept
    cdef Py_ssize_t past_before(self, Py_ssize_t slot, uint64_t counter) noexcept
    cdef uint64_t exposed_to(self, Py_ssize_t slot, uint64_t counter) noexcept
    cdef uint64_t next_exposed(self, Py_ssize_t slot, uint64_t counter, uint64_t end) noexcept
    cdef bint left_out(self, Py_ssize_t slot, uint64_t counter) noexcept
    cdef int32_t vector_before(self, Py_ssize_t slot, uint64_t counter) noexcept
    cdef const double *shares_of(self, Py_ssize_t slot, const Reward *row) noexcept
    cdef int32_t keep_shares_of(self, Py_ssize_t slot, const Reward *row) except -2
    cdef int add_run(self, Py_ssize_t slot, uint64_t first, uint64_t end, int32_t vector, int64_t ms) except -1
    cdef bint same(self, int32_t one, int32_t other) noexcept
    cdef bint analysed(self, Py_ssize_t slot, uint64_t block) noexcept
    cdef int add_parts(self, Py_ssize_t slot, uint64_t first, uint64_t end, int32_t vector, int64_t ms) except -1
    cdef int thin(self) except -1
    cdef Py_ssize_t make_room(self, Timeline *line) except -1
    cdef int check_references(self, object numbers, Py_ssize_t least) except -1
    cdef int add_past(self, Py_ssize_t slot, uint64_t first, uint64_t end, int64_t last_ms) except -1
