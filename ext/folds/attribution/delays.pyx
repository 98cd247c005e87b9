# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Loops over pending decisions (`pending.py`) and over the delays of their rewards (`delays.py`).

Counting is over integers. `arrival_rates` sums in one order, in scalar arithmetic: the same state gives the same bits.
"""

from libc.math cimport INFINITY, exp, log, tgamma
from libc.stdint cimport int64_t, uint16_t, uint64_t

import numpy as np

from reward cimport Reward

cdef int64_t NO_BUCKET = 2**62
cdef double NEGLIGIBLE = 1e-12
cdef double ALL_OF_IT = 100.0       # beyond lies less of any gamma distribution of a shape up to 10 than rounds away


cdef int64_t[::1] counts_in(dict buckets, int64_t bucket, Py_ssize_t n_arms):
    counts = buckets.get(bucket)
    if counts is None:
        counts = buckets[bucket] = np.zeros(n_arms, np.int64)
    return counts


cdef inline int64_t bucket_of(int64_t time_ms, int64_t width_ms) noexcept nogil:
    cdef int64_t bucket = time_ms // width_ms
    return bucket - 1 if bucket * width_ms > time_ms else bucket


cdef inline Py_ssize_t bin_of(int64_t delay_ms, const int64_t[::1] edges_ms) noexcept nogil:
    """First bin whose upper edge is not below `delay_ms`, or else the last one. Bin j is above edge j."""
    cdef Py_ssize_t low = 0, high = edges_ms.shape[0] - 2, middle
    while low < high:
        middle = (low + high) // 2
        if edges_ms[middle + 1] >= delay_ms:
            high = middle
        else:
            low = middle + 1
    return low


def count_decisions(
    dict buckets, const uint16_t[::1] arms, const int64_t[::1] times_ms, int64_t width_ms, Py_ssize_t n_arms
):
    """Counts decisions, (n,), in `buckets`, {time_ms // width_ms: int64 (K,)}; the earliest bucket among them.

    ValueError for an arm that is not below `n_arms`; what precedes it has been counted then.
    """
    cdef Py_ssize_t i
    cdef int64_t bucket, current = NO_BUCKET, earliest = NO_BUCKET
    cdef int64_t[::1] counts
    if arms.shape[0] != times_ms.shape[0]:
        raise ValueError("there must be a time for each arm")
    for i in range(arms.shape[0]):
        if arms[i] >= n_arms:
            raise ValueError(f"expected arms below {n_arms}, not {arms[i]}")
        bucket = bucket_of(times_ms[i], width_ms)
        if bucket != current:
            current = bucket
            counts = counts_in(buckets, bucket, n_arms)
            earliest = min(earliest, bucket)
        counts[arms[i]] += 1
    return earliest


def count_rewards(
    dict buckets,
    dict blank,
    const Reward[::1] rows,
    int64_t now_ms,
    int64_t width_ms,
    const int64_t[::1] edges_ms,
    int64_t[:, ::1] arrivals,
    dict reached,
):
    """Counts rewards that have come by `now_ms`: in `buckets` by decision, and in `blank`, too, if their value is 0;
    in `arrivals` (K, J) by arm and delay.

    The earliest bucket among them, and the indices of the rows whose decision is not below their worker's
    counter in `reached`, {incarnation: (counter, …)}. ValueError as above.
    """
    cdef Py_ssize_t i, n_arms = arrivals.shape[0]
    cdef int64_t bucket, current = NO_BUCKET, earliest = NO_BUCKET
    cdef uint64_t incarnation = 0, counter = 0
    cdef bint known = False
    cdef int64_t[::1] counts, zeros
    cdef list early = []
    for i in range(rows.shape[0]):
        if rows[i].arm >= n_arms:
            raise ValueError(f"expected arms below {n_arms}, not {rows[i].arm}")
        bucket = bucket_of(rows[i].time_ms, width_ms)
        if bucket != current:
            current = bucket
            counts = counts_in(buckets, bucket, n_arms)
            earliest = min(earliest, bucket)
        counts[rows[i].arm] += 1
        if rows[i].value == 0.0:
            zeros = counts_in(blank, bucket, n_arms)
            zeros[rows[i].arm] += 1
        arrivals[rows[i].arm, bin_of(now_ms - rows[i].time_ms, edges_ms)] += 1
        if not known or rows[i].incarnation != incarnation:
            known, incarnation = True, rows[i].incarnation
            latest = reached.get(incarnation)
            counter = 0 if latest is None else latest[0]
        if rows[i].counter >= counter:
            early.append(i)
    return earliest, early


def reach(
    dict buckets, dict rewarded, int64_t now_ms, int64_t width_ms, const int64_t[::1] edges_ms, Py_ssize_t n_arms
):
    """Numbers of decisions in `buckets` open for as long as each bin of delays, float64 (K, J); of all decisions in
    them, int64 (K,); and of rewards of the same buckets in `rewarded`, int64 (K,).

    One in the middle of a bin counts as far as it has come. The decisions of a bucket are taken to be as old as its
    middle, or the middle of what has passed of it.
    """
    cdef Py_ssize_t j, k, n_bins = edges_ms.shape[0] - 1
    cdef int64_t bucket, age_ms, begin_ms
    cdef double part
    cdef const int64_t[::1] counts
    decisions, rewards = np.zeros(n_arms, np.int64), np.zeros(n_arms, np.int64)
    cdef int64_t[::1] n_decisions = decisions, n_rewards = rewards
    out = np.zeros((n_arms, n_bins))
    cdef double[:, ::1] reached = out
    # Those in the middle of bin j, who have left all bins before it behind.
    whole = np.zeros((n_arms, n_bins))
    cdef double[:, ::1] beyond = whole
    for key in sorted(buckets):
        bucket = key
        counts = rewarded.get(key)
        if counts is not None:
            for k in range(n_arms):
                n_rewards[k] += counts[k]
        counts = buckets[key]
        for k in range(n_arms):
            n_decisions[k] += counts[k]
        begin_ms = bucket * width_ms
        age_ms = now_ms - (begin_ms + min(begin_ms + width_ms, now_ms)) // 2
        if age_ms <= 0:
            continue
        j = bin_of(age_ms, edges_ms)
        part = min(<double>(age_ms - edges_ms[j]) / <double>(edges_ms[j + 1] - edges_ms[j]), 1.0)
        for k in range(n_arms):
            reached[k, j] += part * <double>counts[k]
            beyond[k, j] += <double>counts[k]
    for k in range(n_arms):
        part = 0.0
        for j in range(n_bins - 1, -1, -1):
            reached[k, j] += part
            part += beyond[k, j]
    return out, decisions, rewards


def gamma_below(double shape, const double[::1] x):
    """Distribution function, float64 (n,), of the gamma distribution of scale 1 at each x >= 0; shape in (0, 10].

    x^a e^-x / Gamma(a + 1) sum_n x^n / (a + 1)_n (DLMF 8.11.4), of positive terms; 1 where the rest rounds away.
    """
    cdef double per_gamma = 1.0 / tgamma(shape + 1.0)
    cdef double term, total, n
    cdef Py_ssize_t i
    below = np.ones(x.shape[0])
    cdef double[::1] out = below
    for i in range(x.shape[0]):
        if x[i] >= ALL_OF_IT:
            continue
        term = total = x[i] ** shape * exp(-x[i]) * per_gamma
        n = shape
        while term > 1e-17 * total:
            n += 1.0
            term *= x[i] / n
            total += term
        out[i] = total
    return below


def arrival_rates(
    const int64_t[:, ::1] arrivals,
    const double[:, ::1] shown,
    const double[:, ::1] masses,
    const double[:, ::1] log_masses,
    const double[:, ::1] by_shape,
    const double[::1] prior,
    double trials_before,
    double weight,
):
    """Estimates, float64 (K, J), of θ_k g_k(j), the probability that a decision of arm k gets a reward in bin j.

    arrivals: (K, J), rewards. shown: (K, J), decisions that have been open for as long as the bin.
    masses, log_masses: (J, M), the distributions among which g is first sought, and their logarithms; by_shape: (M, J),
    the same masses. prior: (M,). trials_before: b in `delays.py`. weight: what the distribution found weighs against
    the arrivals themselves, in rewards.
    """
    cdef Py_ssize_t n_arms = arrivals.shape[0], n_bins = arrivals.shape[1], n_shapes = prior.shape[0]
    cdef Py_ssize_t j, k, m
    cdef double factor, most, rewards, total, rate
    posterior, expected = np.empty(n_shapes), np.empty(n_shapes)
    log_prior = np.log(prior)
    rates = np.zeros((n_arms, n_bins))
    cdef double[:, ::1] out = rates
    cdef double[::1] p = posterior, trials = expected
    cdef const double[::1] logs = log_prior
    cdef double *q
    cdef const double *row
    for k in range(n_arms):
        q, rewards = &out[k, 0], 0.0
        for m in range(n_shapes):
            p[m] = 0.0
            trials[m] = 0.0
        for j in range(n_bins):
            if shown[k, j] > 0.0:
                row, factor = &masses[j, 0], shown[k, j]
                for m in range(n_shapes):
                    trials[m] += factor * row[m]
            if arrivals[k, j] > 0:
                row, factor = &log_masses[j, 0], <double>arrivals[k, j]
                rewards += factor
                for m in range(n_shapes):
                    p[m] += factor * row[m]
        most = -INFINITY
        for m in range(n_shapes):
            p[m] += logs[m] - (rewards + 0.5) * log(trials[m] + trials_before)
            most = max(most, p[m])
        total = 0.0
        for m in range(n_shapes):
            p[m] = exp(p[m] - most)
            total += p[m]
        # From here on p is the posterior times the mean rate that goes with each distribution.
        rate = 0.0
        for m in range(n_shapes):
            p[m] *= (rewards + 1.0) / (trials[m] + 2.0) / total
            rate += p[m]
        for m in range(n_shapes):
            if p[m] > NEGLIGIBLE * rate:
                row, factor = &by_shape[m, 0], p[m]
                for j in range(n_bins):
                    q[j] += factor * row[j]
        for j in range(n_bins):
            q[j] = (weight * q[j] / rate + <double>arrivals[k, j]) / (weight / rate + shown[k, j])
    return rates
