# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Thompson sampling of means of Poisson rewards: their posteriors under Gamma priors are Gamma."""

from cpython.pycapsule cimport PyCapsule_New
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_standard_gamma

from gamma cimport gamma_draw, gamma_prepare
from tally cimport chooser_name, chooser_t, tally_parameters, tally_t


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameters: the prior's alpha and beta, shape and rate. Cache: the shape's gamma constants and the scale."""
    cdef Py_ssize_t i, k, best = among[0]
    cdef double shape, drawn, best_drawn = -1.0
    cdef double *constants
    cdef const double *prior
    for i in range(count):
        k = among[i]
        constants = tally.cache + 3 * k
        if not tally.fresh[k]:
            prior = tally_parameters(tally, k)
            shape = prior[0] + tally.n[k] * tally.mean[k]
            if shape >= 1.0:
                gamma_prepare(shape, &constants[0], &constants[1])
            else:
                constants[0], constants[1] = shape, 0.0
            constants[2] = 1.0 / (prior[1] + tally.n[k])
            tally.fresh[k] = 1
        if constants[1] > 0.0:
            drawn = gamma_draw(constants[0], constants[1], bits) * constants[2]
        else:
            drawn = random_standard_gamma(bits, constants[0]) * constants[2]
        if drawn > best_drawn:
            best, best_drawn = k, drawn
    return best


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 2, 3
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
