# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Biased matrix factorization: a rating is μ + b_u + b_i + p_u·q_i (Koren, Bell, Volinsky 2009, eq. 4)."""

import numpy as np

from bandit_serve.models._ids import IdTable
from bandit_serve.models._top_k import TopK
from bandit_serve.errors import InvalidInput

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from numpy.random cimport bitgen_t

from idhash cimport IdView, id_row
from vectors cimport LANES, cloned_double, dot

cnp.import_array()

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define bandit_prefetch(address) __builtin_prefetch(address)
    #else
    #define bandit_prefetch(address) ((void) (address))
    #endif
    """
    void prefetch "bandit_prefetch"(const void *) noexcept nogil

# One rating as the training loop reads it: rows, not ids.
SAMPLE = np.dtype([("user", np.int32), ("item", np.int32), ("rating", np.float32)])

cdef packed struct Sample:
    int32_t user
    int32_t item
    float rating

cdef enum:
    AHEAD = 8  # how many samples or pairs ahead rows are fetched
    CACHED = 1 << 20  # bytes of rows that are near anyway
    OVERSHOOTS = 8  # an error from which on a step at a usual rate might overshoot


cdef inline void step(float *p, float *q, Py_ssize_t n, float rate_error, float shrink) noexcept nogil:
    """p, q ← shrink·p + rate·error·q, shrink·q + rate·error·p, where shrink = 1 − rate·regularization."""
    cdef Py_ssize_t at = 0, lane
    cdef float old_p[LANES]
    cdef float old_q[LANES]
    cdef float one
    while at + LANES <= n:
        for lane in range(LANES):
            old_p[lane] = p[at + lane]
        for lane in range(LANES):
            old_q[lane] = q[at + lane]
        for lane in range(LANES):
            p[at + lane] = shrink * old_p[lane] + rate_error * old_q[lane]
        for lane in range(LANES):
            q[at + lane] = shrink * old_q[lane] + rate_error * old_p[lane]
        at += LANES
    while at < n:
        one = p[at]
        p[at] = shrink * one + rate_error * q[at]
        q[at] = shrink * q[at] + rate_error * one
        at += 1


cdef inline void fetch(const float *row, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(0, n, 16):  # 16 floats are a cache line
        prefetch(row + at)


cdef inline uint32_t below(bitgen_t *random, uint32_t bound) noexcept nogil:
    """Uniform on 0 … bound − 1 without bias (Lemire 2019, algorithm 5)."""
    cdef uint64_t product = <uint64_t> random.next_uint32(random.state) * bound
    cdef uint32_t floor
    if <uint32_t> product < bound:
        floor = (0 - bound) % bound
        while <uint32_t> product < floor:
            product = <uint64_t> random.next_uint32(random.state) * bound
    return <uint32_t> (product >> 32)


cdef cloned_double descend(const Sample *samples, Py_ssize_t n, float *users, float *items, float *user_biases,
                           float *item_biases, Py_ssize_t f, float base, float rate, float bias_shrink,
                           float factor_shrink) noexcept nogil:
    """One step for each sample, in their order; the sum of squared errors."""
    cdef Py_ssize_t at
    cdef double squares = 0
    cdef float error
    cdef float *p
    cdef float *q
    cdef Sample one, next_one
    for at in range(n):
        if at + AHEAD < n:
            next_one = samples[at + AHEAD]
            fetch(users + next_one.user * f, f)
            fetch(items + next_one.item * f, f)
        one = samples[at]
        p = users + one.user * f
        q = items + one.item * f
        error = one.rating - (base + user_biases[one.user] + item_biases[one.item] + dot(p, q, f))
        squares += error * error
        if error > OVERSHOOTS or error < -OVERSHOOTS:
            error /= 1 + rate * (2 + dot(p, p, f) + dot(q, q, f))
        user_biases[one.user] = bias_shrink * user_biases[one.user] + rate * error
        item_biases[one.item] = bias_shrink * item_biases[one.item] + rate * error
        step(p, q, f, rate * error, factor_shrink)
    return squares


def sgd_epoch(Sample[::1] samples, generator, float[:, ::1] user_factors, float[:, ::1] item_factors,
              float[::1] user_biases, float[::1] item_biases, double mean, double rate,
              double bias_regularization, double factor_regularization):
    """One pass of stochastic gradient descent over all samples in a fresh random order.

    For each sample with error e = r − prediction: b ← b + rate·(e − bias_regularization·b) for both biases and
    p, q ← p + rate·(e·q − factor_regularization·p), q + rate·(e·p − factor_regularization·q).
    Where |e| > 8 the step is the implicit one, to first order (Kulis and Bartlett 2010): e is divided by
    1 + rate·(2 + |p|² + |q|²), so that a single large rating does not make it overshoot.

    Parameters
    ----------
    samples : (n,) of dtype SAMPLE; shuffled in place
    generator : numpy.random.Generator, which the order is drawn from
    user_factors, item_factors : (n_users, f), (n_items, f) float32; updated in place
    user_biases, item_biases : (n_users,), (n_items,) float32; updated in place
    mean, rate : μ and the learning rate

    Returns the mean squared error of the samples, each before its own update; infinite or NaN when it
    diverged. Raises InvalidInput when shapes disagree or a sample's row does not exist.
    """
    cdef Py_ssize_t n = samples.shape[0], f = user_factors.shape[1]
    cdef Py_ssize_t n_users = user_factors.shape[0], n_items = item_factors.shape[0]
    cdef Py_ssize_t at, other, wrong = 0
    cdef float lr = <float> rate
    cdef float bias_shrink = <float> (1 - rate * bias_regularization)
    cdef float factor_shrink = <float> (1 - rate * factor_regularization)
    cdef float base = <float> mean
    cdef double squares = 0
    cdef Sample one
    cdef bitgen_t *random
    if item_factors.shape[1] != f or user_biases.shape[0] != n_users or item_biases.shape[0] != n_items:
        raise InvalidInput("The shapes of factors and biases disagree.")
    if n >= 2**31:
        raise InvalidInput("There are more ratings than one fit takes (2³¹).")
    if n == 0:
        return 0.0
    bit_generator = getattr(generator, "bit_generator", None)
    capsule = getattr(bit_generator, "capsule", None)
    if not PyCapsule_IsValid(capsule, "BitGenerator"):
        raise InvalidInput("The generator must be a numpy.random.Generator.")
    random = <bitgen_t *> PyCapsule_GetPointer(capsule, "BitGenerator")
    with bit_generator.lock, nogil:
        for at in range(n):
            wrong |= <uint32_t> samples[at].user >= <size_t> n_users
            wrong |= <uint32_t> samples[at].item >= <size_t> n_items
        if not wrong:
            for at in range(n - 1, 0, -1):
                other = below(random, <uint32_t> (at + 1))
                one = samples[at]
                samples[at] = samples[other]
                samples[other] = one
            squares = descend(&samples[0], n, &user_factors[0, 0], &item_factors[0, 0], &user_biases[0],
                              &item_biases[0], f, base, lr, bias_shrink, factor_shrink)
    if wrong:
        raise InvalidInput("A sample names a row that does not exist.")
    return squares / n


cdef struct Parameters:
    double mean
    const float *p
    const float *q
    const float *bu
    const float *bi
    Py_ssize_t users
    Py_ssize_t items
    Py_ssize_t factors


cdef inline double value(const Parameters *model, Py_ssize_t user, Py_ssize_t item) noexcept nogil:
    if user < 0:
        return model.mean if item < 0 else model.mean + model.bi[item]
    if item < 0:
        return model.mean + model.bu[user]
    return model.mean + model.bu[user] + model.bi[item] \
        + dot(model.p + user * model.factors, model.q + item * model.factors, model.factors)


def pair_errors(const Sample[::1] samples, const float[:, ::1] user_factors, const float[:, ::1] item_factors,
                const float[::1] user_biases, const float[::1] item_biases, double mean):
    """Mean squared error of the samples, of which a row may be −1: never seen. Shapes as for `sgd_epoch`."""
    cdef Py_ssize_t n = samples.shape[0], at
    cdef double squares = 0, error
    cdef Parameters model
    cdef bint wrong = False
    model.mean, model.users, model.items = mean, user_factors.shape[0], item_factors.shape[0]
    model.factors = user_factors.shape[1]
    model.p, model.q, model.bu, model.bi = &user_factors[0, 0], &item_factors[0, 0], &user_biases[0], &item_biases[0]
    with nogil:
        for at in range(n):
            if samples[at].user >= model.users or samples[at].item >= model.items:
                wrong = True
                break
            error = samples[at].rating - value(&model, samples[at].user, samples[at].item)
            squares += error * error
    if wrong:
        raise InvalidInput("A sample names a row that does not exist.")
    return squares / n


cdef struct Query:
    double base
    const float *vector  # NULL for a user never seen


cdef inline double against(const Parameters *model, const Query *asked, Py_ssize_t item) noexcept nogil:
    """Score of an item; the same bits as `value` gives."""
    if asked.vector == NULL:
        return asked.base + model.bi[item]
    return asked.base + model.bi[item] + dot(asked.vector, model.q + item * model.factors, model.factors)


cdef cloned_double values(const Parameters *model, const Py_ssize_t *users, const Py_ssize_t *items, Py_ssize_t n,
                          double *out) noexcept nogil:
    """Predicts n pairs. Returns 0, or 1 if a pair names a row that does not exist."""
    cdef Py_ssize_t at, ahead, floats = (model.users + model.items) * model.factors
    cdef Py_ssize_t fetched = 0 if floats * sizeof(float) < CACHED else n - AHEAD
    for at in range(n):
        if <size_t> (users[at] + 1) > <size_t> model.users or <size_t> (items[at] + 1) > <size_t> model.items:
            return 1
        if at < fetched:
            ahead = at + AHEAD
            # A row that does not exist is fetched from outside the array: harmless, a prefetch cannot fault.
            fetch(model.p + users[ahead] * model.factors, model.factors)
            fetch(model.q + items[ahead] * model.factors, model.factors)
        out[at] = value(model, users[at], items[at])
    return 0


cdef class Factorization:
    """Scores of a fitted biased matrix factorization: r̂(u, i) = mean + b_u + b_i + p_u·q_i, not clipped.

    Scores are float64 sums of float32 parameters; the dot product is a float32 sum in a fixed order, the same
    in every method, so each gives the same bits for the same pair. A user or an item that was never seen adds
    neither its bias nor the dot product. Row −1 stands for such a one.

    While it learns (`_learner` is there), pairs are scored by the learner, and all else by parameters that are
    taken from it, by `_settle()`, when they are asked for and something was learned since. Arrays are replaced, not
    changed, so a call that scores in another thread goes on with those that it began with.
    """

    cdef Parameters model
    cdef IdView user_view
    cdef IdView item_view
    cdef object held
    cdef object _searches
    cdef public object _learner
    cdef public bint _stale

    def _set(self, mean, user_factors, item_factors, user_biases, item_biases, user_ids, item_ids,
             user_counts, item_counts):
        """Takes the parameters as they are, without a copy.

        user_factors, item_factors: (n_users, f), (n_items, f) float32, C-contiguous; user_biases,
        item_biases: (n_users,), (n_items,) float32; user_ids, item_ids: IdTable; user_counts, item_counts:
        (n_users,), (n_items,) int32, how many ratings each was learned from. At least one of each.
        InvalidInput when a shape or dtype is another, or a score could be infinite or NaN.
        """
        cdef Parameters model
        _check_array(user_factors, 2, "user factors")
        _check_array(item_factors, 2, "item factors")
        _check_array(user_biases, 1, "user biases")
        _check_array(item_biases, 1, "item biases")
        n_users, n_items, f = len(user_ids), len(item_ids), user_factors.shape[1]
        if not (n_users and n_items):
            raise InvalidInput("A factorization needs at least one user and one item.")
        if (user_factors.shape[0], user_biases.shape[0], user_counts.shape[0]) != (n_users,) * 3 \
                or item_factors.shape != (n_items, f) \
                or (item_biases.shape[0], item_counts.shape[0]) != (n_items,) * 2:
            raise InvalidInput("The shapes of ids, factors, biases and counts disagree.")
        bound = abs(float(mean)) + largest(user_biases) + largest(item_biases) \
            + f * largest(user_factors) * largest(item_factors)
        if not bound < 3e38:
            raise InvalidInput("A factor or bias is not finite, or so large that a score would not be.")
        model.mean = mean
        model.p = <const float *> cnp.PyArray_DATA(user_factors)
        model.q = <const float *> cnp.PyArray_DATA(item_factors)
        model.bu = <const float *> cnp.PyArray_DATA(user_biases)
        model.bi = <const float *> cnp.PyArray_DATA(item_biases)
        model.users, model.items, model.factors = n_users, n_items, f
        self.user_view, self.item_view = view_of(user_ids), view_of(item_ids)
        self.held = (user_factors, item_factors, user_biases, item_biases, user_ids, item_ids,
                     user_counts, item_counts)
        self.model = model
        self._stale = False

    cdef inline int ready(self) except -1:
        """Makes the parameters ready: present, and up to date."""
        if self._stale:
            self._settle()
        if self.model.users == 0:
            raise InvalidInput("The model is not fitted.")
        return 0

    cdef part(self, int number):
        if self._stale:
            self._settle()
        return None if self.held is None else self.held[number]

    @property
    def mean(self):
        if self._stale:
            self._settle()
        return self.model.mean

    @property
    def user_factors(self):
        return self.part(0)

    @property
    def item_factors(self):
        return self.part(1)

    @property
    def user_biases(self):
        return self.part(2)

    @property
    def item_biases(self):
        return self.part(3)

    @property
    def user_ids(self):
        return self.part(4)

    @property
    def item_ids(self):
        return self.part(5)

    @property
    def user_counts(self):
        """int32 (n_users,): how many ratings of each were learned from."""
        return self.part(6)

    @property
    def item_counts(self):
        return self.part(7)

    @property
    def n_users(self):
        return self.model.users if self._learner is None else self._learner.users.size

    @property
    def n_items(self):
        return self.model.items if self._learner is None else self._learner.items.size

    @property
    def nbytes(self):
        """Bytes of the parameters, the ids and their tables, and of what searches need.

        Those that are mapped from a file count.
        """
        self.ready()
        top, learner = self._searches, self._learner
        return sum(part.nbytes for part in self.held) + (0 if learner is None else learner.nbytes) \
            + (0 if top is None or top[0] is not self.held else top[1].nbytes)

    def user_row(self, user_id):
        """Row of a user (str or int id), −1 when never seen."""
        self.ready()
        return id_row(&self.user_view, user_id)

    def item_row(self, item_id):
        """Row of an item (str or int id), −1 when never seen."""
        self.ready()
        return id_row(&self.item_view, item_id)

    def knows(self, user_id, item_id):
        """Return whether both were seen in training, so that the prediction is the whole formula."""
        if self._learner is not None:
            return self._learner.users.ids.row(user_id) >= 0 and self._learner.items.ids.row(item_id) >= 0
        return id_row(&self.user_view, user_id) >= 0 and id_row(&self.item_view, item_id) >= 0

    def score(self, Py_ssize_t user_row, Py_ssize_t item_row):
        """Predicted rating of a pair of rows (−1: never seen). InvalidInput when there is no such row."""
        self.ready()
        if user_row < -1 or user_row >= self.model.users or item_row < -1 or item_row >= self.model.items:
            raise InvalidInput("There is no such row.")
        return value(&self.model, user_row, item_row)

    def score_many(self, user_rows, item_rows):
        """(n,) float64: the predicted rating of each pair of rows.

        user_rows, item_rows: (n,) integers. InvalidInput for a row that does not exist (−1: never seen).
        """
        cdef const Py_ssize_t[::1] users = as_rows(user_rows)
        cdef const Py_ssize_t[::1] items = as_rows(item_rows)
        cdef Py_ssize_t n = users.shape[0]
        self.ready()
        cdef Parameters model = self.model
        cdef object held = self.held  # no-cython-lint: model points into it
        if items.shape[0] != n:
            raise InvalidInput("There must be as many item rows as user rows.")
        scores = np.empty(n, np.float64)
        cdef double *out = <double *> cnp.PyArray_DATA(scores)
        cdef double wrong = 0
        with nogil:
            if n:
                wrong = values(&model, &users[0], &items[0], n, out)
        if wrong:
            raise InvalidInput("There is no such row.")
        return scores

    def predict(self, user_id, item_id, features=None):
        """Predicted rating of a pair of ids (str or int), with what comes with the request."""
        if features is not None or self._learner is not None:
            return self._predict_slowly(user_id, item_id, features)
        if self.model.users == 0:
            raise InvalidInput("The model is not fitted.")
        return value(&self.model, id_row(&self.user_view, user_id), id_row(&self.item_view, item_id))

    def partial_fit(self, users, items, ratings, features=None):
        """Learns from one rating or from n, in their order; returns the model.

        users, items, ratings: an id, an id and a number; or n of each. features: a mapping, or n of them, in a family
        that takes features.

        Users, items and values of features that were never seen are taken in. n ratings in one call leave the same
        bits as n calls of one. A model that was loaded is copied into memory first. Raises `InvalidInput`, before
        anything is learned, for an id, a rating or a feature that is not valid.
        """
        if features is None and type(ratings) is float and self._learner is not None:
            self._learner.learn(users, items, ratings)
            self._stale = True
            return self
        return self._learn(users, items, ratings, features)

    def _pairs(self, user_ids, item_ids):
        """(n,) float64: the predicted rating of each pair; user_ids, item_ids: n str or int each."""
        self.ready()
        held = self.held
        users, items = held[4].rows(user_ids), held[5].rows(item_ids)
        if users.size != items.size:
            raise InvalidInput("There must be as many items as users.")
        return self.score_many(users, items)

    def _items(self, user_id, item_ids, query=None):
        """(n,) float64: the predicted rating of one user for each of n items (a sequence of str or int).

        query: (s, t), the bias and the vector, float32 (f,), that stand for the user.
        """
        self.ready()
        cdef Parameters model = self.model
        cdef object held = self.held
        cdef const int64_t[::1] items = held[5].rows(item_ids)
        cdef Py_ssize_t n = items.shape[0], at
        scores = np.empty(n, np.float64)
        cdef double *out = <double *> cnp.PyArray_DATA(scores)
        cdef Query asked = self.asked(&model, user_id, query)
        with nogil:
            for at in range(n):
                out[at] = asked.base if items[at] < 0 else against(&model, &asked, items[at])
        return scores

    cdef Query asked(self, const Parameters *model, user_id, query) except *:
        cdef Query asked
        cdef Py_ssize_t user
        cdef const float[::1] t
        asked.vector = NULL
        if query is not None:
            t = query[1]
            if t.shape[0] != model.factors:
                raise InvalidInput("The query's vector must be as long as the factors.")
            asked.base = model.mean + <double> query[0]
            asked.vector = &t[0] if model.factors else model.q
            return asked
        user = id_row(&self.user_view, user_id)
        if user < 0:
            asked.base = model.mean
        else:
            asked.base = model.mean + model.bu[user]
            asked.vector = model.p + user * model.factors
        return asked

    def _asked(self, user_ids, queries=None):
        """Queries to `TopK` for m users: vectors float32 (m, f) and bases; and this model's item ids.

        queries: None, or for each user what `_items` takes. The vector of a user never seen is 0.
        """
        self.ready()
        cdef Parameters model = self.model
        cdef object held = self.held
        cdef Query asked
        cdef Py_ssize_t number
        vectors, bases = np.zeros((len(user_ids), model.factors), np.float32), [0.0] * len(user_ids)
        cdef float *out = <float *> cnp.PyArray_DATA(vectors)
        for number in range(len(user_ids)):
            asked = self.asked(&model, user_ids[number], None if queries is None else queries[number])
            bases[number] = asked.base
            if asked.vector != NULL:
                memcpy(out + number * model.factors, asked.vector, model.factors * sizeof(float))
        return vectors, bases, held[5]

    def _take_top(self, parts):
        """Takes what `TopK.parts` gave for these items, in place of computing it."""
        self._searches = self.held, TopK(self.held[1], self.held[3], parts)

    def _top(self):
        """Items, made ready for searches; made when it is first asked for."""
        self.ready()
        held = self.held
        top = self._searches
        if top is None or top[0] is not held:
            top = self._searches = held, TopK(held[1], held[3])
        return top[1]


cdef IdView view_of(table) except *:
    cdef IdView view
    if not isinstance(table, IdTable):
        raise InvalidInput("Ids must be an IdTable.")
    view.text = <const uint8_t *> cnp.PyArray_DATA(table.text)
    view.offsets = <const int64_t *> cnp.PyArray_DATA(table.offsets)
    view.slots = <const int32_t *> cnp.PyArray_DATA(table.slots)
    view.mask = <uint64_t> (table.slots.size - 1)
    view.seed = table.seed
    return view


cdef _check_array(values, int ndim, str what):
    if not (isinstance(values, np.ndarray) and values.dtype == np.float32 and values.dtype.isnative
            and values.ndim == ndim and values.flags.c_contiguous and values.flags.aligned):
        raise InvalidInput(f"The {what} must be a contiguous float32 array of {ndim} dimensions.")


cdef as_rows(values):
    rows = np.asarray(values)
    if rows.size == 0 and rows.ndim == 1:
        return np.empty(0, np.intp)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InvalidInput("Rows must be a vector of integers.")
    if rows.dtype.kind == "u" and rows.max() > np.iinfo(np.intp).max:
        raise InvalidInput("There is no such row.")
    return np.ascontiguousarray(rows, np.intp)


def largest(values):
    """Largest magnitude in a contiguous float32 array, 0 when empty; infinite when one is NaN or infinite."""
    cdef const float[::1] flat = values.reshape(-1)
    cdef Py_ssize_t n = flat.shape[0], at
    cdef const int32_t *bits
    cdef int32_t highest = 0, one
    if n == 0:
        return 0.0
    # Without its sign a float orders like its bits, and infinity and NaN come after every number.
    bits = <const int32_t *> &flat[0]
    with nogil:
        for at in range(n):
            one = bits[at] & 0x7FFFFFFF
            highest = one if one > highest else highest
    return INFINITY if highest >= 0x7F800000 else float(np.int32(highest).view(np.float32))
