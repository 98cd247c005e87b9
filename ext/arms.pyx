# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The statistics of K arms, the updates that fold rewards into them, and the choice of an arm."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t
from numpy.random cimport bitgen_t

from alias cimport alias_draw, cell_t
from tally cimport chooser_name, chooser_t, tally_accepts, tally_add, tally_merge, tally_t
from uniform cimport uniform_below, uniform_double

from collections.abc import Mapping

import numpy as np

from bandit_serve._draw import alias_table, bit_generator, how_many
from bandit_serve.errors import InvalidInput

# More arms than this are refused: a share vector of them would take longer than any refresh.
MOST_ARMS = 1 << 20


def arm_count(n_arms):
    """`n_arms` if it is a whole number from 1 to 1,048,576; InvalidInput otherwise."""
    if isinstance(n_arms, (bool, np.bool_)) or not hasattr(n_arms, "__index__") or not 1 <= n_arms <= MOST_ARMS:
        raise InvalidInput(f"n_arms must be a whole number from 1 to {MOST_ARMS:,}, not {n_arms!r}")
    return int(n_arms)


def eligible_arms(eligible, Py_ssize_t n_arms):
    """The indices, intp (E,), of the arms that the mask `eligible`, bool (n_arms,), allows; None allows all.

    InvalidInput when it is no such mask or allows none.
    """
    if eligible is None:
        return np.arange(n_arms, dtype=np.intp)
    mask = np.asarray(eligible)
    if mask.dtype != np.bool_ or mask.shape != (n_arms,):
        raise InvalidInput(
            f"eligible must be a mask of {n_arms} booleans, not {mask.dtype} of shape {mask.shape}"
        )
    indices = np.flatnonzero(mask)
    if indices.size == 0:
        raise InvalidInput("at least one arm must be eligible")
    return indices


