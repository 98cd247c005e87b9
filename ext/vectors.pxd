"""Dot products in one fixed order, so that every method gives the same bits for the same vectors: inline code.

A function that returns a `cloned_double` is compiled a second time for processors with AVX2, and the better one is taken
when the module is loaded. The order of all sums is fixed and nothing is contracted, so both give the same bits.
"""

cdef extern from *:
    """
    #if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
    #define BANDIT_CLONED __attribute__((target_clones("avx2", "default"))) double
    #else
    #define BANDIT_CLONED double
    #endif
    """
    ctypedef double cloned_double "BANDIT_CLONED"

cdef enum:
    LANES = 16  # partial sums of a dot product, their order fixed here so that any vector width will do


cdef inline float dot(const float *a, const float *b, Py_ssize_t n) noexcept nogil:
    cdef float sums[LANES]
    cdef Py_ssize_t at = 0, lane
    cdef float total = 0
    for lane in range(LANES):
        sums[lane] = 0
    while at + LANES <= n:
        for lane in range(LANES):
            sums[lane] += a[at + lane] * b[at + lane]
        at += LANES
    for lane in range(8):
        sums[lane] += sums[lane + 8]
    for lane in range(4):
        sums[lane] += sums[lane + 4]
    total = (sums[0] + sums[2]) + (sums[1] + sums[3])
    while at < n:
        total += a[at] * b[at]
        at += 1
    return total
