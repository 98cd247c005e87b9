# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decision tokens: packed, signed and written as base64url; and read back, or refused.

69 bytes, 92 characters, and more where the decision had features. Little-endian, in this order:

    version u8 | key id u8 | experiment u64 | incarnation u64 | counter u48 | time_ms u48 | revision u32
    | arm u16 | propensity f64 | unit u64 | flags u8 (`events.HELD_OUT` or 0) | MAC 16 bytes

Version 2 has, between the flags and the MAC, the decision's features: x f32[d], and 0 to 2 zero bytes. Behind the
features, the token of an exposure on demand has the shares that it was drawn from, f64[K], where they fit. The MAC is
BLAKE2b keyed, over everything before it, and is compared in constant time. The length is a multiple of three in either
version, so base64 has no padding and no spare bits: one decision has exactly one spelling.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH, PyUnicode_New
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hashlib import blake2b

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)

cdef enum:
    BODY = 53
    MAC = 16
    SIZE = 69
    FORMAT = 1
    FEATURES_FORMAT = 2
    MAX_N_FEATURES = 512
    MAX_TOKEN_BYTES = 2119          # SIZE + 4 * MAX_N_FEATURES, up to a multiple of three
    REWARD_BYTES = 56

TOKEN_CHARS = SIZE // 3 * 4
MAX_FEATURES = MAX_N_FEATURES
KEY_BYTES = 32

cdef uint64_t ON_DEMAND = <uint64_t> 1 << 41    # `events.ON_DEMAND`
cdef const char* ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
cdef uint8_t[256] VALUES
memset(VALUES, 255, 256)
cdef int _i
for _i in range(64):
    VALUES[<uint8_t>ALPHABET[_i]] = <uint8_t>_i


cdef inline void put(uint8_t* at, uint64_t value, int n_bytes) noexcept nogil:
    cdef int i
    for i in range(n_bytes):
        at[i] = <uint8_t>(value >> (8 * i))


cdef inline uint64_t get(const uint8_t* at, int n_bytes) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(n_bytes):
        value |= <uint64_t>at[i] << (8 * i)
    return value


