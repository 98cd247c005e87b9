# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Counts of values by bin, from which quantiles are estimated, and the evidence against a quantile in a bin.

Bins are narrow in proportion to what is in them: each power of 2 is cut into `BINS_OF_POWER` of one width, and 0 is a
bin of its own. Which bin a value is in follows from its bits, without a logarithm, so that it is the same everywhere.
"""

from libc.math cimport frexp, ldexp, log
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

import numpy as np

from stirling cimport stirling_rest

cdef enum:
    BINS_OF_POWER = 128        # 2^7: no bin is wider than 0.8 % of what is in it
    LEAST_EXPONENT = 1074      # of the smallest number, with the sign changed
    MAX_KEY = 268_800          # of the largest number
    MAX_CELLS = 1 << 20        # counts of all arms on all metrics, about: 8 MB
    MIN_BINS = 3               # below 0, 0 and above
    MAX_BIN_HALVINGS = 19      # then all positive numbers are in one bin
    MIN_BIN_ROOM = 32


cdef int32_t key_of(double value, int halvings) noexcept nogil:
    """Bin of a value: 0 for 0, from 1 on for positive ones, by their size; of -x the negative of that of x."""
    cdef int exponent
    cdef double part
    cdef int32_t key
    if value == 0.0:
        return 0
    part = frexp(value if value > 0.0 else -value, &exponent)
    key = (exponent + LEAST_EXPONENT) * BINS_OF_POWER + <int32_t> ((part - 0.5) * (2 * BINS_OF_POWER))
    key = (key >> halvings) + 1
    return key if value > 0.0 else -key


cdef double lower_edge(int64_t key, int halvings) noexcept nogil:
    """Least number of the bin of a positive `key`."""
    cdef int64_t whole = (key - 1) << halvings
    cdef int exponent = <int> (whole // BINS_OF_POWER) - LEAST_EXPONENT
    return ldexp(0.5 + <double> (whole % BINS_OF_POWER) / (2 * BINS_OF_POWER), exponent)


cdef class Histograms:
    """Counts of the analysed values of each arm, by bin, on the metrics that are `kept`, uint8 (M,).

    Only bins that hold a value are kept. When there would be more than `MAX_CELLS` counts on all metrics, each pair of
    neighbouring bins of a metric becomes one, for good, and again until there is room: what is said of quantiles stays
    true, but is coarser. Which bins there are depends on the values alone, not on how a log is cut up.
    """

    def __init__(self, const uint8_t[::1] kept, Py_ssize_t n_arms):
        cdef Py_ssize_t m
        self.n_metrics, self.n_arms = kept.shape[0], n_arms
        self.of = <Histogram *> calloc(max(self.n_metrics, 1), sizeof(Histogram))
        if self.of == NULL:
            raise MemoryError()
        for m in range(self.n_metrics):
            self.of[m].kept = kept[m]
        self.know_most()

    def __dealloc__(self):
        cdef Py_ssize_t m
        for m in range(self.n_metrics if self.of != NULL else 0):
            self.clear(m)
        free(self.of)

    cdef int know_most(self) except -1:
        """Finds how many bins a metric may have."""
        cdef Py_ssize_t m, n = 0
        for m in range(self.n_metrics):
            n += self.of[m].kept
        self.most = max(<Py_ssize_t> MIN_BINS, MAX_CELLS // max(n * self.n_arms, 1))
        return 0

    cdef void clear(self, Py_ssize_t m) noexcept nogil:
        """Forgets all values of a metric."""
        cdef Histogram *here = &self.of[m]
        free(here.keys)
        free(here.rows)
        free(here.counts)
        here.keys, here.rows, here.counts = NULL, NULL, NULL
        here.n = here.room = here.halvings = 0

    cdef Py_ssize_t place(self, const Histogram *here, int32_t key) noexcept nogil:
        """Number of bins below that of `key`."""
        cdef Py_ssize_t low = 0, high = here.n, middle
        while low < high:
            middle = (low + high) // 2
            if here.keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        return low

    cdef void add(self, Py_ssize_t m, Py_ssize_t arm, double value, int64_t step) noexcept nogil:
        """Counts a value once more, `step` 1, or once less, -1."""
        cdef Histogram *here = &self.of[m]
        cdef int32_t key
        cdef Py_ssize_t at
        cdef int64_t *count
        if not here.kept:
            return
        key = key_of(value, here.halvings)
        at = self.place(here, key)
        if at == here.n or here.keys[at] != key:
            if step < 0:
                return
            if here.n == self.most or here.n == here.room:
                self.make_room(here)
                key = key_of(value, here.halvings)
                at = self.place(here, key)
            if at == here.n or here.keys[at] != key:
                if here.n == here.room:
                    return
                self.put_in(here, at, key)
        count = &here.counts[here.rows[at] * self.n_arms + arm]
        count[0] = max(<int64_t> 0, count[0] + step)

    def add_many(self, Py_ssize_t metric, Py_ssize_t arm, const double[::1] values, int64_t step):
        """Counts finite values, float64 (n,), once more each, `step` 1, or once less, -1."""
        cdef Py_ssize_t i
        if not (0 <= metric < self.n_metrics and 0 <= arm < self.n_arms):
            raise IndexError("expected a metric and an arm that there are")
        for i in range(values.shape[0]):
            self.add(metric, arm, values[i], step)

    cdef void put_in(self, Histogram *here, Py_ssize_t at, int32_t key) noexcept nogil:
        """A new bin, for which there is room, in the place `at`."""
        memmove(&here.keys[at + 1], &here.keys[at], (here.n - at) * sizeof(int32_t))
        memmove(&here.rows[at + 1], &here.rows[at], (here.n - at) * sizeof(int32_t))
        memset(&here.counts[here.n * self.n_arms], 0, self.n_arms * sizeof(int64_t))
        here.keys[at] = key
        here.rows[at] = <int32_t> here.n
        here.n += 1

    cdef bint empty(self, const Histogram *here, Py_ssize_t at) noexcept nogil:
        cdef Py_ssize_t k
        for k in range(self.n_arms):
            if here.counts[here.rows[at] * self.n_arms + k]:
                return False
        return True

    cdef void make_room(self, Histogram *here) noexcept nogil:
        """Room for one more bin: without those that are empty, in longer columns or in wider bins."""
        cdef Py_ssize_t at, n = 0
        for at in range(here.n):
            n += not self.empty(here, at)
        while True:
            self.move(here, here.halvings, max(<Py_ssize_t> MIN_BIN_ROOM, min(2 * n, self.most) + 1))
            if here.n < self.most or here.halvings == MAX_BIN_HALVINGS:
                return
            self.move(here, here.halvings + 1, here.room)

    cdef void move(self, Histogram *here, int halvings, Py_ssize_t room) noexcept nogil:
        """Moves all that is counted to columns of other sizes, in the order of the bins, without empty ones.

        Without memory for them all stays as it is.
        """
        cdef Histogram there
        cdef Py_ssize_t at, k, shift = halvings - here.halvings
        cdef int32_t key
        cdef int64_t *counts
        there.keys = <int32_t *> malloc(room * sizeof(int32_t))
        there.rows = <int32_t *> malloc(room * sizeof(int32_t))
        there.counts = <int64_t *> malloc(room * self.n_arms * sizeof(int64_t))
        there.n, there.room, there.halvings, there.kept = 0, room, halvings, True
        if there.keys == NULL or there.rows == NULL or there.counts == NULL:
            free(there.keys)
            free(there.rows)
            free(there.counts)
            return
        for at in range(here.n):
            if self.empty(here, at):
                continue
            key = here.keys[at]
            if key > 0:
                key = ((key - 1) >> shift) + 1
            elif key < 0:
                key = -(((-key - 1) >> shift) + 1)
            if there.n == 0 or there.keys[there.n - 1] != key:
                self.put_in(&there, there.n, key)
            counts = &there.counts[(there.n - 1) * self.n_arms]
            for k in range(self.n_arms):
                counts[k] += here.counts[here.rows[at] * self.n_arms + k]
        free(here.keys)
        free(here.rows)
        free(here.counts)
        here[0] = there

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come."""
        self.take_over(Histograms.from_state(widened(self.state(), n_arms)))

    cdef int take_over(self, Histograms other) except -1:
        """Becomes what `other` is, and it what this was."""
        self.of, other.of = other.of, self.of
        self.n_metrics, other.n_metrics = other.n_metrics, self.n_metrics
        self.n_arms, self.most = other.n_arms, other.most
        return 0

    def of_metric(self, Py_ssize_t metric):
        """Lower and upper edges of the bins, float64 (B,), in ascending order, and the arms' counts, int64 (B, K)."""
        if not 0 <= metric < self.n_metrics:
            raise IndexError(f"expected a metric below {self.n_metrics}")
        cdef Histogram *here = &self.of[metric]
        keys, counts = self.columns_of(metric)
        cdef const int32_t[::1] key = keys
        cdef double[:, ::1] edges = np.zeros((2, len(keys)))
        cdef Py_ssize_t at
        for at in range(key.shape[0]):
            if key[at] > 0:
                edges[0, at] = lower_edge(key[at], here.halvings)
                edges[1, at] = lower_edge(key[at] + 1, here.halvings)
            elif key[at] < 0:
                edges[0, at] = -lower_edge(-key[at] + 1, here.halvings)
                edges[1, at] = -lower_edge(-key[at], here.halvings)
        return np.asarray(edges[0]), np.asarray(edges[1]), counts

    cdef columns_of(self, Py_ssize_t metric):
        """Keys int32 (B,) of the bins that hold a value, and the arms' counts, int64 (B, K)."""
        cdef Histogram *here = &self.of[metric]
        cdef int32_t[::1] keys = np.zeros(here.n, np.int32)
        cdef int64_t[:, ::1] counts = np.zeros((here.n, self.n_arms), np.int64)
        cdef Py_ssize_t at, n = 0
        for at in range(here.n):
            if self.empty(here, at):
                continue
            keys[n] = here.keys[at]
            memcpy(&counts[n, 0], &here.counts[here.rows[at] * self.n_arms], self.n_arms * sizeof(int64_t))
            n += 1
        return np.asarray(keys)[:n].copy(), np.asarray(counts)[:n].copy()

    def state(self):
        """Columns for `from_state`."""
        columns = [self.columns_of(m) for m in range(self.n_metrics)]
        return {
            "kept": np.array([self.of[m].kept for m in range(self.n_metrics)], np.uint8),
            "halvings": np.array([self.of[m].halvings for m in range(self.n_metrics)], np.int64),
            "sizes": np.array([len(keys) for keys, _ in columns], np.int64),
            "keys": np.concatenate([np.zeros(0, np.int32), *(keys for keys, _ in columns)]),
            "counts": np.concatenate([np.zeros((0, self.n_arms), np.int64), *(counts for _, counts in columns)]),
        }

    @staticmethod
    def from_state(state):
        """Histograms of a state; `ValueError` where it is none."""
        kept, halvings, sizes = (state[name] for name in ("kept", "halvings", "sizes"))
        keys, counts = state["keys"], state["counts"]
        check_columns(kept, halvings, sizes, keys, counts)
        cdef Histograms self = Histograms(kept, counts.shape[1])
        cdef Histogram *here
        cdef Py_ssize_t m, n, start = 0
        cdef const int32_t[::1] key = keys
        cdef const int64_t[:, ::1] count = counts
        for m in range(self.n_metrics):
            here, n = &self.of[m], sizes[m]
            here.halvings = halvings[m]
            if n:
                self.move(here, here.halvings, n + 1)
                if here.room < n:
                    raise MemoryError()
                for at in range(start, start + n):
                    self.put_in(here, here.n, key[at])
                    memcpy(&here.counts[(here.n - 1) * self.n_arms], &count[at, 0], self.n_arms * sizeof(int64_t))
                while here.n > self.most and here.halvings < MAX_BIN_HALVINGS:
                    self.move(here, here.halvings + 1, here.room)
            start += n
        return self


