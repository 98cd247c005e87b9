# cython: cdivision=True
"""An alias table in integers (Walker 1977; Vose 1991): a draw in O(1), exact to 2⁻⁶³ an arm.

A table in floating point loses digits with every subtraction while it is built and may leave the cell of an arm
whose share is 0 to that arm. Here each share is rounded once, to a multiple of 2⁻ᴮ/K with K·2ᴮ < 2⁶³, and
everything after that is exact.
"""

from libc.stdint cimport int64_t, uint64_t
from numpy.random cimport bitgen_t
from uniform cimport uint128_t, uniform_bits

ctypedef struct cell_t:
    uint64_t threshold  # in 2⁻⁶⁴ of the cell: below it the cell's own arm is drawn, from it on the other
    int64_t other


cdef inline void alias_fill(
    const double *shares, Py_ssize_t count, cell_t *cells, uint64_t *weights, Py_ssize_t *stack
) noexcept nogil:
    """Makes `cells` (count) from shares that are not negative and sum to 1 within rounding.

    `weights` and `stack` (count each) are scratch.
    """
    cdef Py_ssize_t k, largest = 0, poor = 0, rich = count, small, large
    cdef int cell_bits = 63
    cdef uint64_t size, total = 0
    while (<uint64_t>1 << (63 - cell_bits)) < <uint64_t>count:
        cell_bits -= 1
    size = <uint64_t>1 << cell_bits
    for k in range(count):
        weights[k] = <uint64_t>(shares[k] * <double>size * <double>count + 0.5)
        total += weights[k]
        if weights[k] > weights[largest]:
            largest = k
    # Unsigned arithmetic wraps, so this also takes away what is too much.
    weights[largest] += size * <uint64_t>count - total

    # One stack from both ends: cells that need more than they have, and arms that have more than their cell.
    for k in range(count):
        cells[k].threshold = 0
        cells[k].other = k
        if weights[k] < size:
            stack[poor] = k
            poor += 1
        elif weights[k] > size:
            rich -= 1
            stack[rich] = k
    while poor > 0:
        poor -= 1
        small = stack[poor]
        large = stack[rich]
        cells[small].threshold = weights[small] << (64 - cell_bits)
        cells[small].other = large
        weights[large] -= size - weights[small]
        if weights[large] <= size:
            rich += 1
            if weights[large] < size:
                stack[poor] = large
                poor += 1


cdef inline Py_ssize_t alias_draw(const cell_t *cells, Py_ssize_t count, bitgen_t *bits) noexcept nogil:
    """One 64-bit number gives both the cell and the place in it.

    The choice between the two arms of a cell is a mask: as a branch, half of them would be mispredicted.
    """
    cdef uint128_t place = <uint128_t>uniform_bits(bits) * <uint128_t>count
    cdef int64_t k = <int64_t>(place >> 64)
    cdef int64_t beyond = -<int64_t>(<uint64_t>place >= cells[k].threshold)
    return <Py_ssize_t>(k ^ ((k ^ cells[k].other) & beyond))
