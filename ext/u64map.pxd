# cython: cdivision=True
"""Map from 64-bit keys to row numbers: open addressing, linear probing, deletion by shifting back (Knuth 6.4R).

Inline code that kernels share. At most two thirds of the slots are taken, so every probe ends.
"""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free, malloc

from splitmix cimport scattered

cdef struct U64Map:
    uint64_t *keys
    int32_t *rows       # -1 where a slot is empty
    uint64_t mask
    uint64_t used


cdef inline uint64_t map_home(const U64Map *table, uint64_t key) noexcept nogil:
    return scattered(key) & table.mask


cdef inline void map_free(U64Map *table) noexcept nogil:
    free(table.keys)
    free(table.rows)
    table.keys = NULL
    table.rows = NULL
    table.mask = 0
    table.used = 0


cdef inline int map_make(U64Map *table, uint64_t slots) except -1 nogil:
    """An empty map of `slots`, a power of two; what `table` held is not freed."""
    cdef uint64_t i
    table.keys = <uint64_t *> malloc(slots * sizeof(uint64_t))
    table.rows = <int32_t *> malloc(slots * sizeof(int32_t))
    if table.keys == NULL or table.rows == NULL:
        map_free(table)
        raise MemoryError()
    for i in range(slots):
        table.rows[i] = -1
    table.mask = slots - 1
    table.used = 0
    return 0


cdef inline int32_t map_find(const U64Map *table, uint64_t key) noexcept nogil:
    cdef uint64_t slot = map_home(table, key)
    while table.rows[slot] >= 0:
        if table.keys[slot] == key:
            return table.rows[slot]
        slot = (slot + 1) & table.mask
    return -1


cdef inline int map_grow(U64Map *table) except -1 nogil:
    cdef U64Map larger
    cdef uint64_t i, slot
    map_make(&larger, 2 * (table.mask + 1))
    for i in range(table.mask + 1):
        if table.rows[i] >= 0:
            slot = map_home(&larger, table.keys[i])
            while larger.rows[slot] >= 0:
                slot = (slot + 1) & larger.mask
            larger.keys[slot] = table.keys[i]
            larger.rows[slot] = table.rows[i]
    larger.used = table.used
    map_free(table)
    table[0] = larger
    return 0


cdef inline int map_put(U64Map *table, uint64_t key, int32_t row) except -1 nogil:
    """Sets the row of `key`, which the map may or may not hold."""
    cdef uint64_t slot
    if 3 * (table.used + 1) > 2 * (table.mask + 1):
        map_grow(table)
    slot = map_home(table, key)
    while table.rows[slot] >= 0:
        if table.keys[slot] == key:
            table.rows[slot] = row
            return 0
        slot = (slot + 1) & table.mask
    table.keys[slot] = key
    table.rows[slot] = row
    table.used += 1
    return 0


cdef inline void map_remove(U64Map *table, uint64_t key) noexcept nogil:
    cdef uint64_t slot = map_home(table, key)
    cdef uint64_t hole, home
    while table.rows[slot] >= 0 and table.keys[slot] != key:
        slot = (slot + 1) & table.mask
    if table.rows[slot] < 0:
        return
    hole = slot
    slot = (slot + 1) & table.mask
    while table.rows[slot] >= 0:
        home = map_home(table, table.keys[slot])
        if ((slot - home) & table.mask) >= ((slot - hole) & table.mask):
            table.keys[hole] = table.keys[slot]
            table.rows[hole] = table.rows[slot]
            hole = slot
        slot = (slot + 1) & table.mask
    table.rows[hole] = -1
    table.used -= 1
