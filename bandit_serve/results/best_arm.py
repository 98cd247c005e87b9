"""Best-arm stopping: whether the arm that is ahead is the best one, by the generalized likelihood ratio.

Z = min over rivals j of n_b kl(p_b, m) + n_j kl(p_j, m), with b the arm that is ahead and m the mean of both arms'
observations together; b is the best at confidence 1 - delta once Z >= ln((1 + ln t)/delta), t observations in all
(Garivier and Kaufmann 2016, Optimal best arm identification with fixed confidence, section 3.2 and 6). It holds for any
rule by which arms are drawn from their own past rewards, `top_two_thompson` above all, while the means stay the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.experiments.spec import Record
from bandit_serve.metrics import KINDS, MetricKind
from bandit_serve.results.estimates import MIN_OBSERVATIONS, MIN_VARIANCE, Sums
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.sequence import Floats


@dataclass(frozen=True)
class BestArm:
    """Arm that is ahead, by its index, and the evidence that it is the best.

    z: float64 (K,), the evidence against each rival; NaN for the arm itself and for arms that were removed.
    threshold: the evidence against every rival from which on the arm is the best, at `delta`.
    n: number of observations of all arms.
    """

    arm: int
    z: Floats
    threshold: float
    n: int
    delta: float

    @property
    def least(self) -> float:
        """Evidence against the closest rival; infinite without a rival."""
        return float(np.nanmin(self.z)) if not np.isnan(self.z).all() else math.inf

    @property
    def decided(self) -> bool:
        return self.least >= self.threshold


def threshold(n: float, delta: float) -> float:
    """Evidence that is enough after n observations of all arms: ln((1 + ln n)/delta)."""
    return math.log((1.0 + math.log(max(n, 1.0))) / delta)


def bernoulli_evidence(n_b: ArrayLike, p_b: ArrayLike, n_j: ArrayLike, p_j: ArrayLike) -> Floats:
    """Evidence that two arms of 0 and 1 differ, from their counts and means; arrays of one shape."""
    return _evidence_of_entropy(n_b, p_b, n_j, p_j) + _evidence_of_entropy(
        n_b, np.subtract(1.0, p_b), n_j, np.subtract(1.0, p_j)
    )


def poisson_evidence(n_b: ArrayLike, p_b: ArrayLike, n_j: ArrayLike, p_j: ArrayLike) -> Floats:
    """Evidence that two arms of counts differ, from their numbers of observations and means; arrays of one shape.

    What else the divergences have, m - p, cancels in the sum.
    """
    return _evidence_of_entropy(n_b, p_b, n_j, p_j)


def normal_evidence(difference: ArrayLike, variance: ArrayLike) -> Floats:
    """Evidence that two arms of any numbers differ, from the difference of their means and its variance."""
    return np.square(np.asarray(difference, np.float64)) / (2.0 * np.asarray(variance, np.float64))


def best_arm(fold: ResultsFold, record: Record, delta: float) -> BestArm | None:
    """Arm that is ahead on the objective, and the evidence for it, at confidence 1 - `delta`.

    None where nothing can be said: fewer than `MIN_OBSERVATIONS` of an arm that is there, no variance, digits that were
    lost, or a contextual policy, whose arms get decisions of different kinds.
    """
    experiment = record.experiment
    index = experiment.metrics.index(experiment.objective)
    sums, kind = Sums.of(fold.sums, index), KINDS[experiment.objective.kind]
    there = np.array([status != "removed" for status in record.arm_statuses.values()])
    if len(there) > len(sums.n) or (sums.n[there] < MIN_OBSERVATIONS).any():
        return None
    if (sums.contextual and sums.moved) or sums.lost(kind, moving=False).any():
        return None
    sign = 1.0 if experiment.objective.goal == "maximize" else -1.0
    arm = int(np.argmax(np.where(there, sign * sums.mean, -np.inf)))
    if not kind.two_valued and (sums.cautious_variance(kind)[there] <= MIN_VARIANCE).any():
        return None
    n = int(sums.n[there].sum())
    rivals = there & (np.arange(len(there)) != arm)
    return BestArm(arm, np.where(rivals, _evidence(sums, kind, arm), np.nan), threshold(n, delta), n, delta)


def _evidence(sums: Sums, kind: type[MetricKind], arm: int) -> Floats:
    """Evidence between `arm` and each other, (K,); without a meaning for arms that were removed.

    Counts vary more than a Poisson law says, as orders of several items do: their evidence is divided by how much.
    """
    n, mean = np.maximum(sums.n, 1), sums.mean
    if kind.two_valued:
        return bernoulli_evidence(n[arm], mean[arm], n, mean)
    variance = np.maximum(sums.cautious_variance(kind), MIN_VARIANCE)
    if kind.likelihood == "poisson":
        spread = variance / np.where(mean > 0.0, mean, 1.0)
        dispersion: Floats = np.maximum(1.0, np.maximum(spread, spread[arm]))
        return poisson_evidence(n[arm], mean[arm], n, mean) / dispersion
    difference = sums.shifted_mean - sums.shifted_mean[arm]
    return normal_evidence(difference, variance / n + variance[arm] / n[arm])


def _evidence_of_entropy(n_b: ArrayLike, p_b: ArrayLike, n_j: ArrayLike, p_j: ArrayLike) -> Floats:
    """Sum of n p ln(p/m) over both, m the mean of the observations of both."""
    n, p, rivals, q = (np.asarray(each, np.float64) for each in (n_b, p_b, n_j, p_j))
    m = (n * p + rivals * q) / (n + rivals)
    return n * _relative_entropy(p, m) + rivals * _relative_entropy(q, m)


def _relative_entropy(p: Floats, m: Floats) -> Floats:
    """p ln(p/m), 0 where p is 0."""
    some = np.broadcast_to(p, m.shape)
    ratio = np.divide(some, m, out=np.ones(m.shape), where=(some > 0.0) & (m > 0.0))
    entropy: Floats = some * np.log(ratio)
    return entropy
