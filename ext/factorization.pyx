# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Biased matrix factorization: a rating is μ + b_u + b_i + p_u·q_i (Koren, Bell, Volinsky 2009, eq. 4)."""

import numpy as np

from bandit_serve._ids import IdTable
from bandit_serve.errors import InvalidInput

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from numpy.random cimport bitgen_t

from idhash cimport IdView, id_row

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
    LANES = 16  # partial sums of a dot product, their order fixed here so that any vector width will do
    AHEAD = 8   # how many samples or pairs ahead rows are fetched


cdef inline float dot(const float *a, const float *b, Py_ssize_t n) noexcept nogil:
    cdef float sums[LANES]
    cdef Py_ssize_t at = 0, lane
    cdef float total = 0
    for lane in range(LANES):
        sums[lane] = 0
    while at + LANES <= n:
        for lane in range(LANES):
            sums[lane] += a[at + lane] * b[at + lane]
        at += LANES
    for lane in range(8):
        sums[lane] += sums[lane + 8]
    for lane in range(4):
        sums[lane] += sums[lane + 4]
    total = (sums[0] + sums[2]) + (sums[1] + sums[3])
    while at < n:
        total += a[at] * b[at]
        at += 1
    return total


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


def sgd_epoch(Sample[::1] samples, generator, float[:, ::1] user_factors, float[:, ::1] item_factors,
              float[::1] user_biases, float[::1] item_biases, double mean, double rate,
              double bias_regularization, double factor_regularization):
    """One pass of stochastic gradient descent over all samples in a fresh random order.

    For each sample with error e = r − prediction: b ← b + rate·(e − bias_regularization·b) for both biases and
    p, q ← p + rate·(e·q − factor_regularization·p), q + rate·(e·p − factor_regularization·q).

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
    cdef float lr = <float> rate, error
    cdef float bias_shrink = <float> (1 - rate * bias_regularization)
    cdef float factor_shrink = <float> (1 - rate * factor_regularization)
    cdef float base = <float> mean
    cdef double squares = 0
    cdef float *p
    cdef float *q
    cdef Sample one, next_one
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
            for at in range(n):
                if at + AHEAD < n:
                    next_one = samples[at + AHEAD]
                    fetch(&user_factors[0, 0] + next_one.user * f, f)
                    fetch(&item_factors[0, 0] + next_one.item * f, f)
                one = samples[at]
                p = &user_factors[0, 0] + one.user * f
                q = &item_factors[0, 0] + one.item * f
                error = one.rating - (base + user_biases[one.user] + item_biases[one.item] + dot(p, q, f))
                squares += error * error
                user_biases[one.user] = bias_shrink * user_biases[one.user] + lr * error
                item_biases[one.item] = bias_shrink * item_biases[one.item] + lr * error
                step(p, q, f, lr * error, factor_shrink)
    if wrong:
        raise InvalidInput("A sample names a row that does not exist.")
    return squares / n


cdef struct Scored:
    double score
    Py_ssize_t row


cdef inline bint worse(Scored a, Scored b) noexcept nogil:
    """Whether a ranks after b: a lower score, or the same and a later row."""
    return a.score < b.score or (a.score == b.score and a.row > b.row)


cdef inline void sift_down(Scored *heap, Py_ssize_t size) noexcept nogil:
    """Puts the root of a heap whose root is to be its worst where it belongs."""
    cdef Scored moved = heap[0]
    cdef Py_ssize_t at = 0, child = 1
    while child < size:
        if child + 1 < size and worse(heap[child + 1], heap[child]):
            child += 1
        if not worse(heap[child], moved):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moved


cdef inline void sift_up(Scored *heap, Py_ssize_t at) noexcept nogil:
    cdef Scored moved = heap[at]
    while at > 0 and worse(moved, heap[(at - 1) // 2]):
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = moved


cdef class Factorization:
    """Scores of a fitted biased matrix factorization: r̂(u, i) = mean + b_u + b_i + p_u·q_i, not clipped.

    Scores are float64 sums of float32 parameters; the dot product is a float32 sum in a fixed order, the same
    in every method, so each gives the same bits for the same pair. A user or an item that was never seen adds
    neither its bias nor the dot product. Row −1 stands for such a one.
    """

    cdef readonly double mean
    cdef readonly object user_factors
    cdef readonly object item_factors
    cdef readonly object user_biases
    cdef readonly object item_biases
    cdef readonly object user_ids
    cdef readonly object item_ids
    cdef const float *p
    cdef const float *q
    cdef const float *bu
    cdef const float *bi
    cdef Py_ssize_t users
    cdef Py_ssize_t items
    cdef Py_ssize_t factors
    cdef IdView user_view
    cdef IdView item_view

    def _set(self, mean, user_factors, item_factors, user_biases, item_biases, user_ids, item_ids):
        """Takes the parameters as they are, without a copy.

        user_factors, item_factors: (n_users, f), (n_items, f) float32, C-contiguous; user_biases,
        item_biases: (n_users,), (n_items,) float32; user_ids, item_ids: IdTable. At least one of each.
        InvalidInput when a shape or dtype is another, or a score could be infinite or NaN.
        """
        if self.users:
            raise InvalidInput("The model is fitted already; make a new one.")
        _check_array(user_factors, 2, "user factors")
        _check_array(item_factors, 2, "item factors")
        _check_array(user_biases, 1, "user biases")
        _check_array(item_biases, 1, "item biases")
        n_users, n_items, f = len(user_ids), len(item_ids), user_factors.shape[1]
        if not (n_users and n_items and f):
            raise InvalidInput("A factorization needs at least one user, one item and one factor.")
        if (user_factors.shape[0], user_biases.shape[0]) != (n_users, n_users) \
                or item_factors.shape != (n_items, f) or item_biases.shape[0] != n_items:
            raise InvalidInput("The shapes of ids, factors and biases disagree.")
        bound = abs(float(mean)) + largest(user_biases) + largest(item_biases) \
            + f * largest(user_factors) * largest(item_factors)
        if not bound < 3e38:
            raise InvalidInput("A factor or bias is not finite, or so large that a score would not be.")
        self.mean = mean
        self.user_factors, self.item_factors = user_factors, item_factors
        self.user_biases, self.item_biases = user_biases, item_biases
        self.user_ids, self.item_ids = user_ids, item_ids
        self.p = <const float *> cnp.PyArray_DATA(user_factors)
        self.q = <const float *> cnp.PyArray_DATA(item_factors)
        self.bu = <const float *> cnp.PyArray_DATA(user_biases)
        self.bi = <const float *> cnp.PyArray_DATA(item_biases)
        self.users, self.items, self.factors = n_users, n_items, f
        self.user_view = view_of(user_ids)
        self.item_view = view_of(item_ids)

    cdef inline double value(self, Py_ssize_t user, Py_ssize_t item) noexcept nogil:
        if user < 0:
            return self.mean if item < 0 else self.mean + self.bi[item]
        if item < 0:
            return self.mean + self.bu[user]
        return self.mean + self.bu[user] + self.bi[item] \
            + dot(self.p + user * self.factors, self.q + item * self.factors, self.factors)

    cdef inline int fitted(self) except -1:
        if self.users == 0:
            raise InvalidInput("The model is not fitted.")
        return 0

    @property
    def n_users(self):
        return self.users

    @property
    def n_items(self):
        return self.items

    @property
    def nbytes(self):
        """Bytes of the parameters, the ids and their tables; what is mapped from a file counts."""
        self.fitted()
        return sum(part.nbytes for part in (self.user_factors, self.item_factors, self.user_biases,
                                            self.item_biases, self.user_ids, self.item_ids))

    def user_row(self, user_id):
        """The row of a user (str or int id), −1 when never seen."""
        return id_row(&self.user_view, user_id)

    def item_row(self, item_id):
        """The row of an item (str or int id), −1 when never seen."""
        return id_row(&self.item_view, item_id)

    def knows(self, user_id, item_id):
        """Whether both were seen in training, so that the prediction is the whole formula."""
        return id_row(&self.user_view, user_id) >= 0 and id_row(&self.item_view, item_id) >= 0

    def score(self, Py_ssize_t user_row, Py_ssize_t item_row):
        """The predicted rating of a pair of rows (−1: never seen). InvalidInput when there is no such row."""
        self.fitted()
        if user_row < -1 or user_row >= self.users or item_row < -1 or item_row >= self.items:
            raise InvalidInput("There is no such row.")
        return self.value(user_row, item_row)

    def score_many(self, user_rows, item_rows):
        """(n,) float64: the predicted rating of each pair of rows.

        user_rows, item_rows: (n,) integers. InvalidInput for a row that does not exist (−1: never seen).
        """
        cdef const Py_ssize_t[::1] users = as_rows(user_rows)
        cdef const Py_ssize_t[::1] items = as_rows(item_rows)
        cdef Py_ssize_t n = users.shape[0], at, user, item, ahead, wrong = 0
        self.fitted()
        if items.shape[0] != n:
            raise InvalidInput("There must be as many item rows as user rows.")
        scores = np.empty(n, np.float64)
        cdef double *out = <double *> cnp.PyArray_DATA(scores)
        with nogil:
            for at in range(n):
                wrong |= (users[at] < -1) | (users[at] >= self.users)
                wrong |= (items[at] < -1) | (items[at] >= self.items)
            if not wrong:
                for at in range(n):
                    ahead = at + AHEAD
                    if ahead < n:
                        # Row −1 would be fetched from before the array: harmless, a prefetch cannot fault.
                        fetch(self.p + users[ahead] * self.factors, self.factors)
                        fetch(self.q + items[ahead] * self.factors, self.factors)
                    out[at] = self.value(users[at], items[at])
        if wrong:
            raise InvalidInput("There is no such row.")
        return scores

    def predict(self, user_id, item_id):
        """The predicted rating of a pair of ids (str or int)."""
        self.fitted()
        return self.value(id_row(&self.user_view, user_id), id_row(&self.item_view, item_id))

    def predict_many(self, user_ids, item_ids):
        """(n,) float64: the predicted rating of each pair; user_ids, item_ids: n str or int each."""
        self.fitted()
        users, items = self.user_ids.rows(user_ids), self.item_ids.rows(item_ids)
        if users.size != items.size:
            raise InvalidInput("There must be as many items as users.")
        return self.score_many(users, items)

    def predict_items(self, user_id, item_ids):
        """(n,) float64: the predicted rating of one user for each of n items (a sequence of str or int)."""
        self.fitted()
        cdef const int64_t[::1] items = self.item_ids.rows(item_ids)
        cdef Py_ssize_t user = id_row(&self.user_view, user_id), n = items.shape[0], at
        scores = np.empty(n, np.float64)
        cdef double *out = <double *> cnp.PyArray_DATA(scores)
        with nogil:
            for at in range(n):
                out[at] = self.value(user, items[at])
        return scores

    def top_k(self, user_id, Py_ssize_t k=10, exclude=()):
        """The k items with the highest predicted rating: [(item_id, score)], best first, ties by item id.

        k: 1 or more; fewer come back when fewer are left. exclude: ids (str or int) not to rank; unknown ones
        are ignored. For a user never seen the ranking is by item bias.
        """
        cdef Py_ssize_t user, item, kept = 0, at
        cdef uint8_t *skip = NULL
        cdef Scored *heap = NULL
        cdef Scored one
        self.fitted()
        if k < 1:
            raise InvalidInput("k must be 1 or more.")
        if isinstance(exclude, (str, bytes)):
            raise InvalidInput("exclude is a collection of ids, not one id.")
        user = id_row(&self.user_view, user_id)
        k = min(k, self.items)
        try:
            skip = <uint8_t *> calloc(self.items, 1)
            heap = <Scored *> malloc(k * sizeof(Scored))
            if skip == NULL or heap == NULL:
                raise MemoryError
            for item_id in exclude:
                item = id_row(&self.item_view, item_id)
                if item >= 0:
                    skip[item] = 1
            with nogil:
                for item in range(self.items):
                    if skip[item]:
                        continue
                    one.row = item
                    one.score = self.value(user, item)
                    if kept < k:
                        heap[kept] = one
                        sift_up(heap, kept)
                        kept += 1
                    elif one.score > heap[0].score:  # an equal score has a later row: it ranks after
                        heap[0] = one
                        sift_down(heap, k)
            ranked = [None] * kept
            for at in range(kept - 1, -1, -1):
                one = heap[0]
                heap[0] = heap[at]
                sift_down(heap, at)
                ranked[at] = (self.item_ids.name(one.row), one.score)
            return ranked
        finally:
            free(skip)
            free(heap)


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
    """The largest magnitude in a contiguous float32 array, 0 when empty; infinite when one is NaN or infinite."""
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
