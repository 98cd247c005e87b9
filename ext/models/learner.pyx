# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Learner of one rating at a time: a factorization machine over a user, an item and features of both.

A sample is a set of columns c, each with a value x_c (1 for the user and for the item), a weight w_c and a vector
v_c, and its rating is predicted as (Rendle 2010, eq. 1 and lemma 3.1)

    μ + Σ w_c x_c + ½ (|Σ v_c x_c|² − Σ |v_c x_c|²)

Without features that is the biased matrix factorization μ + b_u + b_i + p_u·q_i. The columns of a sample fall into
sides: the user with its features, the item with its features, and what comes with the request. Each side is one
vector t = Σ v_c x_c and one number s = Σ w_c x_c + ½ (|t|² − Σ |v_c x_c|²), and the prediction is
μ + s_u + s_i + t_u·t_i and, for a request, s_r + (t_u + t_i)·t_r. So all of it is served as a matrix factorization.
"""

import numpy as np

from bandit_serve.models._ids import GrowingIds, id_text
from bandit_serve.errors import InvalidInput

cimport numpy as cnp
from libc.math cimport cos, isfinite, log, sqrt, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from idhash cimport IdView, id_hash, id_row
from vectors cimport LANES, cloned_double, dot, folded

cnp.import_array()

MAX_FEATURES = 256
MAX_RATING = 1e12
cdef double MAX_ABS_RATING = MAX_RATING
cdef enum:
    MAX_COLUMNS = 770  # a user, an item and MAX_FEATURES of each of the three sides
    MAX_FACTORS = 4096


cdef inline uint64_t mixed(uint64_t state) noexcept nogil:
    """splitmix64's finaliser (Steele, Lea, Flood 2014)."""
    state = (state ^ (state >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * <uint64_t> 0x94D049BB133111EB
    return state ^ (state >> 31)


cdef inline double uniform(uint64_t bits) noexcept nogil:
    """Uniform number in (0, 1)."""
    return (<double> (bits >> 11) + 0.5) / 9007199254740992.0


cdef inline void bump(int32_t *count) noexcept nogil:
    if count[0] < 0x7FFFFFFF:
        count[0] += 1


cdef class Rows:
    """Rows of one kind (users, items or features): ids, weights, vectors, counts, and the features of each.

    A new row's vector is drawn from a hash of the seed and the id, so that it does not depend on when it came.
    `counts` says how many samples a row has learned from. Room grows by doubling.
    """

    cdef readonly object ids
    cdef readonly object vectors
    cdef readonly object weights
    cdef readonly object counts
    cdef readonly object starts
    cdef readonly object ends
    cdef readonly object pool
    cdef readonly object values
    cdef float *v
    cdef float *w
    cdef int32_t *n
    cdef int64_t *start
    cdef int64_t *end
    cdef int32_t *feature
    cdef float *value
    cdef const IdView *known
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t factors
    cdef int64_t pooled
    cdef uint64_t seed
    cdef double std

    def __cinit__(self, Py_ssize_t factors, uint64_t seed, double std):
        self.ids = GrowingIds()
        self.factors, self.seed, self.std = factors, seed, std
        self._allot(64)
        self.pool, self.values = np.zeros(64, np.int32), np.zeros(64, np.float32)
        self._look()

    cdef _allot(self, Py_ssize_t capacity):
        cdef Py_ssize_t n = self.size
        for name, shape, dtype in (
            ("vectors", (capacity, self.factors), np.float32),
            ("weights", capacity, np.float32),
            ("counts", capacity, np.int32),
            ("starts", capacity, np.int64),
            ("ends", capacity, np.int64),
        ):
            array = np.zeros(shape, dtype)
            if n:
                array[:n] = getattr(self, name)[:n]
            self._put(name, array)

    cdef _put(self, str name, array):
        if name == "vectors":
            self.vectors = array
        elif name == "weights":
            self.weights = array
        elif name == "counts":
            self.counts = array
        elif name == "starts":
            self.starts = array
        else:
            self.ends = array

    cdef _look(self):
        self.known = <const IdView *> <size_t> self.ids.address
        self.v = <float *> cnp.PyArray_DATA(self.vectors)
        self.w = <float *> cnp.PyArray_DATA(self.weights)
        self.n = <int32_t *> cnp.PyArray_DATA(self.counts)
        self.start = <int64_t *> cnp.PyArray_DATA(self.starts)
        self.end = <int64_t *> cnp.PyArray_DATA(self.ends)
        self.feature = <int32_t *> cnp.PyArray_DATA(self.pool)
        self.value = <float *> cnp.PyArray_DATA(self.values)

    cpdef Py_ssize_t add(self, key) except -1:
        """Row of an id, a new one if it was not there."""
        cdef Py_ssize_t row = id_row(self.known, key)
        if row >= 0:
            return row
        row = self.ids.add(key)
        if row == self.size:
            if row == self.counts.size:
                self._allot(2 * row)
                self._look()
            self.size += 1
            text = id_text(key)
            self._draw(self.v + row * self.factors, text, len(text))
        return row

    cdef void _draw(self, float *out, const uint8_t *text, Py_ssize_t length) noexcept:
        """Normal(0, std²) by Box and Muller, from a stream that only the seed and the id determine."""
        cdef uint64_t state = id_hash(text, length, mixed(self.seed + <uint64_t> 0x9E3779B97F4A7C15))
        cdef Py_ssize_t at
        cdef double radius
        for at in range(self.factors):
            state += <uint64_t> 0x9E3779B97F4A7C15
            radius = sqrt(-2.0 * log(uniform(mixed(state))))
            state += <uint64_t> 0x9E3779B97F4A7C15
            out[at] = <float> (self.std * radius * cos(6.283185307179586 * uniform(mixed(state))))

    def take(self, table, vectors, weights, counts):
        """Begins with the rows of an `IdTable`; vectors float32 (n, F), weights float32 (n,), counts int32 (n,)."""
        cdef Py_ssize_t n = len(table)
        if self.size or vectors.shape != (n, self.factors) or (weights.size, counts.size) != (n, n):
            raise InvalidInput("The shapes of ids, vectors, weights and counts disagree.")
        self.ids = GrowingIds.of(table)
        self._allot(max(64, n + n // 8))
        self.vectors[:n], self.weights[:n], self.counts[:n] = vectors, weights, counts
        self.size = n
        self._look()

    def attached(self, order):
        """Features of rows in an order: starts int64 (n + 1,), features int32 and values float32, one after another."""
        rows = [slice(self.starts[row], self.ends[row]) for row in order]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([each.stop - each.start for each in rows], out=starts[1:])
        pieces = [self.pool[each] for each in rows], [self.values[each] for each in rows]
        return starts, np.concatenate([*pieces[0], np.zeros(0, np.int32)]), \
            np.concatenate([*pieces[1], np.zeros(0, np.float32)])

    def attach(self, starts, features, values):
        """Gives all rows their features at once, as `attached` has them."""
        self.pool, self.values = np.array(features, np.int32), np.array(values, np.float32)
        self.starts[: self.size], self.ends[: self.size] = starts[: self.size], starts[1:]
        self.pooled = self.pool.size
        if not self.pooled:
            self.pool, self.values = np.zeros(64, np.int32), np.zeros(64, np.float32)
        self._look()

    def describe(self, Py_ssize_t row, features, values):
        """Gives a row its features: rows of features, and their values; what it had before is replaced."""
        cdef Py_ssize_t n = len(features)
        while self.pooled + n > self.pool.size:
            self.pool = np.concatenate([self.pool, np.zeros_like(self.pool)])
            self.values = np.concatenate([self.values, np.zeros_like(self.values)])
        self.pool[self.pooled : self.pooled + n] = features
        self.values[self.pooled : self.pooled + n] = values
        self._look()
        self.start[row], self.end[row] = self.pooled, self.pooled + n
        self.pooled += n

    def trimmed(self, str name):
        """One of the arrays, without the room for more: a view."""
        return getattr(self, name)[: self.size]

    @property
    def nbytes(self):
        return sum(part.nbytes for part in (self.ids, self.vectors, self.weights, self.counts, self.starts,
                                            self.ends, self.pool, self.values))


cdef inline void move(float *v, const float *whole, Py_ssize_t n, float keep, float push) noexcept nogil:
    """v ← keep·v + push·whole."""
    cdef Py_ssize_t at = 0, lane
    cdef float old[LANES]
    while at + LANES <= n:
        for lane in range(LANES):
            old[lane] = v[at + lane]
        for lane in range(LANES):
            v[at + lane] = keep * old[lane] + push * whole[at + lane]
        at += LANES
    while at < n:
        v[at] = keep * v[at] + push * whole[at]
        at += 1


cdef inline float apart(const float *a, const float *b, float x, Py_ssize_t n) noexcept nogil:
    """|a − x·b|²."""
    cdef float sums[LANES]
    cdef Py_ssize_t at = 0, lane
    cdef float total, one
    for lane in range(LANES):
        sums[lane] = 0
    while at + LANES <= n:
        for lane in range(LANES):
            sums[lane] += (a[at + lane] - x * b[at + lane]) * (a[at + lane] - x * b[at + lane])
        at += LANES
    total = folded(sums)
    while at < n:
        one = a[at] - x * b[at]
        total += one * one
        at += 1
    return total


cdef struct Columns:
    Py_ssize_t n
    float *vector[MAX_COLUMNS]
    float *weight[MAX_COLUMNS]
    float x[MAX_COLUMNS]
    float rate[MAX_COLUMNS]
    float keep[MAX_COLUMNS]  # what the penalty leaves of the vector


cdef class Learner:
    """Learns by stochastic gradient descent, one sample after the other.

    `learn` moves a row that has learned from n samples by the rate / √(1 + n/`halving`) times the gradient, as
    AdaGrad's steps do for gradients of like size (Duchi, Hazan, Singer 2011), so that what is new learns fast.
    `epoch` goes over all samples many times and lowers its rate from one time to the next instead.

    factors: F, 0 or more. seed, std: of new vectors. rate, halving: of the steps. regularization,
    feature_regularization, weight_regularization: weights of the L2 penalties, per sample, on vectors of users and
    items, on vectors of features, and on weights. scale: the unit of ratings, above 0, that all these are meant for:
    with another one, weights are `scale` and vectors √scale times what they would be for ratings / scale.
    """

    cdef readonly Rows users
    cdef readonly Rows items
    cdef readonly Rows features
    cdef public double mean
    cdef public int64_t n_ratings
    cdef readonly double scale
    cdef readonly Py_ssize_t factors
    cdef double rate
    cdef double fading  # 1 / halving
    cdef double regularization
    cdef double feature_regularization
    cdef double weight_regularization
    cdef float tu[MAX_FACTORS]
    cdef float ti[MAX_FACTORS]
    cdef float tr[MAX_FACTORS]

    def __init__(self, Py_ssize_t factors, uint64_t seed, double std, *, double rate, double halving,
                 double regularization, double feature_regularization, double weight_regularization,
                 double scale=1.0):
        self.scale = scale
        std *= sqrt(scale)
        self.users = Rows(factors, seed, std)
        self.items = Rows(factors, seed + 1, std)
        self.features = Rows(factors, seed + 2, std)
        self.factors = factors
        self.rate, self.fading = rate, 1.0 / halving
        self.regularization = regularization
        self.feature_regularization = feature_regularization
        self.weight_regularization = weight_regularization

    cdef cloned_double side(self, Rows rows, Py_ssize_t row, float *t) noexcept nogil:
        """s and t of a row with its features; all 0 for row −1."""
        if row < 0:
            memset(t, 0, self.factors * sizeof(float))
            return 0.0
        memcpy(t, rows.v + row * self.factors, self.factors * sizeof(float))
        if rows.start[row] == rows.end[row]:
            return rows.w[row]
        return self.gathered(rows.w[row], dot(t, t, self.factors), rows.feature + rows.start[row],
                             rows.value + rows.start[row], rows.end[row] - rows.start[row], t)

    cdef cloned_double gathered(self, double s, double squares, const int32_t *feature, const float *value,
                                Py_ssize_t n, float *t) noexcept nogil:
        """Adds features to a side whose vector so far is t, with the weight s and the sum of squares |v|²."""
        cdef Py_ssize_t at, lane
        cdef float x
        cdef float *v
        for at in range(n):
            if feature[at] < 0:
                continue
            x = value[at]
            v = self.features.v + feature[at] * self.factors
            s += x * self.features.w[feature[at]]
            squares += x * x * dot(v, v, self.factors)
            for lane in range(self.factors):
                t[lane] += x * v[lane]
        return s + 0.5 * (dot(t, t, self.factors) - squares)

    cdef cloned_double score(self, Py_ssize_t user, Py_ssize_t item, const int32_t *feature, const float *value,
                             Py_ssize_t n) noexcept nogil:
        """Prediction, from sides in float32, as it is served."""
        cdef float su = <float> self.side(self.users, user, self.tu)
        cdef float si = <float> self.side(self.items, item, self.ti)
        cdef Py_ssize_t lane
        if n > 0:
            memset(self.tr, 0, self.factors * sizeof(float))
            su = <float> (su + self.gathered(0.0, 0.0, feature, value, n, self.tr)
                          + dot(self.tu, self.tr, self.factors))
            for lane in range(self.factors):
                self.tu[lane] += self.tr[lane]
        elif user < 0:
            return self.mean if item < 0 else self.mean + si
        if item < 0:
            return self.mean + su
        return self.mean + su + si + dot(self.tu, self.ti, self.factors)

    def predict(self, user_id, item_id, feature_rows=None, feature_values=None):
        """Predicted rating; feature_rows int32 (n,), −1 for a feature never seen, and their values float32 (n,)."""
        cdef const int32_t[::1] features
        cdef const float[::1] values
        cdef Py_ssize_t user = id_row(self.users.known, user_id), item = id_row(self.items.known, item_id)
        if feature_rows is None or len(feature_rows) == 0:
            return self.score(user, item, NULL, NULL, 0)
        features, values = feature_rows, feature_values
        return self.score(user, item, &features[0], &values[0], features.shape[0])

    def joined(self, float s, const float[::1] user, feature_rows, feature_values):
        """s (float) and t, float32 (F,), of a user's and what comes with a request."""
        cdef const int32_t[::1] features = feature_rows
        cdef const float[::1] values = feature_values
        cdef Py_ssize_t lane
        t = np.empty(self.factors, np.float32)
        cdef float[::1] out = t
        if user.shape[0] != self.factors:
            raise InvalidInput("The user's vector must be as long as the factors.")
        memset(self.tr, 0, self.factors * sizeof(float))
        if features.shape[0]:
            s = <float> (s + self.gathered(0.0, 0.0, &features[0], &values[0], features.shape[0], self.tr)
                         + dot(&user[0], self.tr, self.factors))
        for lane in range(self.factors):
            out[lane] = user[lane] + self.tr[lane]
        return s, t

    def sides(self, str name):
        """All sides of the users or the items: s, float32 (n,), and t, float32 (n, F), in the order of rows."""
        cdef Rows rows = self.users if name == "users" else self.items
        cdef Py_ssize_t row
        s, t = np.zeros(rows.size, np.float32), np.zeros((rows.size, self.factors), np.float32)
        cdef float *out_s = <float *> cnp.PyArray_DATA(s)
        cdef float *out_t = <float *> cnp.PyArray_DATA(t)
        with nogil:
            for row in range(rows.size):
                out_s[row] = <float> self.side(rows, row, out_t + row * self.factors)
        return s, t

    cdef inline void column(self, Columns *columns, Rows rows, Py_ssize_t row, float x, double rate,
                            double fading, double shrink) noexcept nogil:
        cdef Py_ssize_t at = columns.n
        cdef float own = <float> rate / sqrtf(1 + rows.n[row] * <float> fading)
        columns.vector[at] = rows.v + row * self.factors
        columns.weight[at] = rows.w + row
        columns.x[at] = x
        columns.rate[at] = own
        columns.keep[at] = 1 - own * <float> shrink
        columns.n = at + 1

    cdef cloned_double step(self, Py_ssize_t user, Py_ssize_t item, double rating, const int32_t *feature,
                            const float *value, Py_ssize_t n, double rate, double fading) noexcept nogil:
        """One step of gradient descent on a sample; returns its error before it.

        The step is the implicit one, to first order (Kulis and Bartlett 2010): divided by 1 + Σ rate_c |gradient_c|²,
        so that no rate and no rating makes it overshoot.
        """
        cdef Columns columns
        cdef Py_ssize_t at, lane, f = self.factors
        cdef float x, push, keep, pull, shrink = <float> self.weight_regularization
        cdef float scale = <float> self.scale, per_scale = <float> (1 / self.scale)
        cdef float *v
        cdef float *whole = self.tu
        cdef const float *item_vector = self.ti
        cdef double bend = 1
        cdef double error = rating - self.score(user, item, feature, value, n)
        cdef int64_t one
        # score() left t_u (with the request's) and t_i behind: their sum is that of all columns.
        for lane in range(f):
            whole[lane] += item_vector[lane]
        columns.n = 0
        self.column(&columns, self.users, user, 1, rate, fading, self.regularization)
        self.column(&columns, self.items, item, 1, rate, fading, self.regularization)
        for one in range(self.users.start[user], self.users.end[user]):
            self.column(&columns, self.features, self.users.feature[one], self.users.value[one], rate, fading,
                        self.feature_regularization)
        for one in range(self.items.start[item], self.items.end[item]):
            self.column(&columns, self.features, self.items.feature[one], self.items.value[one], rate, fading,
                        self.feature_regularization)
        for at in range(n):
            if feature[at] >= 0:
                self.column(&columns, self.features, feature[at], value[at], rate, fading,
                            self.feature_regularization)
        for at in range(columns.n):
            x = columns.x[at]
            bend += columns.rate[at] * x * x * (1 + per_scale * apart(whole, columns.vector[at], x, f))
        pull = <float> (error / (self.scale * bend))
        for at in range(columns.n):
            x, v, keep = columns.x[at], columns.vector[at], columns.keep[at]
            push = columns.rate[at] * x * pull
            move(v, whole, f, keep - push * x, push)
            columns.weight[at][0] += scale * push - columns.rate[at] * shrink * columns.weight[at][0]
        return error

    cdef void count(self, Py_ssize_t user, Py_ssize_t item, const int32_t *feature, Py_ssize_t n) noexcept nogil:
        """Counts one more sample for each of its rows."""
        cdef Py_ssize_t at
        cdef int64_t one
        bump(self.users.n + user)
        bump(self.items.n + item)
        for one in range(self.users.start[user], self.users.end[user]):
            bump(self.features.n + self.users.feature[one])
        for one in range(self.items.start[item], self.items.end[item]):
            bump(self.features.n + self.items.feature[one])
        for at in range(n):
            if feature[at] >= 0:
                bump(self.features.n + feature[at])

    def learn(self, user_id, item_id, double rating, feature_rows=None, feature_values=None):
        """Learns from one rating of a user and an item, which may be new; returns its error before that.

        The mean μ of the ratings follows, too. InvalidInput for a rating that is not finite or above 1e12, and
        when the step left what is finite; nothing was learned then.
        """
        cdef const int32_t[::1] features
        cdef const float[::1] values
        cdef const int32_t *feature = NULL
        cdef const float *value = NULL
        cdef Py_ssize_t n = 0, user, item
        cdef double error
        if not (isfinite(rating) and -MAX_ABS_RATING <= rating <= MAX_ABS_RATING):
            raise InvalidInput(f"Every rating must be finite and at most {MAX_RATING:g} in size.")
        if feature_rows is not None and len(feature_rows):
            features, values = feature_rows, feature_values
            feature, value, n = &features[0], &values[0], features.shape[0]
        user, item = id_row(self.users.known, user_id), id_row(self.items.known, item_id)
        if user < 0 or item < 0:
            id_text(user_id), id_text(item_id)
            user, item = self.users.add(user_id), self.items.add(item_id)
        self.n_ratings += 1
        self.mean += (rating - self.mean) / self.n_ratings
        error = self.step(user, item, rating, feature, value, n, self.rate, self.fading)
        self.count(user, item, feature, n)
        return error

    def count_all(self, const int32_t[::1] users, const int32_t[::1] items, const int64_t[::1] starts,
                  const int32_t[::1] features):
        """Counts the samples of a fit."""
        cdef Py_ssize_t at
        self._check(users, items, starts, features)
        for at in range(users.shape[0]):
            self.count(users[at], items[at], NULL if starts[at] == starts[at + 1] else &features[starts[at]],
                       starts[at + 1] - starts[at])

    def epoch(self, const int32_t[::1] users, const int32_t[::1] items, const float[::1] ratings,
              const int64_t[::1] starts, const int32_t[::1] features, const float[::1] values,
              generator, double rate):
        """One pass over n samples in a fresh random order; the mean squared error, each before its own step.

        users, items: rows, int32 (n,); ratings: float32 (n,); starts: int64 (n + 1,), where the request's features
        of a sample begin in features (rows, int32) and values (float32).
        """
        cdef Py_ssize_t n = users.shape[0], at, one
        cdef double squares = 0, error
        cdef const int32_t *feature = NULL if features.shape[0] == 0 else &features[0]
        cdef const float *value = NULL if values.shape[0] == 0 else &values[0]
        cdef const int64_t[::1] order
        self._check(users, items, starts, features)
        if ratings.shape[0] != n or values.shape[0] != features.shape[0]:
            raise InvalidInput("The columns of the samples disagree.")
        order = generator.permutation(n).astype(np.int64, copy=False)
        with nogil:
            for at in range(n):
                one = order[at]
                error = self.step(users[one], items[one], ratings[one], feature + starts[one],
                                  value + starts[one], starts[one + 1] - starts[one], rate, 0.0)
                squares += error * error
        return squares / n

    def errors(self, const int32_t[::1] users, const int32_t[::1] items, const float[::1] ratings,
               const int64_t[::1] starts, const int32_t[::1] features, const float[::1] values):
        """Mean squared error over samples as `epoch` takes them; rows may be −1 here."""
        cdef Py_ssize_t n = users.shape[0], at
        cdef double squares = 0, error
        cdef const int32_t *feature = NULL if features.shape[0] == 0 else &features[0]
        cdef const float *value = NULL if values.shape[0] == 0 else &values[0]
        self._check(users, items, starts, features, -1)
        with nogil:
            for at in range(n):
                error = ratings[at] - self.score(users[at], items[at], feature + starts[at], value + starts[at],
                                                 starts[at + 1] - starts[at])
                squares += error * error
        return squares / n

    def _check(self, const int32_t[::1] users, const int32_t[::1] items, const int64_t[::1] starts,
               const int32_t[::1] features, int lowest=0):
        cdef Py_ssize_t n = users.shape[0], at
        cdef bint wrong = items.shape[0] != n or starts.shape[0] != n + 1
        if not wrong:
            wrong = starts[0] != 0 or starts[n] != features.shape[0]
        if wrong:
            raise InvalidInput("The columns of the samples disagree.")
        for at in range(n):
            wrong |= users[at] < lowest or users[at] >= self.users.size
            wrong |= items[at] < lowest or items[at] >= self.items.size
            wrong |= starts[at] > starts[at + 1] or starts[at + 1] - starts[at] > MAX_FEATURES
        for at in range(features.shape[0]):
            wrong |= features[at] < -1 or features[at] >= self.features.size
        if wrong:
            raise InvalidInput("A sample names a row that does not exist.")

    @property
    def nbytes(self):
        return self.users.nbytes + self.items.nbytes + self.features.nbytes
