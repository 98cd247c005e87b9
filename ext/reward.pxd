# cython: cdivision=True
# A row of `events.REWARD`.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef packed struct Reward:
    uint64_t incarnation
    uint64_t counter
    int64_t time_ms
    double value
    double propensity
    uint64_t unit
    uint32_t revision
    uint16_t arm
    uint8_t metric
    uint8_t flags


# A row of `events.REVISION`; the reward's value is NaN where the decision has none any more.
cdef packed struct Revision:
    Reward reward
    double former
    int64_t since_ms