cdef inline void write_text(const uint8_t* raw, int size, char* text) noexcept nogil:
    cdef int i
    cdef uint32_t three
    for i in range(size // 3):
        three = (<uint32_t>raw[3 * i] << 16) | (<uint32_t>raw[3 * i + 1] << 8) | raw[3 * i + 2]
        text[4 * i] = ALPHABET[three >> 18]
        text[4 * i + 1] = ALPHABET[(three >> 12) & 63]
        text[4 * i + 2] = ALPHABET[(three >> 6) & 63]
        text[4 * i + 3] = ALPHABET[three & 63]


cdef inline bint read_text(const uint8_t* text, int size, uint8_t* raw) noexcept nogil:
    cdef int i
    cdef uint8_t a, b, c, d, bad = 0
    for i in range(size // 3):
        a = VALUES[text[4 * i]]
        b = VALUES[text[4 * i + 1]]
        c = VALUES[text[4 * i + 2]]
        d = VALUES[text[4 * i + 3]]
        bad |= (a | b | c | d) & 0x80
        raw[3 * i] = <uint8_t>((a << 2) | (b >> 4))
        raw[3 * i + 1] = <uint8_t>((b << 4) | (c >> 2))
        raw[3 * i + 2] = <uint8_t>((c << 6) | d)
    return bad == 0


cdef int must_fit(Py_ssize_t n_features) except -1:
    if n_features > MAX_N_FEATURES:
        raise ValueError(f"expected at most {MAX_N_FEATURES} features")
    return <int>n_features


cdef class Seal:
    """One signing key. `key_id` is 0 to 255 and travels in the token; `key` is 32 bytes."""

    cdef readonly int key_id
    cdef object _copy

    def __init__(self, int key_id, bytes key not None):
        if not 0 <= key_id <= 255:
            raise ValueError("expected a key id from 0 to 255")
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes")
        self.key_id = key_id
        self._copy = blake2b(key=key, digest_size=MAC, person=b"bandit_serve").copy

    cdef bytes mac(self, bytes body):
        state = self._copy()
        state.update(body)
        return state.digest()

    cdef str write(
        self, uint64_t experiment, uint64_t incarnation, uint64_t counter, uint64_t time_ms, uint32_t revision,
        uint16_t arm, double propensity, uint64_t unit, uint8_t flags, const float* x, int n_features,
    ):
        cdef uint8_t[MAX_TOKEN_BYTES] raw
        cdef uint64_t bits
        cdef int signed = BODY + 4 * n_features
        raw[0] = FORMAT if n_features == 0 else FEATURES_FORMAT
        raw[1] = <uint8_t>self.key_id
        put(&raw[2], experiment, 8)
        put(&raw[10], incarnation, 8)
        put(&raw[18], counter, 6)
        put(&raw[24], time_ms, 6)
        put(&raw[30], revision, 4)
        put(&raw[34], arm, 2)
        memcpy(&bits, &propensity, 8)
        put(&raw[36], bits, 8)
        put(&raw[44], unit, 8)
        raw[52] = flags
        if n_features:
            memcpy(&raw[BODY], x, 4 * n_features)
        while (signed + MAC) % 3:
            raw[signed] = 0
            signed += 1
        cdef bytes digest = self.mac(PyBytes_FromStringAndSize(<char*>raw, signed))
        memcpy(&raw[signed], PyBytes_AS_STRING(digest), MAC)
        cdef str text = PyUnicode_New((signed + MAC) // 3 * 4, 127)
        write_text(raw, signed + MAC, <char*>PyUnicode_1BYTE_DATA(text))
        return text

    def sign(
        self, uint64_t experiment, uint64_t incarnation, uint64_t counter, uint64_t time_ms, uint32_t revision,
        uint16_t arm, double propensity, uint64_t unit, uint8_t flags=0, const float[::1] x=None,
    ):
        """Token of one decision, as text; `x` are its features, float32 (d,), at most `MAX_FEATURES`."""
        cdef int n_features = 0 if x is None else must_fit(x.shape[0])
        return self.write(
            experiment, incarnation, counter, time_ms, revision, arm, propensity, unit, flags,
            &x[0] if n_features else NULL, n_features,
        )

    def sign_many(
        self, uint64_t experiment, uint64_t incarnation, uint64_t first, uint64_t time_ms, uint32_t revision,
        const uint16_t[::1] arms, const double[::1] propensities, const uint64_t[::1] units,
        const uint8_t[::1] flags=None, const float[:, ::1] x=None,
    ):
        """Tokens of n decisions numbered from `first`; all arrays are of length n, `units` may be empty.

        Without `flags` (uint8 (n,)) all are 0. `x`, float32 (n, d), are the decisions' features.
        """
        cdef Py_ssize_t i, n = arms.shape[0]
        cdef bint with_units = units.shape[0] == n
        cdef bint with_flags = flags is not None
        cdef int n_features = 0 if x is None else must_fit(x.shape[1])
        if x is not None and x.shape[0] != n:
            raise ValueError("expected features for every decision")
        if propensities.shape[0] != n or units.shape[0] not in (0, n) or (with_flags and flags.shape[0] != n):
            raise ValueError("expected arrays of one length")
        cdef list tokens = []
        for i in range(n):
            tokens.append(
                self.write(
                    experiment, incarnation, first + i, time_ms, revision, arms[i], propensities[i],
                    units[i] if with_units else 0, flags[i] if with_flags else 0,
                    &x[i, 0] if n_features else NULL, n_features,
                )
            )
        return tokens


cdef class Opener:
    """Reads tokens signed by any of `seals` into rows of `events.REWARD`."""

    cdef list _seals

    def __init__(self, seals):
        self._seals = [None] * 256
        for seal in seals:
            self._seals[seal.key_id] = seal

    cdef int check(self, object token, uint8_t* raw) except -1:
        """Number of signed bytes of `raw`; 0 where the token is not ours."""
        if not isinstance(token, str) or not PyUnicode_IS_ASCII(token):
            return 0
        cdef Py_ssize_t chars = PyUnicode_GET_LENGTH(token)
        if chars % 4 or not SIZE <= chars // 4 * 3 <= MAX_TOKEN_BYTES:
            return 0
        cdef int size = <int>(chars // 4 * 3)
        if not read_text(<const uint8_t*>PyUnicode_1BYTE_DATA(token), size, raw):
            return 0
        if raw[0] != (FORMAT if size == SIZE else FEATURES_FORMAT):
            return 0
        seal = self._seals[raw[1]]
        if seal is None:
            return 0
        cdef int signed = size - MAC
        cdef bytes digest = (<Seal>seal).mac(PyBytes_FromStringAndSize(<char*>raw, signed))
        cdef const uint8_t* expected = <const uint8_t*>PyBytes_AS_STRING(digest)
        cdef uint8_t difference = 0
        cdef int i
        for i in range(MAC):
            difference |= raw[signed + i] ^ expected[i]
        return signed if difference == 0 else 0

    def open_into(self, tokens, const double[::1] values, uint8_t[:, ::1] rows, uint64_t[::1] experiments):
        """Fills row i of `rows` (uint8 (n, 56), `events.REWARD` seen as bytes) from `tokens[i]` and `values[i]`.

        `experiments[i]` becomes the experiment's uid, and 0 where the token is not ours. The metric is left as it is.
        Returns the features of those tokens that have some, bytes of float32 (d,) by i; for exposures on demand always,
        with their shares behind them.
        """
        cdef Py_ssize_t i, n = len(tokens)
        cdef uint8_t[MAX_TOKEN_BYTES] raw
        cdef uint64_t bits
        cdef double value
        cdef uint8_t* row
        cdef int signed
        cdef dict features = {}
        if values.shape[0] != n or rows.shape[0] != n or rows.shape[1] != REWARD_BYTES or experiments.shape[0] != n:
            raise ValueError("expected arrays of one length, and rows of 56 bytes")
        for i in range(n):
            signed = self.check(tokens[i], raw)
            if not signed:
                experiments[i] = 0
                continue
            experiments[i] = get(&raw[2], 8)
            row = &rows[i, 0]
            value = values[i]
            memcpy(&bits, &value, 8)
            put(row, get(&raw[10], 8), 8)
            put(row + 8, get(&raw[18], 6), 8)
            put(row + 16, get(&raw[24], 6), 8)
            put(row + 24, bits, 8)
            memcpy(row + 32, &raw[36], 8)
            memcpy(row + 40, &raw[44], 8)
            memcpy(row + 48, &raw[30], 4)
            memcpy(row + 52, &raw[34], 2)
            row[55] = raw[52]
            if signed > BODY or get(&raw[18], 6) >= ON_DEMAND:
                features[i] = PyBytes_FromStringAndSize(<char*>&raw[BODY], (signed - BODY) // 4 * 4)
        return features
