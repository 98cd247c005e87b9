# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""Names from outside: which of them are allowed."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t

from outside cimport is_outside_name


cpdef bint is_outside(str name) except -1:
    """Return whether `name` may be the name of a unit, a user or an item."""
    cdef Py_ssize_t n
    cdef const char* utf8
    try:
        utf8 = PyUnicode_AsUTF8AndSize(name, &n)
    except UnicodeEncodeError:
        return False
    return is_outside_name(<const uint8_t*>utf8, n)


def first_refused(names):
    """Index of the first of `names` (a list of str) that is not allowed, or -1."""
    cdef Py_ssize_t i
    for i, name in enumerate(names):
        if not is_outside(name):
            return i
    return -1
