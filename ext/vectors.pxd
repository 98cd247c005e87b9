# cython: cdivision=True
"""Dot products in one fixed order, so that every method gives the same bits for the same vectors: inline code.

A function that returns a `cloned_double` is compiled a second time for processors with AVX2; the better one is taken
when the module is loaded. The order of all sums is fixed and nothing is contracted, so both give the same bits.
"""

cdef extern from *:
    """
    #if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
    #define BANDIT_CLONED __attribute__((target_clones("avx2", "default"))) double
    #else
    #define BANDIT_CLONED double
    #endif

    static inline float bandit_folded(const float *sums) {
    #if defined(__GNUC__)
        typedef float quad __attribute__((vector_size(16)));
        quad a, b, c, d;
        memcpy(&a, sums, 16), memcpy(&b, sums + 4, 16), memcpy(&c, sums + 8, 16), memcpy(&d, sums + 12, 16);
        a = (a + c) + (b + d);
    #else
        float a[4];
        for (int i = 0; i < 4; i++)
            a[i] = (sums[i] + sums[i + 8]) + (sums[i + 4] + sums[i + 12]);
    #endif
        return (a[0] + a[2]) + (a[1] + a[3]);
    }
    """
    ctypedef double cloned_double "BANDIT_CLONED"
    float folded "bandit_folded"(const float *sums) noexcept nogil  # the sum of LANES numbers

cdef enum:
    LANES = 16  # partial sums of a dot product, their order fixed here so that any vector width will do


cdef inline float dot(const float *a, const float *b, Py_ssize_t n) noexcept nogil:
    cdef float sums[LANES]
    cdef Py_ssize_t at = 0, lane
    cdef float total
    for lane in range(LANES):
        sums[lane] = 0
    while at + LANES <= n:
        for lane in range(LANES):
            sums[lane] += a[at + lane] * b[at + lane]
        at += LANES
    total = folded(sums)
    while at < n:
        total += a[at] * b[at]
        at += 1
    return total
