# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sums of metrics together with a companion: a covariate, or the denominator of a ratio."""

from libc.stdint cimport int64_t

import numpy as np

from bandit_serve.results._accumulators cimport Accumulators
from bandit_serve.results._follower cimport Analysed, Follower
from propensity cimport MIN_SHARE

from bandit_serve.results.room import widened

cdef enum:
    NOTHING = -1        # in place of a pair or a column
    N_JOINT = 15        # products of two of five numbers


cdef class PairSums(Follower):
    """What the variance of y - t z needs, for any number t: P pairs of a metric's values y and their companions z.

    `metrics` int64 (P,): the metric of each pair, each at most once; `columns` int64 (P,): the column of the note that
    has z, or -1: z is the companion that comes with y. Without a note z is 0.

    `companions` has the sums of z by pair and arm, as `Accumulators` have those of y. Here are the sums of products,
    (P, K), each shifted as there: `co_moment` (of deviations from the means), `yyz` and `yzz` (of y^2 z and y z^2),
    `residual_product`, `residual_yyz` and `residual_yzz` (likewise of y - mu(y) and z - mu(z), of an arm's own
    decisions that have scores), `score_product`, `predicted_product` (of the two mu), `pair_product` and
    `pair_predicted_product` (w^2 times the product of the two differences to control). `joint` (P, K, 15), of pairs
    without a column: w^2 times the products of each two of 1, the arm's scores of y and z and control's of y and z, in
    the order of the upper triangle.
    """

    SUMS = ("co_moment", "yyz", "yzz", "residual_product", "residual_yyz", "residual_yzz", "score_product",
            "predicted_product", "pair_product", "pair_predicted_product")

    cdef Accumulators sums
    cdef readonly Accumulators companions
    cdef readonly object metrics, columns
    cdef int64_t[::1] pair_of, column_of
    cdef double[:, ::1] co_moment, yyz, yzz, residual_product, residual_yyz, residual_yzz, score_product
    cdef double[:, ::1] predicted_product, pair_product, pair_predicted_product
    cdef double[:, :, ::1] joint

    def __init__(self, Accumulators sums not None, metrics, columns, Accumulators companions=None, state=None):
        """`companions` and `state`: what is gone on with, as a snapshot has them; `ValueError` for anything else."""
        n_pairs = len(metrics)
        self.metrics, self.columns = np.array(metrics, np.int64), np.array(columns, np.int64)
        pair_of = np.full(sums.n_metrics, NOTHING, np.int64)
        pair_of[self.metrics] = np.arange(n_pairs)
        if len(self.columns) != n_pairs or (self.columns >= sums.note_width).any():
            raise ValueError("expected a column of the note, or none, of each pair")
        self.pair_of, self.column_of = pair_of, self.columns
        self.sums = sums
        if companions is None:
            companions = Accumulators(n_pairs, sums.n_arms, sums.control, sums.contextual)
        elif (companions.counts() != sums.counts()[self.metrics]).any():
            raise ValueError("the snapshot has not a companion of each value")
        self.companions = companions
        by_arm = n_pairs, sums.n_arms
        self.restore({name: np.zeros(by_arm) for name in self.SUMS} | {"joint": np.zeros((*by_arm, N_JOINT))}
                     if state is None else state)

    def restore(self, state):
        """Takes over what `state()` gave."""
        by_arm = self.companions.n_metrics, self.companions.n_arms
        if state["joint"].shape != (*by_arm, N_JOINT) or any(state[name].shape != by_arm for name in self.SUMS):
            raise ValueError("the snapshot's pairs are not of the same metrics and arms")
        (self.co_moment, self.yyz, self.yzz, self.residual_product, self.residual_yyz, self.residual_yzz,
         self.score_product, self.predicted_product, self.pair_product, self.pair_predicted_product) = (
            state[name].copy() for name in self.SUMS
        )
        self.joint = state["joint"].copy()

    def state(self):
        """A copy of every sum of products, by its name."""
        return {
            name: np.array(column) for name, column in {
                "co_moment": self.co_moment, "yyz": self.yyz, "yzz": self.yzz,
                "residual_product": self.residual_product, "residual_yyz": self.residual_yyz,
                "residual_yzz": self.residual_yzz, "score_product": self.score_product,
                "predicted_product": self.predicted_product, "pair_product": self.pair_product,
                "pair_predicted_product": self.pair_predicted_product, "joint": self.joint,
            }.items()
        }

    def of_pair(self, Py_ssize_t pair):
        """A copy of the sums of products of one pair, by name, (K,) or (K, 15)."""
        if not 0 <= pair < self.companions.n_metrics:
            raise IndexError(f"expected a pair below {self.companions.n_metrics}")
        return {name: column[pair] for name, column in self.state().items()}

    def grow(self, Py_ssize_t n_arms):
        self.companions.grow(n_arms)
        state = self.state()
        joint = np.pad(state.pop("joint"), ((0, 0), (0, n_arms - self.joint.shape[1]), (0, 0)))
        self.restore({name: widened(column, n_arms) for name, column in state.items()} | {"joint": joint})

    cdef double companion_of(self, Py_ssize_t p, const Analysed *one, double given) noexcept:
        if self.column_of[p] == NOTHING:
            return given
        return 0.0 if one.note == NULL else one.note[self.column_of[p]]

    cdef int enter(self, const Analysed *one) except -1:
        cdef Py_ssize_t p = self.pair_of[one.metric], m = one.metric, a = one.arm
        cdef Analysed other = one[0]
        cdef Accumulators companions = self.companions
        cdef bint first
        cdef double y, z, n
        if p == NOTHING:
            return 0
        other.metric, other.value, other.x = p, self.companion_of(p, one, one.companion), NULL
        first = companions.analysed_[p] == 0
        companions.take_in(&other)
        y, z, n = one.value - self.sums.origin_[m], other.value - companions.origin_[p], companions.n_[p, a]
        if n > 1.0:
            self.co_moment[p, a] += (n / (n - 1.0) * (y - self.sums.shifted_[m, a] / n)
                                     * (z - companions.shifted_[p, a] / n))
        self.yyz[p, a] += y * y * z
        self.yzz[p, a] += y * z * z
        if not first:
            self.add(p, one, y, z, 1.0, True)
        return 0

    cdef int update(self, const Analysed *one, double old, double old_companion) except -1:
        """Before the sums have changed: products change around the same centres as they do."""
        cdef Py_ssize_t p = self.pair_of[one.metric], m = one.metric, a = one.arm
        cdef Analysed other = one[0]
        cdef Accumulators sums = self.sums, companions = self.companions
        cdef double y, z, former_y, former_z, n
        if p == NOTHING:
            return 0
        other.metric, other.value, other.x = p, self.companion_of(p, one, one.companion), NULL
        y, z = one.value - sums.origin_[m], other.value - companions.origin_[p]
        former_y = old - sums.origin_[m]
        former_z = self.companion_of(p, one, old_companion) - companions.origin_[p]
        n = companions.n_[p, a]
        if n > 1.0:
            self.co_moment[p, a] -= (n / (n - 1.0) * (former_y - sums.shifted_[m, a] / n)
                                     * (former_z - companions.shifted_[p, a] / n))
            self.co_moment[p, a] += (n / (n - 1.0) * (y - (sums.shifted_[m, a] + (y - former_y)) / n)
                                     * (z - (companions.shifted_[p, a] + (z - former_z)) / n))
        self.yyz[p, a] += y * y * z - former_y * former_y * former_z
        self.yzz[p, a] += y * z * z - former_y * former_z * former_z
        if one.who != sums.first_who_[m] or one.number != sums.first_number_[m]:
            self.expect(sums, m, one)
            self.expect(companions, p, one)
            self.add(p, one, former_y, former_z, -1.0, False)
            self.add(p, one, y, z, 1.0, False)
        if self.column_of[p] == NOTHING:
            companions.revalue(&other, old_companion)
        return 0

    cdef int withdraw(self, const Analysed *one) except -1:
        cdef Py_ssize_t p = self.pair_of[one.metric], m = one.metric, a = one.arm, k
        cdef Analysed other = one[0]
        cdef Accumulators sums = self.sums, companions = self.companions
        cdef bint first
        cdef double y, z, n
        if p == NOTHING or companions.n_[p, a] == 0:
            return 0
        other.metric, other.value, other.x = p, self.companion_of(p, one, one.companion), NULL
        first = one.who == companions.first_who_[p] and one.number == companions.first_number_[p]
        y, z = one.value - sums.origin_[m], other.value - companions.origin_[p]
        companions.take_back(&other)
        if companions.analysed_[p] == 0:
            self.clear(p)
            return 0
        n = companions.n_[p, a]
        if n == 0.0:
            self.co_moment[p, a] = self.yyz[p, a] = self.yzz[p, a] = 0.0
        else:
            self.co_moment[p, a] -= (n / (n + 1.0) * (y - sums.shifted_[m, a] / n)
                                     * (z - companions.shifted_[p, a] / n))
            self.yyz[p, a] -= y * y * z
            self.yzz[p, a] -= y * z * z
        if first:
            return 0
        self.add(p, one, y, z, -1.0, True)
        for k in range(companions.n_arms):
            if companions.eligible_[p, k] == 0:
                self.clear_scores(p, k)
            if companions.pair_eligible_[p, k] == 0:
                self.clear_differences(p, k)
        return 0

    cdef void expect(self, Accumulators sums, Py_ssize_t m, const Analysed *one) noexcept:
        """Makes `sums` expect of each arm what a change of a value is thought to have been scored around."""
        cdef Py_ssize_t k, epoch = sums.epoch_of(m, one.dated, one.time_ms)
        for k in range(sums.n_arms):
            sums.expected[k] = sums.centre_at(m, k, epoch)

    cdef void add(self, Py_ssize_t p, const Analysed *one, double y, double z, double sign, bint whole) noexcept:
        """Adds `sign` times the products of one with the shifted values y and z, around what is expected.

        `whole`: all of them; otherwise those that follow from the values.
        """
        cdef Accumulators sums = self.sums, companions = self.companions
        cdef Py_ssize_t k, i, j, at, a = one.arm, c = sums.control
        cdef const double *e = one.e
        cdef double off_y = y - sums.expected[a], off_z = z - companions.expected[a]
        cdef double inverse = 1.0 / max(one.propensity if e == NULL else e[a], MIN_SHARE)
        cdef bint paired = e == NULL or e[c] > 0.0
        cdef double w, d_y, d_z
        cdef double[5] scores       # 1, and those of the arm and of control
        self.residual_product[p, a] += sign * off_y * off_z
        self.residual_yyz[p, a] += sign * off_y * off_y * off_z
        self.residual_yzz[p, a] += sign * off_y * off_z * off_z
        for k in range(sums.n_arms):
            if not (k < one.all_of if e == NULL else e[k] > 0.0):
                continue
            scores[0], scores[1], scores[2] = 1.0, sums.expected[k], companions.expected[k]
            if k == a:
                scores[1] += off_y * inverse
                scores[2] += off_z * inverse
            if whole or k == a:
                self.score_product[p, k] += sign * scores[1] * scores[2]
            if whole:
                self.predicted_product[p, k] += sign * sums.expected[k] * companions.expected[k]
            if k == c or not paired or not (whole or k == a or a == c):
                continue
            w = sums.weight(e, k, one.plain)
            w = sign * w * w
            scores[3], scores[4] = sums.expected[c], companions.expected[c]
            if whole:
                self.pair_predicted_product[p, k] += (w * (sums.expected[k] - scores[3])
                                                      * (companions.expected[k] - scores[4]))
            if c == a:
                scores[3] += off_y * inverse
                scores[4] += off_z * inverse
            d_y, d_z = scores[1] - scores[3], scores[2] - scores[4]
            self.pair_product[p, k] += w * d_y * d_z
            if self.column_of[p] == NOTHING:
                at = 0
                for i in range(5):
                    for j in range(i, 5):
                        self.joint[p, k, at] += w * scores[i] * scores[j]
                        at += 1

    cdef void clear_scores(self, Py_ssize_t p, Py_ssize_t k) noexcept:
        self.residual_product[p, k] = self.residual_yyz[p, k] = self.residual_yzz[p, k] = 0.0
        self.score_product[p, k] = self.predicted_product[p, k] = 0.0

    cdef void clear_differences(self, Py_ssize_t p, Py_ssize_t k) noexcept:
        self.pair_product[p, k] = self.pair_predicted_product[p, k] = 0.0
        self.joint[p, k, :] = 0.0

    cdef void clear(self, Py_ssize_t p) noexcept:
        """Nothing of the pair is analysed any more."""
        cdef Py_ssize_t k
        self.co_moment[p, :] = 0.0
        self.yyz[p, :] = 0.0
        self.yzz[p, :] = 0.0
        for k in range(self.companions.n_arms):
            self.clear_scores(p, k)
            self.clear_differences(p, k)
