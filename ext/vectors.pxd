"""Dot products in one fixed order, so that every method gives the same bits for the same vectors: inline code."""

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