cdef numbers(values, dtype, str name):
    """`values` as a contiguous array of `dtype`, if it holds numbers of that kind."""
    try:
        array = np.asarray(values)
        if array.size == 0:
            array = array.astype(dtype)
        return array.astype(dtype, order="C", casting="same_kind", copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be a vector of numbers: {error}") from None


cdef class Arms:
    """K arms with what was observed on each; every method either succeeds or changes nothing.

    n_arms: K, 1 to 1,048,576.
    low, high: the range of a reward; what is outside, or NaN, is refused.
    whole: a reward is `low` or `high` and nothing between.
    unbounded: statistics are n, mean and m2 (sum of squared deviations); otherwise n and total, the sum of
        the rewards scaled to [0, 1].
    seed: an int of at least 0, or None for the system's entropy.
    min_share, max_share: the floor and the cap under each arm's probability of being chosen.
    learns: whether an update changes the shares.
    chooser: a capsule as `tally.pxd` describes it, which chooses in C with `parameters`; without it, and
        whenever a cap may bind, an arm is drawn from `self.shares(eligible=…)`, which a subclass gives.
    """

    cdef tally_t tally
    cdef const chooser_t *chooser
    cdef bitgen_t *bits
    cdef const cell_t *cells
    cdef const Py_ssize_t *everyone
    cdef bint learns, table_fresh
    cdef readonly double min_share, max_share
    # The arrays behind the pointers above.
    cdef object n, total, mean, m2, fresh, cache, chooser_parameters, table, indices, generator
    cdef object chooser_capsule

    def __init__(
        self, n_arms, *, low, high, whole, unbounded, seed, min_share, max_share, learns, chooser=None, parameters=()
    ):
        cdef double[::1] view
        cdef const double[::1] constants
        cdef unsigned char[::1] flags
        cdef const Py_ssize_t[::1] indices
        cdef Py_ssize_t count = arm_count(n_arms)
        generator = bit_generator(seed)
        cdef const chooser_t *choosing = NULL
        if chooser is not None:
            choosing = <const chooser_t *>PyCapsule_GetPointer(chooser, chooser_name())
            if choosing.parameters != len(parameters):
                raise InvalidInput(f"the chooser takes {choosing.parameters} parameters, not {len(parameters)}")

        # Without arms nothing is read or chosen until everything is in its place.
        self.tally.n_arms, self.chooser, self.table_fresh = 0, NULL, False
        self.tally.low, self.tally.high = low, high
        self.tally.whole, self.tally.unbounded = whole, unbounded
        self.min_share, self.max_share, self.learns = min_share, max_share, learns
        self.n, self.fresh = np.zeros(count), np.zeros(count, dtype=np.uint8)
        view = self.n
        self.tally.n = &view[0]
        flags = self.fresh
        self.tally.fresh = &flags[0]
        if unbounded:
            self.total, self.mean, self.m2 = None, np.zeros(count), np.zeros(count)
            view = self.mean
            self.tally.mean = &view[0]
            view = self.m2
            self.tally.m2 = &view[0]
        else:
            self.total, self.mean, self.m2 = np.zeros(count), None, None
            view = self.total
            self.tally.total = &view[0]
        self.chooser_capsule = chooser
        if choosing is not NULL:
            self.cache = np.zeros(max(1, count * choosing.cache_width))
            view = self.cache
            self.tally.cache = &view[0]
            self.chooser_parameters = np.array([*parameters, 0.0])
            constants = self.chooser_parameters
            self.tally.parameters = &constants[0]
        self.indices = np.arange(count, dtype=np.intp)
        indices = self.indices
        self.everyone = &indices[0]
        self.generator = generator
        self.bits = <bitgen_t *>PyCapsule_GetPointer(generator.capsule, "BitGenerator")
        self.tally.n_arms, self.chooser = count, choosing

    @property
    def n_arms(self):
        """K."""
        return self.tally.n_arms

    @property
    def counts(self):
        """float64 (K,): observations of each arm."""
        return self.n.copy()

    @property
    def means(self):
        """float64 (K,): each arm's mean reward, in the rewards' own units; NaN where nothing was observed."""
        if self.tally.unbounded:
            return np.where(self.n > 0.0, self.mean, np.nan)
        scaled = np.divide(self.total, self.n, out=np.full(self.tally.n_arms, np.nan), where=self.n > 0.0)
        return self.tally.low + (self.tally.high - self.tally.low) * scaled

    def update(self, arm, reward):
        """Counts one `reward` on `arm` (an index); InvalidInput, and nothing counted, when either is wrong."""
        cdef Py_ssize_t k
        cdef double value
        try:
            k = arm
            value = reward
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput(
                f"an update takes the index of an arm and a number, not {arm!r} and {reward!r}"
            ) from None
        if not 0 <= k < self.tally.n_arms:
            raise InvalidInput(f"arm must be from 0 to {self.tally.n_arms - 1}, not {k}")
        if not tally_accepts(&self.tally, value):
            raise InvalidInput(self._refusal(value))
        tally_add(&self.tally, k, value)
        if self.learns:
            self.table_fresh = False

    def update_many(self, arms, rewards):
        """`update` for each pair of `arms`, integers (N,), and `rewards`, numbers (N,), in their order.

        The statistics are bit for bit those of N single updates. If any pair is wrong: InvalidInput, and
        nothing is counted.
        """
        cdef const int64_t[::1] places
        cdef const double[::1] values
        cdef Py_ssize_t i
        arm_array = numbers(arms, np.int64, "arms")
        reward_array = numbers(rewards, np.float64, "rewards")
        if arm_array.ndim != 1 or arm_array.shape != reward_array.shape:
            raise InvalidInput(
                "arms and rewards must be vectors of the same length, "
                f"not of shapes {arm_array.shape} and {reward_array.shape}"
            )
        places, values = arm_array, reward_array
        for i in range(places.shape[0]):
            if not 0 <= places[i] < self.tally.n_arms:
                raise InvalidInput(f"arms[{i}] must be from 0 to {self.tally.n_arms - 1}, not {places[i]}")
            if not tally_accepts(&self.tally, values[i]):
                raise InvalidInput(f"rewards[{i}]: {self._refusal(values[i])}")
        for i in range(places.shape[0]):
            tally_add(&self.tally, places[i], values[i])
        if self.learns and places.shape[0] > 0:
            self.table_fresh = False

    def update_counts(self, counts, value):
        """Counts `value` counts[k] times on each arm k, in closed form; `counts`: integers (K,) of at least 0."""
        cdef const int64_t[::1] weights
        cdef Py_ssize_t k
        cdef double each = self._reward(value)
        array = numbers(counts, np.int64, "counts")
        if array.shape != (self.tally.n_arms,):
            raise InvalidInput(f"counts must be a vector of {self.tally.n_arms}, not of shape {array.shape}")
        weights = array
        for k in range(weights.shape[0]):
            if weights[k] < 0:
                raise InvalidInput(f"counts[{k}] must be at least 0, not {weights[k]}")
        for k in range(weights.shape[0]):
            tally_merge(&self.tally, k, <double>weights[k], each)
        if self.learns:
            self.table_fresh = False

    def statistics(self, pending=None, pending_value=0.0):
        """Copies of the arrays (K,) by name: n and total, or n, mean and m2.

        `pending`, numbers (K,) of at least 0, is the weight of further observations of `pending_value` on
        each arm, merged into the copies only.
        """
        cdef tally_t copy = self.tally
        cdef const double[::1] weights
        cdef double[::1] view
        cdef unsigned char[::1] flags
        cdef Py_ssize_t k
        cdef double each
        if self.tally.unbounded:
            arrays = {"n": self.n.copy(), "mean": self.mean.copy(), "m2": self.m2.copy()}
        else:
            arrays = {"n": self.n.copy(), "total": self.total.copy()}
        if pending is None:
            return arrays
        each = self._reward(pending_value)
        array = numbers(pending, np.float64, "pending")
        if array.shape != (self.tally.n_arms,):
            raise InvalidInput(f"pending must be a vector of {self.tally.n_arms}, not of shape {array.shape}")
        weights = array
        for k in range(weights.shape[0]):
            if not (isfinite(weights[k]) and weights[k] >= 0.0):
                raise InvalidInput(f"pending[{k}] must be finite and at least 0, not {weights[k]}")
        view = arrays["n"]
        copy.n = &view[0]
        if self.tally.unbounded:
            view = arrays["mean"]
            copy.mean = &view[0]
            view = arrays["m2"]
            copy.m2 = &view[0]
        else:
            view = arrays["total"]
            copy.total = &view[0]
        scratch = np.empty(self.tally.n_arms, dtype=np.uint8)
        flags = scratch
        copy.fresh = &flags[0]
        for k in range(weights.shape[0]):
            tally_merge(&copy, k, weights[k], each)
        return arrays

    def restore(self, statistics):
        """Takes over arrays as `statistics()` gives them; InvalidInput when they cannot be of these arms."""
        mine = self.statistics()
        if not isinstance(statistics, Mapping) or set(statistics) != set(mine):
            raise InvalidInput(f"statistics must hold {', '.join(mine)} and nothing else")
        arrays = {name: numbers(values, np.float64, name) for name, values in statistics.items()}
        for name, array in arrays.items():
            if array.shape != (self.tally.n_arms,) or not np.isfinite(array).all():
                raise InvalidInput(f"statistics.{name} must be {self.tally.n_arms} finite numbers")
        if (arrays["n"] < 0.0).any() or any((arrays[name] < 0.0).any() for name in ("total", "m2") if name in arrays):
            raise InvalidInput("statistics must not be negative")
        # Rounding is monotone, so not even the rounded sum of rewards in [0, 1] can pass their count.
        if "total" in arrays and (arrays["total"] > arrays["n"]).any():
            raise InvalidInput("statistics.total must not exceed statistics.n")
        if "mean" in arrays and not (
            (arrays["mean"] >= self.tally.low) & (arrays["mean"] <= self.tally.high)
        ).all():
            raise InvalidInput(f"statistics.mean must be from {self.tally.low} to {self.tally.high}")
        for name, array in arrays.items():
            {"n": self.n, "total": self.total, "mean": self.mean, "m2": self.m2}[name][:] = array
        self.fresh[:] = 0
        self.table_fresh = False

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

    def choose(self, *, eligible=None):
        """The index of one arm, chosen with the probabilities `shares(eligible=eligible)`."""
        cdef const Py_ssize_t[::1] among
        if eligible is None:
            if self.chooser is not NULL and self.max_share >= 1.0:
                return self.pick(self.everyone, self.tally.n_arms)
            if not self.table_fresh:
                self.tabulate()
            return alias_draw(self.cells, self.tally.n_arms, self.bits)
        return int(self.choose_many(1, eligible=eligible)[0])

    def choose_many(self, n, *, eligible=None):
        """The indices, intp (n,), of `n` arms chosen from the present state: those of `n` calls of `choose`."""
        cdef Py_ssize_t[::1] arms
        cdef const Py_ssize_t[::1] among
        cdef const uint64_t[:, ::1] view
        cdef const cell_t *cells
        cdef Py_ssize_t i
        out = np.empty(how_many(n), dtype=np.intp)
        arms = out
        if self.chooser is not NULL and self.max_share >= 1.0:
            indices = self.indices if eligible is None else eligible_arms(eligible, self.tally.n_arms)
            among = indices
            for i in range(arms.shape[0]):
                arms[i] = self.pick(&among[0], among.shape[0])
            return out
        if eligible is None:
            if not self.table_fresh:
                self.tabulate()
            cells = self.cells
        else:
            table = alias_table(self.shares(eligible=eligible))
            view = table
            cells = <const cell_t *>&view[0, 0]
        for i in range(arms.shape[0]):
            arms[i] = alias_draw(cells, self.tally.n_arms, self.bits)
        return out

    cdef Py_ssize_t pick(self, const Py_ssize_t *among, Py_ssize_t count) noexcept:
        """The floor is a mixture: with probability count · min_share evenly, otherwise as the policy chooses."""
        if self.min_share > 0.0 and uniform_double(self.bits) < <double>count * self.min_share:
            return among[uniform_below(self.bits, count)]
        return self.chooser.choose(&self.tally, among, count, self.bits)

    cdef tabulate(self):
        cdef const uint64_t[:, ::1] view
        table = alias_table(self.shares())
        if table.shape[0] != self.tally.n_arms:
            raise InvalidInput(f"shares must be {self.tally.n_arms} numbers, not {table.shape[0]}")
        view = table
        self.table = table
        self.cells = <const cell_t *>&view[0, 0]
        self.table_fresh = True

    cdef double _reward(self, value) except? -1.0:
        cdef double reward
        try:
            reward = value
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput(f"a reward must be a number, not {value!r}") from None
        if not tally_accepts(&self.tally, reward):
            raise InvalidInput(self._refusal(reward))
        return reward

    cdef str _refusal(self, double reward):
        if self.tally.whole:
            return f"a reward must be {self.tally.low:g} or {self.tally.high:g}, not {reward}"
        return f"a reward must be from {self.tally.low:g} to {self.tally.high:g}, not {reward}"
