# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Thompson sampling under Beta posteriors: one draw an arm, and the arm whose draw is the largest."""

from cpython.pycapsule cimport PyCapsule_New
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_beta

from gamma cimport gamma_draw, gamma_prepare
from tally cimport chooser_name, chooser_t, tally_parameters, tally_t


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameters: the prior's alpha and beta. Cache: the gamma constants of alpha and of beta.

    A Beta draw is x/(x + y) of two gamma draws, and x/(x + y) is the largest where x/y is, which two products
    compare without a division.
    """
    cdef Py_ssize_t i, k, best = among[0]
    cdef double alpha, beta, x, y, best_x = -1.0, best_y = 1.0
    cdef double *constants
    cdef const double *prior
    for i in range(count):
        k = among[i]
        constants = tally.cache + 4 * k
        if not tally.fresh[k]:
            prior = tally_parameters(tally, k)
            alpha = prior[0] + tally.total[k]
            beta = prior[1] + (tally.n[k] - tally.total[k])
            if alpha >= 1.0 and beta >= 1.0:
                gamma_prepare(alpha, &constants[0], &constants[1])
                gamma_prepare(beta, &constants[2], &constants[3])
            else:
                constants[0], constants[1] = alpha, 0.0
                constants[2], constants[3] = beta, 0.0
            tally.fresh[k] = 1
        if constants[1] > 0.0:
            x = gamma_draw(constants[0], constants[1], bits)
            y = gamma_draw(constants[2], constants[3], bits)
        else:
            # Two gammas of tiny shapes may both underflow to 0; NumPy's sampler takes logarithms there.
            x = random_beta(bits, constants[0], constants[2])
            y = 1.0 - x
        if x * best_y > best_x * y:
            best, best_x, best_y = k, x, y
    return best


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 2, 4
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
