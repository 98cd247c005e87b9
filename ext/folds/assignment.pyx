# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sticky assignment: weighted rendezvous hashing of units over arms.

A unit's arm is argmin_k −ln(u_k) / w_k with u_k = hash(salt, unit, arm k) in (0, 1) and w_k the arm's share, which
makes P(arm k) = w_k over units and moves exactly the units that must move when shares change (Thaler and
Ravishankar 1998; Schindelhauer and Schomaker 2005 for weights).
"""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport INFINITY, log
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from outside cimport is_outside_name

import numpy as np

cdef enum:
    SALT_BYTES = 16


cdef inline uint64_t rotate(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[0] = rotate(v[0], 32)
    v[2] += v[3]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[2] = rotate(v[2], 32)


cdef uint64_t siphash(uint64_t k0, uint64_t k1, const uint8_t* text, Py_ssize_t n) noexcept nogil:
    """SipHash-2-4 (Aumasson and Bernstein 2012)."""
    cdef uint64_t[4] v
    cdef uint64_t word
    cdef Py_ssize_t _, i, tail = n & ~<Py_ssize_t>7
    v[0] = k0 ^ 0x736F6D6570736575ULL
    v[1] = k1 ^ 0x646F72616E646F6DULL
    v[2] = k0 ^ 0x6C7967656E657261ULL
    v[3] = k1 ^ 0x7465646279746573ULL
    for i in range(0, tail, 8):
        memcpy(&word, text + i, 8)
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
    word = <uint64_t>(n & 255) << 56
    for i in range(tail, n):
        word |= <uint64_t>text[i] << (8 * (i - tail))
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word
    v[2] ^= 255
    for _ in range(4):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x += 0x9E3779B97F4A7C15ULL
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline Py_ssize_t nearest(
    uint64_t unit, const uint64_t* arm_keys, const double* shares, Py_ssize_t n_arms
) noexcept nogil:
    cdef Py_ssize_t k, best = -1
    cdef double uniform, distance, least = INFINITY
    for k in range(n_arms):
        if shares[k] > 0:
            uniform = (<double>(mix(unit ^ arm_keys[k]) >> 11) + 0.5) * (1.0 / 9007199254740992.0)
            distance = -log(uniform) / shares[k]
            if distance < least:
                least = distance
                best = k
    return best


cdef class Rendezvous:
    """Assignment of the units of one experiment to arms. `salt` is 16 bytes of its own; the `arm_names` are hashed.

    So an arm keeps its units whatever its position, and two experiments are independent of each other.
    """

    cdef uint64_t k0, k1
    cdef readonly Py_ssize_t n_arms
    cdef uint64_t[::1] arm_keys

    def __init__(self, bytes salt not None, arm_names):
        if len(salt) != SALT_BYTES:
            raise ValueError(f"expected a salt of {SALT_BYTES} bytes")
        memcpy(&self.k0, <const char*>salt, 8)
        memcpy(&self.k1, <const char*>salt + 8, 8)
        self.n_arms = len(arm_names)
        self.arm_keys = np.array([self.hash_unit("arm:" + name) for name in arm_names], dtype=np.uint64)

    cdef uint64_t hash_text(self, str text) except? 0:
        cdef Py_ssize_t n
        cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &n)
        if not is_outside_name(<const uint8_t*>utf8, n):
            raise ValueError("expected 1 to 256 bytes of UTF-8 without control characters")
        return siphash(self.k0, self.k1, <const uint8_t*>utf8, n) or 1

    def hash_unit(self, str unit not None):
        """Unit's 64-bit hash in this experiment; never 0. `ValueError` when it is no name from outside."""
        return self.hash_text(unit)

    def hash_units(self, list units not None):
        """u64[n] hashes of n units; `TypeError` for one that is no str, `ValueError` for one that is no name."""
        cdef Py_ssize_t i, n = len(units)
        hashes = np.empty(n, dtype=np.uint64)
        cdef uint64_t[::1] out = hashes
        for i in range(n):
            out[i] = self.hash_text(<str?>units[i])
        return hashes

    def arm(self, uint64_t unit, const double[::1] shares):
        """Arm of the unit with this hash under `shares` (float64 (K,), sum 1)."""
        if shares.shape[0] != self.n_arms:
            raise ValueError("expected a share for each arm")
        return nearest(unit, &self.arm_keys[0], &shares[0], self.n_arms)

    def arms(self, const uint64_t[::1] units, const double[::1] shares):
        """u16[n]: the arms of n units."""
        cdef Py_ssize_t i, n = units.shape[0]
        if shares.shape[0] != self.n_arms:
            raise ValueError("expected a share for each arm")
        arms = np.empty(n, dtype=np.uint16)
        cdef uint16_t[::1] out = arms
        for i in range(n):
            out[i] = <uint16_t>nearest(units[i], &self.arm_keys[0], &shares[0], self.n_arms)
        return arms

    def mixed(self, uint64_t unit, uint64_t salt):
        """A 64-bit number of a unit's hash that, for each salt, is independent of the unit's arms."""
        return mix(mix(unit ^ salt))

    def mixed_many(self, const uint64_t[::1] units, uint64_t salt):
        """u64[n]: `mixed` of n units."""
        cdef Py_ssize_t i
        numbers = np.empty(units.shape[0], dtype=np.uint64)
        cdef uint64_t[::1] out = numbers
        for i in range(units.shape[0]):
            out[i] = mix(mix(units[i] ^ salt))
        return numbers


cdef class UnitSlots:
    """Units whose slot, one of N by a hash with `salt` of 16 bytes, is among those with `mask` (uint8 (N,)) not 0.

    Two salts make slots that are independent of each other, and of all arms.
    """

    cdef Rendezvous hashing
    cdef const uint8_t[::1] mask
    cdef readonly Py_ssize_t n_slots
    cdef readonly double share          # of all slots

    def __init__(self, bytes salt not None, const uint8_t[::1] mask not None):
        if mask.shape[0] == 0:
            raise ValueError("expected a slot")
        self.hashing = Rendezvous(salt, ())
        self.mask = mask
        self.n_slots = mask.shape[0]
        self.share = np.count_nonzero(mask) / <double> self.n_slots

    def slot(self, str unit not None):
        """Slot of a unit; `ValueError` when it is no name from outside."""
        return <Py_ssize_t> (self.hashing.hash_text(unit) % <uint64_t> self.n_slots)

    def has(self, str unit not None):
        """Whether the unit's slot is among them; `ValueError` when it is no name from outside."""
        return self.mask[<Py_ssize_t> (self.hashing.hash_text(unit) % <uint64_t> self.n_slots)] != 0

    def has_many(self, list units not None):
        """bool[n]: `has` of n units; `TypeError` for one that is no str."""
        cdef Py_ssize_t i, n = len(units)
        among = np.empty(n, dtype=np.bool_)
        cdef uint8_t[::1] out = among.view(np.uint8)
        for i in range(n):
            out[i] = self.mask[<Py_ssize_t> (
                self.hashing.hash_text(<str?>units[i]) % <uint64_t> self.n_slots
            )] != 0
        return among
