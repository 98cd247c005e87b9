# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Algebra of models of interactions: sparse products, Gram matrices, Cholesky factors and ridge regressions by row.

All that is done by rows is done for rows `begin` to `end`, without the GIL, so that threads can share the work: a row
comes out the same whoever computes it. Sums are in the order of the source, in float64 except for sparse products.
"""

import numpy as np

from bandit_serve.errors import InvalidInput

cimport numpy as cnp
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from vectors cimport cloned_double, dot

cnp.import_array()

cdef double LOST = 1e-13  # part of a diagonal that is left, by rounding, when its row is a sum of those before
cdef double MIN_WEIGHT = 1e-12


cdef inline void add_multiple(double *y, double factor, const double *x, Py_ssize_t n) noexcept nogil:
    """y += factor·x."""
    cdef Py_ssize_t at
    for at in range(n):
        y[at] += factor * x[at]


cdef inline void add_outer(double *upper, double factor, const double *x, Py_ssize_t n) noexcept nogil:
    """Adds factor·x xᵀ to the upper triangle of a matrix."""
    cdef Py_ssize_t row
    for row in range(n):
        add_multiple(upper + row * n + row, factor * x[row], x + row, n - row)


cdef inline void widen(double *out, const float *x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(n):
        out[at] = x[at]


cdef cloned_double decompose(double *a, Py_ssize_t n, double lost) noexcept nogil:
    """Cholesky factor U, A = UᵀU, in place of A's upper triangle. The row of a pivot that is lost becomes 0."""
    cdef Py_ssize_t k, row, at
    cdef double whole, pivot
    cdef double *own
    for k in range(n):
        own = a + k * n
        whole = own[k]
        for row in range(k):
            whole += a[row * n + k] * a[row * n + k]
        if not own[k] > lost * whole:
            memset(own + k, 0, (n - k) * sizeof(double))
            continue
        pivot = 1 / sqrt(own[k])
        for at in range(k, n):
            own[at] *= pivot
        for row in range(k + 1, n):
            add_multiple(a + row * n + row, -own[row], own + row, n - row)
    return 0


cdef cloned_double substitute(const double *u, double *x, Py_ssize_t n) noexcept nogil:
    """x ← (UᵀU)⁻¹ x, 0 where U's row is."""
    cdef Py_ssize_t k, at
    cdef double one
    for k in range(n):
        x[k] = x[k] / u[k * n + k] if u[k * n + k] > 0 else 0
        add_multiple(x + k + 1, -x[k], u + k * n + k + 1, n - k - 1)
    for k in range(n - 1, -1, -1):
        one = x[k]
        for at in range(k + 1, n):
            one -= u[k * n + at] * x[at]
        x[k] = one / u[k * n + k] if u[k * n + k] > 0 else 0
    return 0


cdef square(const double[:, ::1] matrix):
    if matrix.shape[0] != matrix.shape[1]:
        raise InvalidInput("The matrix must be square.")
    return matrix.shape[0]


cdef check_rows(Py_ssize_t begin, Py_ssize_t end, Py_ssize_t n):
    if not 0 <= begin <= end <= n:
        raise InvalidInput("There are no such rows.")


cdef check_sparse(const int64_t[::1] starts, const int32_t[::1] columns, const float[::1] weights,
                  Py_ssize_t n_columns, Py_ssize_t begin, Py_ssize_t end):
    """Raises `InvalidInput` unless rows `begin` to `end` of a sparse matrix are there."""
    cdef Py_ssize_t at
    cdef bint wrong = False
    check_rows(begin, end, starts.shape[0] - 1)
    if columns.shape[0] != weights.shape[0]:
        raise InvalidInput("There must be as many weights as columns.")
    if begin == end:
        return
    for at in range(begin, end):
        wrong |= starts[at] > starts[at + 1]
    if wrong or starts[begin] < 0 or starts[end] > columns.shape[0]:
        raise InvalidInput("The starts of rows must not fall, or leave the columns.")
    for at in range(starts[begin], starts[end]):
        wrong |= columns[at] < 0 or columns[at] >= n_columns
    if wrong:
        raise InvalidInput("A column does not exist.")


