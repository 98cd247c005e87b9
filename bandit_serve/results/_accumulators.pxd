# cython: cdivision=True
"""Declarations of `ext/results/accumulators.pyx` for the kernels that say when something enters the sums."""

from libc.stdint cimport int64_t, uint64_t

from bandit_serve.results._beginnings cimport Beginnings
from bandit_serve.results._histograms cimport Histograms
from bandit_serve.results._follower cimport Analysed
from outcome cimport outcome_t


cdef class Accumulators:
    cdef readonly Py_ssize_t n_metrics, n_arms, control
    cdef public Beginnings beginnings   # or None: of what is analysed no value is kept
    cdef public Histograms histograms   # or None: no metric is of a quantile
    cdef public tuple followers         # of `Follower`
    cdef public Py_ssize_t note_width
    cdef bint former           # restored from a state of a build that kept no squares
    cdef public bint contextual
    cdef double plain_weight
    cdef double[::1] caps               # (M,), infinity for none
    cdef bint capped_some
    cdef double[:, :, ::1] raw_         # (M, K, 3), sums without caps; K is 0 where no metric has one
    cdef int64_t[:, ::1] n_, eligible_, pair_eligible_
    cdef double[:, ::1] total_, shifted_, m2_, cube_, score_, square_, inverse_, balance_, spread_
    cdef double[:, ::1] pair_weight_, pair_score_, pair_control_score_, pair_weight_square_, pair_square_score_
    cdef double[:, ::1] pair_square_, pair_inverse_, pair_control_inverse_, split_, residual_, residual_cube_
    cdef double[:, ::1] predicted_, predicted_square_, pair_predicted_, pair_predicted_square_, peak_, score_peak_
    cdef int64_t[::1] analysed_, unfloored_, unsquared_, moved_, modelled_, dated_, latest_ms_
    cdef int64_t[::1] next_epoch_, n_epochs_
    cdef int64_t[:, ::1] epoch_ms_              # (M, E), of a metric's epochs in their order
    cdef double[:, :, ::1] epoch_centre_        # (M, E, K)
    cdef double[:, ::1] epoch_pooled_           # (M, E)
    cdef double[::1] grand_, origin_, expected
    cdef uint64_t[::1] first_who_, first_number_
    cdef outcome_t model
    cdef dict model_columns             # the model's columns, by name
    cdef double[::1] room
    cdef int64_t[::1] learned_

    cdef int restore(self, dict state, Py_ssize_t control) except -1
    cdef dict views(self)
    cdef double cut(self, Py_ssize_t m, double value) noexcept nogil
    cdef double count(self, Py_ssize_t m, Py_ssize_t arm, double value, bint leaves) noexcept nogil
    cdef int make_model(self, Py_ssize_t n_features, given=*) except -1
    cdef double centre(self, Py_ssize_t m, Py_ssize_t k) noexcept nogil
    cdef double weight(self, const double *e, Py_ssize_t k, bint plain) noexcept nogil
    cdef Py_ssize_t epoch_of(self, Py_ssize_t m, bint dated, int64_t time_ms) noexcept nogil
    cdef int meet(self, Py_ssize_t m, int64_t time_ms) except -1
    cdef double centre_at(self, Py_ssize_t m, Py_ssize_t k, Py_ssize_t epoch) noexcept nogil
    cdef void expect(self, Py_ssize_t m, const double *e, const float *x, Py_ssize_t epoch) noexcept nogil
    cdef int take_in(self, const Analysed *one) except -1
    cdef int revalue(self, const Analysed *one, double old, double old_companion=*) except -1
    cdef int take_back(self, const Analysed *one) except -1
    cdef void enter(self, Py_ssize_t m, Py_ssize_t arm, const double *e, double y, bint unfloored, bint plain,
                    uint64_t who, uint64_t number, const float *x, Py_ssize_t epoch) noexcept nogil
    cdef void mark_peak(self, Py_ssize_t m, Py_ssize_t arm, double value, double score, uint64_t who,
                        uint64_t number) noexcept nogil
    cdef void update(self, Py_ssize_t m, Py_ssize_t arm, const double *e, Py_ssize_t all_of, double propensity,
                     double old, double new, bint plain, uint64_t who, uint64_t number, bint dated,
                     int64_t time_ms) noexcept nogil
    cdef void withdraw(self, Py_ssize_t m, Py_ssize_t arm, const double *e, double y, bint unfloored, bint plain,
                       uint64_t who, uint64_t number, bint dated, int64_t time_ms) noexcept
    cdef void clear_scores(self, Py_ssize_t m, Py_ssize_t k) noexcept
    cdef void clear_pair(self, Py_ssize_t m, Py_ssize_t k) noexcept
    cdef int clear(self, Py_ssize_t m) except -1
    cdef void change_pair(self, Py_ssize_t m, Py_ssize_t k, double w, double difference, double step) noexcept nogil
