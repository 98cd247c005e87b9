# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Statistics of K arms, the updates that fold rewards into them, and the choice of an arm."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport isfinite, isnan, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from numpy.random cimport bitgen_t

from alias cimport alias_draw, cell_t
from tally cimport (
    chooser_name,
    chooser_t,
    scale_of,
    tally_accepts,
    tally_add,
    tally_forget,
    tally_merge,
    tally_revise,
    tally_t,
    tally_withdraw,
)
from uniform cimport uniform_below, uniform_double

from collections.abc import Mapping

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.policies._draw import alias_table, bit_generator, how_many
from bandit_serve.policies.randomness import generator_words, restore_generator

# More arms than this are refused: a share vector of them would take longer than any refresh.
MAX_ARMS = 1 << 20

cdef enum:
    REDRAWS = 64

# Of a leading arm's challenger, before it is drawn among the others alone.
MAX_REDRAWS = REDRAWS


def arm_count(n_arms):
    """`n_arms` if it is a whole number from 1 to 1,048,576; InvalidInput otherwise."""
    if isinstance(n_arms, (bool, np.bool_)) or not hasattr(n_arms, "__index__") or not 1 <= n_arms <= MAX_ARMS:
        raise InvalidInput(f"n_arms must be a whole number from 1 to {MAX_ARMS:,}, not {n_arms!r}")
    return int(n_arms)


