# cython: cdivision=True
"""Splitmix64's finaliser (Steele, Lea, Flood 2014): a hash of numbers, so that counters and hashes spread alike."""

from libc.stdint cimport uint64_t


cdef inline uint64_t scattered(uint64_t number) noexcept nogil:
    number = (number ^ (number >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    number = (number ^ (number >> 27)) * <uint64_t> 0x94D049BB133111EB
    return number ^ (number >> 31)
