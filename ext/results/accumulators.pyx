# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sums that every estimate is made from, of each metric and arm.

Values are added one by one, in scalar arithmetic, so that a fold gives the same bits however the log is cut up.
"""

from libc.math cimport fabs
from libc.stdint cimport uint64_t

import numpy as np

from expansion cimport expansion_add
from limits cimport MIN_SPREAD
from outcome cimport outcome_learn, outcome_predict, outcome_see
from place cimport place_of
from propensity cimport MIN_SHARE, SAME_SHARE
from symmetric cimport symmetric_start

from bandit_serve.results._follower cimport Analysed, Follower

from bandit_serve.results.former_sums import with_dates, with_residuals, with_squares
from bandit_serve.results.room import widened

cdef enum:
    MAX_NUMBERS = 1 << 20  # in the matrices of a model of outcomes, M K d^2
    MIN_OF_EPOCH = 8       # values that the first epoch's centres are made from; each further one has half as many more
    MAX_EPOCHS = 64        # of a metric
    NOW = -2               # in place of an epoch: centres of the present
    BEFORE_EPOCHS = -1     # centres are the origin

# In place of the first that was analysed, once that is taken back.
cdef uint64_t NOBODY = <uint64_t> -1

# Of the model's columns those that all arms share.
cdef tuple OF_METRIC = ("centre", "spread", "lowest", "highest")


cdef class Accumulators:
    """Sums over what has been analysed, M metrics by K arms; e is a decision's share vector, A its arm.

    Values enter scores and `shifted` less the metric's `origin`, its first value. What is analysed first gives that
    only: its scores would need a centre from before it, so it has none.

    Of each arm's own decisions: `n`, `total`, `shifted` and `cube` (sums of the values, of the shifted ones and of
    the cubes of these) and `m2` (squared deviations from the mean, Welford 1962). Over the decisions with e(k) > 0:
    `balance` (sum of 1{A = k} - e(k)), `spread` (sum of e(k)(1 - e(k))); of those that have scores `eligible` (how
    many), `score` and `square` (sums of the AIPW scores and of their squares), `inverse` (sum of 1/e(k)). Over
    those of these with e(control) > 0, too, w the weight of the pair and d the difference of its scores:
    `pair_eligible` (how many), `pair_weight` (sum of w), `pair_score` (w d), `pair_control_score` (w times
    control's score), `pair_weight_square` (w^2), `pair_square_score` (w^2 d), `pair_square` (w^2 d^2),
    `pair_inverse` (w^2/e(k)), `pair_control_inverse` (w^2/e(control)). By metric: `analysed`, `grand` (sum of all
    shifted values), `unfloored` (how many an adaptive policy without a floor decided), `unsquared` (how many a
    former build analysed, which kept no squares), `moved` (1 when not all had one share vector), `split` float64 (M, K)
    (the first's), `first_who` and `first_number` (which decision or unit was the first).

    What scores are made around, mu(k), is expected of an arm before its value is known: its past mean, or, where the
    sums are `contextual` and the features of decisions known, what a model of them says (`outcome.pxd`). Of an arm's
    own decisions that have scores: `residual` and `residual_cube` (sums of (y - mu)^2 and of (y - mu)^3). Of all that
    have: `predicted` and `predicted_square` (sums of mu(k) and of its square); of pairs `pair_predicted` (w^2 times the
    difference of mu) and `pair_predicted_square` (w^2 times its square). By metric `modelled`: of how many a model was
    asked. `n_features` is 0 where there is none, as where its matrices would have more than `MAX_NUMBERS` numbers.

    A value that may change is scored around the centres of its decision's *epoch* in place of the present ones, and no
    model is asked. An epoch's centres are those at its beginning; it is of the decisions made after `epoch_ms`, and all
    values that its centres know are of decisions up to then. So the time of a decision (a unit's first) gives its
    centres back whenever its value changes, and `update` and `withdraw` are exact but for rounding. By metric `dated`:
    how many have been scored so; `latest_ms`: the latest time of their decisions; `next_epoch`: number analysed from
    which the next decision begins an epoch.

    `peak` and `score_peak`: largest distance from the origin that a dated value, and from its centre that its score,
    had before it was changed or taken back. Sums that held such numbers have lost the digits below theirs.

    A metric may have a *cap*: what is analysed of a value is at most that. `enter`, `update` and `withdraw` are told
    the values themselves, and add those up, too, so that a mean without the cap can stand beside.

    w = e(k) e(control) / (e(k) + e(control)), the inverse of the variance of d where all values vary alike. Where
    shares may depend on what moves the mean (`contextual`), or did so in what is `plain`, it is `plain_weight` for
    all, that of even shares of the arms at first.

    `followers` are told of all that is taken in, changed and taken back (`follower.pyx`), of values as they are
    analysed. `note_width` is w of the notes that go with decisions and units: columns before their features, for the
    followers.
    """

    COUNTS = ("n", "eligible", "pair_eligible")
    SUMS = ("total", "shifted", "m2", "cube", "score", "square", "inverse", "balance", "spread", "pair_weight",
            "pair_score", "pair_control_score", "pair_weight_square", "pair_square_score", "pair_square",
            "pair_inverse", "pair_control_inverse", "split", "residual", "residual_cube", "predicted",
            "predicted_square", "pair_predicted", "pair_predicted_square", "peak", "score_peak")
    BY_METRIC = ("analysed", "unfloored", "unsquared", "moved", "modelled", "dated", "latest_ms", "next_epoch")

    def __init__(self, Py_ssize_t n_metrics, Py_ssize_t n_arms, Py_ssize_t control, bint contextual=False):
        by_arm = (n_metrics, n_arms)
        state = {name: np.zeros(by_arm, np.int64) for name in self.COUNTS}
        state |= {name: np.zeros(by_arm) for name in self.SUMS}
        state |= {name: np.zeros(n_metrics, np.int64) for name in self.BY_METRIC}
        state |= {name: np.zeros(n_metrics) for name in ("grand", "origin")}
        state |= {name: np.zeros(n_metrics, np.uint64) for name in ("first_who", "first_number")}
        state |= {"plain_weight": np.array([0.5 / n_arms]), "contextual": np.array([contextual])}
        self.restore(state, control)
        self.put_caps(np.full(n_metrics, np.inf))

    cdef int restore(self, dict state, Py_ssize_t control) except -1:
        self.n_metrics, self.n_arms = state["n"].shape
        shapes = dict.fromkeys((*self.COUNTS, *self.SUMS), (self.n_metrics, self.n_arms))
        metric_columns = (*self.BY_METRIC, "grand", "origin", "first_who", "first_number")
        shapes |= dict.fromkeys(metric_columns, (self.n_metrics,))
        if any(state[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("the snapshot's sums are not of the same metrics and arms")
        self.control = control
        self.n_, self.eligible_, self.pair_eligible_ = (state[name].copy() for name in self.COUNTS)
        (self.total_, self.shifted_, self.m2_, self.cube_, self.score_, self.square_, self.inverse_, self.balance_,
         self.spread_, self.pair_weight_, self.pair_score_, self.pair_control_score_, self.pair_weight_square_,
         self.pair_square_score_, self.pair_square_, self.pair_inverse_, self.pair_control_inverse_,
         self.split_, self.residual_, self.residual_cube_, self.predicted_, self.predicted_square_,
         self.pair_predicted_, self.pair_predicted_square_, self.peak_, self.score_peak_) = (
            state[name].copy() for name in self.SUMS
        )
        (self.analysed_, self.unfloored_, self.unsquared_, self.moved_, self.modelled_, self.dated_, self.latest_ms_,
         self.next_epoch_) = (state[name].copy() for name in self.BY_METRIC)
        self.expected = np.zeros(self.n_arms)
        self.grand_, self.origin_ = state["grand"].copy(), state["origin"].copy()
        self.first_who_, self.first_number_ = state["first_who"].copy(), state["first_number"].copy()
        self.plain_weight = state["plain_weight"][0]
        self.contextual = state["contextual"][0]
        if self.followers is None:
            self.followers = ()
        self.make_model(0)
        self.n_epochs_ = np.zeros(self.n_metrics, np.int64)
        self.epoch_ms_ = np.zeros((self.n_metrics, 0), np.int64)
        self.epoch_centre_ = np.zeros((self.n_metrics, 0, self.n_arms))
        self.epoch_pooled_ = np.zeros((self.n_metrics, 0))
        return 0

    cdef dict views(self):
        return {
            "n": self.n_, "eligible": self.eligible_, "pair_eligible": self.pair_eligible_,
            "total": self.total_, "shifted": self.shifted_, "m2": self.m2_, "cube": self.cube_, "score": self.score_,
            "square": self.square_, "inverse": self.inverse_, "balance": self.balance_, "spread": self.spread_,
            "pair_weight": self.pair_weight_, "pair_score": self.pair_score_,
            "pair_control_score": self.pair_control_score_, "pair_weight_square": self.pair_weight_square_,
            "pair_square_score": self.pair_square_score_, "pair_square": self.pair_square_,
            "pair_inverse": self.pair_inverse_, "pair_control_inverse": self.pair_control_inverse_,
            "split": self.split_, "residual": self.residual_, "residual_cube": self.residual_cube_,
            "predicted": self.predicted_, "predicted_square": self.predicted_square_,
            "pair_predicted": self.pair_predicted_, "pair_predicted_square": self.pair_predicted_square_,
            "peak": self.peak_, "score_peak": self.score_peak_, "dated": self.dated_, "latest_ms": self.latest_ms_,
            "next_epoch": self.next_epoch_,
            "analysed": self.analysed_, "unfloored": self.unfloored_,
            "unsquared": self.unsquared_, "moved": self.moved_, "modelled": self.modelled_, "grand": self.grand_,
            "origin": self.origin_, "first_who": self.first_who_, "first_number": self.first_number_,
        }

    def state(self):
        """A copy of every sum, by its name."""
        numbers = {"plain_weight": np.array([self.plain_weight]), "contextual": np.array([self.contextual])}
        return {name: np.array(column) for name, column in self.views().items()} | numbers

    def of_metric(self, Py_ssize_t metric):
        """A copy of the sums of one metric, by name, (K,) or a number."""
        if not 0 <= metric < self.n_metrics:
            raise IndexError(f"expected a metric below {self.n_metrics}")
        return {name: np.asarray(column)[metric].copy() for name, column in self.views().items()}

    def of_metrics(self, metrics):
        """Copies of the sums of several metrics, int64 (R,), by name: (R, K) or (R,)."""
        return {name: np.asarray(column)[metrics] for name, column in self.views().items()}

    @staticmethod
    def from_state(state, Py_ssize_t control, bint contextual=False):
        """`contextual`: what a state of a former build does not say."""
        cdef Accumulators self = Accumulators.__new__(Accumulators)
        self.former = "square" not in state
        if self.former:
            state = with_squares(state, control, contextual)
        if "residual" not in state:
            state = with_residuals(state)
        self.restore(state if "dated" in state else with_dates(state), control)
        self.put_caps(np.full(self.n_metrics, np.inf))
        return self

    # -- caps

    def put_caps(self, const double[::1] caps):
        """Caps the values of each metric, float64 (M,), infinity for none. Nothing has been analysed on one that is."""
        self.caps = caps.copy()
        self.capped_some = bool(np.isfinite(caps).any())
        self.raw_ = np.zeros((self.n_metrics, self.n_arms if self.capped_some else 0, 3))

    def raw_state(self):
        """Sums of the values without caps, float64 (M, K, 3): expansions (`expansion.pxd`); K is 0 without a cap."""
        return {"expansions": np.array(self.raw_)}

    def restore_raw(self, state):
        """Takes over what `raw_state()` gave; `ValueError` for anything else."""
        expansions = state["expansions"]
        if expansions.shape != (<object> self.raw_).shape or not np.isfinite(expansions).all():
            raise ValueError("the snapshot's sums without caps are not of its metrics and arms")
        self.raw_ = expansions.copy()

    def raw_total(self, Py_ssize_t metric):
        """Sums of the values of one metric without its cap, float64 (K,)."""
        if not 0 <= metric < self.n_metrics:
            raise IndexError(f"expected a metric below {self.n_metrics}")
        return np.asarray(self.raw_)[metric, :, 0].copy()

    cdef double cut(self, Py_ssize_t m, double value) noexcept nogil:
        """What is analysed of a value."""
        return min(value, self.caps[m])

    cdef double count(self, Py_ssize_t m, Py_ssize_t arm, double value, bint leaves) noexcept nogil:
        """What is analysed of a value that enters or `leaves`, which goes into histograms and the sums without caps."""
        if self.histograms is not None:
            self.histograms.add(m, arm, value, -1 if leaves else 1)
        if self.capped_some:
            self.raw_[m, arm, 0] = expansion_add(
                self.raw_[m, arm, 0], &self.raw_[m, arm, 1], -value if leaves else value
            )
        return self.cut(m, value)

    # -- the centres of values that may change

    def epochs_state(self):
        """Numbers of epochs `counts` (M,), `epoch_ms` (M, E), centres `epoch_centre` (M, E, K), and those of arms that
        had nothing yet, `epoch_pooled` (M, E).
        """
        cdef Py_ssize_t most = max(self.n_epochs_, default=0)
        return {
            "counts": np.array(self.n_epochs_),
            "epoch_ms": np.asarray(self.epoch_ms_)[:, :most].copy(),
            "epoch_centre": np.asarray(self.epoch_centre_)[:, :most].copy(),
            "epoch_pooled": np.asarray(self.epoch_pooled_)[:, :most].copy(),
        }

    def restore_epochs(self, state):
        """Takes over what `epochs_state()` gave; `ValueError` for anything else."""
        counts, ms, centres = state["counts"], state["epoch_ms"], state["epoch_centre"]
        most = ms.shape[1] if ms.ndim == 2 else -1
        # A former build took the origin for the centre of arms that came.
        pooled = state.get("epoch_pooled", np.zeros_like(ms, np.float64))
        shapes = (self.n_metrics,), (self.n_metrics, most), (self.n_metrics, most, self.n_arms), ms.shape
        there = counts.shape, ms.shape, centres.shape, pooled.shape
        if there != shapes or (counts < 0).any() or counts.max(initial=0) != most:
            raise ValueError("the snapshot's epochs do not fit its experiment")
        if most > MAX_EPOCHS or not (np.isfinite(centres).all() and np.isfinite(pooled).all()):
            raise ValueError("the snapshot has epochs that there can not be")
        self.n_epochs_, self.epoch_ms_, self.epoch_centre_ = counts.copy(), ms.copy(), centres.copy()
        self.epoch_pooled_ = pooled.copy()

    cdef Py_ssize_t epoch_of(self, Py_ssize_t m, bint dated, int64_t time_ms) noexcept nogil:
        """Epoch of a decision made at `time_ms`, if it is `dated`."""
        cdef Py_ssize_t epoch
        if not dated:
            return NOW
        epoch = self.n_epochs_[m] - 1
        while epoch >= 0 and self.epoch_ms_[m, epoch] >= time_ms:
            epoch -= 1
        return epoch

    cdef int meet(self, Py_ssize_t m, int64_t time_ms) except -1:
        """Begins an epoch with a decision that is later than all so far, where it is time for one."""
        cdef Py_ssize_t n = self.n_epochs_[m], k, room
        if self.dated_[m] == 0 and n == 0:
            self.next_epoch_[m] = max(self.next_epoch_[m], <int64_t> MIN_OF_EPOCH)
            self.latest_ms_[m] = max(self.latest_ms_[m], time_ms - 1)
        if time_ms <= self.latest_ms_[m]:
            return 0
        if self.analysed_[m] >= self.next_epoch_[m] and n < MAX_EPOCHS:
            if n == self.epoch_ms_.shape[1]:
                room = min(max(2 * n, 8), MAX_EPOCHS) - n
                self.epoch_ms_ = np.pad(self.epoch_ms_, ((0, 0), (0, room)))
                self.epoch_centre_ = np.pad(self.epoch_centre_, ((0, 0), (0, room), (0, 0)))
                self.epoch_pooled_ = np.pad(self.epoch_pooled_, ((0, 0), (0, room)))
            self.epoch_ms_[m, n] = self.latest_ms_[m]
            for k in range(self.n_arms):
                self.epoch_centre_[m, n, k] = self.centre(m, k)
            self.epoch_pooled_[m, n] = self.grand_[m] / self.analysed_[m] if self.analysed_[m] else 0.0
            self.n_epochs_[m] = n + 1
            self.next_epoch_[m] = self.analysed_[m] + (self.analysed_[m] >> 1)
        self.latest_ms_[m] = time_ms
        return 0

    cdef double centre_at(self, Py_ssize_t m, Py_ssize_t k, Py_ssize_t epoch) noexcept nogil:
        if epoch == NOW:
            return self.centre(m, k)
        return 0.0 if epoch == BEFORE_EPOCHS else self.epoch_centre_[m, epoch, k]

    # -- the model of what arms bring

    @property
    def n_features(self):
        return self.model.n_features

    def know_features(self, Py_ssize_t n_features):
        """Starts a model of decisions with so many features, if its matrices are not too large."""
        self.make_model(n_features)

    cdef int make_model(self, Py_ssize_t n_features, given=None) except -1:
        """An empty model, or that of the columns `given`; none for 0 features or too many."""
        cdef Py_ssize_t width = (n_features + 7) // 8 * 8, size = symmetric_start(width, width)
        cdef Py_ssize_t n_models = self.n_metrics * self.n_arms
        if n_features * n_features * n_models > MAX_NUMBERS:
            n_features = width = size = n_models = 0
        shapes = {
            **dict.fromkeys(("gram", "inverse"), (n_models, size)),
            **dict.fromkeys(("moment", "constant", "slope", "share", "precision"), (n_models, width)),
            **dict.fromkeys(("agreed", "offered", "learned"), (n_models,)),
            **dict.fromkeys(("centre", "spread"), (self.n_metrics if n_features else 0, width)),
            **dict.fromkeys(("lowest", "highest"), (self.n_metrics if n_features else 0,)),
        }
        columns = {name: np.zeros(shape, np.int64 if name == "learned" else float) for name, shape in shapes.items()}
        columns["spread"][:] = MIN_SPREAD
        if given is not None:
            for name, column in columns.items():
                if given[name].shape != column.shape or not np.isfinite(given[name]).all():
                    raise ValueError(f"the snapshot's model has a {name} that does not fit its experiment")
                column[:] = given[name]
            if (columns["learned"] < 0).any() or (columns["spread"] < MIN_SPREAD).any():
                raise ValueError("the snapshot holds a model that can not have been learned")
        self.model_columns = columns
        self.room = np.zeros(2 * width + 2 * width * width)
        self.model.n_arms, self.model.n_features, self.model.width, self.model.size = (
            self.n_arms, n_features, width, size
        )
        if n_features == 0:
            return 0
        self.model.gram, self.model.inverse = place_of(columns["gram"]), place_of(columns["inverse"])
        self.model.moment, self.model.constant = place_of(columns["moment"]), place_of(columns["constant"])
        self.model.slope, self.model.share = place_of(columns["slope"]), place_of(columns["share"])
        self.model.precision = place_of(columns["precision"])
        self.model.agreed, self.model.offered = place_of(columns["agreed"]), place_of(columns["offered"])
        self.learned_ = columns["learned"]
        self.model.learned = &self.learned_[0]
        self.model.centre, self.model.spread = place_of(columns["centre"]), place_of(columns["spread"])
        self.model.lowest, self.model.highest = place_of(columns["lowest"]), place_of(columns["highest"])
        self.model.x = &self.room[0]
        self.model.direction = self.model.x + width
        self.model.work = self.model.direction + width
        return 0

    def model_state(self):
        """Copies of the model's columns, by name; all of them empty where there is none."""
        return {name: column.copy() for name, column in self.model_columns.items()}

    def restore_model(self, Py_ssize_t n_features, state):
        """Takes over what `model_state()` gave of a model of so many features; `ValueError` for anything else."""
        self.make_model(n_features, state)

    def counts(self):
        """Counts of what has been analysed, int64 (M,): a view."""
        return np.asarray(self.analysed_)

    def grow(self, Py_ssize_t n_arms):
        """Makes room for arms that have come: no decision so far had a share for them."""
        state = self.state()
        for name in (*self.COUNTS, *self.SUMS):
            state[name] = widened(state[name], n_arms)
        former, former_model, n_before = self.n_features, self.model_state(), self.n_arms
        epochs = self.epochs_state()
        came = np.repeat(epochs["epoch_pooled"][:, :, None], n_arms - n_before, axis=2)
        epochs["epoch_centre"] = np.concatenate([epochs["epoch_centre"], came], axis=2)
        self.restore(state, self.control)
        self.restore_epochs(epochs)
        if self.capped_some:
            self.raw_ = np.pad(self.raw_, ((0, 0), (0, n_arms - n_before), (0, 0)))
        self.make_model(former)
        for name in self.model_columns if self.n_features else ():
            mine, its = self.model_columns[name], former_model[name]
            if name in OF_METRIC:
                mine[:] = its
            else:
                shape = self.n_metrics, n_before, *its.shape[1:]
                mine.reshape(self.n_metrics, n_arms, *its.shape[1:])[:, :n_before] = its.reshape(shape)
        if self.beginnings is not None:
            self.beginnings.grow(n_arms)
        if self.histograms is not None:
            self.histograms.grow(n_arms)
        for follower in self.followers:
            follower.grow(n_arms)

    cdef double centre(self, Py_ssize_t m, Py_ssize_t k) noexcept nogil:
        """Shifted value that arm k is thought to bring: its mean with one observation of the pooled mean added."""
        cdef double pooled = self.grand_[m] / self.analysed_[m] if self.analysed_[m] else 0.0
        return (self.shifted_[m, k] + pooled) / (self.n_[m, k] + 1)

    cdef double weight(self, const double *e, Py_ssize_t k, bint plain) noexcept nogil:
        return self.plain_weight if plain else e[k] * e[self.control] / (e[k] + e[self.control])

    cdef void expect(self, Py_ssize_t m, const double *e, const float *x, Py_ssize_t epoch) noexcept nogil:
        """Expects a value of each arm with a share, with the features x, or with any where that is NULL."""
        cdef Py_ssize_t k
        for k in range(self.n_arms):
            if e[k] > 0.0:
                self.expected[k] = self.centre_at(m, k, epoch)
        if x == NULL:
            return
        outcome_see(&self.model, m, x)
        self.modelled_[m] += 1
        for k in range(self.n_arms):
            if e[k] > 0.0:
                self.expected[k] = outcome_predict(&self.model, m, k, self.expected[k])

    cdef int take_in(self, const Analysed *one) except -1:
        """Enters one decision or unit; a `dated` one around the centres of its time."""
        cdef Py_ssize_t epoch = NOW
        cdef Follower follower
        cdef Analysed told = one[0]
        told.value = self.cut(one.metric, one.value)
        if one.dated:
            self.meet(one.metric, one.time_ms)
            epoch = self.epoch_of(one.metric, True, one.time_ms)
        self.enter(one.metric, one.arm, one.e, one.value, one.unfloored, one.plain, one.who, one.number, one.x, epoch)
        self.dated_[one.metric] += one.dated
        for follower in self.followers:
            follower.enter(&told)
        return 0

    cdef int revalue(self, const Analysed *one, double old, double old_companion=0.0) except -1:
        """One that has been analysed with the value `old` (a ratio: and `old_companion`) has those of `one` now."""
        cdef Follower follower
        cdef Analysed told = one[0]
        told.value = self.cut(one.metric, one.value)
        for follower in self.followers:
            follower.update(&told, self.cut(one.metric, old), old_companion)
        self.update(one.metric, one.arm, one.e, one.all_of, one.propensity, old, one.value, one.plain, one.who,
                    one.number, one.dated, one.time_ms)
        return 0

    cdef int take_back(self, const Analysed *one) except -1:
        """Takes back one that has been analysed, with the value that it had in the end."""
        cdef Follower follower
        cdef Analysed told = one[0]
        told.value = self.cut(one.metric, one.value)
        self.withdraw(one.metric, one.arm, one.e, one.value, one.unfloored, one.plain, one.who, one.number, one.dated,
                      one.time_ms)
        for follower in self.followers:
            follower.withdraw(&told)
        return 0

    cdef void enter(self, Py_ssize_t m, Py_ssize_t arm, const double *e, double y, bint unfloored, bint plain,
                    uint64_t who, uint64_t number, const float *x, Py_ssize_t epoch) noexcept nogil:
        """Enters one decision or unit, with arm `arm`, shares `e` (e[arm] > 0) and value `y`; `who`, `number` name it.

        The score of arm k is mu(k) + 1{A = k} (y - mu(k)) / e(k), with mu(k) from before. `x` are the features, finite
        numbers, or NULL where they are not known.
        """
        cdef Py_ssize_t k, c = self.control
        cdef double value, control_inverse = 0.0, control_score = 0.0, inverse, score, difference, w, before, after
        cdef double mu
        cdef bint first = self.analysed_[m] == 0
        y = self.count(m, arm, y, False)
        if first:
            self.origin_[m] = y
            self.first_who_[m] = who
            self.first_number_[m] = number
            for k in range(self.n_arms):
                self.split_[m, k] = e[k]
        elif not self.moved_[m]:
            for k in range(self.n_arms):
                if fabs(self.split_[m, k] - e[k]) > SAME_SHARE:
                    self.moved_[m] = 1
                    break
        value = y - self.origin_[m]
        if self.model.n_features == 0:
            x = NULL
        self.expect(m, e, x, epoch)
        if e[c] > 0.0:
            control_inverse = 1.0 / max(e[c], MIN_SHARE)
            control_score = self.expected[c]
            if c == arm:
                control_score += (value - control_score) * control_inverse
        for k in range(self.n_arms):
            if e[k] <= 0.0:
                continue
            self.balance_[m, k] -= e[k]
            self.spread_[m, k] += e[k] * (1.0 - e[k])
            if first:
                continue
            inverse = 1.0 / max(e[k], MIN_SHARE)
            score = mu = self.expected[k]
            if k == arm:
                score += (value - mu) * inverse
                self.residual_[m, k] += (value - mu) * (value - mu)
                self.residual_cube_[m, k] += (value - mu) * (value - mu) * (value - mu)
            self.eligible_[m, k] += 1
            self.score_[m, k] += score
            self.square_[m, k] += score * score
            self.inverse_[m, k] += inverse
            self.predicted_[m, k] += mu
            self.predicted_square_[m, k] += mu * mu
            if e[c] > 0.0 and k != c:
                w = self.weight(e, k, plain)
                difference = w * (score - control_score)
                mu = w * (mu - self.expected[c])
                self.pair_eligible_[m, k] += 1
                self.pair_weight_[m, k] += w
                self.pair_score_[m, k] += difference
                self.pair_control_score_[m, k] += w * control_score
                self.pair_weight_square_[m, k] += w * w
                self.pair_square_score_[m, k] += w * difference
                self.pair_square_[m, k] += difference * difference
                self.pair_inverse_[m, k] += w * w * inverse
                self.pair_control_inverse_[m, k] += w * w * control_inverse
                self.pair_predicted_[m, k] += w * mu
                self.pair_predicted_square_[m, k] += mu * mu
        if x != NULL:
            outcome_learn(&self.model, m, arm, value, self.centre(m, arm))
        self.balance_[m, arm] += 1.0
        before = self.shifted_[m, arm] / self.n_[m, arm] if self.n_[m, arm] else value
        self.n_[m, arm] += 1
        self.total_[m, arm] += y
        self.shifted_[m, arm] += value
        self.cube_[m, arm] += value * value * value
        after = self.shifted_[m, arm] / self.n_[m, arm]
        # Of one sign, but for what rounding makes of means next to the value.
        self.m2_[m, arm] += max(0.0, (value - before) * (value - after))
        self.analysed_[m] += 1
        self.grand_[m] += value
        self.unfloored_[m] += unfloored
        if self.beginnings is not None:
            self.beginnings.take(m, arm, e, &self.split_[m, 0], y)

    cdef void update(self, Py_ssize_t m, Py_ssize_t arm, const double *e, Py_ssize_t all_of, double propensity,
                     double old, double new, bint plain, uint64_t who, uint64_t number, bint dated,
                     int64_t time_ms) noexcept nogil:
        """One that has been analysed with value `old` now has `new`.

        `e` NULL: the first `all_of` arms had a share, and it was `plain`. Of one that is not `dated` the centres of its
        scores are not known any more; their squares change as if these had been the arms' centres of now.
        """
        old, new = self.count(m, arm, old, True), self.count(m, arm, new, False)
        cdef Py_ssize_t k, c = self.control
        cdef double change = new - old, inverse = 1.0 / max(propensity, MIN_SHARE), step = change * inverse
        cdef Py_ssize_t epoch = self.epoch_of(m, dated, time_ms)
        cdef double before, after, score, difference, w, centre = self.centre_at(m, arm, epoch)
        cdef bint control = e == NULL or e[c] > 0.0
        old -= self.origin_[m]
        new -= self.origin_[m]
        if dated:
            self.mark_peak(m, arm, old, (old - centre) * inverse, who, number)
        if self.n_[m, arm]:
            before = self.shifted_[m, arm] / self.n_[m, arm]
            after = (self.shifted_[m, arm] + change) / self.n_[m, arm]
            self.m2_[m, arm] = max(0.0, self.m2_[m, arm] + change * ((new - after) + (old - before)))
        self.cube_[m, arm] += new * new * new - old * old * old
        if who != self.first_who_[m] or number != self.first_number_[m]:
            score = centre + (old - centre) * inverse
            before, after = old - centre, new - centre
            self.residual_[m, arm] += change * (before + after)
            self.residual_cube_[m, arm] += after * after * after - before * before * before
            self.score_[m, arm] += step
            self.square_[m, arm] += step * (2.0 * score + step)
            for k in range(self.n_arms):
                if k == c or not control or (arm != c and arm != k):
                    continue
                if not (k < all_of if e == NULL else e[k] > 0.0):
                    continue
                w = self.weight(e, k, plain)
                difference = score - self.centre_at(m, c, epoch) if arm == k else self.centre_at(m, k, epoch) - score
                self.change_pair(m, k, w, difference, step if arm == k else -step)
                if arm == c:
                    self.pair_control_score_[m, k] += w * step
        if change != 0.0 and self.beginnings is not None:
            self.beginnings.give_up(m, arm)
        self.total_[m, arm] += change
        self.shifted_[m, arm] += change
        self.grand_[m] += change

    cdef void mark_peak(self, Py_ssize_t m, Py_ssize_t arm, double value, double score, uint64_t who,
                        uint64_t number) noexcept nogil:
        """A shifted value, and its score less the centre, leave the sums.

        Once the first is not what it was, the origin is a number like any other, from which values may lie far.
        """
        if who == self.first_who_[m] and number == self.first_number_[m]:
            value = max(fabs(value), fabs(self.origin_[m]))
            score = 0.0
        self.peak_[m, arm] = max(self.peak_[m, arm], fabs(value))
        self.score_peak_[m, arm] = max(self.score_peak_[m, arm], fabs(score))

    cdef void change_pair(self, Py_ssize_t m, Py_ssize_t k, double w, double difference, double step) noexcept nogil:
        """A difference of scores becomes larger by `step`."""
        self.pair_score_[m, k] += w * step
        self.pair_square_score_[m, k] += w * w * step
        self.pair_square_[m, k] += w * w * step * (2.0 * difference + step)

    cdef void withdraw(self, Py_ssize_t m, Py_ssize_t arm, const double *e, double y, bint unfloored, bint plain,
                       uint64_t who, uint64_t number, bint dated, int64_t time_ms) noexcept:
        """Takes back one that has been analysed, with value `y` in the end.

        All is as if it had never been, but for the scores of one that is not `dated`: they are taken back as if they
        had been made around the arms' centres without it. Of the last one of a metric, and of what a mean or a score of
        an arm was made of, nothing stays.
        """
        cdef Py_ssize_t epoch = self.epoch_of(m, dated, time_ms)
        cdef Py_ssize_t k, c = self.control
        cdef double value, control_inverse = 0.0, control_score = 0.0
        cdef double inverse, score, mu, difference, w, before
        cdef bint first = who == self.first_who_[m] and number == self.first_number_[m]
        if self.n_[m, arm] == 0:
            return
        y = self.count(m, arm, y, True)
        value = y - self.origin_[m]
        if self.beginnings is not None:
            self.beginnings.give_up(m, arm)
        if self.analysed_[m] == 1:
            self.clear(m)
            return
        self.mark_peak(m, arm, value, (value - self.centre_at(m, arm, epoch)) / max(e[arm], MIN_SHARE), who, number)
        before = self.shifted_[m, arm] / self.n_[m, arm]
        self.n_[m, arm] -= 1
        self.analysed_[m] -= 1
        self.unfloored_[m] -= unfloored
        self.grand_[m] -= value
        if self.n_[m, arm]:
            self.total_[m, arm] -= y
            self.shifted_[m, arm] -= value
            self.cube_[m, arm] -= value * value * value
            score = self.shifted_[m, arm] / self.n_[m, arm]
            self.m2_[m, arm] = max(0.0, self.m2_[m, arm] - max(0.0, (value - before) * (value - score)))
        else:
            self.total_[m, arm] = self.shifted_[m, arm] = self.cube_[m, arm] = self.m2_[m, arm] = 0.0
        self.balance_[m, arm] -= 1.0
        self.expect(m, e, NULL, epoch)
        self.dated_[m] -= dated
        if e[c] > 0.0:
            control_inverse = 1.0 / max(e[c], MIN_SHARE)
            control_score = self.expected[c]
            if c == arm:
                control_score += (value - control_score) * control_inverse
        for k in range(self.n_arms):
            if e[k] <= 0.0:
                continue
            self.balance_[m, k] += e[k]
            self.spread_[m, k] = max(0.0, self.spread_[m, k] - e[k] * (1.0 - e[k]))
            if first or self.eligible_[m, k] == 0:
                continue
            inverse = 1.0 / max(e[k], MIN_SHARE)
            score = mu = self.expected[k]
            if k == arm:
                score += (value - mu) * inverse
                self.residual_[m, k] = max(0.0, self.residual_[m, k] - (value - mu) * (value - mu))
                self.residual_cube_[m, k] -= (value - mu) * (value - mu) * (value - mu)
            self.eligible_[m, k] -= 1
            self.score_[m, k] -= score
            self.square_[m, k] = max(0.0, self.square_[m, k] - score * score)
            self.inverse_[m, k] = max(0.0, self.inverse_[m, k] - inverse)
            self.predicted_[m, k] -= mu
            self.predicted_square_[m, k] = max(0.0, self.predicted_square_[m, k] - mu * mu)
            if self.eligible_[m, k] == 0:
                self.clear_scores(m, k)
            if e[c] > 0.0 and k != c and self.pair_eligible_[m, k] > 0:
                w = self.weight(e, k, plain)
                difference = w * (score - control_score)
                mu = w * (mu - self.expected[c])
                self.pair_eligible_[m, k] -= 1
                self.pair_weight_[m, k] = max(0.0, self.pair_weight_[m, k] - w)
                self.pair_score_[m, k] -= difference
                self.pair_control_score_[m, k] -= w * control_score
                self.pair_weight_square_[m, k] = max(0.0, self.pair_weight_square_[m, k] - w * w)
                self.pair_square_score_[m, k] -= w * difference
                self.pair_square_[m, k] = max(0.0, self.pair_square_[m, k] - difference * difference)
                self.pair_inverse_[m, k] = max(0.0, self.pair_inverse_[m, k] - w * w * inverse)
                self.pair_control_inverse_[m, k] = max(0.0, self.pair_control_inverse_[m, k] - w * w * control_inverse)
                self.pair_predicted_[m, k] -= w * mu
                self.pair_predicted_square_[m, k] = max(0.0, self.pair_predicted_square_[m, k] - mu * mu)
                if self.pair_eligible_[m, k] == 0:
                    self.clear_pair(m, k)
        if first:
            # Should it come back, it is scored as any other.
            self.first_who_[m] = self.first_number_[m] = NOBODY

    cdef void clear_scores(self, Py_ssize_t m, Py_ssize_t k) noexcept:
        self.score_[m, k] = self.square_[m, k] = self.inverse_[m, k] = 0.0
        self.residual_[m, k] = self.residual_cube_[m, k] = 0.0
        self.predicted_[m, k] = self.predicted_square_[m, k] = 0.0

    cdef void clear_pair(self, Py_ssize_t m, Py_ssize_t k) noexcept:
        self.pair_weight_[m, k] = self.pair_score_[m, k] = self.pair_control_score_[m, k] = 0.0
        self.pair_weight_square_[m, k] = self.pair_square_score_[m, k] = self.pair_square_[m, k] = 0.0
        self.pair_inverse_[m, k] = self.pair_control_inverse_[m, k] = 0.0
        self.pair_predicted_[m, k] = self.pair_predicted_square_[m, k] = 0.0

    cdef int clear(self, Py_ssize_t m) except -1:
        """Nothing of the metric is analysed any more."""
        for column in self.views().values():
            np.asarray(column)[m] = 0
        np.asarray(self.raw_)[m] = 0
        if self.histograms is not None:
            self.histograms.clear(m)
        self.n_epochs_[m] = 0
        np.asarray(self.epoch_ms_)[m] = 0
        np.asarray(self.epoch_centre_)[m] = np.asarray(self.epoch_pooled_)[m] = 0
        for name, column in self.model_columns.items():
            if self.model.n_features:
                column.reshape(self.n_metrics, -1)[m] = MIN_SPREAD if name == "spread" else 0
        return 0
