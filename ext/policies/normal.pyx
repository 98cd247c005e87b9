# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Thompson sampling of means of Normal rewards whose variance is unknown too.

Under a Normal-inverse-gamma prior the posterior of a mean is a Student t (Murphy 2007, "Conjugate Bayesian
analysis of the Gaussian distribution", equations 85–89 and 99).

A number of the prior that is NaN is taken from what the arms to choose among have shown: the mean is that of all
rewards, beta their variance within arms (`tally.pxd`). So the posterior knows no unit of measurement.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport isnan, sqrt
from numpy.random cimport bitgen_t
from numpy.random.c_distributions cimport random_standard_gamma, random_standard_normal

from gamma cimport gamma_draw, gamma_prepare
from tally cimport chooser_name, chooser_t, scale_of, scale_t, tally_parameters, tally_t

import numpy as np

ctypedef struct posterior_t:
    double mean
    double kappa
    double alpha
    double beta


cdef inline posterior_t posterior_of(
    double n, double mean, double m2, const double *prior, scale_t scale
) noexcept nogil:
    """`prior`: mean, kappa, alpha, beta."""
    cdef posterior_t posterior
    cdef double centre = scale.mean if isnan(prior[0]) else prior[0]
    cdef double beta = scale.variance if isnan(prior[3]) else prior[3]
    cdef double deviation = mean - centre
    posterior.kappa = prior[1] + n
    # As a step from the prior, which is exact where n is 0 and does not cancel where n is large.
    posterior.mean = centre + deviation * (n / posterior.kappa)
    posterior.alpha = prior[2] + 0.5 * n
    posterior.beta = beta + 0.5 * m2 + 0.5 * deviation * deviation * prior[1] * (n / posterior.kappa)
    return posterior


def posterior(const double[::1] n, const double[::1] mean, const double[::1] m2, const double[:, ::1] prior):
    """Location, scale and degrees of freedom, float64 (K,) each, of the Student t of each arm's mean.

    n, mean, m2: (K,), the observations, their mean and their sum of squared deviations.
    prior: (K, 4), the mean, kappa, alpha and beta of each arm's Normal-inverse-gamma prior, or NaN.
    """
    cdef Py_ssize_t k
    cdef posterior_t arm
    if mean.shape[0] != n.shape[0] or m2.shape[0] != n.shape[0]:
        raise ValueError("n, mean and m2 must have one length")
    if prior.shape[0] != n.shape[0] or prior.shape[1] != 4:
        raise ValueError("prior must be four numbers an arm")
    loc, scale, df = np.empty(n.shape[0]), np.empty(n.shape[0]), np.empty(n.shape[0])
    cdef double[::1] locs = loc, scales = scale, dfs = df
    if n.shape[0] == 0:
        return loc, scale, df
    cdef scale_t shown = scale_of(&n[0], &mean[0], &m2[0], NULL, n.shape[0])
    for k in range(n.shape[0]):
        arm = posterior_of(n[k], mean[k], m2[k], &prior[k, 0], shown)
        locs[k] = arm.mean
        scales[k] = sqrt(arm.beta / (arm.alpha * arm.kappa))
        dfs[k] = 2.0 * arm.alpha
    return loc, scale, df


cdef Py_ssize_t choose(
    const tally_t *tally, const Py_ssize_t *among, Py_ssize_t count, bitgen_t *bits
) noexcept nogil:
    """Parameters: the prior. Cache: posterior mean, beta/kappa, and the gamma constants of alpha; it is of the state
    and of the arms to choose among, so that it only lasts where these are all."""
    cdef Py_ssize_t i, k, best = among[0]
    cdef double precision, drawn, best_drawn = 0.0
    cdef double *constants
    cdef posterior_t arm
    cdef scale_t shown
    cdef bint all_fresh = count == tally.n_arms
    for i in range(count):
        all_fresh = all_fresh and tally.fresh[among[i]]
    if not all_fresh:
        shown = scale_of(tally.n, tally.mean, tally.m2, among, count)
    for i in range(count):
        k = among[i]
        constants = tally.cache + 4 * k
        if not all_fresh:
            arm = posterior_of(tally.n[k], tally.mean[k], tally.m2[k], tally_parameters(tally, k), shown)
            constants[0], constants[1] = arm.mean, arm.beta / arm.kappa
            if arm.alpha >= 1.0:
                gamma_prepare(arm.alpha, &constants[2], &constants[3])
            else:
                constants[2], constants[3] = arm.alpha, 0.0
            tally.fresh[k] = count == tally.n_arms
        if constants[3] > 0.0:
            precision = gamma_draw(constants[2], constants[3], bits)
        else:
            precision = random_standard_gamma(bits, constants[2])
        drawn = constants[0] + random_standard_normal(bits) * sqrt(constants[1] / precision)
        if i == 0 or drawn > best_drawn:
            best, best_drawn = k, drawn
    return best


cdef chooser_t chooser
chooser.choose, chooser.share, chooser.parameters, chooser.cache_width = choose, NULL, 4, 4
CHOOSER = PyCapsule_New(&chooser, chooser_name(), NULL)
