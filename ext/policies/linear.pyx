# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Linear models of the reward, one for each arm or one for all: updates, scores, and the choice."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, fmax, fmin, sqrt
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy
cimport numpy as cnp
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_standard_normal

from bandit_serve.policies._feature_limits cimport FIRST_ROWS, FeatureLimits
from bandit_serve.policies._regressions cimport Regressions
from limits cimport limit_and_move
from place cimport place_of
from scores cimport gap_shares, normal_scores, share_at
from symmetric cimport dot_product, symmetric_quadratic
from tally cimport tally_accepts, tally_add, tally_forget, tally_scaled, tally_t
from uniform cimport uniform_below, uniform_double

from collections.abc import Mapping

import numpy as np

from bandit_serve.base.aligned import aligned_zeros
from bandit_serve.errors import InvalidInput
from bandit_serve.policies._arms import arm_count, eligible_arms
from bandit_serve.policies._draw import bit_generator
from bandit_serve.policies.arguments import arrays_like, feature_count, feature_rows, masks_of
from bandit_serve.policies.randomness import generator_words, restore_generator

cnp.import_array()

# Of the schedule of γ, tuned on supervised and linear environments.
cdef double GAP_FACTOR = 30.0

cdef enum Rule:
    UPPER_BOUND
    POSTERIOR_DRAW
    INVERSE_GAP

cdef dict RULES = {"upper_bound": UPPER_BOUND, "posterior_draw": POSTERIOR_DRAW, "inverse_gap": INVERSE_GAP}


