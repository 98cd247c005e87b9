# cython: cdivision=True
"""Looking up an id in an open-addressing table over one blob of UTF-8 text: inline code that kernels share.

`slots[h]` is 0 for an empty slot, otherwise 1 + the row of an id; collisions go to the next slot. At most
half of the slots are taken, so every probe ends. The seed is random in every process, so a file cannot be
made to collide.
"""

from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy


cdef extern from "Python.h":
    # Declared here without an exception: a failure is an answer (no such id) and is cleared by hand.
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) noexcept
    void PyErr_Clear()


cdef struct IdView:
    const uint8_t *text
    const int64_t *offsets
    const int32_t *slots
    uint64_t mask
    uint64_t seed


cdef inline uint64_t short_word(const uint8_t *text, Py_ssize_t size) noexcept nogil:
    """1 to 7 bytes as a little-endian number, by loads of fixed widths that overlap."""
    cdef uint32_t low, high
    if size >= 4:
        memcpy(&low, text, 4)
        memcpy(&high, text + size - 4, 4)
        return <uint64_t> low | <uint64_t> high << 8 * (size - 4)
    return text[0] | <uint64_t> text[size >> 1] << 8 * (size >> 1) | <uint64_t> text[size - 1] << 8 * (size - 1)


cdef inline bint same_text(const uint8_t *a, const uint8_t *b, Py_ssize_t size) noexcept nogil:
    cdef uint64_t one, other
    cdef Py_ssize_t at = 0
    if size < 8:
        return size == 0 or short_word(a, size) == short_word(b, size)
    if size > 32:
        return memcmp(a, b, size) == 0
    while at < size:
        at = min(at, size - 8)
        memcpy(&one, a + at, 8)
        memcpy(&other, b + at, 8)
        if one != other:
            return False
        at += 8
    return True


cdef inline uint64_t id_hash(const uint8_t *text, Py_ssize_t size, uint64_t seed) noexcept nogil:
    """Eight bytes at a time, multiplied and folded; splitmix64's finaliser (Steele, Lea, Flood 2014)."""
    cdef uint64_t hashed = seed ^ <uint64_t> size * <uint64_t> 0x9E3779B97F4A7C15
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, text, 8)
        hashed = (hashed ^ word) * <uint64_t> 0xBF58476D1CE4E5B9
        hashed ^= hashed >> 31
        text += 8
        size -= 8
    if size > 0:
        word = short_word(text, size)
        hashed = (hashed ^ word) * <uint64_t> 0xBF58476D1CE4E5B9
        hashed ^= hashed >> 31
    hashed = (hashed ^ (hashed >> 30)) * <uint64_t> 0x94D049BB133111EB
    return hashed ^ (hashed >> 31)


cdef inline Py_ssize_t id_find(const IdView *ids, const uint8_t *text, Py_ssize_t size) noexcept nogil:
    """Row of an id, −1 when there is none."""
    cdef uint64_t slot
    cdef Py_ssize_t row
    cdef int64_t start
    if ids.slots == NULL:
        return -1
    slot = id_hash(text, size, ids.seed) & ids.mask
    while ids.slots[slot] != 0:
        row = ids.slots[slot] - 1
        start = ids.offsets[row]
        if ids.offsets[row + 1] - start == size and same_text(ids.text + start, text, size):
            return row
        slot = (slot + 1) & ids.mask
    return -1


cdef inline Py_ssize_t decimal(long long value, uint8_t *out) noexcept nogil:
    """Writes `value` in decimal at the end of `out[0:24]`; its first character's index."""
    cdef Py_ssize_t at = 24
    cdef unsigned long long rest = <unsigned long long> value
    if value < 0:
        rest = 0 - rest
    while True:
        at -= 1
        out[at] = 48 + <uint8_t> (rest % 10)
        rest //= 10
        if rest == 0:
            break
    if value < 0:
        at -= 1
        out[at] = 45
    return at


cdef inline Py_ssize_t id_row(const IdView *ids, object key) except -2:
    """Row of a str or int id, −1 when there is none. An int is its decimal text.

    Raises InvalidInput for anything else (bool included).
    """
    cdef Py_ssize_t size
    cdef const char *text
    cdef long long value
    cdef int overflow
    cdef uint8_t digits[24]
    if PyUnicode_Check(key):
        text = PyUnicode_AsUTF8AndSize(key, &size)
        if text == NULL:
            PyErr_Clear()  # a lone surrogate: no id has one
            return -1
        return id_find(ids, <const uint8_t *> text, size)
    if not PyLong_CheckExact(key):
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            from bandit_serve.errors import InvalidInput
            raise InvalidInput(f"An id is a str or an int, not {type(key).__name__}.")
        key = key.__index__()
    value = PyLong_AsLongLongAndOverflow(key, &overflow)
    if overflow:
        return id_row(ids, str(key))
    size = decimal(value, digits)
    return id_find(ids, digits + size, 24 - size)
