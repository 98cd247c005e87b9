# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Top k items by the score b_i + t·q_i, exactly, without computing most of the scores.

Items are sorted by |q_i|, in blocks of eight, and kept a second time as 8-bit codes: q = scale·code + e_q. With a
query t = step·code + e_t, |t·q − step·scale·codes·codes| ≤ |e_t| |q| + |t − e_t| |e_q| (Cauchy–Schwarz), so codes give
an upper bound of every score at a quarter of the memory traffic, and only what reaches the k-th best score so far is
computed. The search ends where |t| |q| + b can not reach it any more, as all later items are shorter (as in LEMP,
Teflioudi and Gemulla 2015).
"""

import numpy as np

from bandit_serve.errors import InvalidInput

cimport numpy as cnp
from libc.math cimport INFINITY, fabs, nextafterf, rint, sqrt
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from vectors cimport dot

cnp.import_array()

cdef extern from "sketch.h":
    ctypedef struct Sketch:
        const uint8_t *codes
        const float *scales
        const float *norms
        const float *errors
        const float *biases
        Py_ssize_t groups
        const int8_t *query
        int32_t offset
        float step
        float per_norm
        float per_error
    ctypedef Py_ssize_t (*sketch_reach)(const Sketch *, Py_ssize_t, Py_ssize_t, float, uint32_t *) noexcept nogil
    sketch_reach sketch_best() noexcept nogil
    Py_ssize_t sketch_reach_plain(const Sketch *, Py_ssize_t, Py_ssize_t, float, uint32_t *) noexcept nogil

cdef enum:
    LANES8 = 8     # items in a block
    STRIDE = 64    # blocks between two looks at whether the search may end
    MAX_FACTORS = 4096

# Of |t| |q|: more than float32 sums of 4,096 products, and of the bounds, are off by.
cdef double SLACK = 1e-3
cdef double SLACK_PER_FACTOR = 3e-7
# More than what float32 loses where products are denormal.
cdef double DENORMAL_SLACK = 1e-33

cdef sketch_reach reach = sketch_best()


def use_plain(bint plain):
    """Takes the portable code instead of what the processor has, or no longer: for tests."""
    global reach
    reach = sketch_reach_plain if plain else sketch_best()


cdef struct Scored:
    double score
    Py_ssize_t row


cdef inline bint worse(Scored a, Scored b) noexcept nogil:
    """Return whether a ranks after b: a lower score, or the same and a later row."""
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


cdef struct Search:
    # One query on its way: what it asks, and the best so far.
    Sketch sketch
    const float *vector
    const uint8_t *skip
    double base
    double length
    Scored *heap
    Py_ssize_t k
    Py_ssize_t kept
    float threshold
    bint over


cdef class TopK:
    """Items of a model, made ready for searches.

    factors: float32 (N, F), contiguous; biases: float32 (N,). Both are kept, not copied. The codes take about F + 10
    bytes an item. parts: what `parts()` gave for the same items, kept too; without, they are computed. InvalidInput
    where a shape disagrees or rows are not an order.
    """

    cdef object factors
    cdef object biases
    cdef object order
    cdef object codes
    cdef object scales
    cdef object norms
    cdef object errors
    cdef object sorted_biases
    cdef object later_norms
    cdef object later_biases
    cdef const float *q
    cdef const float *b
    cdef const int32_t *rows
    cdef const float *later_norm
    cdef const float *later_bias
    cdef Py_ssize_t n
    cdef Py_ssize_t f
    cdef Py_ssize_t blocks
    cdef Py_ssize_t groups
    cdef bint biased

    def __init__(self, factors, biases, parts=None):
        if not (isinstance(factors, np.ndarray) and factors.dtype == np.float32 and factors.ndim == 2
                and factors.flags.c_contiguous and factors.shape[1] <= MAX_FACTORS):
            raise InvalidInput("Factors must be a contiguous float32 matrix.")
        if not (isinstance(biases, np.ndarray) and biases.dtype == np.float32 and biases.flags.c_contiguous
                and biases.shape == factors.shape[:1]):
            raise InvalidInput("Biases must be a contiguous float32 vector, one for each row of factors.")
        self.factors, self.biases = factors, biases
        self.n, self.f = factors.shape[0], factors.shape[1]
        self.q, self.b = <const float *> cnp.PyArray_DATA(factors), <const float *> cnp.PyArray_DATA(biases)
        self.blocks, self.groups = (self.n + LANES8 - 1) // LANES8, (self.f + 3) // 4
        self.biased = bool(biases.any())
        if parts is None:
            self._sort()
        else:
            self._take(parts)
        # From a block on: how long and how biased an item may still be.
        self.later_norms = np.maximum.accumulate(self.norms[::-1])[::-1].copy() if self.blocks else self.norms
        block_biases = self.sorted_biases.reshape(-1, LANES8).max(axis=1) if self.blocks else self.sorted_biases
        self.later_biases = np.maximum.accumulate(block_biases[::-1])[::-1].copy() if self.blocks else block_biases
        self.later_norm = <const float *> cnp.PyArray_DATA(self.later_norms)
        self.later_bias = <const float *> cnp.PyArray_DATA(self.later_biases)

    def parts(self):
        """Arrays computed from the items, by name."""
        return {"order": self.order, "codes": self.codes, "scales": self.scales, "norms": self.norms,
                "errors": self.errors, "biases": self.sorted_biases}

    cdef _take(self, parts):
        cdef Py_ssize_t at, n = self.n, blocks = self.blocks
        for name, dtype, size in (("order", np.int32, n), ("codes", np.uint8, blocks * self.groups * 32),
                                  ("scales", np.float32, blocks), ("norms", np.float32, blocks),
                                  ("errors", np.float32, blocks), ("biases", np.float32, blocks * LANES8)):
            part = parts[name]
            if part.dtype != dtype or part.shape != (size,) or not part.flags.c_contiguous:
                raise InvalidInput(f"The part {name} does not fit the items.")
        self.order, self.codes, self.scales = parts["order"], parts["codes"], parts["scales"]
        self.norms, self.errors, self.sorted_biases = parts["norms"], parts["errors"], parts["biases"]
        self.rows = <const int32_t *> cnp.PyArray_DATA(self.order)
        seen = np.zeros(n, np.uint8)
        cdef uint8_t *taken = <uint8_t *> cnp.PyArray_DATA(seen)
        cdef bint wrong = False
        with nogil:
            for at in range(n):
                if not 0 <= self.rows[at] < n or taken[self.rows[at]]:
                    wrong = True
                    break
                taken[self.rows[at]] = 1
        if wrong:
            raise InvalidInput("The rows are not an order of the items.")

    cdef _sort(self):
        lengths = np.empty(self.n, np.float32)
        cdef float *length = <float *> cnp.PyArray_DATA(lengths)
        cdef Py_ssize_t row
        with nogil:
            for row in range(self.n):
                length[row] = <float> sqrt(<double> dot(self.q + row * self.f, self.q + row * self.f, self.f))
        # Longest first; what a bias adds counts as length, too.
        importance = np.hypot(lengths, self.biases) if self.biased else lengths
        self.order = np.argsort(-importance, kind="stable").astype(np.int32)
        self.rows = <const int32_t *> cnp.PyArray_DATA(self.order)
        self._encode(lengths)

    cdef _encode(self, lengths):
        cdef Py_ssize_t n_padded = self.blocks * LANES8, block, lane, at, row, place
        self.codes = np.full(self.blocks * self.groups * 32, 128, np.uint8)
        self.scales, self.norms = np.zeros(self.blocks, np.float32), np.zeros(self.blocks, np.float32)
        self.errors = np.zeros(self.blocks, np.float32)
        padded = np.full(n_padded, -np.inf if self.biased else 0, np.float32)
        padded[: self.n] = self.biases[self.order]
        self.sorted_biases = padded
        cdef uint8_t *codes = <uint8_t *> cnp.PyArray_DATA(self.codes)
        cdef float *scales = <float *> cnp.PyArray_DATA(self.scales)
        cdef float *norms = <float *> cnp.PyArray_DATA(self.norms)
        cdef float *errors = <float *> cnp.PyArray_DATA(self.errors)
        cdef const float *length = <const float *> cnp.PyArray_DATA(lengths)
        cdef const float *vector
        cdef double largest, scale, code, rest, error
        with nogil:
            for block in range(self.blocks):
                largest = 0
                for lane in range(min(LANES8, self.n - block * LANES8)):
                    row = self.rows[block * LANES8 + lane]
                    vector = self.q + row * self.f
                    for at in range(self.f):
                        largest = max(largest, fabs(vector[at]))
                    norms[block] = max(norms[block], length[row])
                scale = largest / 127
                scales[block] = <float> scale
                if scales[block] == 0:
                    # So short that codes say nothing: the bound is the norm's.
                    errors[block] = norms[block]
                    continue
                scale = scales[block]
                for lane in range(min(LANES8, self.n - block * LANES8)):
                    vector = self.q + self.rows[block * LANES8 + lane] * self.f
                    error = 0
                    for at in range(self.f):
                        code = min(max(rint(vector[at] / scale), -127.0), 127.0)
                        rest = vector[at] - code * scale
                        error += rest * rest
                        place = block * self.groups * 32 + (at // 4) * 32 + lane * 4 + at % 4
                        codes[place] = <uint8_t> (<int> code + 128)
                    errors[block] = max(errors[block], <float> (sqrt(error) * (1 + 1e-6)))

    @property
    def nbytes(self):
        return sum(part.nbytes for part in (self.order, self.codes, self.scales, self.norms, self.errors,
                                            self.sorted_biases, self.later_norms, self.later_biases))

    def search(self, vectors, bases, Py_ssize_t k, skips=None):
        """K best items of each of m queries: a list of (rows int64 (≤ k,), scores float64 (≤ k,)), best first.

        vectors: float32 (m, F); bases: m numbers that each of a query's scores has on top. skips: None, or for each
        query None or uint8 (N,), not 0 for items that are left out. Ties are broken by row.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        if k < 1 or vectors.ndim != 2 or vectors.shape[1] != self.f or len(bases) != vectors.shape[0]:
            raise InvalidInput("k must be 1 or more, and queries as long as the factors.")
        cdef Py_ssize_t m = vectors.shape[0], number, at, block, end
        skips = [None] * m if skips is None else list(skips)
        for skip in skips:
            if skip is not None and not (isinstance(skip, np.ndarray) and skip.dtype == np.uint8
                                         and skip.shape == (self.n,) and skip.flags.c_contiguous):
                raise InvalidInput("What is skipped must be a uint8 vector, one for each item.")
        k = min(k, self.n)
        if k == 0:
            return [(np.zeros(0, np.int64), np.zeros(0)) for _ in range(m)]
        codes = np.zeros((m, 4 * self.groups), np.int8)
        heaps = np.empty(m * k * sizeof(Scored), np.uint8)
        cdef Search *searches = <Search *> malloc(max(m, 1) * sizeof(Search))
        if searches == NULL:
            raise MemoryError
        try:
            for number in range(m):
                searches[number].skip = NULL if skips[number] is None \
                    else <const uint8_t *> cnp.PyArray_DATA(skips[number])
                searches[number].base = bases[number]
                searches[number].k = k
                searches[number].heap = <Scored *> cnp.PyArray_DATA(heaps) + number * k
                self.ask(&searches[number], <const float *> cnp.PyArray_DATA(vectors) + number * self.f,
                         <int8_t *> cnp.PyArray_DATA(codes) + number * 4 * self.groups)
            with nogil:
                # Blocks that stay in the cache for all queries.
                block = 0
                while block < self.blocks:
                    end = min(block + STRIDE, self.blocks)
                    at = 0
                    for number in range(m):
                        if not searches[number].over:
                            at += 1
                            self.scan(&searches[number], block, end)
                    if at == 0:
                        break
                    block = end
            return [self.answer(&searches[number]) for number in range(m)]
        finally:
            free(searches)

    cdef void ask(self, Search *search, const float *vector, int8_t *codes) noexcept:
        cdef Py_ssize_t at
        cdef double largest = 0, squares = 0, rest, error = 0, step, code
        cdef int32_t total = 0
        for at in range(self.f):
            largest = max(largest, fabs(vector[at]))
            squares += <double> vector[at] * vector[at]
        step = <float> (largest / 63)
        for at in range(self.f):
            code = 0 if step == 0 else min(max(rint(vector[at] / step), -63.0), 63.0)
            codes[at] = <int8_t> <int> code
            total += <int> code
            rest = vector[at] - code * step
            error += rest * rest
        search.vector = vector
        search.length = sqrt(squares)
        search.sketch.codes = <const uint8_t *> cnp.PyArray_DATA(self.codes)
        search.sketch.scales = <const float *> cnp.PyArray_DATA(self.scales)
        search.sketch.norms = <const float *> cnp.PyArray_DATA(self.norms)
        search.sketch.errors = <const float *> cnp.PyArray_DATA(self.errors)
        search.sketch.biases = <const float *> cnp.PyArray_DATA(self.sorted_biases) if self.biased else NULL
        search.sketch.groups = self.groups
        search.sketch.query = codes
        search.sketch.offset = 128 * total
        search.sketch.step = <float> step
        # Rounded up by more than float32 arithmetic is off.
        search.sketch.per_norm = <float> (sqrt(error) * 1.001 + search.length * (1e-6 + self.f * SLACK_PER_FACTOR))
        search.sketch.per_error = <float> ((search.length + sqrt(error)) * 1.001)
        search.kept = 0
        search.threshold = -INFINITY
        search.over = False

    cdef void scan(self, Search *search, Py_ssize_t block, Py_ssize_t end) noexcept nogil:
        """Looks at some blocks, or finds that neither they nor later ones have anything."""
        cdef uint32_t lanes
        cdef Py_ssize_t lane, place
        cdef Scored one
        cdef double most
        if search.kept == search.k:
            most = search.length * self.later_norm[block] * (1 + SLACK) + self.later_bias[block]
            if most + 1e-6 * fabs(most) + DENORMAL_SLACK < search.threshold:
                search.over = True
                return
        while True:
            block = reach(&search.sketch, block, end, search.threshold, &lanes)
            if block == end:
                return
            for lane in range(LANES8):
                place = block * LANES8 + lane
                if lanes >> lane & 1 and place < self.n:
                    one.row = self.rows[place]
                    if search.skip == NULL or not search.skip[one.row]:
                        one.score = (
                            search.base + self.b[one.row] + dot(search.vector, self.q + one.row * self.f, self.f)
                        )
                        self.offer(search, one)
            block += 1

    cdef inline void offer(self, Search *search, Scored one) noexcept nogil:
        cdef double least
        if search.kept < search.k:
            search.heap[search.kept] = one
            sift_up(search.heap, search.kept)
            search.kept += 1
        elif worse(search.heap[0], one):
            search.heap[0] = one
            sift_down(search.heap, search.k)
        else:
            return
        if search.kept == search.k:
            # Scores have the base, bounds do not; both may be off by their last bits.
            least = search.heap[0].score - search.base
            least -= 4e-7 * (fabs(least) + fabs(search.base)) + DENORMAL_SLACK
            search.threshold = nextafterf(<float> least, -INFINITY)

    cdef answer(self, Search *search):
        cdef Py_ssize_t at
        cdef Scored one
        rows, scores = np.empty(search.kept, np.int64), np.empty(search.kept)
        cdef int64_t *out_rows = <int64_t *> cnp.PyArray_DATA(rows)
        cdef double *out_scores = <double *> cnp.PyArray_DATA(scores)
        for at in range(search.kept - 1, -1, -1):
            one = search.heap[0]
            out_rows[at], out_scores[at] = one.row, one.score
            search.heap[0] = search.heap[at]
            sift_down(search.heap, at)
        return rows, scores
