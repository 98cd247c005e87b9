# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Draws an arm from a vector of shares in O(1), and the random numbers for it."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport isfinite
from libc.stdint cimport uint64_t
from numpy.random cimport bitgen_t

from alias cimport alias_draw, alias_fill, cell_t
from uniform cimport uniform_double

import os

import numpy as np
from numpy.random import PCG64

from bandit_serve.errors import InvalidInput

# How far the sum of shares may be from 1: far above rounding, far below what a forgotten arm would make.
TOLERANCE = 1e-9


def nothing():
    """Does nothing: the cost of a call, beside which the benchmarks put the cost of a draw."""


def bit_generator(seed):
    """A PCG64 from `seed` (an int of at least 0; None takes the system's entropy)."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InvalidInput(f"seed must be a whole number of at least 0 or None, not {seed!r}")
    return PCG64(seed)


def alias_table(shares):
    """Cells of `ShareSampler`: uint64 (K, 2), from shares (K,) that sum to 1 (InvalidInput otherwise)."""
    cdef const double[::1] vector
    cdef uint64_t[:, ::1] cells
    cdef uint64_t[::1] weights
    cdef Py_ssize_t[::1] stack
    cdef Py_ssize_t k
    try:
        array = np.asarray(shares, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"shares must be a vector of numbers: {error}") from None
    if array.ndim != 1 or array.size == 0:
        raise InvalidInput(f"shares must be a vector of at least one number, not of shape {array.shape}")
    vector = np.ascontiguousarray(array)
    for k in range(vector.shape[0]):
        if not (isfinite(vector[k]) and vector[k] >= 0.0):
            raise InvalidInput(f"shares must be finite and not negative, but the one of arm {k} is {vector[k]}")
    total = array.sum()
    if not abs(total - 1.0) <= TOLERANCE:
        raise InvalidInput(f"shares must sum to 1, not to {total}")
    vector = array / total
    table = np.empty((vector.shape[0], 2), dtype=np.uint64)
    cells = table
    weights = np.empty(vector.shape[0], dtype=np.uint64)
    stack = np.empty(vector.shape[0], dtype=np.intp)
    alias_fill(&vector[0], vector.shape[0], <cell_t *>&cells[0, 0], &weights[0], &stack[0])
    return table


cdef class ShareSampler:
    """Draws arms with the probabilities `shares` (K,), which must not be negative and must sum to 1.

    Each arm's probability is its share to within 1e-15; an arm of share 0 is never drawn. A draw costs the
    same at any K. `seed` is an int of at least 0; without it, the system's entropy.
    """

    cdef const cell_t *cells
    cdef bitgen_t *bits
    cdef readonly Py_ssize_t n_arms
    cdef object table, generator

    def __init__(self, shares, seed=None):
        cdef const uint64_t[:, ::1] view
        table = alias_table(shares)
        generator = bit_generator(seed)
        view = table
        self.table, self.generator = table, generator
        self.cells = <const cell_t *>&view[0, 0]
        self.bits = <bitgen_t *>PyCapsule_GetPointer(generator.capsule, "BitGenerator")
        self.n_arms = view.shape[0]

    def choose(self):
        """Index of one arm."""
        if self.cells is NULL:
            raise InvalidInput("this sampler was made without shares")
        return alias_draw(self.cells, self.n_arms, self.bits)

    def choose_many(self, n):
        """Indices of `n` arms, intp (n,): what `n` calls of `choose` would give."""
        cdef Py_ssize_t[::1] arms
        cdef Py_ssize_t i
        if self.cells is NULL:
            raise InvalidInput("this sampler was made without shares")
        out = np.empty(how_many(n), dtype=np.intp)
        arms = out
        for i in range(arms.shape[0]):
            arms[i] = alias_draw(self.cells, self.n_arms, self.bits)
        return out

    @property
    def probabilities(self):
        """float64 (K,): the probabilities with which the table in fact draws, summed from its cells."""
        cdef const uint64_t[:, ::1] cells
        cdef Py_ssize_t k
        if self.cells is NULL:
            raise InvalidInput("this sampler was made without shares")
        cells = self.table
        out = np.zeros(self.n_arms)
        cdef double[::1] sums = out
        for k in range(self.n_arms):
            if cells[k, 1] == <uint64_t>k:
                sums[k] += 1.0
            else:
                sums[k] += <double>cells[k, 0] * 2.0**-64
                sums[<Py_ssize_t>cells[k, 1]] += <double>(0 - cells[k, 0]) * 2.0**-64 if cells[k, 0] else 1.0
        return out / self.n_arms


cdef object one_generator
cdef bitgen_t *one_bits


def _begin_anew():
    """Takes new entropy, which a process that was forked would otherwise have in common with its parent."""
    global one_generator, one_bits
    one_generator = PCG64()
    one_bits = <bitgen_t *>PyCapsule_GetPointer(one_generator.capsule, "BitGenerator")


_begin_anew()
os.register_at_fork(after_in_child=_begin_anew)


def choose_one(const double[::1] shares):
    """Index of one arm, with the probabilities `shares` (K,), by inversion: for a vector that is drawn from once.

    The shares are not negative and sum to 1 within rounding; an arm of share 0 is never drawn.
    """
    cdef double place = uniform_double(one_bits), below = 0.0
    cdef Py_ssize_t k, last = -1
    for k in range(shares.shape[0]):
        if shares[k] > 0.0:
            last = k
            below += shares[k]
            if place < below:
                return k
    if last < 0:
        raise InvalidInput("shares must have at least one number above 0")
    return last


def how_many(n):
    """`n` if it is a whole number of at least 0; InvalidInput otherwise."""
    if isinstance(n, (bool, np.bool_)) or not hasattr(n, "__index__") or n < 0:
        raise InvalidInput(f"the number of choices must be a whole number of at least 0, not {n!r}")
    return n
