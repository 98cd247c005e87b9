# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sum of the share vectors that decisions were drawn from, in scalar arithmetic from left to right."""

from libc.stdint cimport uint32_t


def add_shares(
    double[::1] total, const double[:, ::1] vectors, const uint32_t[::1] runs, Py_ssize_t low, Py_ssize_t high
):
    """Adds to `total` (K,) the vector of each of the decisions `low` … `high - 1`.

    vectors, runs: (V, K) and (V,), the next runs[v] decisions were drawn from row v.
    """
    cdef Py_ssize_t run, k, start = 0, end, count
    for run in range(runs.shape[0]):
        end = start + <Py_ssize_t> runs[run]
        count = min(end, high) - max(start, low)
        if count > 0:
            for k in range(total.shape[0]):
                total[k] += count * vectors[run, k]
        start = end
