# cython: cdivision=True
"""Uniform draws from a bit generator."""

from libc.stdint cimport uint64_t
from numpy.random cimport bitgen_t

cdef extern from *:
    """
    __extension__ typedef unsigned __int128 bandit_serve_uint128;
    """
    ctypedef unsigned long long uint128_t "bandit_serve_uint128"


cdef inline uint64_t uniform_bits(bitgen_t *bits) noexcept nogil:
    return bits.next_uint64(bits.state)


cdef inline double uniform_double(bitgen_t *bits) noexcept nogil:
    """Uniform number in [0, 1), on the grid of 2⁻⁵³."""
    return <double>(bits.next_uint64(bits.state) >> 11) * (1.0 / 9007199254740992.0)


cdef inline Py_ssize_t uniform_below(bitgen_t *bits, Py_ssize_t bound) noexcept nogil:
    """One of 0 … bound − 1; each probability is within 2⁻⁶⁴ of 1/bound (Lemire 2019, without the rejection)."""
    return <Py_ssize_t>((<uint128_t>uniform_bits(bits) * <uint128_t>bound) >> 64)
