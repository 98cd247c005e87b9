# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Linear models of the reward, one for each arm or one for all: the fold of rewards, scores, and the choice.

A model keeps the sums A = Σ w x x' and b = Σ w z x apart from the prior's precisions λ, a diagonal. From them follow
the coefficients θ = (A + λ)⁻¹ b and the inverse itself, which updates change by rank one (Sherman & Morrison 1950)
and which are made anew from the sums when the number of updates says so, so that rounding does not add up.

For least squares w = 1 and z is the reward. For the logistic model (w, z) is the observation that a Gaussian
posterior takes in place of a reward y in [0, 1]: with the coefficients that maximise prior and likelihood together,
p = σ(θ'x), w = p(1 - p) and z = θ'x + (y - p)/w (Spiegelhalter & Lauritzen 1990; Laplace's approximation).

The precision of feature j is the given one times max(1, c · p) · max(1, s_j), s_j the mean square of x_j in all that
was learned and p = Σ min(1, s_j), the features present in a row: many or large features get a smaller coefficient
each, as if they had been scaled. It is read when the number of all updates is a power of two and when something was
forgotten.

One wild value must not rule a model, as the square of a feature is what a row weighs. So each feature has limits
(`limits.pxd`), which the first `FIRST_ROWS` rows give and each later row moves: for scores and for learning alike, by
the limits of the state. The first rows are learned as they are, and once more, within the limits, when those are known.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, exp, fabs, fmax, fmin, isfinite, sqrt
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
cimport numpy as cnp
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_standard_normal

from limits cimport LEAST_SPREAD, NEAREST, limit_and_move, usual
from symmetric cimport (
    add_multiple,
    dot_product,
    symmetric_add,
    symmetric_from_root,
    symmetric_inverse_root,
    symmetric_mirror,
    symmetric_multiply,
    symmetric_quadratic,
    symmetric_start,
)
from tally cimport tally_accepts, tally_add, tally_forget, tally_scaled, tally_t
from uniform cimport uniform_below, uniform_double

from collections.abc import Mapping

import numpy as np

from bandit_serve.policies._arms import arm_count, eligible_arms
from bandit_serve.policies._draw import bit_generator
from bandit_serve.base.aligned import aligned_zeros
from bandit_serve.errors import InvalidInput

cnp.import_array()

MOST_FEATURES = 4096
# Numbers in all models' matrices: 2 GiB of sums and as much of inverses.
MOST_NUMBERS = 1 << 28
# Parameter draws, where the arms share one model: shares are multiples of 1/DRAWS.
DRAWS = 256
# So that the draws of a state are the same in every process.
DRAW_SEED = 20_200_607

cdef enum:
    # Updates of a model between two inverses made anew: so many, or this many a feature if that is more.
    LEAST_BETWEEN = 1024
    BETWEEN_A_FEATURE = 16
    MOST_STEPS = 60
    FIRST_ROWS = 128
    LEAST_VALUES = 8        # in fewer nothing is a quartile

# An update that takes all but this part of the variance in its direction away makes the inverse anew at once: a
# rank-one update would lose as many digits.
cdef double LARGEST_GAIN = 1000.0
# c, of the prior's precisions.
cdef double PRECISION_A_FEATURE = 0.25
# Of the schedule of γ, tuned on supervised and linear environments.
cdef double GAP_FACTOR = 30.0
# The noise's variance before anything was seen, and the observations that it weighs as.
cdef double FIRST_VARIANCE = 0.25
cdef double FIRST_WEIGHT = 1.0
cdef double LEAST_WEIGHT = 1e-10
cdef double LARGEST_NOISE = 1e200
# How many standard deviations one score may lie from another, or one deviation be shorter, to be told from it.
cdef double FARTHEST = 1e15

cdef enum Rule:
    UPPER_BOUND
    POSTERIOR_DRAW
    INVERSE_GAP

NEAR = NEAREST
# What is kept of the limits of features, by name.
LIMITS = ("centre", "spread", "first_x", "first_arms", "first_rewards")
RULES = {"upper_bound": UPPER_BOUND, "posterior_draw": POSTERIOR_DRAW, "inverse_gap": INVERSE_GAP}


cdef double *place_of(array):
    cdef double[::1] view = array.reshape(-1)
    return &view[0]


cdef vectors(values, Py_ssize_t length, str name):
    """`values` as float32 (N, length), C order; InvalidInput unless they are finite numbers of that shape."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be numbers: {error}") from None
    if given.dtype.kind not in "fiub":
        raise InvalidInput(f"{name} must be numbers, not of type {given.dtype}")
    if given.ndim != 2 or given.shape[1] != length:
        raise InvalidInput(f"{name} must be rows of {length} numbers, not of shape {given.shape}")
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(given, dtype=np.float32)
    if not np.isfinite(rounded).all():
        raise InvalidInput(f"{name} must be finite as float32")
    return rounded


cdef class Linear:
    """K arms and M linear models of their rewards, over vectors x of `n_features` numbers, rounded to float32.

    Without `arm_features` there is a model for each arm, over x itself: M = K, D = d. With `arm_features`, (K, m),
    there is one for all, over (x, a, x ⊗ a) with a the arm's: M = 1, D = d + m + d · m.

    rule: how scores become a choice, one of `RULES`, with `strength` as its parameter: upper_bound, the largest
        θ'x + strength · σ · sqrt(x'(A + λ)⁻¹x); posterior_draw, the largest draw from Normal(θ'x, that width²);
        inverse_gap, 1 / (E + γ · gap) for all but the best (Foster & Rakhlin 2020), γ = strength, or by a schedule
        if 0; gaps are those of θ'x + optimism · σ · sqrt(x'(A + λ)⁻¹x).
    logistic: whether the models are logistic; then σ is 1, and rewards must be bounded.
    precision: the least precision of each coefficient's prior, whose mean is 0.
    """

    cdef tally_t tally
    cdef bitgen_t *bits
    cdef readonly Py_ssize_t n_arms, n_features, n_models, order
    cdef readonly double min_share, max_share, holdout, strength, optimism
    cdef readonly int64_t warmup
    cdef readonly str rule
    # Scores go by the inverses and the draws that are there, until `freshen_one` and `redraw` have made new ones.
    cdef public bint patient
    cdef bint outdated
    cdef Rule how
    cdef bint logistic
    cdef Py_ssize_t width, size, per_arm, cold
    cdef readonly Py_ssize_t stale_models
    cdef Py_ssize_t n_first
    cdef bint limited
    cdef double least_precision
    cdef int64_t all_updates
    cdef double *gram
    cdef double *inverse
    cdef double *moment
    cdef double *theta
    cdef double *squares
    cdef double *precision
    cdef double *noise
    cdef double *x
    cdef double *direction
    cdef double *centre
    cdef double *spread
    cdef double *rows
    cdef double *scores
    cdef int64_t *updates
    cdef uint8_t *stale
    cdef const Py_ssize_t *everyone
    cdef dict arrays
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
        cdef Py_ssize_t count = arm_count(n_arms), k
        cdef int64_t[::1] whole_numbers
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
            table = vectors(arm_features, own[1] if len(own) == 2 else 0, "arm_features")
            if len(table) != count or table.shape[1] == 0:
                raise InvalidInput(f"arm_features must be a row of at least one number for each of {count} arms")
            self.per_arm, self.arm_features_given = table.shape[1], table
        self.n_models = 1 if self.per_arm else count
        self.order = self.n_features + self.per_arm + self.n_features * self.per_arm
        if self.order > MOST_FEATURES:
            raise InvalidInput(f"a model of {self.order} coefficients is too large; {MOST_FEATURES} is the most")
        self.width = (self.order + 7) // 8 * 8
        self.size = symmetric_start(self.width, self.width)
        if self.n_models * self.size > MOST_NUMBERS:
            raise InvalidInput(f"{self.n_models} models of {self.order} coefficients each are too large together")
        generator = bit_generator(seed)
        self.how, self.rule, self.strength, self.logistic = RULES[rule], rule, strength, logistic
        self.least_precision, self.optimism = precision, optimism
        self.min_share, self.max_share, self.holdout, self.warmup = min_share, max_share, holdout, warmup

        self.tally.low, self.tally.high, self.tally.whole = low, high, whole
        self.tally.unbounded, self.tally.weighs = unbounded, False
        self.arrays = {
            "n": np.zeros(count),
            **({name: np.zeros(count) for name in (("mean", "m2") if unbounded else ("total",))}),
            "observed": np.zeros(count, dtype=np.int64),
            "fresh": np.zeros(count, dtype=np.uint8),
            "updates": np.zeros(self.n_models, dtype=np.int64),
            "stale": np.zeros(self.n_models, dtype=np.uint8),
            "everyone": np.arange(count, dtype=np.intp),
            "gram": aligned_zeros((self.n_models, self.size), np.float64),
            "inverse": aligned_zeros((self.n_models, self.size), np.float64),
            "moment": aligned_zeros((self.n_models, self.width), np.float64),
            "theta": aligned_zeros((self.n_models, self.width), np.float64),
            "squares": aligned_zeros((self.width,), np.float64),
            "precision": aligned_zeros((self.width,), np.float64),
            "noise": np.zeros(2),
            "x": aligned_zeros((self.width,), np.float64),
            "direction": aligned_zeros((self.width,), np.float64),
            "centre": np.zeros(self.n_features),
            "spread": np.zeros(self.n_features),
            "first_x": np.zeros((FIRST_ROWS, self.n_features), dtype=np.float32),
            "first_arms": np.zeros(FIRST_ROWS, dtype=np.int64),
            "first_rewards": np.zeros(FIRST_ROWS),
            "rows": aligned_zeros((count if self.per_arm else 1, self.width), np.float64),
            "scores": np.zeros(3 * count),
        }
        self.tally.n = place_of(self.arrays["n"])
        if unbounded:
            self.tally.mean, self.tally.m2 = place_of(self.arrays["mean"]), place_of(self.arrays["m2"])
        else:
            self.tally.total = place_of(self.arrays["total"])
        whole_numbers = self.arrays["observed"]
        self.tally.observed = &whole_numbers[0]
        flags = self.arrays["fresh"]
        self.tally.fresh = &flags[0]
        whole_numbers = self.arrays["updates"]
        self.updates = &whole_numbers[0]
        flags = self.arrays["stale"]
        self.stale = &flags[0]
        indices = self.arrays["everyone"]
        self.everyone = &indices[0]
        self.gram, self.inverse = place_of(self.arrays["gram"]), place_of(self.arrays["inverse"])
        self.moment, self.theta = place_of(self.arrays["moment"]), place_of(self.arrays["theta"])
        self.squares, self.precision = place_of(self.arrays["squares"]), place_of(self.arrays["precision"])
        self.noise, self.x = place_of(self.arrays["noise"]), place_of(self.arrays["x"])
        self.direction, self.rows = place_of(self.arrays["direction"]), place_of(self.arrays["rows"])
        self.centre, self.spread = place_of(self.arrays["centre"]), place_of(self.arrays["spread"])
        self.scores = place_of(self.arrays["scores"])
        if self.per_arm:
            features = self.arm_features_given
            for k in range(count):
                self.spread_arm(k, &features[k, 0])
        self.generator = generator
        self.bits = <bitgen_t *>PyCapsule_GetPointer(generator.capsule, "BitGenerator")
        self.draws = None
        self.outdated = self.patient = False
        self.all_updates = self.n_first = 0
        self.limited = False
        self.cold = count if warmup > 0 else 0
        self.tally.n_arms = self.n_arms = count
        self.read_precisions()

    cdef void spread_arm(self, Py_ssize_t k, const float *own) noexcept:
        """An arm's own features, in their place in the row of its model's features."""
        cdef Py_ssize_t j
        for j in range(self.per_arm):
            self.rows[k * self.width + self.n_features + j] = <double>own[j]

    cdef const double *row_of(self, Py_ssize_t arm) noexcept:
        """The features of the arm's model for the present x."""
        cdef Py_ssize_t i, j
        cdef double *row
        cdef double *crossed
        cdef const double *own
        if not self.per_arm:
            return self.x
        row = self.rows + arm * self.width
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
            values = vectors(values[None, :], d, "x")[0]
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
        table = vectors(np.empty((0, self.n_features)) if len(places_given) == len(x) == 0 else x, self.n_features, "x")
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

    # -- the limits of features

    cdef void limit(self) noexcept:
        """The present x within its limits."""
        cdef Py_ssize_t j
        if self.limited:
            for j in range(self.n_features):
                self.x[j] = usual(self.x[j], self.centre[j], self.spread[j])

    cdef int find_limits(self) except -1:
        """Of the first rows, which are learned anew where some of their values were beyond."""
        cdef const float[:, ::1] rows = self.arrays["first_x"]
        cdef const int64_t[::1] arms = self.arrays["first_arms"]
        cdef const double[::1] rewards = self.arrays["first_rewards"]
        cdef Py_ssize_t i, j
        cdef bint beyond = False
        self.arrays["spread"][:] = LEAST_SPREAD
        for j in range(self.n_features):
            column = self.arrays["first_x"][:, j].astype(np.float64)
            column = column[column != 0.0]
            if len(column) >= LEAST_VALUES:
                self.centre[j] = middle = np.median(column)
                self.spread[j] = fmax(LEAST_SPREAD, np.quantile(np.abs(column - middle), 0.75))
        self.limited = True
        for i in range(FIRST_ROWS):
            for j in range(self.n_features):
                beyond |= usual(rows[i, j], self.centre[j], self.spread[j]) != rows[i, j]
        if not beyond:
            return 0
        for name in ("gram", "moment", "theta", "squares", "noise", "updates"):
            self.arrays[name][:] = 0
        self.all_updates = 0
        self.read_precisions()
        for i in range(FIRST_ROWS):
            for j in range(self.n_features):
                self.x[j] = <double>rows[i, j]
            self.limit()
            self.fit(arms[i], rewards[i])
        return 0

    @property
    def limits(self):
        """Centre and spread, (d,) each, beyond `NEAR` times which values are not taken as they are; None at first."""
        return (self.arrays["centre"].copy(), self.arrays["spread"].copy()) if self.limited else None

    def limits_state(self):
        """Copies of centre and spread, float64 (d,), 0 while they are not known, and of the first rows until then."""
        n = 0 if self.limited else self.n_first
        return {name: self.arrays[name][: n if name.startswith("first") else None].copy() for name in LIMITS}

    def restore_limits(self, given):
        """Takes over what `limits_state()` gives, after `restore`; InvalidInput when it cannot be of these features.

        Nothing, of a state from before there were limits: spreads are then the root mean squares that were learned.
        """
        if not given:
            learned = self.noise[0] > 0.0
            self.arrays["centre"][:] = 0.0
            if learned:
                rms = np.sqrt(self.arrays["squares"][: self.n_features] / self.noise[0])
                self.arrays["spread"][:] = np.maximum(rms, LEAST_SPREAD)
            self.limited, self.n_first = learned, 0
            return
        n = min(np.size(given.get("first_arms", ())), FIRST_ROWS - 1)
        mine = {name: self.arrays[name][: n if name.startswith("first") else None] for name in LIMITS}
        arrays = self.checked(given, mine, "factors")
        limited = bool((arrays["spread"] >= LEAST_SPREAD).all())
        arms = arrays["first_arms"]
        if not limited and arrays["spread"].any() or limited and n or ((arms < 0) | (arms >= self.tally.n_arms)).any():
            raise InvalidInput("factors.spread must be at least 1, or 0 and the first rows of arms that are there")
        for name, array in arrays.items():
            self.arrays[name][: len(array)] = array
        self.limited, self.n_first = limited, n

    # -- the fold

    cdef int learn(self, Py_ssize_t arm, double reward) except -1:
        """`reward` of `arm` for the present x, as it came."""
        cdef float[:, ::1] rows
        cdef Py_ssize_t j
        tally_add(&self.tally, arm, reward, 1.0)
        if self.cold:
            self.count_cold()
        if self.limited:
            limit_and_move(self.x, self.centre, self.spread, self.n_features)
            self.fit(arm, reward)
            return 0
        rows = self.arrays["first_x"]
        for j in range(self.n_features):
            rows[self.n_first, j] = <float>(self.x[j] + 0.0)  # -0.0 is 0.0
        self.arrays["first_arms"][self.n_first], self.arrays["first_rewards"][self.n_first] = arm, reward
        self.n_first += 1
        self.fit(arm, reward)
        if self.n_first == FIRST_ROWS:
            self.find_limits()
        return 0

    cdef void fit(self, Py_ssize_t arm, double reward) noexcept:
        cdef Py_ssize_t m = 0 if self.per_arm else arm, j
        cdef const double *row = self.row_of(arm)
        cdef double target = reward if self.tally.unbounded else tally_scaled(&self.tally, reward)
        cdef double mean, variance, weight, weighed, surprise
        cdef double *theta = self.theta + m * self.width
        if self.stale[m]:
            self.factorize(m)
        symmetric_multiply(self.inverse + m * self.size, row, self.direction, self.width)
        variance = fmax(0.0, dot_product(row, self.direction, self.width))
        mean = dot_product(theta, row, self.width)
        if self.logistic:
            surprise = logistic_step(mean, variance, target)
            weight = logistic_weight(mean + surprise * variance)
            weighed = surprise + weight * (mean + surprise * variance)
        else:
            surprise = (target - mean) / (1.0 + variance)
            weight = 1.0
            weighed = target
            self.noise[1] = fmin(self.noise[1] + surprise * (target - mean), LARGEST_NOISE)
        self.noise[0] += 1.0
        symmetric_add(self.gram + m * self.size, weight, row, self.width)
        add_multiple(self.moment + m * self.width, weighed, row, self.width)
        for j in range(self.width):
            self.squares[j] += row[j] * row[j]
        self.updates[m] += 1
        self.all_updates += 1
        self.outdated = True
        if is_power_of_two(self.all_updates):
            self.read_precisions()
        elif self.time_to_factorize(m) or weight * variance > LARGEST_GAIN or self.is_rounding(variance):
            self.mark(m)
        else:
            add_multiple(theta, surprise, self.direction, self.width)
            # Scaled first, so that both halves of a diagonal block stay each other's mirror to the last bit.
            weight = sqrt(weight / (1.0 + weight * variance))
            for j in range(self.width):
                self.direction[j] *= weight
            symmetric_add(self.inverse + m * self.size, -1.0, self.direction, self.width)

    cdef bint is_rounding(self, double variance) noexcept:
        """Whether no inverse has the present direction and variance, by Cauchy and Schwarz: what rounding has made of
        one grows from row to row."""
        cdef Py_ssize_t j
        for j in range(self.order):
            # Written so that NaN is rounding.
            if not self.direction[j] * self.direction[j] * self.precision[j] <= 2.0 * variance:
                return True
        return False

    cdef bint time_to_factorize(self, Py_ssize_t m) noexcept:
        cdef int64_t between = max(<int64_t>LEAST_BETWEEN, <int64_t>BETWEEN_A_FEATURE * self.order)
        return self.updates[m] % between == 0 or (self.updates[m] < between and is_power_of_two(self.updates[m]))

    cdef void mark(self, Py_ssize_t m) noexcept:
        """Its inverse is made anew before it is used again: when that is makes no difference to what it will be."""
        if not self.stale[m]:
            self.stale[m] = 1
            self.stale_models += 1

    cdef void read_precisions(self) noexcept:
        cdef Py_ssize_t j, m
        # Not the observations of the arms, which another policy may have made that had no features.
        cdef double count = self.noise[0], present = 0.0
        for j in range(self.order):
            self.precision[j] = self.squares[j] / count if count > 0.0 else 0.0
            present += fmin(1.0, self.precision[j])
        for j in range(self.order):
            self.precision[j] = (
                self.least_precision * fmax(1.0, PRECISION_A_FEATURE * present) * fmax(1.0, self.precision[j])
            )
        for m in range(self.n_models):
            self.mark(m)

    cdef void factorize(self, Py_ssize_t m) noexcept:
        """The inverse and the coefficients from the sums and the prior."""
        cdef Py_ssize_t j
        cdef double *inverse = self.inverse + m * self.size
        if self.stale[m]:
            self.stale[m] = 0
            self.stale_models -= 1
        if self.updates[m] == 0:
            memset(inverse, 0, self.size * sizeof(double))
            for j in range(self.order):
                inverse[symmetric_start(j, self.width)] = 1.0 / self.precision[j]
            memset(self.theta + m * self.width, 0, self.width * sizeof(double))
            return
        self.invert(m, inverse, self.theta + m * self.width)

    cdef void invert(self, Py_ssize_t m, double *inverse, double *theta) noexcept nogil:
        cdef double *work = <double *>malloc(2 * self.width * self.width * sizeof(double))
        symmetric_inverse_root(
            self.gram + m * self.size, self.precision, work, work + self.width * self.width, self.order, self.width
        )
        symmetric_from_root(work, inverse, self.order, self.width)
        free(work)
        symmetric_multiply(inverse, self.moment + m * self.width, theta, self.width)

    cdef void freshen(self) noexcept:
        cdef Py_ssize_t m
        for m in range(self.n_models):
            if self.stale[m]:
                self.factorize(m)

    def freshen_one(self):
        """Makes one model's inverse anew, if there is one of which it is due.

        In a thread others may ask for scores meanwhile, which go by the former inverse where the policy is `patient`;
        nothing may be learned.
        """
        cdef Py_ssize_t m, n = self.size
        cdef double *made
        cdef double *theta
        for m in range(self.n_models):
            if self.stale[m]:
                break
        else:
            return
        if self.updates[m] == 0:
            self.factorize(m)
            return
        made = <double *>malloc((n + self.width) * sizeof(double))
        theta = made + n
        with nogil:
            self.invert(m, made, theta)
        memcpy(self.inverse + m * n, made, n * sizeof(double))
        memcpy(self.theta + m * self.width, theta, self.width * sizeof(double))
        free(made)
        self.stale[m] = 0
        self.stale_models -= 1
        # Draws that were made meanwhile went by the former estimates.
        self.outdated = True

    cdef void count_cold(self) noexcept:
        cdef Py_ssize_t k
        self.cold = 0
        for k in range(self.tally.n_arms):
            self.cold += self.tally.observed[k] < self.warmup

    def forget(self, factor):
        """Multiplies what was learned, but no prior, by `factor`, from above 0 to 1; 1 changes nothing."""
        cdef double kept, rest
        cdef Py_ssize_t i
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
        for i in range(self.n_models * self.size):
            self.gram[i] *= kept
        for i in range(self.n_models * self.width):
            self.moment[i] *= kept
        # Below a weight of 1e-100 it is gone, as in `tally_forget`.
        rest = kept if self.noise[0] * kept >= 1e-100 else 0.0
        for i in range(self.width):
            self.squares[i] *= rest
        self.noise[0] *= rest
        self.noise[1] *= rest
        self.outdated = True
        self.read_precisions()

    # -- scores

    cdef double variance_of_noise(self) noexcept:
        """The mean squared residual: of each update before it, over 1 + x'(A + λ)⁻¹x, which sums to what least
        squares leaves."""
        if self.logistic:
            return 1.0
        return (FIRST_WEIGHT * FIRST_VARIANCE + self.noise[1]) / (FIRST_WEIGHT + self.noise[0])

    cdef void score(self, const Py_ssize_t *among, Py_ssize_t count, double *means, double *widths) noexcept:
        """θ'x and, unless `widths` is NULL, sqrt(x'(A + λ)⁻¹x) of the arms in `among`, for the present x."""
        cdef Py_ssize_t i, m
        cdef const double *row
        if self.stale_models and not self.patient:
            self.freshen()
        for i in range(count):
            m = 0 if self.per_arm else among[i]
            row = self.row_of(among[i])
            means[i] = dot_product(self.theta + m * self.width, row, self.width)
            if widths is not NULL:
                widths[i] = sqrt(fmax(0.0, symmetric_quadratic(self.inverse + m * self.size, row, self.width)))

    def scores_of(self, x):
        """Two float64 (K,) for the features x, (d,): the means θ'x and the widths sqrt(x'(A + λ)⁻¹x) of all arms."""
        self.take(x)
        self.limit()
        means, widths = np.empty(self.tally.n_arms), np.empty(self.tally.n_arms)
        self.score(self.everyone, self.tally.n_arms, place_of(means), place_of(widths))
        return means, widths

    @property
    def noise_scale(self):
        """σ: the standard deviation that rewards are found to have about their means; 1 for logistic models."""
        self.check_made()
        return sqrt(self.variance_of_noise())

    cdef double gap_weight(self, Py_ssize_t count) noexcept:
        """γ of the present state."""
        cdef double updates = self.noise[0]
        if self.strength > 0.0:
            return self.strength
        return GAP_FACTOR * sqrt(<double>count * (1.0 + updates) / (self.order * self.variance_of_noise()))

    cdef void score_gaps(self, const Py_ssize_t *among, Py_ssize_t count, double *means, double *widths) noexcept:
        """The predictions between which the gaps are, in `means`."""
        cdef double scale = self.optimism * sqrt(self.variance_of_noise())
        cdef Py_ssize_t i
        self.score(among, count, means, NULL if scale == 0.0 else widths)
        if scale > 0.0:
            for i in range(count):
                means[i] += scale * widths[i]

    cdef void gap_shares(self, const double *means, Py_ssize_t count, double *shares) noexcept:
        """1 / (E + γ gap) for every arm below the best, the rest to the best, evenly where several are."""
        cdef Py_ssize_t i, best = 0
        cdef double largest = means[0], rest = 1.0, weight = self.gap_weight(count)
        for i in range(count):
            largest = fmax(largest, means[i])
        for i in range(count):
            if means[i] == largest:
                best += 1
            else:
                shares[i] = 1.0 / (<double>count + weight * (largest - means[i]))
                rest -= shares[i]
        for i in range(count):
            if means[i] == largest:
                shares[i] = rest / best

    def raw_shares_of(self, x, arms):
        """The policy's shares, float64 (E,), of `arms`, indices (E,), for the features x, (d,).

        For posterior draws of a model for each arm: two arrays, the location and the scale of each arm's score,
        which are normal and independent, up to a common shift and unit.
        """
        cdef const Py_ssize_t[::1] among = arms
        cdef Py_ssize_t i, count = among.shape[0]
        cdef double *means = self.scores
        cdef double *widths = self.scores + self.tally.n_arms
        cdef double scale, largest = -INFINITY
        self.take(x)
        self.limit()
        scale = self.strength * sqrt(self.variance_of_noise())
        if self.how == POSTERIOR_DRAW and self.per_arm:
            return self.votes(arms)
        shares = np.empty(count)
        cdef double[::1] out = shares
        if self.how == INVERSE_GAP:
            self.score_gaps(&among[0], count, means, widths)
            self.gap_shares(means, count, &out[0])
            return shares
        self.score(&among[0], count, means, widths)
        if self.how == POSTERIOR_DRAW:
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

    cdef draw_parameters(self):
        """DRAWS vectors from Normal(θ, strength² σ² (A + λ)⁻¹), float64 (DRAWS, D), which the state determines."""
        if self.stale_models and not self.patient:
            self.freshen()
        # What is learned meanwhile, where this is a thread, is no part of it.
        self.outdated = False
        updates, middle = self.all_updates, self.arrays["theta"][0, : self.order].copy()
        scale = self.strength * sqrt(self.variance_of_noise())
        gram, precision = self.arrays["gram"].copy(), self.arrays["precision"].copy()
        root = np.empty((self.width, self.width))
        work = np.empty((self.width, self.width))
        cdef double *into = place_of(root)
        cdef double *beside = place_of(work)
        cdef const double *sums = place_of(gram)
        cdef const double *least = place_of(precision)
        with nogil:
            symmetric_inverse_root(sums, least, into, beside, self.order, self.width)
        normal = np.random.Generator(np.random.PCG64([DRAW_SEED, updates])).standard_normal(
            (DRAWS, self.order)
        )
        # W W' is the inverse, so W times a standard normal vector has it as its covariance.
        deviations = np.einsum("ij,sj->si", root[: self.order, : self.order], normal)
        self.draws = middle + scale * deviations

    @property
    def drawn(self):
        """Whether there are draws, where shares go by draws of the coefficients."""
        return self.how != POSTERIOR_DRAW or self.per_arm == 0 or self.draws is not None

    @property
    def to_redraw(self):
        """Whether the draws are not of the present state."""
        return not self.drawn or (self.draws is not None and self.outdated)

    def redraw(self):
        """Makes those draws anew. In a thread others may learn and ask for shares meanwhile."""
        self.draw_parameters()

    cdef values_of_draws(self, arms):
        """float64 (DRAWS, E): the value of each of `arms` under each draw, for the present x."""
        cdef const Py_ssize_t[::1] among = arms
        cdef Py_ssize_t i
        if self.draws is None or (self.outdated and not self.patient):
            self.draw_parameters()
        for i in range(among.shape[0]):
            self.row_of(among[i])
        return self.draws @ self.arrays["rows"][arms, : self.order].T

    cdef votes(self, arms):
        """The part of the draws for which each of `arms` is the best; arms that tie share a draw."""
        values = self.values_of_draws(arms)
        best = values == values.max(axis=1, keepdims=True)
        return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)

    # -- the choice

    @property
    def is_free(self):
        """Whether arms are chosen by the rule itself: no cap binds and every arm has had its warm-up."""
        return self.max_share >= 1.0 and self.cold == 0

    cdef Py_ssize_t pick(self, const Py_ssize_t *among, Py_ssize_t count) noexcept:
        """For the present x: with the probability of holdout and floor evenly, otherwise as the rule chooses."""
        cdef double even = self.holdout + (1.0 - self.holdout) * fmin(1.0, <double>count * self.min_share)
        cdef double *means = self.scores
        cdef double *widths = self.scores + self.tally.n_arms
        cdef double *shares = widths + self.tally.n_arms
        cdef double scale, score, highest = -INFINITY, place
        cdef Py_ssize_t i, best = 0, ties = 0
        if even > 0.0 and uniform_double(self.bits) < even:
            return among[uniform_below(self.bits, count)]
        if self.how == INVERSE_GAP:
            self.score_gaps(among, count, means, widths)
            self.gap_shares(means, count, shares)
            place = uniform_double(self.bits)
            for i in range(count):
                place -= shares[i]
                if place < 0.0:
                    return among[i]
                if shares[i] > 0.0:
                    best = i
            return among[best]
        self.score(among, count, means, widths)
        scale = self.strength * sqrt(self.variance_of_noise())
        for i in range(count):
            score = scale * widths[i]
            if self.how == POSTERIOR_DRAW:
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

    cdef Py_ssize_t pick_from(self, const double[::1] shares) noexcept:
        cdef Py_ssize_t k, last = 0
        cdef double place = uniform_double(self.bits)
        for k in range(shares.shape[0]):
            place -= shares[k]
            if shares[k] > 0.0:
                if place < 0.0:
                    return k
                last = k
        return last

    def choose(self, x, eligible=None):
        """The index of one arm for the features x, numbers (d,), chosen with the probabilities `shares(x, eligible)`.

        eligible: bool (K,), or None for all.
        """
        cdef const Py_ssize_t[::1] among
        if self.max_share < 1.0 or self.cold or (self.how == POSTERIOR_DRAW and self.per_arm):
            return self.pick_from(self.shares(x, eligible))
        self.take(x)
        self.limit()
        if eligible is None:
            return self.pick(self.everyone, self.tally.n_arms)
        among = eligible_arms(eligible, self.tally.n_arms)
        return self.pick(&among[0], among.shape[0])

    def choose_many(self, x, eligible=None):
        """The indices, intp (N,), of an arm for each row of x, (N, d): those of N calls of `choose`.

        eligible: bool (K,) for all rows or (N, K) by row, or None for all arms.
        """
        rows = vectors(x, self.n_features, "x")
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

    def statistics(self):
        """Copies of the sums, float64, by name. Of each arm, (K,): n and total, or n, mean and m2, as policies
        without context have them. Of each model: gram, (M, D(D + 1)/2), the upper triangle of A by rows, and
        moment, (M, D), b. Of all: squares, (D,), the sums of x², and noise, (2,), the weight of what the models
        learned and a sum of squared residuals, which logistic models leave at 0.
        """
        names = ("mean", "m2") if self.tally.unbounded else ("total",)
        return {
            "n": self.arrays["n"].copy(),
            **{name: self.arrays[name].copy() for name in names},
            "gram": self.triangles("gram"),
            "moment": self.arrays["moment"][:, : self.order].copy(),
            "squares": self.arrays["squares"][: self.order].copy(),
            "noise": self.arrays["noise"].copy(),
        }

    cdef triangles(self, str name):
        """The upper triangles, by rows, of the matrices of `name`: (M, D(D + 1)/2)."""
        cdef double[:, ::1] out
        cdef const double *matrices = place_of(self.arrays[name])
        cdef Py_ssize_t m, j, at
        packed = np.empty((self.n_models, self.order * (self.order + 1) // 2))
        out = packed
        with nogil:
            for m in range(self.n_models):
                at = 0
                for j in range(self.order):
                    memcpy(
                        &out[m, at],
                        matrices + m * self.size + symmetric_start(j, self.width),
                        (self.order - j) * sizeof(double),
                    )
                    at += self.order - j
        return packed

    cdef unpack(self, str name, packed):
        cdef const double[:, ::1] rows = packed
        cdef double *matrices = place_of(self.arrays[name])
        cdef Py_ssize_t m, j, at
        with nogil:
            for m in range(self.n_models):
                at = 0
                for j in range(self.order):
                    memcpy(
                        matrices + m * self.size + symmetric_start(j, self.width),
                        &rows[m, at],
                        (self.order - j) * sizeof(double),
                    )
                    at += self.order - j
                symmetric_mirror(matrices + m * self.size, self.width)

    cdef dict checked(self, given, dict mine, str what):
        if not isinstance(given, Mapping) or set(given) != set(mine):
            raise InvalidInput(f"{what} must hold {', '.join(mine)} and nothing else")
        arrays = {}
        for name, own in mine.items():
            try:
                array = np.ascontiguousarray(given[name])
            except (TypeError, ValueError):
                array = np.empty(0, dtype=object)
            if array.dtype.kind not in "fiu" or array.shape != own.shape or not np.isfinite(array).all():
                raise InvalidInput(f"{what}.{name} must be finite numbers of shape {own.shape}")
            arrays[name] = array.astype(own.dtype, copy=False)
        return arrays

    def restore(self, statistics):
        """Takes over what `statistics()` gives; InvalidInput when it cannot be of these arms.

        Everything that is derived is made anew, as after `forget`, and `observed` is what is left, rounded down.
        """
        arrays = self.checked(statistics, self.statistics(), "statistics")
        for name in ("n", "total", "m2", "squares", "noise"):
            if name in arrays and (arrays[name] < 0.0).any():
                raise InvalidInput(f"statistics.{name} must not be negative")
        if "total" in arrays and (arrays["total"] > arrays["n"]).any():
            raise InvalidInput("statistics.total must not exceed statistics.n")
        if "mean" in arrays and not (
            (arrays["mean"] >= self.tally.low) & (arrays["mean"] <= self.tally.high)
        ).all():
            raise InvalidInput(f"statistics.mean must be from {self.tally.low} to {self.tally.high}")
        self.unpack("gram", arrays.pop("gram"))
        for name, array in arrays.items():
            own = self.arrays[name].T
            own[: len(array.T)] = array.T
        self.arrays["observed"][:] = np.minimum(self.arrays["n"], 2.0**53)
        seen = self.arrays["n"] if self.n_models > 1 else self.arrays["n"].sum(keepdims=True)
        if self.noise[0] == 0.0:
            # What the arms are known to give was learned without features: the models have seen nothing.
            seen = np.zeros(self.n_models)
        self.arrays["updates"][:] = np.ceil(np.minimum(seen, 2.0**53))
        self.all_updates = self.arrays["updates"].sum()
        self.count_cold()
        self.draws = None
        self.read_precisions()

    def factors(self):
        """Copies of what is derived and cannot be made again bit for bit: precision (D,), inverse (M, D(D + 1)/2)
        and coefficients (M, D), float64; updates, int64 (M,); and `limits_state()`."""
        self.freshen()
        return {
            **self.limits_state(),
            "updates": self.arrays["updates"].copy(),
            "precision": self.arrays["precision"][: self.order].copy(),
            "inverse": self.triangles("inverse"),
            "coefficients": self.arrays["theta"][:, : self.order].copy(),
        }

    def restore_factors(self, factors):
        """Takes over what `factors()` gives, after `restore`; InvalidInput when it cannot be of these models."""
        cdef Py_ssize_t m
        mine = {
            "updates": self.arrays["updates"],
            "precision": self.arrays["precision"][: self.order],
            "inverse": np.empty((self.n_models, self.order * (self.order + 1) // 2)),
            "coefficients": self.arrays["theta"][:, : self.order],
        }
        if not isinstance(factors, Mapping):
            raise InvalidInput(f"factors must hold {', '.join([*mine, *LIMITS])}")
        limits = {name: factors[name] for name in LIMITS if name in factors}
        arrays = self.checked({name: each for name, each in factors.items() if name not in LIMITS}, mine, "factors")
        if (arrays["precision"] <= 0.0).any() or (arrays["updates"] < 0).any():
            raise InvalidInput("factors.precision must be above 0 and factors.updates at least 0")
        self.unpack("inverse", arrays["inverse"])
        self.arrays["updates"][:] = arrays["updates"]
        self.arrays["precision"][: self.order] = arrays["precision"]
        self.arrays["theta"][:, : self.order] = arrays["coefficients"]
        self.all_updates = self.arrays["updates"].sum()
        self.arrays["stale"][:] = 0
        self.stale_models = 0
        for m in range(self.n_models):
            # What nothing was learned for follows from the precisions alone.
            if self.updates[m] == 0:
                self.mark(m)
        self.restore_limits(limits)

    @property
    def randomness(self):
        """The random generator's state: uint64 (4,), the high and low halves of PCG64's state and increment."""
        state = self.generator.state["state"]
        words = [state["state"] >> 64, state["state"], state["inc"] >> 64, state["inc"]]
        return np.array([word & 0xFFFFFFFFFFFFFFFF for word in words], dtype=np.uint64)

    @randomness.setter
    def randomness(self, words):
        array = np.asarray(words)
        if array.dtype != np.uint64 or array.shape != (4,) or not int(array[3]) & 1:
            raise InvalidInput("randomness must be the four uint64 words of a PCG64 state")
        high, low, inc_high, inc_low = (int(word) for word in array)
        self.generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
            "has_uint32": 0,
            "uinteger": 0,
        }


def feature_count(n_features):
    """`n_features` if it is a whole number from 1 to 4,096; InvalidInput otherwise."""
    if isinstance(n_features, (bool, np.bool_)) or not hasattr(n_features, "__index__") or not (
        1 <= n_features <= MOST_FEATURES
    ):
        raise InvalidInput(f"n_features must be a whole number from 1 to {MOST_FEATURES:,}, not {n_features!r}")
    return int(n_features)


def masks_of(eligible, Py_ssize_t rows, Py_ssize_t n_arms):
    """Masks of eligible arms by row, or None for all arms in all rows; InvalidInput for what is neither."""
    if eligible is None:
        return None
    try:
        masks = np.asarray(eligible)
    except ValueError as error:
        raise InvalidInput(f"eligible must be rows of one length: {error}") from None
    if masks.ndim == 1:
        return np.broadcast_to(masks, (rows, masks.shape[0]))
    if masks.shape != (rows, n_arms):
        raise InvalidInput(f"eligible must be of shape {(n_arms,)} or {(rows, n_arms)}, not {masks.shape}")
    return masks


cdef bint normal_scores(
    const double *means, const double *widths, double scale, Py_ssize_t count, double *locations, double *scales
) noexcept nogil:
    """Locations and scales of the scores in units of the largest scale and from the largest mean, as which is best
    does not depend on these. False when no score has a scale."""
    cdef Py_ssize_t i
    cdef double largest = means[0], widest = 0.0
    for i in range(count):
        largest = fmax(largest, means[i])
        widest = fmax(widest, scale * widths[i])
    if widest == 0.0:
        return False
    for i in range(count):
        locations[i] = fmax((means[i] - largest) / widest, -FARTHEST)
        scales[i] = fmax(scale * widths[i] / widest, 1.0 / FARTHEST)
    return True


cdef inline bint is_power_of_two(int64_t count) noexcept nogil:
    return count > 0 and count & (count - 1) == 0


cdef inline double sigmoid(double value) noexcept nogil:
    cdef double rest
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    rest = exp(value)
    return rest / (1.0 + rest)


cdef inline double logistic_weight(double value) noexcept nogil:
    """p(1 - p): what an observation adds to the precision in its direction."""
    cdef double p = sigmoid(-value if value > 0.0 else value)
    return fmax(p * (1.0 - p), LEAST_WEIGHT)


cdef double logistic_step(double mean, double variance, double target) noexcept nogil:
    """s with s = target - σ(mean + s · variance): the coefficients at the maximum are θ + s (A + λ)⁻¹x.

    Newton's steps within the bracket in which the increasing function s + σ(…) - target changes its sign.
    """
    cdef double low = target - 1.0, high = target, s = target - sigmoid(mean), p, rest, following
    cdef int i
    for i in range(MOST_STEPS):
        p = sigmoid(mean + s * variance)
        rest = s + p - target
        if rest > 0.0:
            high = s
        else:
            low = s
        following = s - rest / (1.0 + p * (1.0 - p) * variance)
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if following == s:
            break
        s = following
    return s
