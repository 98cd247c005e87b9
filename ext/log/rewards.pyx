# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Rows as the log has them: whether they can be folded, which rewards are learned from, which keys count them.

The keys are the store's. A busy log is many small groups, so each is one pass over its rows.
"""

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from reward cimport Reward

cnp.import_array()

cdef enum:
    HELD_OUT = 1        # `events.HELD_OUT`
    BLOCK_BITS = 16     # decisions in a bitmap, `Keys.seen`, and in the values of a two-valued metric, `Keys.values`
    NUMBERS_BITS = 9    # decisions in the values of another metric: as many fields as a hash may have that is one list
    EVENTS_BITS = 8     # decisions in a hash of events, `Keys.events`

cdef uint64_t MAX_COUNTER = <uint64_t> 1 << 42      # `events.MAX_COUNTER`
cdef int64_t MAX_TIME_MS = <int64_t> 1 << 53        # `events.MAX_TIME_MS`
cdef double ROUNDING = 1e-9                         # how far a share may be rounded past 1

cdef uint32_t NO_MARK = 0xFFFFFFFF

# As counting.lua reads it.
cdef packed struct Check:
    uint16_t bitmap
    uint16_t bit
    uint16_t values
    uint32_t mark
    uint64_t deadline_ms

# As append_events.lua reads it.
cdef packed struct Place:
    uint16_t key
    uint16_t before
    uint16_t after


def learned(const Reward[::1] rows, int metric, int64_t since_ms, int64_t[::1] rewards):
    """Rewards that a policy learns from: those of `metric` whose decision was not of the holdout nor before `since_ms`.

    Returns their arms, intp (m,); values, float64 (m,); propensities, float64 (m,); and indices among the rows,
    intp (m,), or None if they are all of the rows. Adds to `rewards`, int64 (K,), the rewards of `metric`, whether
    learned from or not. ValueError, and nothing is counted, where an arm is not below K.
    """
    cdef Py_ssize_t i, m = 0, n = rows.shape[0]
    for i in range(n):
        if rows[i].arm >= rewards.shape[0]:
            raise ValueError(f"expected arms below {rewards.shape[0]}, not {rows[i].arm}")
    cdef cnp.npy_intp size = n
    arms = cnp.PyArray_EMPTY(1, &size, cnp.NPY_INTP, 0)
    values = cnp.PyArray_EMPTY(1, &size, cnp.NPY_DOUBLE, 0)
    propensities = cnp.PyArray_EMPTY(1, &size, cnp.NPY_DOUBLE, 0)
    places = cnp.PyArray_EMPTY(1, &size, cnp.NPY_INTP, 0)
    cdef Py_ssize_t *arm = <Py_ssize_t *> cnp.PyArray_DATA(arms)
    cdef double *value = <double *> cnp.PyArray_DATA(values)
    cdef double *propensity = <double *> cnp.PyArray_DATA(propensities)
    cdef Py_ssize_t *place = <Py_ssize_t *> cnp.PyArray_DATA(places)
    for i in range(n):
        if rows[i].metric != metric:
            continue
        rewards[rows[i].arm] += 1
        if rows[i].flags & HELD_OUT or rows[i].time_ms < since_ms:
            continue
        arm[m], value[m], propensity[m], place[m] = rows[i].arm, rows[i].value, rows[i].propensity, i
        m += 1
    if m == n:
        return arms, values, propensities, None
    return arms[:m], values[:m], propensities[:m], places[:m]


def misfit(
    const Reward[:] rows, Py_ssize_t n_arms, const double[::1] low, const double[::1] high, const uint8_t[::1] whole
):
    """Expectation that the first unfit row fails, in words; None if all rows fit.

    low, high: (M,), between which the values of each metric lie; whole: whether they are one of the two.
    """
    cdef Py_ssize_t i
    cdef const Reward *row
    for i in range(rows.shape[0]):
        row = &rows[i]
        if row.arm >= n_arms:
            return f"arms of the experiment, not number {row.arm}"
        if row.metric >= low.shape[0]:
            return f"metrics of the experiment, not number {row.metric}"
        if not low[row.metric] <= row.value <= high[row.metric]:
            return f"values of metric {row.metric} from {low[row.metric]:g} to {high[row.metric]:g}, not {row.value!r}"
        if whole[row.metric] and row.value != low[row.metric] and row.value != high[row.metric]:
            return f"values of metric {row.metric} that are one of two, not {row.value!r}"
        if not 0.0 < row.propensity <= 1.0 + ROUNDING:
            return f"propensities above 0, at most 1, not {row.propensity!r}"
        if row.counter >= MAX_COUNTER:
            return "counters of at most 42 bits"
        if not -MAX_TIME_MS < row.time_ms < MAX_TIME_MS:
            return "times in milliseconds"
    return None


def undrawable(const uint16_t[::1] arms, const uint32_t[::1] runs, const double[:, ::1] vectors):
    """Reason why decisions can not have been drawn from their share vectors; None if they can.

    arms: (n,), of the decisions; the next runs[v] of them were drawn from row v of `vectors`, (V, K).
    """
    cdef Py_ssize_t v, k, at = 0, end, n = arms.shape[0]
    for v in range(runs.shape[0]):
        for k in range(vectors.shape[1]):
            # Written so that NaN fails.
            if not 0.0 <= vectors[v, k] <= 1.0 + ROUNDING:
                return f"shares from 0 to 1, not {vectors[v, k]!r}"
        end = at + <Py_ssize_t> runs[v]
        if end > n:
            return "runs that add up to the decisions"
        while at < end:
            if arms[at] >= vectors.shape[1] or not vectors[v, arms[at]] > 0.0:
                return f"a positive share of each arm that was drawn, not of number {arms[at]}"
            at += 1
    return None if at == n else "runs that add up to the decisions"


def counting_places(
    const Reward[::1] rows, int64_t window_ms, const uint8_t[::1] two_valued, const double[::1] high
):
    """Keys in which rows are counted, and 18 bytes a row for counting.lua.

    two_valued, high: (M,), whether the values of each metric are one of two, and the higher one. Returns the bitmaps
    and the values of plain rewards, (metric, incarnation, block) each; and for each row the index of its bitmap, its
    bit, the index of its values, its mark there, and the time from which it is late.
    """
    cdef Py_ssize_t i, n = rows.shape[0]
    cdef uint64_t incarnation = 0, block = 0
    cdef int metric = -1
    cdef uint16_t bitmap = 0, value_key = 0
    cdef dict bitmaps = {}, values = {}
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, n * sizeof(Check))
    cdef Check *check = <Check *> PyBytes_AS_STRING(packed)
    for i in range(n):
        if rows[i].metric >= two_valued.shape[0] or rows[i].metric >= high.shape[0]:
            raise ValueError(f"expected metrics below {two_valued.shape[0]}, not {rows[i].metric}")
        if rows[i].metric != metric or rows[i].incarnation != incarnation or rows[i].counter >> NUMBERS_BITS != block:
            metric, incarnation, block = rows[i].metric, rows[i].incarnation, rows[i].counter >> NUMBERS_BITS
            whole = (metric, incarnation, rows[i].counter >> BLOCK_BITS)
            bitmap = bitmaps.setdefault(whole, len(bitmaps))
            value_key = values.setdefault(whole if two_valued[metric] else (metric, incarnation, block), len(values))
        check[i].bitmap = bitmap
        check[i].bit = <uint16_t> (rows[i].counter & ((1 << BLOCK_BITS) - 1))
        check[i].values = value_key
        check[i].mark = 2 * check[i].bit + (rows[i].value == high[metric]) if two_valued[metric] else NO_MARK
        check[i].deadline_ms = <uint64_t> (rows[i].time_ms + window_ms)
    return list(bitmaps), list(values), packed


def event_places(const Reward[::1] rows, int64_t period_ms, uint16_t first):
    """Keys of the hashes in which the rows' events are, and 6 bytes a row for append_events.lua.

    Events are known by unit where `period_ms` is positive: the keys are (unit, period), and each row names that of its
    decision's time and those of the periods before and after. Otherwise they are (metric, incarnation, block), and each
    row names its own three times. The first key has the number `first`.
    """
    cdef Py_ssize_t i, n = rows.shape[0]
    cdef int64_t period
    cdef dict keys = {}
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, n * sizeof(Place))
    cdef Place *place = <Place *> PyBytes_AS_STRING(packed)
    for i in range(n):
        if period_ms > 0:
            period = rows[i].time_ms // period_ms
            unit = rows[i].unit
            place[i].key = first + <uint16_t> keys.setdefault((unit, period), len(keys))
            place[i].before = first + <uint16_t> keys.setdefault((unit, period - 1), len(keys))
            place[i].after = first + <uint16_t> keys.setdefault((unit, period + 1), len(keys))
        else:
            key = (rows[i].metric, rows[i].incarnation, rows[i].counter >> EVENTS_BITS)
            place[i].key = place[i].before = place[i].after = first + <uint16_t> keys.setdefault(key, len(keys))
    return list(keys), packed