def eligible_arms(eligible, Py_ssize_t n_arms):
    """Indices, intp (E,), of the arms that the mask `eligible`, bool (n_arms,), allows; None allows all.

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


def deviation(const double[::1] n, const double[::1] mean, const double[::1] m2):
    """Standard deviation of an arm's rewards, above 0, as the n, mean and m2 of K arms, (K,), have shown it: see
    `scale_of` in `tally.pxd`."""
    if n.shape[0] == 0 or mean.shape[0] != n.shape[0] or m2.shape[0] != n.shape[0]:
        raise InvalidInput("n, mean and m2 must be of the same arms, at least one")
    return sqrt(scale_of(&n[0], &mean[0], &m2[0], NULL, n.shape[0]).variance)


cdef numbers(values, dtype, str name):
    """`values` as a contiguous array of `dtype`, if it holds numbers of that kind."""
    try:
        array = np.asarray(values)
        if array.size == 0:
            array = array.astype(dtype)
        return array.astype(dtype, order="C", casting="same_kind", copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be a vector of numbers: {error}") from None


cdef double probability(value) except -1.0:
    cdef double chance
    try:
        chance = value
    except (TypeError, ValueError):
        raise InvalidInput(f"a propensity must be a number, not {value!r}") from None
    if not 0.0 < chance <= 1.0:
        raise InvalidInput(f"a propensity must be above 0 and at most 1, not {chance}")
    return chance


cdef probabilities(values, shape):
    """`values` as float64 of `shape`, of one dimension; InvalidInput unless they are from above 0 to 1."""
    cdef const double[::1] view
    cdef Py_ssize_t i
    array = numbers(values, np.float64, "propensities")
    if array.shape != shape:
        raise InvalidInput(f"propensities must be of shape {shape}, not {array.shape}")
    view = array
    for i in range(view.shape[0]):
        if not 0.0 < view[i] <= 1.0:
            raise InvalidInput("propensities must be above 0 and at most 1")
    return array


cdef class Arms:
    """K arms with what was observed on each; every method either succeeds or changes nothing.

    n_arms: K, 1 to 1,048,576.
    low, high: the range of a reward; what is outside, or NaN, is refused.
    whole: a reward is `low` or `high` and nothing between.
    unbounded: statistics are n, mean and m2 (sum of squared deviations); otherwise n and total, the sum of
        the rewards scaled to [0, 1].
    seed: an int of at least 0, or None for the system's entropy.
    min_share, max_share: the floor and the cap under each arm's probability of being chosen.
    holdout: the share that is split evenly among the arms, whatever the policy says.
    warmup: while an arm was observed less often, the shares are not the policy's.
    learns: whether an update changes the shares.
    weighs: whether a reward is weighed by the propensity of its arm; then the statistics hold gain, too.
    chooser: a capsule as `tally.pxd` describes it, which chooses in C with `parameters`, (P,) or (K, P); without
        it, in the warm-up, and whenever a cap may bind, an arm is drawn from `self.shares(eligible=…)`, which a
        subclass gives.
    leading: the probability with which the arm that the chooser comes upon is taken; otherwise it is asked again
        until it comes upon another, `MAX_REDRAWS` times at most, and then it is asked for one among the others.
    """

    cdef tally_t tally
    cdef const chooser_t *chooser
    cdef bitgen_t *bits
    cdef const cell_t *cells
    cdef const Py_ssize_t *everyone
    cdef bint learns, table_fresh
    cdef readonly double min_share, max_share, holdout
    cdef readonly int64_t warmup
    cdef double leading
    # The arms that were observed less than `warmup` times.
    cdef Py_ssize_t cold
    # The arrays behind the pointers above.
    cdef object n, total, mean, m2, gain, seen, fresh, cache, chooser_parameters, table, indices, generator
    cdef object chooser_capsule

    def __init__(
        self,
        n_arms,
        *,
        low,
        high,
        whole,
        unbounded,
        seed,
        min_share,
        max_share,
        holdout,
        warmup,
        learns,
        weighs,
        leading=1.0,
        chooser=None,
        parameters=(),
    ):
        cdef double[::1] view
        cdef const double[:, ::1] constants
        cdef int64_t[::1] times
        cdef unsigned char[::1] flags
        cdef const Py_ssize_t[::1] indices
        cdef Py_ssize_t count = arm_count(n_arms)
        generator = bit_generator(seed)
        cdef const chooser_t *choosing = NULL
        if chooser is not None:
            choosing = <const chooser_t *>PyCapsule_GetPointer(chooser, chooser_name())
            given = np.atleast_2d(np.array(parameters, dtype=np.float64))
            if given.shape not in ((1, choosing.parameters), (count, choosing.parameters)):
                raise InvalidInput(
                    f"the chooser takes {choosing.parameters} parameters an arm, not an array of {given.shape}"
                )

        # Without arms nothing is read or chosen until everything is in its place.
        self.tally.n_arms, self.chooser = 0, NULL
        self._changed()
        self.tally.low, self.tally.high = low, high
        self.tally.whole, self.tally.unbounded, self.tally.weighs = whole, unbounded, weighs
        self.min_share, self.max_share, self.learns = min_share, max_share, learns
        self.holdout, self.warmup, self.leading = holdout, warmup, leading
        self.cold = count if warmup > 0 else 0
        self.n, self.fresh = np.zeros(count), np.zeros(count, dtype=np.uint8)
        view = self.n
        self.tally.n = &view[0]
        flags = self.fresh
        self.tally.fresh = &flags[0]
        self.seen = np.zeros(count, dtype=np.int64)
        times = self.seen
        self.tally.observed = &times[0]
        self.gain = np.zeros(count) if weighs else None
        if weighs:
            view = self.gain
            self.tally.gain = &view[0]
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
            # One number more, so that there is a first one.
            self.chooser_parameters = np.hstack([given, np.zeros((len(given), 1))])
            constants = self.chooser_parameters
            self.tally.parameters = &constants[0, 0]
            self.tally.stride = constants.shape[1] if constants.shape[0] > 1 else 0
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
        # Rounding alone could pass a bound.
        return np.minimum(self.tally.low + (self.tally.high - self.tally.low) * scaled, self.tally.high)

    @property
    def observed(self):
        """int64 (K,): how often each arm was observed, forgotten or not; `warmup` goes by it."""
        return self.seen.copy()

    @observed.setter
    def observed(self, counts):
        array = numbers(counts, np.int64, "observed")
        if array.shape != (self.tally.n_arms,) or (array < 0).any():
            raise InvalidInput(f"observed must be {self.tally.n_arms} whole numbers of at least 0")
        self.seen[:] = array
        self._seen_changed()

    cdef inline void _changed(self) noexcept:
        self.table_fresh = False

    cdef _seen_changed(self):
        self.cold = int(np.count_nonzero(self.seen < self.warmup))
        self._changed()

    def update(self, arm, reward, propensity=None):
        """Counts one `reward` on `arm` (an index); InvalidInput, and nothing counted, when anything is wrong.

        propensity: the probability, in (0, 1], with which the arm was chosen, for a policy that weighs; if not
            given it is the arm's present share. What is below 1e-100 counts as that. Other policies do not look at it.
        """
        cdef Py_ssize_t k
        cdef double value, chance = 1.0
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
        if self.tally.weighs:
            chance = self._present_share(k) if propensity is None else probability(propensity)
        tally_add(&self.tally, k, value, chance, True)
        if self.cold:
            self._seen_changed()
        if self.learns:
            self._changed()

    def update_many(self, arms, rewards, propensities=None):
        """`update` for each pair of `arms`, integers (N,), and `rewards`, numbers (N,), in their order.

        propensities: (N,), as in `update`. The statistics are bit for bit those of N single updates. If anything
        is wrong: InvalidInput, and nothing is counted.
        """
        cdef const int64_t[::1] places
        cdef const double[::1] values, chances
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
        if not self.tally.weighs:
            for i in range(places.shape[0]):
                tally_add(&self.tally, places[i], values[i], 1.0, True)
        elif propensities is not None:
            chances = probabilities(propensities, arm_array.shape)
            for i in range(places.shape[0]):
                tally_add(&self.tally, places[i], values[i], chances[i], True)
        else:
            for i in range(places.shape[0]):
                tally_add(&self.tally, places[i], values[i], self._present_share(places[i]), True)
                if self.cold:
                    self._seen_changed()
                self._changed()
        if self.cold and places.shape[0] > 0:
            self._seen_changed()
        if self.learns and places.shape[0] > 0:
            self._changed()

    def revise_many(self, arms, formers, rewards, propensities=None, weights=None):
        """Corrects what was learned: an observation of each of `arms`, integers (N,), was not of formers[i] but of
        rewards[i], numbers (N,), in their order.

        A former of NaN is an observation that comes only now, a reward of NaN one that is taken back; not both.
        weights: (N,), from 0 to 1, what forgetting has left of each observation since it was made, 1 unless given.
        propensities: (N,), as in `update`, those that the observations were learned with. What is not as it was learned
        can not take the statistics out of their ranges. If anything is wrong: InvalidInput, and nothing is changed.
        """
        cdef const int64_t[::1] places
        cdef const double[::1] olds, values, chances, left
        cdef double chance = 1.0, weight
        cdef Py_ssize_t i, k
        arm_array = numbers(arms, np.int64, "arms")
        columns = [numbers(formers, np.float64, "formers"), numbers(rewards, np.float64, "rewards")]
        columns.append(np.ones(arm_array.shape) if weights is None else numbers(weights, np.float64, "weights"))
        for array in columns:
            if arm_array.ndim != 1 or arm_array.shape != array.shape:
                raise InvalidInput(
                    "arms, formers, rewards and weights must be vectors of the same length, "
                    f"not of shapes {arm_array.shape} and {array.shape}"
                )
        places = arm_array
        olds, values, left = columns
        for i in range(places.shape[0]):
            if not 0 <= places[i] < self.tally.n_arms:
                raise InvalidInput(f"arms[{i}] must be from 0 to {self.tally.n_arms - 1}, not {places[i]}")
            if isnan(olds[i]) and isnan(values[i]):
                raise InvalidInput(f"formers[{i}] or rewards[{i}] must be a number")
            if not (isnan(olds[i]) or tally_accepts(&self.tally, olds[i])):
                raise InvalidInput(f"formers[{i}]: {self._refusal(olds[i])}")
            if not (isnan(values[i]) or tally_accepts(&self.tally, values[i])):
                raise InvalidInput(f"rewards[{i}]: {self._refusal(values[i])}")
            if not 0.0 <= left[i] <= 1.0:
                raise InvalidInput(f"weights[{i}] must be from 0 to 1, not {left[i]}")
        if self.tally.weighs and propensities is not None:
            chances = probabilities(propensities, arm_array.shape)
        for i in range(places.shape[0]):
            k, weight = places[i], left[i]
            if self.tally.weighs:
                chance = self._present_share(k) if propensities is None else chances[i]
            if isnan(values[i]):
                tally_withdraw(&self.tally, k, weight, olds[i], chance)
                self.tally.observed[k] -= self.tally.observed[k] > 0
            elif not isnan(olds[i]):
                tally_revise(&self.tally, k, weight, olds[i], values[i], chance)
            elif weight == 1.0:
                tally_add(&self.tally, k, values[i], chance, True)
            else:
                tally_merge(&self.tally, k, weight, values[i], chance)
                self.tally.observed[k] += 1
            if self.tally.weighs and propensities is None:
                self._seen_changed()
        # Fewer may have been observed than before.
        if self.warmup > 0 and places.shape[0] > 0:
            self._seen_changed()
        if self.learns and places.shape[0] > 0:
            self._changed()

    def update_counts(self, counts, value, propensities=None):
        """Counts `value` counts[k] times on each arm k, in closed form; `counts`: integers (K,) of at least 0.

        propensities: (K,), those of each arm, for a policy that weighs; its present shares if not given.
        """
        cdef const int64_t[::1] weights
        cdef const double[::1] chances
        cdef Py_ssize_t k
        cdef double each = self._reward(value)
        array = numbers(counts, np.int64, "counts")
        if array.shape != (self.tally.n_arms,):
            raise InvalidInput(f"counts must be a vector of {self.tally.n_arms}, not of shape {array.shape}")
        weights = array
        for k in range(weights.shape[0]):
            if weights[k] < 0:
                raise InvalidInput(f"counts[{k}] must be at least 0, not {weights[k]}")
        chances = self._chances(propensities)
        for k in range(weights.shape[0]):
            tally_merge(&self.tally, k, <double>weights[k], each, chances[k])
            self.tally.observed[k] += weights[k]
        if self.cold:
            self._seen_changed()
        if self.learns:
            self._changed()

    def forget(self, factor):
        """Multiplies what was learned, but no prior, by `factor`, from above 0 to 1; 1 changes nothing.

        What is left of a weight below 1e-100 is dropped.
        """
        cdef double kept
        try:
            kept = factor
        except (TypeError, ValueError):
            raise InvalidInput(f"factor must be a number, not {factor!r}") from None
        if not 0.0 < kept <= 1.0:
            raise InvalidInput(f"factor must be above 0 and at most 1, not {kept}")
        if kept < 1.0:
            tally_forget(&self.tally, kept)
            if self.learns:
                self._changed()

    def statistics(self, pending=None, pending_value=0.0):
        """Copies of the arrays (K,) by name: n and total (and gain where it weighs), or n, mean and m2.

        `pending`, numbers (K,) of at least 0, is the weight of further observations of `pending_value` on
        each arm, merged into the copies only.
        """
        cdef tally_t copy = self.tally
        cdef const double[::1] weights, chances
        cdef double[::1] view
        cdef unsigned char[::1] flags
        cdef Py_ssize_t k
        cdef double each
        if self.tally.unbounded:
            arrays = {"n": self.n.copy(), "mean": self.mean.copy(), "m2": self.m2.copy()}
        else:
            arrays = {"n": self.n.copy(), "total": self.total.copy()}
        if self.tally.weighs:
            arrays["gain"] = self.gain.copy()
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
        if self.tally.weighs:
            view = arrays["gain"]
            copy.gain = &view[0]
        scratch = np.empty(self.tally.n_arms, dtype=np.uint8)
        flags = scratch
        copy.fresh = &flags[0]
        chances = self._chances(None)
        for k in range(weights.shape[0]):
            tally_merge(&copy, k, weights[k], each, chances[k])
        return arrays

    def restore(self, statistics):
        """Takes over arrays as `statistics()` gives them; InvalidInput when they cannot be of these arms.

        `observed` is then what is left of the observations, rounded down.
        """
        mine = self.statistics()
        if not isinstance(statistics, Mapping) or set(statistics) != set(mine):
            raise InvalidInput(f"statistics must hold {', '.join(mine)} and nothing else")
        arrays = {name: numbers(values, np.float64, name) for name, values in statistics.items()}
        for name, array in arrays.items():
            if array.shape != (self.tally.n_arms,) or not np.isfinite(array).all():
                raise InvalidInput(f"statistics.{name} must be {self.tally.n_arms} finite numbers")
        if (arrays["n"] < 0.0).any() or any(
            (arrays[name] < 0.0).any() for name in ("total", "m2", "gain") if name in arrays
        ):
            raise InvalidInput("statistics must not be negative")
        # Rounding is monotone, so not even the rounded sum of rewards in [0, 1] can pass their count.
        if "total" in arrays and (arrays["total"] > arrays["n"]).any():
            raise InvalidInput("statistics.total must not exceed statistics.n")
        if "mean" in arrays and not (
            (arrays["mean"] >= self.tally.low) & (arrays["mean"] <= self.tally.high)
        ).all():
            raise InvalidInput(f"statistics.mean must be from {self.tally.low} to {self.tally.high}")
        own = {"n": self.n, "total": self.total, "mean": self.mean, "m2": self.m2, "gain": self.gain}
        for name, array in arrays.items():
            own[name][:] = array
        self.fresh[:] = 0
        self.seen[:] = np.minimum(self.n, 2.0**53)
        self._seen_changed()

    @property
    def randomness(self):
        """Random generator's state: uint64 (4,), the high and low halves of PCG64's state and increment."""
        return generator_words(self.generator)

    @randomness.setter
    def randomness(self, words):
        restore_generator(self.generator, words)

    def choose(self, *, eligible=None):
        """Index of one arm, chosen with the probabilities `shares(eligible=eligible)`."""
        if eligible is None:
            if self.samples():
                return self.pick(self.everyone, self.tally.n_arms)
            if not self.table_fresh:
                self.tabulate()
            return alias_draw(self.cells, self.tally.n_arms, self.bits)
        return int(self.choose_many(1, eligible=eligible)[0])

    def choose_many(self, n, *, eligible=None):
        """Indices, intp (n,), of `n` arms chosen from the present state: those of `n` calls of `choose`."""
        cdef Py_ssize_t[::1] arms
        cdef const Py_ssize_t[::1] among
        cdef const uint64_t[:, ::1] view
        cdef const cell_t *cells
        cdef Py_ssize_t i
        out = np.empty(how_many(n), dtype=np.intp)
        arms = out
        if self.samples():
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

    cdef bint samples(self) noexcept:
        """Return whether an arm is chosen by the chooser and not from the table of shares."""
        return self.chooser is not NULL and self.max_share >= 1.0 and self.cold == 0

    cdef double even_part(self, Py_ssize_t count) noexcept:
        """Share that is split evenly among `count` arms: the holdout, and the floor in what that leaves."""
        return self.holdout + (1.0 - self.holdout) * min(1.0, <double>count * self.min_share)

    cdef Py_ssize_t pick(self, const Py_ssize_t *among, Py_ssize_t count) except -1:
        """Chooses an arm: with the probability of the even part evenly, otherwise as the policy chooses."""
        cdef Py_ssize_t arm
        cdef double even = self.even_part(count)
        if even > 0.0 and uniform_double(self.bits) < even:
            return among[uniform_below(self.bits, count)]
        arm = self.chooser.choose(&self.tally, among, count, self.bits)
        if self.leading < 1.0 and count > 1 and uniform_double(self.bits) >= self.leading:
            return self.challenger(arm, among, count)
        return arm

    cdef Py_ssize_t challenger(self, Py_ssize_t leader, const Py_ssize_t *among, Py_ssize_t count) except -1:
        cdef Py_ssize_t _, i, arm, left = 0
        cdef Py_ssize_t *others
        if count == 2:
            return among[1] if among[0] == leader else among[0]
        for _ in range(REDRAWS):
            arm = self.chooser.choose(&self.tally, among, count, self.bits)
            if arm != leader:
                return arm
        others = <Py_ssize_t *>malloc(count * sizeof(Py_ssize_t))
        if others is NULL:
            raise MemoryError()
        for i in range(count):
            if among[i] != leader:
                others[left] = among[i]
                left += 1
        arm = self.chooser.choose(&self.tally, others, left, self.bits)
        free(others)
        return arm

    cdef double _present_share(self, Py_ssize_t arm) except -1.0:
        cdef double even
        if self.samples() and self.chooser.share is not NULL:
            even = self.even_part(self.tally.n_arms)
            return even / self.tally.n_arms + (1.0 - even) * self.chooser.share(&self.tally, arm)
        share = self.shares()[arm]
        # What has the share 0 was not chosen; where it was observed all the same, it counts once.
        return share if share > 0.0 else 1.0

    cdef _chances(self, propensities):
        """Propensities given, or else each arm's present share if the policy weighs, or else any numbers."""
        if not self.tally.weighs:
            return self.n
        if propensities is not None:
            return probabilities(propensities, (self.tally.n_arms,))
        shares = self.shares()
        shares[shares == 0.0] = 1.0
        return shares

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
