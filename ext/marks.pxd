# cython: cdivision=True
"""Marks of a held reward or a unit, as snapshots hold them."""

cdef enum:
    SEEN = 1                # its exposure has come
    DONE = 2                # it has been analysed
    GONE = 4                # the row is free
    UNFLOORED = 8           # decided by an adaptive policy without a floor
    CROSSED = 16            # the unit was later served another arm
    PLAIN = 32              # its share may depend on what moves the mean, so no weight may depend on it
