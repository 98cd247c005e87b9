# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Thompson sampling of means of counts: their posteriors under Gamma priors are Gamma.

Counts that vary more than Poisson's tell less, as if there were fewer of them by their dispersion, the variance over
the mean, where that is above 1 (quasi-likelihood: Wedderburn 1974; McCullagh & Nelder 1989, section 9.2). An arm's is
estimated by Pearson's statistic, of its own and as if of `POOLED` observations with the dispersion of all arms.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport fmax
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_standard_gamma

from gamma cimport gamma_draw, gamma_prepare
from tally cimport chooser_name, chooser_t, tally_parameters, tally_t

import numpy as np

cdef double POOLED = 10.0


cdef inline double pooled_dispersion(
    const double *n, const double *mean, const double *m2, const Py_ssize_t *among, Py_ssize_t count
) noexcept nogil:
    """Dispersion pooled over the arms in `among`, NULL: all `count`, and one more observation of dispersion 1."""
    cdef double freedom = 1.0, pearson = 1.0
    cdef Py_ssize_t i, k
    for i in range(count):
        k = i if among is NULL else among[i]
        if n[k] > 1.0 and mean[k] > 0.0:
            freedom += n[k] - 1.0
            pearson += m2[k] / mean[k]
    return pearson / freedom


cdef inline double dispersion_of(double n, double mean, double m2, double pooled) noexcept nogil:
    if n > 1.0 and mean > 0.0:
        return fmax(1.0, (m2 / mean + POOLED * pooled) / (n - 1.0 + POOLED))
    return fmax(1.0, pooled)


def posterior(const double[::1] n, const double[::1] mean, const double[::1] m2, const double[:, ::1] prior):
    """Shape and rate, float64 (K,) each, of the Gamma of each arm's mean.

    n, mean, m2: (K,), the observations, their mean and their sum of squared deviations.
    prior: (K, 2), alpha and beta, the shape and the rate of each arm's Gamma prior.
    """
    cdef Py_ssize_t k
    cdef double pooled, effective_n
    if mean.shape[0] != n.shape[0] or m2.shape[0] != n.shape[0]:
        raise ValueError("n, mean and m2 must have one length")
    if prior.shape[0] != n.shape[0] or prior.shape[1] != 2:
        raise ValueError("prior must be two numbers an arm")
    shape, rate = np.empty(n.shape[0]), np.empty(n.shape[0])
    cdef double[::1] shapes = shape, rates = rate
    if n.shape[0] == 0:
        return shape, rate
    pooled = pooled_dispersion(&n[0], &mean[0], &m2[0], NULL, n.shape[0])
    for k in range(n.shape[0]):
        effective_n = n[k] / dispersion_of(n[k], mean[k], m2[k], pooled)
        shapes[k] = prior[k, 0] + effective_n * mean[k]
        rates[k] = prior[k, 1] + effective_n
    return shape, rate


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameters: the prior's alpha and beta, shape and rate. Cache: the shape's gamma constants and the scale; it is
    of the state and of the arms to choose among, so that it only lasts where these are all."""
    cdef Py_ssize_t i, k, best = among[0]
    cdef double shape, effective_n, drawn, best_drawn = -1.0, pooled = 1.0
    cdef double *constants
    cdef const double *prior
    cdef bint all_fresh = count == tally.n_arms
    for i in range(count):
        all_fresh = all_fresh and tally.fresh[among[i]]
    if not all_fresh:
        pooled = pooled_dispersion(tally.n, tally.mean, tally.m2, among, count)
    for i in range(count):
        k = among[i]
        constants = tally.cache + 3 * k
        if not all_fresh:
            prior = tally_parameters(tally, k)
            effective_n = tally.n[k] / dispersion_of(tally.n[k], tally.mean[k], tally.m2[k], pooled)
            shape = prior[0] + effective_n * tally.mean[k]
            if shape >= 1.0:
                gamma_prepare(shape, &constants[0], &constants[1])
            else:
                constants[0], constants[1] = shape, 0.0
            constants[2] = 1.0 / (prior[1] + effective_n)
            tally.fresh[k] = count == tally.n_arms
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
