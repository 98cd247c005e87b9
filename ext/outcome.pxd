# cython: cdivision=True
"""Expectations of what an arm brings by the features of a decision: one ridge regression a metric and arm.

With c what the arm is thought to bring whatever the features, the prediction is c + θ'x,
θ = (Σ x x' + λ)⁻¹ Σ x (y - c) over what the arm has shown so far, x within the limits that it had when it came
(`limits.pxd`). c moves as the arm's mean does; so two vectors are kept in place of θ, of which the second is the fit of
the constant 1: θ = β - c κ. λ is a diagonal: 1, or the mean square of the feature where that is more.

An offset θ'x is not believed further than it has been right: it is taken times γ, the least-squares slope of y - c
in the offsets that were made before each y was known, from 0 to 1; and the prediction lies between the lowest and the
highest value that the metric has had. So a model of features that tell nothing is soon the arm's mean.

The inverse and both vectors change by rank one (Sherman & Morrison 1950) and are made anew from the sums when the
number of rows says so, as in the policies' models (`regressions.pyx`).
"""

from libc.math cimport fmax, fmin, isfinite, sqrt
from libc.stdint cimport int64_t

from limits cimport limit_and_move
from symmetric cimport (
    add_multiple,
    dot_product,
    symmetric_add,
    symmetric_from_root,
    symmetric_inverse_root,
    symmetric_multiply,
    symmetric_start,
)

ctypedef struct outcome_t:
    Py_ssize_t n_arms, n_features   # no features: there is no model
    Py_ssize_t width, size          # numbers in a row, and in a matrix
    double *gram                    # [M, K, size]: Σ x x'
    double *inverse                 # [M, K, size]
    double *moment                  # [M, K, width]: Σ x y
    double *constant                # [M, K, width]: Σ x
    double *slope                   # [M, K, width]: β
    double *share                   # [M, K, width]: κ
    double *precision               # [M, K, width]: λ, of the inverse
    double *agreed                  # (M, K): Σ offset (y - c)
    double *offered                 # (M, K): Σ offset²
    int64_t *learned                # (M, K)
    double *centre                  # [M, width]: limits
    double *spread                  # [M, width]
    double *lowest                  # (M,)
    double *highest                 # (M,)
    double *x                       # [width]: of the present decision, within its limits
    double *direction               # [width]
    double *work                    # [2, width, width]

cdef enum:
    # Rows between two inverses made anew: so many, or this many a feature if that is more.
    MIN_BETWEEN = 1024
    BETWEEN_A_FEATURE = 16


cdef inline void outcome_see(outcome_t *o, Py_ssize_t m, const float *x) noexcept nogil:
    """Takes the features of a decision, finite numbers, and moves the limits by them."""
    cdef Py_ssize_t j
    for j in range(o.n_features):
        o.x[j] = <double>x[j]
    limit_and_move(o.x, o.centre + m * o.width, o.spread + m * o.width, o.n_features)


cdef inline double outcome_offset(const outcome_t *o, Py_ssize_t m, Py_ssize_t k, double c) noexcept nogil:
    """θ'x of arm k for the present decision, within what values there were."""
    cdef Py_ssize_t i = m * o.n_arms + k
    cdef double predicted
    if o.learned[i] == 0:
        return 0.0
    predicted = c + dot_product(o.slope + i * o.width, o.x, o.width)
    predicted -= c * dot_product(o.share + i * o.width, o.x, o.width)
    if not isfinite(predicted):
        return 0.0
    return fmin(fmax(predicted, o.lowest[m]), o.highest[m]) - c


cdef inline double outcome_predict(const outcome_t *o, Py_ssize_t m, Py_ssize_t k, double c) noexcept nogil:
    """Value that arm k is expected to bring with the present features."""
    cdef Py_ssize_t i = m * o.n_arms + k
    cdef double slope
    # The square of a very small offset is 0, its product with what came may not be.
    if not (o.agreed[i] > 0.0 and o.offered[i] > 0.0):
        return c
    slope = o.agreed[i] / o.offered[i]
    return c + (slope if slope < 1.0 else 1.0) * outcome_offset(o, m, k, c)


cdef inline void outcome_invert(outcome_t *o, Py_ssize_t i) noexcept nogil:
    """Makes the inverse of a model, and what follows from it, from its sums."""
    cdef Py_ssize_t j
    cdef const double *gram = o.gram + i * o.size
    cdef double *precision = o.precision + i * o.width
    for j in range(o.n_features):
        precision[j] = fmax(1.0, gram[symmetric_start(j, o.width)] / o.learned[i])
    symmetric_inverse_root(gram, precision, o.work, o.work + o.width * o.width, o.n_features, o.width)
    symmetric_from_root(o.work, o.inverse + i * o.size, o.n_features, o.width)
    symmetric_multiply(o.inverse + i * o.size, o.moment + i * o.width, o.slope + i * o.width, o.width)
    symmetric_multiply(o.inverse + i * o.size, o.constant + i * o.width, o.share + i * o.width, o.width)


cdef inline bint outcome_is_rounding(const outcome_t *o, Py_ssize_t i, double variance) noexcept nogil:
    """Return whether no inverse fits the direction and variance, by Cauchy and Schwarz, or too little of it stays."""
    cdef Py_ssize_t j
    cdef const double *precision = o.precision + i * o.width
    # Written so that NaN is rounding.
    if not variance <= 1000.0:
        return True
    for j in range(o.n_features):
        if not o.direction[j] * o.direction[j] * precision[j] <= 2.0 * variance:
            return True
    return False


cdef inline void outcome_learn(outcome_t *o, Py_ssize_t m, Py_ssize_t k, double y, double c) noexcept nogil:
    """Arm k has brought y with the present features."""
    cdef Py_ssize_t i = m * o.n_arms + k, j
    cdef int64_t between = max(<int64_t>MIN_BETWEEN, <int64_t>BETWEEN_A_FEATURE * o.n_features), n
    cdef double offset = outcome_offset(o, m, k, c), variance, factor
    cdef double *inverse = o.inverse + i * o.size
    cdef double *slope = o.slope + i * o.width
    cdef double *share = o.share + i * o.width
    o.agreed[i] += offset * (y - c)
    o.offered[i] += offset * offset
    o.lowest[m] = fmin(o.lowest[m], y)
    o.highest[m] = fmax(o.highest[m], y)
    symmetric_add(o.gram + i * o.size, 1.0, o.x, o.width)
    add_multiple(o.moment + i * o.width, y, o.x, o.width)
    add_multiple(o.constant + i * o.width, 1.0, o.x, o.width)
    o.learned[i] += 1
    n = o.learned[i]
    if n % between == 0 or (n < between and n & (n - 1) == 0):
        outcome_invert(o, i)
        return
    symmetric_multiply(inverse, o.x, o.direction, o.width)
    variance = fmax(0.0, dot_product(o.x, o.direction, o.width))
    if outcome_is_rounding(o, i, variance):
        outcome_invert(o, i)
        return
    factor = 1.0 / (1.0 + variance)
    add_multiple(slope, factor * (y - dot_product(slope, o.x, o.width)), o.direction, o.width)
    add_multiple(share, factor * (1.0 - dot_product(share, o.x, o.width)), o.direction, o.width)
    # Scaled first, so that both halves of a diagonal block stay each other's mirror to the last bit.
    factor = sqrt(factor)
    for j in range(o.width):
        o.direction[j] *= factor
    symmetric_add(inverse, -1.0, o.direction, o.width)