cdef check_columns(kept, halvings, sizes, keys, counts):
    """Raises `ValueError` unless the columns are those of histograms."""
    if not len(kept) == len(halvings) == len(sizes) or counts.ndim != 2 or keys.shape != counts.shape[:1]:
        raise ValueError("the snapshot's histograms do not fit together")
    if (sizes < 0).any() or (sizes[kept == 0] > 0).any() or sizes.sum() != len(keys):
        raise ValueError("the snapshot does not hold the bins that it counts")
    if (halvings < 0).any() or (halvings > MAX_BIN_HALVINGS).any() or (counts < 0).any():
        raise ValueError("the snapshot has histograms that there can not be")
    if not (counts > 0).any(axis=1).all() or (np.abs(keys.astype(np.int64)) > MAX_KEY).any():
        raise ValueError("the snapshot has bins that there can not be")
    first = np.zeros(len(keys), bool)
    starts = np.cumsum(sizes) - sizes
    first[starts[sizes > 0]] = True
    if (np.diff(keys.astype(np.int64))[~first[1:]] <= 0).any():
        raise ValueError("the snapshot's bins are not in their order")


cdef widened(state, Py_ssize_t n_arms):
    """State with room for `n_arms` arms."""
    return state | {"counts": np.pad(state["counts"], ((0, 0), (0, n_arms - state["counts"].shape[1])))}


