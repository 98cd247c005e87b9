# cython: cdivision=True
"""Thinning: every second one is left out, and of those that stay every second one again, and so on.

Which ones is a hash of their numbers, so it has nothing to do with contexts, arms or rewards.
"""

from libc.stdint cimport uint64_t

from splitmix cimport scattered

cdef enum:
    MAX_HALVINGS = 20


cdef inline bint is_taken(uint64_t number, int halvings) noexcept nogil:
    """Return whether the one of this number stays after so many halvings."""
    return scattered(number) & ((<uint64_t> 1 << halvings) - 1) == 0
