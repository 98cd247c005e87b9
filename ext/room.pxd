# cython: cdivision=True
"""Room of columns that grow."""

from libc.stdlib cimport realloc

cdef enum:
    MIN_ROOM = 64           # rows that a column has room for at first


cdef inline Py_ssize_t room_for(Py_ssize_t rows) noexcept:
    """A capacity that leaves a quarter free."""
    cdef Py_ssize_t room = MIN_ROOM
    while 3 * room < 4 * rows:
        room *= 2
    return room


cdef inline void *lengthened(void *column, size_t size) except NULL:
    """`column` moved to `size` bytes, or as many anew where it is NULL."""
    cdef void *wider = realloc(column, size)
    if wider == NULL:
        raise MemoryError()
    return wider