cdef double log_beta(double x, double y) noexcept nogil:
    """Logarithm of the beta function."""
    cdef double z = x + y
    return (
        (x - 0.5) * log(x / z) + y * log(y / z) - 0.5 * log(y) + 0.9189385332046728
        + stirling_rest(x) + stirling_rest(y) - stirling_rest(z)
    )


def log_wealth(const int64_t[:, ::1] counts, double p, double prior):
    """Logarithms of e-values against the p-quantile being in each bin, and beyond all of them, of each arm.

    Of n values with a continuous law those up to the p-quantile are Binomial(n, p). With prior weights a = p `prior`
    and b = (1 - p) `prior`, the mixture

        M(s) = B(a + s, b + n - s) / (B(a, b) p^s (1 - p)^(n - s))

    is a martingale in n for their number s (Howard & Ramdas 2022, section 3; Robbins 1970). Somewhere in a bin s is
    between what is below the bin and what is not above it, also where the law has atoms (their lemma 3 couples them
    with a Binomial in between): of these the least M is taken. So the e-value of the bin that holds the true quantile
    is at most a martingale.

    Returns float64 (B, K) and, for s = 0 and s = n, float64 (2, K). `counts` int64 (B, K), bins in ascending order.
    """
    cdef Py_ssize_t n_bins = counts.shape[0], n_arms = counts.shape[1], j, k
    cdef double a = p * prior, b = (1.0 - p) * prior, n, least, below, s
    cdef double log_p = log(p), log_q = log(1.0 - p), start = log_beta(a, b)
    cdef double[:, ::1] wealth = np.zeros((n_bins, n_arms))
    cdef double[:, ::1] beyond = np.zeros((2, n_arms))
    for k in range(n_arms):
        n = 0.0
        for j in range(n_bins):
            n += counts[j, k]
        # Where M is least, but for terms of 1/n: psi(a + s) - psi(b + n - s) = log(p / (1 - p)).
        least = min(max(p * n + 0.5 - p, 0.0), n)
        below = 0.0
        for j in range(n_bins):
            s = min(max(least, below), below + counts[j, k])
            wealth[j, k] = log_beta(a + s, b + n - s) - start - s * log_p - (n - s) * log_q
            below += counts[j, k]
        beyond[0, k] = log_beta(a, b + n) - start - n * log_q
        beyond[1, k] = log_beta(a + n, b) - start - n * log_p
    return np.asarray(wealth), np.asarray(beyond)
