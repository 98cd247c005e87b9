# cython: cdivision=True
"""Bounds of the shares that decisions were drawn from.

Shares that differ by less than `SAME_SHARE` are one share. One below `MIN_SHARE` counts as that where values are
divided by it: no arm is ever drawn so, and all sums stay finite.
"""

cdef extern from *:
    """
    static const double SAME_SHARE = 1e-9;
    static const double MIN_SHARE = 1e-50;
    """
    const double SAME_SHARE
    const double MIN_SHARE
