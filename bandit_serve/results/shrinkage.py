"""Shrinkage of estimates that are alike: each moves towards their common mean, the less is known of it the further.

Normal-normal empirical Bayes: estimate i is normal around its own truth with variance v_i, and the truths around a
common mean with variance tau^2, which is DerSimonian and Laird's (Controlled Clinical Trials 1986, eq. 8).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats

MIN_ESTIMATES = 2


class ShrunkEstimates(NamedTuple):
    """Shrunk estimates, their standard errors, and the weights of each one's own data, 0 to 1; float64 (S,)."""

    estimate: Floats
    standard_error: Floats
    weight: Floats


def tau_squared(estimates: Floats, variances: Floats) -> float:
    """Variance between the truths of S >= 2 estimates, by DerSimonian and Laird: 0 where they vary no more than they
    would alone.
    """
    weights = variances.min() / variances
    mean = (weights * estimates).sum() / weights.sum()
    excess = (weights * np.square(estimates - mean)).sum() - (len(estimates) - 1) * variances.min()
    return float(max(excess / (weights.sum() - np.square(weights).sum() / weights.sum()), 0.0))


def shrunk(estimates: Floats, variances: Floats, known: NDArray[np.bool_]) -> ShrunkEstimates | None:
    """Shrunk estimates (S,) of `estimates` with `variances` > 0, of which those `known` count; None for fewer than 2.

    An estimate that is not known becomes the mean of the others, as wide as they differ. The error of the common mean
    is in the standard errors; that of tau^2 is not.
    """
    if np.count_nonzero(known) < MIN_ESTIMATES:
        return None
    tau2 = tau_squared(estimates[known], variances[known])
    of_one = np.where(known, variances, 1.0)
    weights = np.where(known, 1.0 / (of_one + tau2), 0.0)
    mean = (weights * np.where(known, estimates, 0.0)).sum() / weights.sum()
    own = np.where(known, tau2 / (of_one + tau2), 0.0)
    estimate = mean + own * (np.where(known, estimates, mean) - mean)
    variance = np.where(known, own * of_one, tau2) + np.square(1.0 - own) / weights.sum()
    return ShrunkEstimates(estimate, np.sqrt(variance), own)