def counting_order(const int64_t[::1] codes, Py_ssize_t n_codes):
    """Order that sorts codes, int64 (n,) from 0 to n_codes − 1, equal ones as they come; and where each code begins."""
    cdef Py_ssize_t n = codes.shape[0], at
    cdef int64_t code, place
    starts, order = np.zeros(n_codes + 1, np.int64), np.empty(n, np.int64)
    nexts = np.empty(n_codes, np.int64)
    cdef int64_t[::1] first = starts, out = order, following = nexts
    for at in range(n):
        if codes[at] < 0 or codes[at] >= n_codes:
            raise InvalidInput("A code does not exist.")
        first[codes[at] + 1] += 1
    for at in range(n_codes):
        first[at + 1] += first[at]
        following[at] = first[at]
    for at in range(n):
        code = codes[at]
        place = following[code]
        out[place] = at
        following[code] = place + 1
    return order, starts


cdef cloned_double products(const int64_t *starts, const int32_t *columns, const float *weights, const float *factors,
                            Py_ssize_t f, float *out, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t row, lane
    cdef int64_t at
    cdef float weight
    cdef float *own
    cdef const float *other
    for row in range(begin, end):
        own = out + row * f
        memset(own, 0, f * sizeof(float))
        for at in range(starts[row], starts[row + 1]):
            weight = weights[at]
            other = factors + columns[at] * f
            for lane in range(f):
                own[lane] += weight * other[lane]
    return 0


def sparse_product(const int64_t[::1] starts, const int32_t[::1] columns, const float[::1] weights,
                   const float[:, ::1] factors, float[:, ::1] out, Py_ssize_t begin, Py_ssize_t end):
    """Rows of a sparse matrix times a dense one.

    starts: int64 (n + 1,); columns, weights: int32 and float32, row by row; factors: float32 (m, f); out: float32
    (n, f), of which the rows are written. `InvalidInput` where shapes disagree or a column does not exist.
    """
    cdef Py_ssize_t f = factors.shape[1]
    check_sparse(starts, columns, weights, factors.shape[0], begin, end)
    if out.shape[0] != starts.shape[0] - 1 or out.shape[1] != f:
        raise InvalidInput("The product's shape is another.")
    if begin == end or f == 0 or columns.shape[0] == 0:
        out[begin:end] = 0
        return
    with nogil:
        products(&starts[0], &columns[0], &weights[0], &factors[0, 0], f, &out[0, 0], begin, end)


cdef cloned_double outer_sums(const float *factors, Py_ssize_t f, const float *weights, double *out, double *own,
                              Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(begin, end):
        widen(own, factors + row * f, f)
        add_outer(out, 1.0 if weights == NULL else weights[row], own, f)
    return 0


def gram(const float[:, ::1] factors, weights, Py_ssize_t begin, Py_ssize_t end):
    """Upper triangle of Σ w x xᵀ over rows x of a matrix, float64 (f, f). weights: float32 (n,), or None for 1."""
    cdef Py_ssize_t f = factors.shape[1]
    cdef const float[::1] given
    cdef const float *w = NULL
    check_rows(begin, end, factors.shape[0])
    if weights is not None:
        given = weights
        if given.shape[0] != factors.shape[0]:
            raise InvalidInput("There must be as many weights as rows.")
        w = &given[0] if given.shape[0] else NULL
    total, buffer = np.zeros((f, f)), np.empty(f)
    cdef double *out = <double *> cnp.PyArray_DATA(total)
    cdef double *own = <double *> cnp.PyArray_DATA(buffer)
    if begin < end and f:
        with nogil:
            outer_sums(&factors[0, 0], f, w, out, own, begin, end)
    return total


cdef cloned_double images(const float *factors, Py_ssize_t f, const double *matrix, Py_ssize_t g, float *out,
                          double *own, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t row, lane
    for row in range(begin, end):
        memset(own, 0, g * sizeof(double))
        for lane in range(f):
            add_multiple(own, factors[row * f + lane], matrix + lane * g, g)
        for lane in range(g):
            out[row * g + lane] = <float> own[lane]
    return 0


def dense_product(const float[:, ::1] factors, const double[:, ::1] matrix, float[:, ::1] out, Py_ssize_t begin,
                  Py_ssize_t end):
    """Rows of float32 (n, f) times float64 (f, g), into float32 (n, g)."""
    cdef Py_ssize_t f = factors.shape[1], g = matrix.shape[1]
    check_rows(begin, end, factors.shape[0])
    if matrix.shape[0] != f or out.shape[0] != factors.shape[0] or out.shape[1] != g:
        raise InvalidInput("The shapes of a product disagree.")
    buffer = np.empty(g)
    cdef double *own = <double *> cnp.PyArray_DATA(buffer)
    if begin < end and f and g:
        with nogil:
            images(&factors[0, 0], f, &matrix[0, 0], g, &out[0, 0], own, begin, end)


def cholesky(matrix, double lost=LOST):
    """Upper factor U of a symmetric matrix A = UᵀU, float64 (f, f), from A's upper triangle.

    Rows that are sums of those before them are 0: of whose diagonal no more than the part `lost` is left without these.
    """
    factor = np.triu(np.asarray(matrix, np.float64))
    cdef double[:, ::1] a = factor
    cdef Py_ssize_t n = square(a)
    if n:
        with nogil:
            decompose(&a[0, 0], n, lost)
    return factor


cdef cloned_double invert(const double *u, double *out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t row, k
    cdef double pivot
    for row in range(n - 1, -1, -1):
        pivot = u[row * n + row]
        if not pivot > 0:
            continue
        out[row * n + row] = 1
        for k in range(row + 1, n):
            add_multiple(out + row * n + k, -u[row * n + k], out + k * n + k, n - k)
        for k in range(row, n):
            out[row * n + k] /= pivot
    return 0


def upper_inverse(const double[:, ::1] upper):
    """Inverse of an upper factor of `cholesky`, with columns of 0 where its rows are."""
    cdef Py_ssize_t n = square(upper)
    inverse = np.zeros((n, n))
    cdef double *out = <double *> cnp.PyArray_DATA(inverse)
    if n:
        with nogil:
            invert(&upper[0, 0], out, n)
    return inverse


cdef inline double weighed(double confidence, float weight) noexcept nogil:
    """Weight of an entry; above 0, so that it can be divided by."""
    return confidence * weight if confidence * weight > MIN_WEIGHT else MIN_WEIGHT


cdef inline void by_factors(const int32_t *columns, const float *weights, Py_ssize_t m, const float *factors,
                            Py_ssize_t f, const float *targets, double confidence, double *x, double *a,
                            double *own) noexcept nogil:
    """x = (I + Σ w z zᵀ)⁻¹ Σ (1 + w) t z, by the matrix of order f."""
    cdef Py_ssize_t at
    cdef double weight
    memset(a, 0, f * f * sizeof(double))
    memset(x, 0, f * sizeof(double))
    for at in range(f):
        a[at * f + at] = 1
    for at in range(m):
        weight = weighed(confidence, weights[at])
        widen(own, factors + columns[at] * f, f)
        add_outer(a, weight, own, f)
        add_multiple(x, (1 + weight) * targets[columns[at]], own, f)
    decompose(a, f, LOST)
    substitute(a, x, f)


cdef inline void by_entries(const int32_t *columns, const float *weights, Py_ssize_t m, const float *factors,
                            Py_ssize_t f, const float *targets, double confidence, double *x, double *a,
                            double *own) noexcept nogil:
    """The same, by the matrix of order m: x = Zᵀ S (I + S Z Zᵀ S)⁻¹ S⁻¹ (1 + w) t, S = √w."""
    cdef Py_ssize_t at, other
    cdef double weight
    cdef double *roots = own + f
    for at in range(m):
        weight = weighed(confidence, weights[at])
        roots[at] = sqrt(weight)
        own[at] = (1 + weight) * targets[columns[at]] / roots[at]
        for other in range(at + 1):
            a[other * m + at] = roots[other] * roots[at] \
                * dot(factors + columns[other] * f, factors + columns[at] * f, f)
        a[at * m + at] += 1
    decompose(a, m, LOST)
    substitute(a, own, m)
    memset(x, 0, f * sizeof(double))
    for at in range(m):
        weight = roots[at] * own[at]
        for other in range(f):
            x[other] += weight * factors[columns[at] * f + other]


cdef cloned_double regress(const int64_t *starts, const int32_t *columns, const float *weights, const float *factors,
                           Py_ssize_t f, const float *targets, double confidence, float *out, double *work,
                           Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef double *x = work
    cdef double *own = work + f
    cdef double *a = work + 3 * f
    cdef Py_ssize_t row, lane, m
    cdef int64_t start
    for row in range(begin, end):
        start, m = starts[row], starts[row + 1] - starts[row]
        if 2 * m <= f:
            by_entries(columns + start, weights + start, m, factors, f, targets, confidence, x, a, own)
        else:
            by_factors(columns + start, weights + start, m, factors, f, targets, confidence, x, a, own)
        for lane in range(f):
            out[row * f + lane] = <float> x[lane]
    return 0


def ridge_rows(const int64_t[::1] starts, const int32_t[::1] columns, const float[::1] weights,
               const float[:, ::1] factors, const float[::1] targets, double confidence, float[:, ::1] out,
               Py_ssize_t begin, Py_ssize_t end):
    """Half a turn of weighted alternating least squares (Hu, Koren and Volinsky 2008, eq. 4).

    x = (I + Σ α w z zᵀ)⁻¹ Σ (1 + α w) t z for each row, over its columns' factors z, weights w and targets t, which are
    1 in the paper; 0 for an empty row. With factors y whose Gram matrix and penalty are B = UᵀU, z = U⁻ᵀy, and U⁻¹x is
    the regression with B in place of I.

    starts, columns, weights: as in `sparse_product`; factors, targets: float32 (m, f) and (m,); confidence: α; out:
    float32 (n, f).
    """
    cdef Py_ssize_t f = factors.shape[1]
    cdef double *work
    check_sparse(starts, columns, weights, factors.shape[0], begin, end)
    if out.shape[0] != starts.shape[0] - 1 or out.shape[1] != f or targets.shape[0] != factors.shape[0]:
        raise InvalidInput("The shapes of factors and result disagree.")
    if begin == end or f == 0 or columns.shape[0] == 0:
        out[begin:end] = 0
        return
    work = <double *> malloc((f * f + 3 * f) * sizeof(double))
    if work == NULL:
        raise MemoryError
    with nogil:
        regress(&starts[0], &columns[0], &weights[0], &factors[0, 0], f, &targets[0], confidence, &out[0, 0], work,
                begin, end)
    free(work)


def gain(const double[:, ::1] precision, const double[:, ::1] spread, double n, const float[::1] direction,
         double confidence):
    """Kalman gain of one observation in direction y: H⁻¹y α / (1 + α yᵀH⁻¹y), H = precision + n·spread, float64 (f,).

    precision, spread: float64 (f, f), of which the upper triangles are read; direction: float32 (f,); confidence: α.
    """
    cdef Py_ssize_t f = square(precision), at
    cdef double along = 0
    if square(spread) != f or direction.shape[0] != f:
        raise InvalidInput("The shapes of precision, spread and direction disagree.")
    matrix, result = np.empty((f, f)), np.empty(f)
    cdef double *a = <double *> cnp.PyArray_DATA(matrix)
    cdef double *x = <double *> cnp.PyArray_DATA(result)
    if f == 0:
        return result
    with nogil:
        memcpy(a, &precision[0, 0], f * f * sizeof(double))
        add_multiple(a, n, &spread[0, 0], f * f)
        decompose(a, f, LOST)
        widen(x, &direction[0], f)
        substitute(a, x, f)
        for at in range(f):
            along += direction[at] * x[at]
        along = confidence / (1 + confidence * along)
        for at in range(f):
            x[at] *= along
    return result


def dot_product(const float[::1] a, const float[::1] b):
    """Dot product in the order of all scores."""
    if a.shape[0] != b.shape[0]:
        raise InvalidInput("Vectors must be equally long.")
    return dot(&a[0], &b[0], a.shape[0]) if a.shape[0] else 0.0
