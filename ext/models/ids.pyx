# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ids as one blob of UTF-8 text with offsets, and the way from an id to its row."""

import os

import numpy as np

from bandit_serve.errors import InvalidInput

cimport numpy as cnp
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from idhash cimport IdView, id_hash, id_row

cnp.import_array()

MAX_ID_BYTES = 256
cdef Py_ssize_t LONGEST = MAX_ID_BYTES
cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little")


cdef inline bint has_control(const uint8_t *text, Py_ssize_t size) noexcept nogil:
    """Return whether the text has a character of Unicode's category Cc (U+0000–1F, U+007F–9F)."""
    cdef Py_ssize_t at
    for at in range(size):
        if text[at] < 0x20 or text[at] == 0x7F:
            return True
        if text[at] == 0xC2 and at + 1 < size and text[at + 1] < 0xA0:
            return True
    return False


cdef inline bint ascends(const uint8_t *a, Py_ssize_t a_size,
                         const uint8_t *b, Py_ssize_t b_size) noexcept nogil:
    """Return whether a < b, byte by byte (which for UTF-8 is the order of code points)."""
    cdef int order = memcmp(a, b, min(a_size, b_size))
    return order < 0 or (order == 0 and a_size < b_size)


cdef class IdTable:
    """Distinct ids in ascending order of their UTF-8 bytes; the row of an id is its place in that order.

    So a tie between two rows is broken by id when it is broken by row.

    Parameters
    ----------
    text : (n_bytes,) uint8, contiguous
        The ids one after the other. Copied only when it is writeable.
    offsets : (n + 1,) int64, contiguous
        Where each id starts; the last is `n_bytes`. Copied only when it is writeable.

    Raises `InvalidInput` when the offsets do not describe the text, or an id is not 1 to 256 bytes of UTF-8
    without control characters, or the ids are not strictly ascending.
    """

    cdef readonly object text
    cdef readonly object offsets
    cdef readonly object slots
    cdef IdView view
    cdef Py_ssize_t size

    def __cinit__(self, text, offsets):
        text = _vector(text, np.uint8, "text")
        offsets = _vector(offsets, np.int64, "offsets")
        if offsets.size == 0:
            raise InvalidInput("The offsets of ids must have one entry more than there are ids.")
        if offsets.size > 2**30:
            raise InvalidInput("There are more ids than one table holds.")
        self.text, self.offsets = text, offsets
        self.size = offsets.size - 1
        self.view.text = <const uint8_t *> cnp.PyArray_DATA(text)
        self.view.offsets = <const int64_t *> cnp.PyArray_DATA(offsets)
        self._check(text.size)
        cdef uint64_t capacity = 8
        while capacity < 2 * <uint64_t> self.size:
            capacity *= 2
        self.slots = np.zeros(capacity, np.int32)
        self._fill(<int32_t *> cnp.PyArray_DATA(self.slots), capacity)

    @staticmethod
    def of(ids):
        """Table of a collection of str, in any order, repeated or not."""
        cdef list encoded
        try:
            encoded = sorted({name.encode() for name in ids})
        except UnicodeEncodeError:
            raise InvalidInput("An id has a lone surrogate, which UTF-8 cannot say.") from None
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        offsets.flags.writeable = False
        return IdTable(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    cdef _check(self, int64_t n_bytes):
        cdef const uint8_t *text = self.view.text
        cdef const int64_t *offsets = self.view.offsets
        cdef Py_ssize_t row, length, before = 0
        cdef const char *wrong = NULL
        # All offsets first: nothing is read through one before it is known to be inside the text.
        if offsets[0] != 0 or offsets[self.size] != n_bytes:
            raise InvalidInput("The offsets of ids must begin with 0 and end with the length of the text.")
        with nogil:
            for row in range(self.size):
                if offsets[row] < 0 or offsets[row] > n_bytes or offsets[row + 1] <= offsets[row] \
                        or offsets[row + 1] - offsets[row] > LONGEST:
                    wrong = b"is not 1 to 256 bytes long"
                    break
            if wrong == NULL:
                for row in range(self.size):
                    length = offsets[row + 1] - offsets[row]
                    if has_control(text + offsets[row], length):
                        wrong = b"has a control character"
                        break
                    if (text[offsets[row]] & 0xC0) == 0x80:
                        wrong = b"is not UTF-8"
                        break
                    if row and not ascends(text + offsets[row - 1], before, text + offsets[row], length):
                        wrong = b"is not after the one before it"
                        break
                    before = length
        if wrong != NULL:
            raise InvalidInput(f"Id number {row} {wrong.decode()}.")
        try:
            # Every id begins at the first byte of a character: each is UTF-8 when all together are.
            str(memoryview(self.text), "utf-8")
        except UnicodeDecodeError:
            raise InvalidInput("The text of the ids is not UTF-8.") from None

    cdef _fill(self, int32_t *slots, uint64_t capacity):
        cdef Py_ssize_t row
        cdef uint64_t slot
        cdef const int64_t *offsets = self.view.offsets
        self.view.mask = capacity - 1
        self.view.seed = SEED
        with nogil:
            for row in range(self.size):
                slot = id_hash(self.view.text + offsets[row], offsets[row + 1] - offsets[row], SEED)
                slot &= capacity - 1
                while slots[slot] != 0:
                    slot = (slot + 1) & (capacity - 1)
                slots[slot] = <int32_t> (row + 1)
        self.view.slots = slots

    def __len__(self):
        return self.size

    @property
    def seed(self):
        """Key that `slots` was hashed with."""
        return self.view.seed

    @property
    def nbytes(self):
        """Bytes of the text, the offsets and the table."""
        return self.text.nbytes + self.offsets.nbytes + self.slots.nbytes

    def row(self, key):
        """Row of an id (str or int), −1 when it is not in the table. InvalidInput for another type."""
        return id_row(&self.view, key)

    def rows(self, keys):
        """(n,) int64: the row of each id of a sequence or array of str or int; −1 when unknown."""
        cdef Py_ssize_t at
        cdef list names = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        rows = np.empty(len(names), np.int64)
        cdef int64_t *out = <int64_t *> cnp.PyArray_DATA(rows)
        for at in range(len(names)):
            out[at] = id_row(&self.view, names[at])
        return rows

    def name(self, Py_ssize_t row):
        """Id of a row, as str. IndexError outside 0 … n − 1."""
        if row < 0 or row >= self.size:
            raise IndexError(f"there is no row {row}, only {self.size}")
        cdef const char *start = <const char *> self.view.text + self.view.offsets[row]
        return start[:self.view.offsets[row + 1] - self.view.offsets[row]].decode()


cdef class GrowingIds:
    """Distinct ids in the order in which they came; room for more grows by doubling.

    The row of an id never changes. `table()` gives the same ids in their own order, for an artifact.
    """

    cdef object _text
    cdef object _offsets
    cdef object _slots
    cdef IdView view
    cdef Py_ssize_t size
    cdef int64_t used

    @property
    def address(self):
        """Address of the view for kernels: valid as long as the object, while its contents change with each new id."""
        return <size_t> &self.view

    def __cinit__(self):
        self._text = np.empty(1024, np.uint8)
        self._offsets = np.zeros(65, np.int64)
        self._slots = np.zeros(128, np.int32)
        self._look()

    cdef _look(self):
        self.view.text = <const uint8_t *> cnp.PyArray_DATA(self._text)
        self.view.offsets = <const int64_t *> cnp.PyArray_DATA(self._offsets)
        self.view.slots = <const int32_t *> cnp.PyArray_DATA(self._slots)
        self.view.mask = <uint64_t> (self._slots.size - 1)
        self.view.seed = SEED

    def __len__(self):
        return self.size

    @property
    def nbytes(self):
        return self._text.nbytes + self._offsets.nbytes + self._slots.nbytes

    def row(self, key):
        """Row of an id (str or int), −1 when it is not there. InvalidInput for another type."""
        return id_row(&self.view, key)

    def add(self, key):
        """Row of an id (str or int), which is a new one, `len()`, when it was not there.

        InvalidInput for another type, and for what is not 1 to 256 bytes of UTF-8 without control characters.
        """
        cdef Py_ssize_t row = id_row(&self.view, key)
        if row >= 0:
            return row
        text = id_text(key)
        cdef const uint8_t *start = text
        cdef Py_ssize_t length = len(text)
        self._make_room(length)
        cdef uint8_t *all_text = <uint8_t *> cnp.PyArray_DATA(self._text)
        cdef int64_t *offsets = <int64_t *> cnp.PyArray_DATA(self._offsets)
        cdef int32_t *slots = <int32_t *> cnp.PyArray_DATA(self._slots)
        memcpy(all_text + self.used, start, length)
        self.used += length
        row = self.size
        self.size += 1
        offsets[self.size] = self.used
        _place(&self.view, slots, row)
        return row

    cdef _make_room(self, Py_ssize_t length):
        cdef Py_ssize_t row
        if self.size >= 2**30:
            raise InvalidInput("There are more ids than one table holds.")
        if self.used + length > self._text.size:
            self._text = _doubled(self._text)
        if self.size + 2 > self._offsets.size:
            self._offsets = _doubled(self._offsets)
        if 2 * (self.size + 1) > self._slots.size:
            self._slots = np.zeros(2 * self._slots.size, np.int32)
            self._look()
            for row in range(self.size):
                _place(&self.view, <int32_t *> cnp.PyArray_DATA(self._slots), row)
        self._look()

    def name(self, Py_ssize_t row):
        """Id of a row, as str. IndexError outside 0 … n − 1."""
        if row < 0 or row >= self.size:
            raise IndexError(f"there is no row {row}, only {self.size}")
        cdef const char *start = <const char *> self.view.text + self.view.offsets[row]
        return start[:self.view.offsets[row + 1] - self.view.offsets[row]].decode()

    def table(self):
        """An `IdTable` of the ids, and `order`, int64 (n,): the row here of each row there."""
        cdef Py_ssize_t row
        table = IdTable.of([self.name(row) for row in range(self.size)])
        order = np.empty(self.size, np.int64)
        for row in range(self.size):
            order[table.row(self.name(row))] = row
        return table, order

    @staticmethod
    def of(table):
        """Ids of an `IdTable`, in its order."""
        cdef GrowingIds ids = GrowingIds()
        if len(table):
            ids._text, ids._offsets, ids._slots = np.array(table.text), np.array(table.offsets), np.array(table.slots)
            ids.size, ids.used = len(table), table.text.size
            ids._look()
        return ids


cdef inline void _place(const IdView *view, int32_t *slots, Py_ssize_t row) noexcept nogil:
    """Enters a row, whose text is there already, into the first free slot of its hash."""
    cdef int64_t start = view.offsets[row]
    cdef uint64_t slot = id_hash(view.text + start, view.offsets[row + 1] - start, view.seed) & view.mask
    while slots[slot] != 0:
        slot = (slot + 1) & view.mask
    slots[slot] = <int32_t> (row + 1)


cdef _doubled(array):
    larger = np.zeros(2 * array.size, array.dtype)
    larger[: array.size] = array
    return larger


def id_text(key):
    """An id (str or int) as UTF-8. InvalidInput for another type, or for what no id may be."""
    if not PyUnicode_Check(key):
        if isinstance(key, (bool, np.bool_)) or not hasattr(key, "__index__"):
            raise InvalidInput(f"An id is a str or an int, not {type(key).__name__}.")
        return str(key.__index__()).encode()
    try:
        text = key.encode()
    except UnicodeEncodeError:
        raise InvalidInput("An id has a lone surrogate, which UTF-8 cannot say.") from None
    if not 1 <= len(text) <= LONGEST:
        raise InvalidInput("An id is 1 to 256 bytes of UTF-8.")
    if has_control(text, len(text)):
        raise InvalidInput("An id has no control characters.")
    return text


cdef _vector(values, dtype, str what):
    if not (isinstance(values, np.ndarray) and values.dtype == dtype and values.dtype.isnative
            and values.ndim == 1 and values.flags.c_contiguous and values.flags.aligned):
        raise InvalidInput(f"The {what} of ids must be a contiguous vector of {np.dtype(dtype).name}.")
    if values.flags.writeable:
        values = values.copy()
        values.flags.writeable = False
    return values
