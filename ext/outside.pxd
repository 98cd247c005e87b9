# cython: cdivision=True
"""Names that come from outside: 1 to 256 UTF-8 bytes without control characters (U+0000–1F, U+007F–9F)."""

from libc.stdint cimport uint8_t


cdef inline bint is_outside_name(const uint8_t* utf8, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if n < 1 or n > 256:
        return False
    for i in range(n):
        if utf8[i] < 0x20 or utf8[i] == 0x7F:
            return False
        if utf8[i] == 0xC2 and i + 1 < n and 0x80 <= utf8[i + 1] < 0xA0:
            return False
    return True