cdef class Linear:
    """K arms and M linear models of their rewards, over vectors x of `n_features` numbers, rounded to float32.

    Without `arm_features` there is a model for each arm, over x itself: M = K, D = d. With `arm_features`, (K, m),
    there is one for all, over (x, a, x ⊗ a) with a the arm's: M = 1, D = d + m + d · m.

    rule: how scores become a choice, upper_bound, posterior_draw or inverse_gap, with `strength` as its parameter.
        upper_bound: the largest θ'x + strength · σ · sqrt(x'(A + λ)⁻¹x).
        posterior_draw: the largest draw from Normal(θ'x, that width²).
        inverse_gap: 1 / (E + γ · gap) for all but the best (Foster & Rakhlin 2020), γ = strength, or by a schedule
        if 0; gaps are those of θ'x + optimism · σ · sqrt(x'(A + λ)⁻¹x).
    logistic: whether the models are logistic; then σ is 1, and rewards must be bounded.
    precision: the least precision of each coefficient's prior, whose mean is 0.
    """

    cdef tally_t tally
    cdef bitgen_t *bits
    cdef Regressions models
    cdef FeatureLimits feature_limits
    cdef readonly Py_ssize_t n_arms, n_features
    cdef readonly double min_share, max_share, holdout
    cdef readonly int64_t warmup
    # Scores go by the inverses and the draws that are there, until `freshen_one` and `redraw` have made new ones.
    cdef public bint patient
    cdef bint outdated                  # the draws are of a former state
    cdef Rule rule
    cdef double strength, optimism
    cdef Py_ssize_t per_arm             # features of an arm
    cdef Py_ssize_t cold                # arms that were observed less than `warmup` times
    cdef double *x                      # [width]: the present features
    cdef double *rows                   # [K, width], or [1, width]: the features of an arm's model
    cdef double *scores                 # [3, K]
    cdef const Py_ssize_t *everyone
    cdef dict arrays                    # behind the pointers, by name
    cdef object generator, draws, arm_features_given

    def __init__(
        self,
        n_arms,
        n_features,
        *,
        arm_features,
        precision,
        rule,
        strength,
        optimism,
        logistic,
        low,
        high,
        whole,
        unbounded,
        seed,
        min_share,
        max_share,
        holdout,
        warmup,
    ):
        cdef Py_ssize_t count = arm_count(n_arms), width, k
        cdef int64_t[::1] observed
        cdef const Py_ssize_t[::1] indices
        cdef uint8_t[::1] flags
        cdef const float[:, ::1] features
        self.tally.n_arms = 0
        self.n_features = feature_count(n_features)
        self.per_arm = 0
        self.arm_features_given = None
        if arm_features is not None:
            try:
                own = np.shape(arm_features)
            except ValueError as error:
                raise InvalidInput(f"arm_features must be rows of numbers: {error}") from None
            table = feature_rows(arm_features, own[1] if len(own) == 2 else 0, "arm_features")
            if len(table) != count or table.shape[1] == 0:
                raise InvalidInput(f"arm_features must be a row of at least one number for each of {count} arms")
            self.per_arm, self.arm_features_given = table.shape[1], table
        self.models = Regressions(
            1 if self.per_arm else count,
            self.n_features + self.per_arm + self.n_features * self.per_arm,
            logistic=logistic,
            precision=precision,
        )
        self.feature_limits = FeatureLimits(self.n_features)
        width = self.models.width
        generator = bit_generator(seed)
        self.rule, self.strength, self.optimism = RULES[rule], strength, optimism
        self.min_share, self.max_share, self.holdout, self.warmup = min_share, max_share, holdout, warmup

        self.tally.low, self.tally.high, self.tally.whole = low, high, whole
        self.tally.unbounded, self.tally.weighs = unbounded, False
        self.arrays = {
            "n": np.zeros(count),
            **({name: np.zeros(count) for name in (("mean", "m2") if unbounded else ("total",))}),
            "observed": np.zeros(count, dtype=np.int64),
            "fresh": np.zeros(count, dtype=np.uint8),
            "everyone": np.arange(count, dtype=np.intp),
            "x": aligned_zeros((width,), np.float64),
            "rows": aligned_zeros((count if self.per_arm else 1, width), np.float64),
            "scores": np.zeros(3 * count),
        }
        self.tally.n = place_of(self.arrays["n"])
        if unbounded:
            self.tally.mean, self.tally.m2 = place_of(self.arrays["mean"]), place_of(self.arrays["m2"])
        else:
            self.tally.total = place_of(self.arrays["total"])
        observed = self.arrays["observed"]
        self.tally.observed = &observed[0]
        flags = self.arrays["fresh"]
        self.tally.fresh = &flags[0]
        indices = self.arrays["everyone"]
        self.everyone = &indices[0]
        self.x, self.rows = place_of(self.arrays["x"]), place_of(self.arrays["rows"])
        self.scores = place_of(self.arrays["scores"])
        if self.per_arm:
            features = self.arm_features_given
            for k in range(count):
                self.spread_arm(k, &features[k, 0])
        self.generator = generator
        self.bits = <bitgen_t *>PyCapsule_GetPointer(generator.capsule, "BitGenerator")
        self.draws = None
        self.outdated = self.patient = False
        self.cold = count if warmup > 0 else 0
        self.tally.n_arms = self.n_arms = count

    cdef void spread_arm(self, Py_ssize_t k, const float *own) noexcept:
        """An arm's own features, in their place in the row of its model's features."""
        cdef Py_ssize_t j
        for j in range(self.per_arm):
            self.rows[k * self.models.width + self.n_features + j] = <double>own[j]

    cdef const double *row_of(self, Py_ssize_t arm) noexcept:
        """Features of the arm's model for the present x."""
        cdef Py_ssize_t i, j
        cdef double *row
        cdef double *crossed
        cdef const double *own
        if not self.per_arm:
            return self.x
        row = self.rows + arm * self.models.width
        own = row + self.n_features
        crossed = row + self.n_features + self.per_arm
        memcpy(row, self.x, self.n_features * sizeof(double))
        for j in range(self.per_arm):
            for i in range(self.n_features):
                crossed[j * self.n_features + i] = own[j] * self.x[i]
        return row

    # -- what comes in

    cdef int check_made(self) except -1:
        if self.tally.n_arms == 0:
            raise InvalidInput("this policy was not made yet")
        return 0

    cdef int take(self, values) except -1:
        """Puts a vector of features into `x`, rounded to float32."""
        cdef Py_ssize_t i, d = self.n_features
        cdef const double *wide
        cdef const float *narrow
        cdef double rest = 0.0, value
        self.check_made()
        if (
            not cnp.PyArray_Check(values)
            or cnp.PyArray_NDIM(values) != 1
            or cnp.PyArray_DIM(values, 0) != d
            or not cnp.PyArray_ISCARRAY_RO(values)
            or cnp.PyArray_TYPE(values) not in (cnp.NPY_FLOAT64, cnp.NPY_FLOAT32)
        ):
            try:
                values = np.asarray(values)
            except ValueError as error:
                raise InvalidInput(f"x must be numbers: {error}") from None
            if values.ndim != 1:
                raise InvalidInput(f"x must be a vector of {d} numbers")
            values = feature_rows(values[None, :], d, "x")[0]
        if cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT64:
            wide = <const double *>cnp.PyArray_DATA(values)
            for i in range(d):
                value = <double>(<float>wide[i])
                self.x[i] = value
                # 0 unless something is not finite.
                rest += value - value
        else:
            narrow = <const float *>cnp.PyArray_DATA(values)
            for i in range(d):
                value = <double>narrow[i]
                self.x[i] = value
                rest += value - value
        if rest != 0.0:
            raise InvalidInput("x must be finite as float32")
        return 0

    cdef Py_ssize_t arm_of(self, value) except -1:
        cdef Py_ssize_t arm
        try:
            arm = value
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput(f"arm must be an index, not {value!r}") from None
        if not 0 <= arm < self.tally.n_arms:
            raise InvalidInput(f"arm must be from 0 to {self.tally.n_arms - 1}, not {arm}")
        return arm

    cdef str refusal(self, double reward):
        if self.tally.whole:
            return f"a reward must be {self.tally.low:g} or {self.tally.high:g}, not {reward}"
        return f"a reward must be from {self.tally.low:g} to {self.tally.high:g}, not {reward}"

    def update(self, arm, reward, x):
        """Learns that `arm` (an index) gave `reward` where the features were `x`, numbers (d,).

        InvalidInput, and nothing learned, when anything is wrong.
        """
        cdef Py_ssize_t k = self.arm_of(arm)
        cdef double value
        try:
            value = reward
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput(f"a reward must be a number, not {reward!r}") from None
        if not tally_accepts(&self.tally, value):
            raise InvalidInput(self.refusal(value))
        self.take(x)
        self.learn(k, value)

    def update_many(self, arms, rewards, x):
        """`update` for each of `arms`, integers (N,), `rewards`, numbers (N,), and rows of `x`, (N, d), in order.

        What is learned is bit for bit that of N single updates. If anything is wrong: InvalidInput, and nothing
        is learned.
        """
        cdef const int64_t[::1] places
        cdef const double[::1] values
        cdef const float[:, ::1] rows
        cdef Py_ssize_t i, j
        try:
            places_given, values_given = np.asarray(arms), np.asarray(rewards)
            if places_given.size == 0:
                places_given, values_given = places_given.astype(np.int64), values_given.astype(np.float64)
            places_given = places_given.astype(np.int64, order="C", casting="same_kind", copy=False)
            values_given = values_given.astype(np.float64, order="C", casting="same_kind", copy=False)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"arms must be integers and rewards numbers: {error}") from None
        if places_given.ndim != 1 or places_given.shape != values_given.shape:
            raise InvalidInput(
                "arms and rewards must be vectors of the same length, "
                f"not of shapes {places_given.shape} and {values_given.shape}"
            )
        none = len(places_given) == len(x) == 0
        table = feature_rows(np.empty((0, self.n_features)) if none else x, self.n_features, "x")
        if len(table) != len(places_given):
            raise InvalidInput(f"x must have a row for each of {len(places_given)} rewards, not {len(table)}")
        places, values, rows = places_given, values_given, table
        for i in range(places.shape[0]):
            if not 0 <= places[i] < self.tally.n_arms:
                raise InvalidInput(f"arms[{i}] must be from 0 to {self.tally.n_arms - 1}, not {places[i]}")
            if not tally_accepts(&self.tally, values[i]):
                raise InvalidInput(f"rewards[{i}]: {self.refusal(values[i])}")
        for i in range(places.shape[0]):
            for j in range(self.n_features):
                self.x[j] = <double>rows[i, j]
            self.learn(places[i], values[i])

    # -- the fold

    cdef int learn(self, Py_ssize_t arm, double reward) except -1:
        """`reward` of `arm` for the present x, as it came."""
        cdef FeatureLimits limits = self.feature_limits
        tally_add(&self.tally, arm, reward, 1.0, False)
        if self.cold:
            self.count_cold()
        if limits.known:
            limit_and_move(self.x, limits.centre, limits.spread, self.n_features)
            self.fit(arm, reward)
            return 0
        limits.keep(self.x, arm, reward)
        self.fit(arm, reward)
        if limits.n_first == FIRST_ROWS and limits.settle():
            self.learn_first_rows()
        return 0

    cdef void fit(self, Py_ssize_t arm, double reward) noexcept:
        cdef double target = reward if self.tally.unbounded else tally_scaled(&self.tally, reward)
        self.outdated = True
        self.models.fit(0 if self.per_arm else arm, self.row_of(arm), target)

    cdef int learn_first_rows(self) except -1:
        """Learns the first rows once more, within the limits."""
        cdef const float[:, ::1] rows = self.feature_limits.arrays["first_x"]
        cdef const int64_t[::1] arms = self.feature_limits.arrays["first_arms"]
        cdef const double[::1] rewards = self.feature_limits.arrays["first_rewards"]
        cdef Py_ssize_t i, j
        self.models.start_anew()
        for i in range(FIRST_ROWS):
            for j in range(self.n_features):
                self.x[j] = <double>rows[i, j]
            self.feature_limits.limit(self.x)
            self.fit(arms[i], rewards[i])
        return 0

    def freshen_one(self):
        """Makes one model's inverse anew, if there is one of which it is due.

        In a thread others may ask for scores meanwhile, which go by the former inverse where the policy is `patient`;
        nothing may be learned.
        """
        self.check_made()
        if self.models.freshen_one():
            # Draws that were made meanwhile went by the former estimates.
            self.outdated = True

    cdef void count_cold(self) noexcept:
        cdef Py_ssize_t k
        self.cold = 0
        for k in range(self.tally.n_arms):
            self.cold += self.tally.observed[k] < self.warmup

    def forget(self, factor):
        """Multiplies what was learned, but no prior, by `factor`, from above 0 to 1; 1 changes nothing."""
        cdef double kept
        self.check_made()
        try:
            kept = factor
        except (TypeError, ValueError):
            raise InvalidInput(f"factor must be a number, not {factor!r}") from None
        if not 0.0 < kept <= 1.0:
            raise InvalidInput(f"factor must be above 0 and at most 1, not {kept}")
        if kept == 1.0:
            return
        tally_forget(&self.tally, kept)
        self.models.forget(kept)
        self.outdated = True

    # -- scores

    cdef void score(self, const Py_ssize_t *among, Py_ssize_t count, double *means, double *widths) noexcept:
        """θ'x and, unless `widths` is NULL, sqrt(x'(A + λ)⁻¹x) of the arms in `among`, for the present x."""
        cdef Regressions models = self.models
        cdef Py_ssize_t i, m
        cdef const double *row
        if models.stale_models and not self.patient:
            models.freshen()
        for i in range(count):
            m = 0 if self.per_arm else among[i]
            row = self.row_of(among[i])
            means[i] = dot_product(models.theta + m * models.width, row, models.width)
            if widths is not NULL:
                widths[i] = sqrt(fmax(0.0, symmetric_quadratic(models.inverse + m * models.size, row, models.width)))

    def scores_of(self, x):
        """Two float64 (K,) for the features x, (d,): the means θ'x and the widths sqrt(x'(A + λ)⁻¹x) of all arms."""
        self.take(x)
        self.feature_limits.limit(self.x)
        means, widths = np.empty(self.tally.n_arms), np.empty(self.tally.n_arms)
        self.score(self.everyone, self.tally.n_arms, place_of(means), place_of(widths))
        return means, widths

    @property
    def noise_scale(self):
        """σ: the standard deviation that rewards are found to have about their means; 1 for logistic models."""
        self.check_made()
        return sqrt(self.models.variance_of_noise())

    cdef double gap_weight(self, Py_ssize_t count) noexcept:
        """γ of the present state."""
        cdef double updates = self.models.noise[0], variance = self.models.variance_of_noise()
        if self.strength > 0.0:
            return self.strength
        return GAP_FACTOR * sqrt(<double>count * (1.0 + updates) / (self.models.order * variance))

    cdef void score_gaps(self, const Py_ssize_t *among, Py_ssize_t count, double *means, double *widths) noexcept:
        """Puts the predictions between which the gaps are into `means`."""
        cdef double scale = self.optimism * sqrt(self.models.variance_of_noise())
        cdef Py_ssize_t i
        self.score(among, count, means, NULL if scale == 0.0 else widths)
        if scale > 0.0:
            for i in range(count):
                means[i] += scale * widths[i]

    def raw_shares_of(self, x, arms):
        """Shares of the policy, float64 (E,), of `arms`, indices (E,), for the features x, (d,).

        For posterior draws of a model for each arm: two arrays, the location and the scale of each arm's score,
        which are normal and independent, up to a common shift and unit.
        """
        cdef const Py_ssize_t[::1] among = arms
        cdef Py_ssize_t i, count = among.shape[0]
        cdef double *means = self.scores
        cdef double *widths = self.scores + self.tally.n_arms
        cdef double scale, largest = -INFINITY
        self.take(x)
        self.feature_limits.limit(self.x)
        scale = self.strength * sqrt(self.models.variance_of_noise())
        if self.rule == POSTERIOR_DRAW and self.per_arm:
            return self.votes(arms)
        shares = np.empty(count)
        cdef double[::1] out = shares
        if self.rule == INVERSE_GAP:
            self.score_gaps(&among[0], count, means, widths)
            gap_shares(means, count, self.gap_weight(count), &out[0])
            return shares
        self.score(&among[0], count, means, widths)
        if self.rule == POSTERIOR_DRAW:
            scales = np.empty(count)
            if normal_scores(means, widths, scale, count, &out[0], place_of(scales)):
                return shares, scales
            scale = 0.0
        for i in range(count):
            out[i] = means[i] + scale * widths[i]
            largest = fmax(largest, out[i])
        for i in range(count):
            out[i] = 1.0 if out[i] == largest else 0.0
        return shares

    # -- draws of the coefficients of a shared model

    cdef int draw_coefficients(self) except -1:
        if self.models.stale_models and not self.patient:
            self.models.freshen()
        # What is learned meanwhile, where this is a thread, is no part of it.
        self.outdated = False
        self.draws = self.models.draws(self.strength * sqrt(self.models.variance_of_noise()))
        return 0

    @property
    def drawn(self):
        """True if there are draws, where shares go by draws of the coefficients."""
        return self.rule != POSTERIOR_DRAW or self.per_arm == 0 or self.draws is not None

    @property
    def to_redraw(self):
        """True if the draws are not of the present state."""
        return not self.drawn or (self.draws is not None and self.outdated)

    def redraw(self):
        """Makes those draws anew. In a thread others may learn and ask for shares meanwhile."""
        self.check_made()
        self.draw_coefficients()

    cdef values_of_draws(self, arms):
        """float64 (DRAWS, E): the value of each of `arms` under each draw, for the present x."""
        cdef const Py_ssize_t[::1] among = arms
        cdef Py_ssize_t i
        if self.draws is None or (self.outdated and not self.patient):
            self.draw_coefficients()
        for i in range(among.shape[0]):
            self.row_of(among[i])
        return self.draws @ self.arrays["rows"][arms, : self.models.order].T

    cdef votes(self, arms):
        """Part of the draws for which each of `arms` is the best; arms that tie share a draw."""
        values = self.values_of_draws(arms)
        best = values == values.max(axis=1, keepdims=True)
        return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)

    # -- the choice

    cdef Py_ssize_t pick(self, const Py_ssize_t *among, Py_ssize_t count) noexcept:
        """Chooses an arm for the present x: with the probability of holdout and floor evenly, otherwise by the rule."""
        cdef double even = self.holdout + (1.0 - self.holdout) * fmin(1.0, <double>count * self.min_share)
        cdef double *means = self.scores
        cdef double *widths = self.scores + self.tally.n_arms
        cdef double *shares = widths + self.tally.n_arms
        cdef double scale, score, highest = -INFINITY
        cdef Py_ssize_t i, best = 0, ties = 0
        if even > 0.0 and uniform_double(self.bits) < even:
            return among[uniform_below(self.bits, count)]
        if self.rule == INVERSE_GAP:
            self.score_gaps(among, count, means, widths)
            gap_shares(means, count, self.gap_weight(count), shares)
            return among[share_at(shares, count, uniform_double(self.bits))]
        self.score(among, count, means, widths)
        scale = self.strength * sqrt(self.models.variance_of_noise())
        for i in range(count):
            score = scale * widths[i]
            if self.rule == POSTERIOR_DRAW:
                score *= random_standard_normal(self.bits)
            score += means[i]
            if score > highest:
                best, highest, ties = i, score, 1
            elif score == highest:
                # A tie is drawn evenly: the j-th to tie takes over with probability 1/j.
                ties += 1
                if uniform_below(self.bits, ties) == 0:
                    best = i
        return among[best]

    def choose(self, x, eligible=None):
        """Index of one arm for the features x, numbers (d,), chosen with the probabilities `shares(x, eligible)`.

        eligible: bool (K,), or None for all.
        """
        cdef const Py_ssize_t[::1] among
        cdef const double[::1] shares
        if self.max_share < 1.0 or self.cold or (self.rule == POSTERIOR_DRAW and self.per_arm):
            shares = self.shares(x, eligible)
            return share_at(&shares[0], shares.shape[0], uniform_double(self.bits))
        self.take(x)
        self.feature_limits.limit(self.x)
        if eligible is None:
            return self.pick(self.everyone, self.tally.n_arms)
        among = eligible_arms(eligible, self.tally.n_arms)
        return self.pick(&among[0], among.shape[0])

    def choose_many(self, x, eligible=None):
        """Indices, intp (N,), of an arm for each row of x, (N, d): those of N calls of `choose`.

        eligible: bool (K,) for all rows or (N, K) by row, or None for all arms.
        """
        rows = feature_rows(x, self.n_features, "x")
        out = np.empty(len(rows), dtype=np.intp)
        cdef Py_ssize_t[::1] arms = out
        cdef Py_ssize_t i
        masks = masks_of(eligible, len(rows), self.tally.n_arms)
        for i in range(arms.shape[0]):
            arms[i] = self.choose(rows[i], None if masks is None else masks[i])
        return out

    # -- state

    @property
    def counts(self):
        """float64 (K,): observations of each arm."""
        return self.arrays["n"].copy()

    @property
    def means(self):
        """float64 (K,): each arm's mean reward whatever the features; NaN where nothing was observed."""
        n = self.arrays["n"]
        if self.tally.unbounded:
            return np.where(n > 0.0, self.arrays["mean"], np.nan)
        scaled = np.divide(self.arrays["total"], n, out=np.full(self.tally.n_arms, np.nan), where=n > 0.0)
        # Rounding alone could pass a bound.
        return np.minimum(self.tally.low + (self.tally.high - self.tally.low) * scaled, self.tally.high)

    @property
    def arm_features(self):
        """float32 (K, m), or None where each arm has a model of its own."""
        return None if self.arm_features_given is None else self.arm_features_given.copy()

    @property
    def observed(self):
        """int64 (K,): how often each arm was observed, forgotten or not; `warmup` goes by it."""
        return self.arrays["observed"].copy()

    @observed.setter
    def observed(self, counts):
        array = np.asarray(counts)
        if array.dtype.kind not in "iu" or array.shape != (self.tally.n_arms,) or (array < 0).any():
            raise InvalidInput(f"observed must be {self.tally.n_arms} whole numbers of at least 0")
        self.arrays["observed"][:] = array
        self.count_cold()

    @property
    def n_models(self):
        """M: 1 where the arms share a model, otherwise K."""
        self.check_made()
        return self.models.n_models

    @property
    def order(self):
        """D: the coefficients of a model."""
        self.check_made()
        return self.models.order

    @property
    def stale_models(self):
        """Number of models whose inverse is yet to be made anew."""
        self.check_made()
        return self.models.stale_models

    def statistics(self):
        """Copies of the sums, float64, by name. Of each arm, (K,): n and total, or n, mean and m2, as policies
        without context have them. Of each model: gram, (M, D(D + 1)/2), the upper triangle of A by rows, and
        moment, (M, D), b. Of all: squares, (D,), the sums of x², and noise, (2,), the weight of what the models
        learned and a sum of squared residuals, which logistic models leave at 0.
        """
        self.check_made()
        names = ("n", "mean", "m2") if self.tally.unbounded else ("n", "total")
        return {name: self.arrays[name].copy() for name in names} | self.models.sums()

    def restore(self, statistics):
        """Takes over what `statistics()` gives; InvalidInput when it cannot be of these arms.

        Everything that is derived is made anew, as after `forget`, and `observed` is what is left, rounded down.
        """
        arrays = arrays_like(statistics, self.statistics(), "statistics")
        for name in ("n", "total", "m2", "squares", "noise"):
            if name in arrays and (arrays[name] < 0.0).any():
                raise InvalidInput(f"statistics.{name} must not be negative")
        if "total" in arrays and (arrays["total"] > arrays["n"]).any():
            raise InvalidInput("statistics.total must not exceed statistics.n")
        if "mean" in arrays and not (
            (arrays["mean"] >= self.tally.low) & (arrays["mean"] <= self.tally.high)
        ).all():
            raise InvalidInput(f"statistics.mean must be from {self.tally.low} to {self.tally.high}")
        for name in ("n", "total", "mean", "m2"):
            if name in arrays:
                self.arrays[name][:] = arrays[name]
        self.arrays["observed"][:] = np.minimum(self.arrays["n"], 2.0**53)
        self.models.restore(arrays, self.arrays["n"])
        self.count_cold()
        self.draws = None

    @property
    def coefficients(self):
        """Coefficients of the models that decisions go by, float64 (M, D)."""
        self.check_made()
        if self.models.stale_models and not self.patient:
            self.models.freshen()
        return self.models.arrays["theta"][:, : self.models.order].copy()

    def factors(self):
        """Copies of what is derived and cannot be made again bit for bit: precision (D,), inverse (M, D(D + 1)/2)
        and coefficients (M, D), float64; updates, int64 (M,); and `limits_state()`."""
        self.check_made()
        return self.feature_limits.state() | self.models.factors()

    def restore_factors(self, factors):
        """Takes over what `factors()` gives, after `restore`; InvalidInput when it cannot be of these models."""
        self.check_made()
        limits = self.feature_limits.LIMITS
        if not isinstance(factors, Mapping):
            raise InvalidInput(f"factors must hold {', '.join(self.models.FACTORS + limits)}")
        self.models.restore_factors({name: each for name, each in factors.items() if name not in limits})
        self.restore_limits({name: factors[name] for name in limits if name in factors})

    @property
    def limits(self):
        """Centre and spread, (d,) each, beyond `MAX_SPREADS` times which values are not taken as they are; None at
        first."""
        self.check_made()
        if not self.feature_limits.known:
            return None
        return self.feature_limits.arrays["centre"].copy(), self.feature_limits.arrays["spread"].copy()

    def limits_state(self):
        """Copies of centre and spread, float64 (d,), 0 while they are not known, and of the first rows until then."""
        self.check_made()
        return self.feature_limits.state()

    def restore_limits(self, given):
        """Takes over what `limits_state()` gives, after `restore`; InvalidInput when it cannot be of these features.

        Nothing, of a state from before there were limits: spreads are then the root mean squares that were learned.
        """
        self.check_made()
        if given:
            self.feature_limits.restore(given, self.tally.n_arms)
        else:
            squares = self.models.arrays["squares"][: self.n_features]
            self.feature_limits.suppose(self.models.noise[0], squares)

    @property
    def randomness(self):
        """State of the random generator: uint64 (4,), the high and low halves of PCG64's state and increment."""
        return generator_words(self.generator)

    @randomness.setter
    def randomness(self, words):
        restore_generator(self.generator, words)
