# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Places of arrays in memory."""


cdef inline double *place_of(array):
    """Place of the first number of an array, float64, C order, of any shape."""
    cdef double[::1] view = array.reshape(-1)
    return &view[0]
