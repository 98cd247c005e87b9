# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What follows the sums: it takes in what they take in, with the note of each decision or unit."""


cdef class Follower:
    """Sums beside those of `Accumulators`, for subclasses: each is told of all that is analysed. What enters or leaves
    is in or out of theirs by then; a change is not.

    What it does must follow from what it is told, so that a fold gives the same bits however the log is cut up.
    """

    cdef int enter(self, const Analysed *one) except -1:
        """Takes in one decision or unit."""
        raise NotImplementedError

    cdef int update(self, const Analysed *one, double old, double old_companion) except -1:
        """One that was taken in with the value `old` and the companion `old_companion` has those of `one` now."""
        raise NotImplementedError

    cdef int withdraw(self, const Analysed *one) except -1:
        """Takes back one that was taken in, with the values that it had in the end."""
        raise NotImplementedError

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come."""
        raise NotImplementedError
