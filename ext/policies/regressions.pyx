# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ridge or logistic regressions that learn row by row: their sums, their inverses, their coefficients.

A model keeps the sums A = Σ w x x' and b = Σ w z x apart from the prior's precisions λ, a diagonal. From them follow
the coefficients θ = (A + λ)⁻¹ b and the inverse itself. Updates change both by rank one (Sherman & Morrison 1950). Both
are made anew from the sums when the number of updates says so, so that rounding does not add up.

For least squares w = 1 and z is the reward. For the logistic model (w, z) is the observation that a Gaussian
posterior takes in place of a reward y in [0, 1]: with the coefficients that maximise prior and likelihood together,
p = σ(θ'x), w = p(1 - p) and z = θ'x + (y - p)/w (Spiegelhalter & Lauritzen 1990; Laplace's approximation).

The precision of feature j is the given one times max(1, c · p) · max(1, s_j), s_j the mean square of x_j in all that
was learned and p = Σ min(1, s_j), the features present in a row: many or large features get a smaller coefficient
each, as if they had been scaled. It is read when the number of all updates is a power of two and when something was
forgotten.
"""

from libc.math cimport fmax, fmin, sqrt
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from logistic cimport logistic_step, logistic_weight
from place cimport place_of
from symmetric cimport (
    add_multiple,
    dot_product,
    symmetric_add,
    symmetric_from_root,
    symmetric_inverse_root,
    symmetric_mirror,
    symmetric_multiply,
    symmetric_start,
)

import numpy as np

from bandit_serve.base.aligned import aligned_zeros
from bandit_serve.errors import InvalidInput
from bandit_serve.policies.arguments import arrays_like

cdef enum:
    MAX_COEFFICIENTS = 4096
    # In all models' matrices: 2 GiB of sums and as much of inverses.
    MAX_NUMBERS = 1 << 28
    # Updates of a model between two inverses made anew: so many, or this many a feature if that is more.
    MIN_BETWEEN = 1024
    BETWEEN_A_FEATURE = 16
    # Draws of coefficients: shares are multiples of 1/DRAWS.
    DRAWS = 256
    # So that the draws of a state are the same in every process.
    DRAW_SEED = 20_200_607

# An update that takes all but this part of the variance in its direction away makes the inverse anew at once: a
# rank-one update would lose as many digits.
cdef double MAX_GAIN = 1000.0
# c, of the prior's precisions.
cdef double PRECISION_A_FEATURE = 0.25
# The noise's variance before anything was seen, and the observations that it weighs as.
cdef double FIRST_VARIANCE = 0.25
cdef double FIRST_WEIGHT = 1.0
cdef double MAX_NOISE = 1e200


cdef inline bint is_power_of_two(int64_t count) noexcept nogil:
    return count > 0 and count & (count - 1) == 0


cdef class Regressions:
    """M models of `order` coefficients each, D, whose rows have the same features and so the same prior.

    logistic: whether the models are logistic; then rewards must be from 0 to 1.
    precision: the least precision of each coefficient's prior, whose mean is 0.
    InvalidInput where their matrices would be too large.
    """

    FACTORS = ("updates", "precision", "inverse", "coefficients")

    def __init__(self, Py_ssize_t n_models, Py_ssize_t order, *, bint logistic, double precision):
        cdef int64_t[::1] updates
        cdef uint8_t[::1] flags
        if order > MAX_COEFFICIENTS:
            raise InvalidInput(f"a model of {order} coefficients is too large; {MAX_COEFFICIENTS} is the most")
        self.n_models, self.order = n_models, order
        self.width = (order + 7) // 8 * 8
        self.size = symmetric_start(self.width, self.width)
        if n_models * self.size > MAX_NUMBERS:
            raise InvalidInput(f"{n_models} models of {order} coefficients each are too large together")
        self.logistic, self.least_precision = logistic, precision
        self.arrays = {
            "updates": np.zeros(n_models, dtype=np.int64),
            "stale": np.zeros(n_models, dtype=np.uint8),
            "gram": aligned_zeros((n_models, self.size), np.float64),
            "inverse": aligned_zeros((n_models, self.size), np.float64),
            "moment": aligned_zeros((n_models, self.width), np.float64),
            "theta": aligned_zeros((n_models, self.width), np.float64),
            "squares": aligned_zeros((self.width,), np.float64),
            "precision": aligned_zeros((self.width,), np.float64),
            "noise": np.zeros(2),
            "direction": aligned_zeros((self.width,), np.float64),
        }
        updates = self.arrays["updates"]
        self.updates = &updates[0]
        flags = self.arrays["stale"]
        self.stale = &flags[0]
        self.gram, self.inverse = place_of(self.arrays["gram"]), place_of(self.arrays["inverse"])
        self.moment, self.theta = place_of(self.arrays["moment"]), place_of(self.arrays["theta"])
        self.squares, self.precision = place_of(self.arrays["squares"]), place_of(self.arrays["precision"])
        self.noise, self.direction = place_of(self.arrays["noise"]), place_of(self.arrays["direction"])
        self.all_updates = self.stale_models = 0
        self.read_precisions()

    # -- the fold

    cdef void fit(self, Py_ssize_t m, const double *row, double target) noexcept:
        """Model m learns `target`, scaled where rewards have bounds, of the features `row`, [width]."""
        cdef double mean, variance, weight, weighed, surprise
        cdef double *theta = self.theta + m * self.width
        cdef Py_ssize_t j
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
            self.noise[1] = fmin(self.noise[1] + surprise * (target - mean), MAX_NOISE)
        self.noise[0] += 1.0
        symmetric_add(self.gram + m * self.size, weight, row, self.width)
        add_multiple(self.moment + m * self.width, weighed, row, self.width)
        for j in range(self.width):
            self.squares[j] += row[j] * row[j]
        self.updates[m] += 1
        self.all_updates += 1
        if is_power_of_two(self.all_updates):
            self.read_precisions()
        elif self.time_to_factorize(m) or weight * variance > MAX_GAIN or self.is_rounding(variance):
            self.mark(m)
        else:
            add_multiple(theta, surprise, self.direction, self.width)
            # Scaled first, so that both halves of a diagonal block stay each other's mirror to the last bit.
            weight = sqrt(weight / (1.0 + weight * variance))
            for j in range(self.width):
                self.direction[j] *= weight
            symmetric_add(self.inverse + m * self.size, -1.0, self.direction, self.width)

    cdef bint is_rounding(self, double variance) noexcept:
        """Return whether no inverse has the present direction and variance, by Cauchy and Schwarz.

        What rounding has made of one grows from row to row.
        """
        cdef Py_ssize_t j
        for j in range(self.order):
            # Written so that NaN is rounding.
            if not self.direction[j] * self.direction[j] * self.precision[j] <= 2.0 * variance:
                return True
        return False

    cdef bint time_to_factorize(self, Py_ssize_t m) noexcept:
        cdef int64_t between = max(<int64_t>MIN_BETWEEN, <int64_t>BETWEEN_A_FEATURE * self.order)
        return self.updates[m] % between == 0 or (self.updates[m] < between and is_power_of_two(self.updates[m]))

    cdef void mark(self, Py_ssize_t m) noexcept:
        """Marks model m: its inverse is made anew before it is used again. The result does not depend on when."""
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
        """Makes the inverse and the coefficients from the sums and the prior."""
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
        """Makes every inverse anew of which it is due."""
        cdef Py_ssize_t m
        for m in range(self.n_models):
            if self.stale[m]:
                self.factorize(m)

    cdef bint freshen_one(self) except -1:
        """Makes one inverse anew, without the interpreter's lock; whether another one took its place."""
        cdef Py_ssize_t m, n = self.size
        cdef double *made
        cdef double *theta
        for m in range(self.n_models):
            if self.stale[m]:
                break
        else:
            return False
        if self.updates[m] == 0:
            self.factorize(m)
            return False
        made = <double *>malloc((n + self.width) * sizeof(double))
        theta = made + n
        with nogil:
            self.invert(m, made, theta)
        memcpy(self.inverse + m * n, made, n * sizeof(double))
        memcpy(self.theta + m * self.width, theta, self.width * sizeof(double))
        free(made)
        self.stale[m] = 0
        self.stale_models -= 1
        return True

    cdef int start_anew(self) except -1:
        """Forgets all that was learned."""
        for name in ("gram", "moment", "theta", "squares", "noise", "updates"):
            self.arrays[name][:] = 0
        self.all_updates = 0
        self.read_precisions()
        return 0

    cdef void forget(self, double factor) noexcept:
        """Multiplies what was learned, but no prior, by `factor`."""
        cdef double rest
        cdef Py_ssize_t i
        for i in range(self.n_models * self.size):
            self.gram[i] *= factor
        for i in range(self.n_models * self.width):
            self.moment[i] *= factor
        # Below a weight of 1e-100 it is gone, as in `tally_forget`.
        rest = factor if self.noise[0] * factor >= 1e-100 else 0.0
        for i in range(self.width):
            self.squares[i] *= rest
        self.noise[0] *= rest
        self.noise[1] *= rest
        self.read_precisions()

    # -- what was learned

    cdef double variance_of_noise(self) noexcept:
        """Mean squared residual, 1 for logistic models: of each update before it, over 1 + x'(A + λ)⁻¹x.

        They sum to what least squares leaves.
        """
        if self.logistic:
            return 1.0
        return (FIRST_WEIGHT * FIRST_VARIANCE + self.noise[1]) / (FIRST_WEIGHT + self.noise[0])

    cdef draws(self, double scale):
        """DRAWS vectors from Normal(θ, scale² (A + λ)⁻¹) of the first model, float64 (DRAWS, D): its state says which.

        Others may learn meanwhile, where this is a thread.
        """
        updates, middle = self.all_updates, self.arrays["theta"][0, : self.order].copy()
        gram, precision = self.arrays["gram"].copy(), self.arrays["precision"].copy()
        root = np.empty((self.width, self.width))
        work = np.empty((self.width, self.width))
        cdef double *factor = place_of(root)
        cdef double *room = place_of(work)
        cdef const double *sums = place_of(gram)
        cdef const double *least = place_of(precision)
        with nogil:
            symmetric_inverse_root(sums, least, factor, room, self.order, self.width)
        normal = np.random.Generator(np.random.PCG64([DRAW_SEED, updates])).standard_normal((DRAWS, self.order))
        # W W' is the inverse, so W times a standard normal vector has it as its covariance.
        deviations = np.einsum("ij,sj->si", root[: self.order, : self.order], normal)
        return middle + scale * deviations

    # -- state

    cdef triangles(self, str name):
        """Upper triangles, by rows, of the matrices of `name`: (M, D(D + 1)/2)."""
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

    cdef dict sums(self):
        """Copies: gram (M, D(D + 1)/2), moment (M, D), squares (D,) and noise (2,), float64."""
        return {
            "gram": self.triangles("gram"),
            "moment": self.arrays["moment"][:, : self.order].copy(),
            "squares": self.arrays["squares"][: self.order].copy(),
            "noise": self.arrays["noise"].copy(),
        }

    cdef int restore(self, dict sums, n) except -1:
        """Takes over what `sums()` gives, checked; n, float64 (K,): the observations of each arm."""
        self.unpack("gram", sums["gram"])
        for name in ("moment", "squares", "noise"):
            own, array = self.arrays[name].T, sums[name].T
            own[: len(array)] = array
        seen = n if self.n_models > 1 else n.sum(keepdims=True)
        if self.noise[0] == 0.0:
            # What the arms are known to give was learned without features: the models have seen nothing.
            seen = np.zeros(self.n_models)
        self.arrays["updates"][:] = np.ceil(np.minimum(seen, 2.0**53))
        self.all_updates = self.arrays["updates"].sum()
        self.read_precisions()
        return 0

    cdef dict factors(self):
        """Copies of what is derived and cannot be made again bit for bit: updates, int64 (M,), precision (D,), inverse
        (M, D(D + 1)/2) and coefficients (M, D), float64."""
        self.freshen()
        return {
            "updates": self.arrays["updates"].copy(),
            "precision": self.arrays["precision"][: self.order].copy(),
            "inverse": self.triangles("inverse"),
            "coefficients": self.arrays["theta"][:, : self.order].copy(),
        }

    cdef int restore_factors(self, dict factors) except -1:
        """Takes over what `factors()` gives, after `restore`; InvalidInput when it cannot be of these models."""
        cdef Py_ssize_t m
        mine = {
            "updates": self.arrays["updates"],
            "precision": self.arrays["precision"][: self.order],
            "inverse": np.empty((self.n_models, self.order * (self.order + 1) // 2)),
            "coefficients": self.arrays["theta"][:, : self.order],
        }
        arrays = arrays_like(factors, mine, "factors")
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
        return 0
