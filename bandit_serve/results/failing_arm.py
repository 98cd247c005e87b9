"""Exact tests of an arm whose predictions fail: the guardrails' sequences need hundreds of observations to say so.

A version that fails is ejected after each failure, so few of its failures are ever seen. The first test is an e-value
of two coins. The arm's failures have the Krichevsky-Trofimov mixture over the likelihood of the best chance that is
allowed (Wasserman, Ramdas & Balakrishnan 2020, universal inference), those of control the mixture over that of a chance
q. At control's true chance their product is an e-value, so the smallest product over q is at most one. It holds at any
time and however the traffic was shared.

The second finds the arm that was sound and has broken, for which all that it ever answered speaks in the first. Under a
chance p of failures, 1/p to the power of the failures since the j-th prediction is an e-value that begins there, and so
is the mean over all j with the weights 1/(j(j + 1)) (an e-detector: Shin, Ramdas & Rinaldo 2024). The chance is the
largest that control may have, by a bound that is as seldom wrong as the arm's test.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results.failure_runs import FailureRuns

Floats = NDArray[np.float64]

PART_OF_ALPHA = 0.1
"""Part of alpha that each of the tests spends beside the guardrail's own."""
N_CHANCES = 1_024


def is_watched(metric: Metric) -> bool:
    """Whether failures of arms are tested: on a guardrail of them that allows a number, in units of the metric."""
    if metric.name != "error" or not (metric.served and metric.is_guardrail) or metric.margin is UNSET:
        return False
    return metric.margin.absolute is not UNSET


def watched(experiment: Experiment) -> int | None:
    """Index of the metric on which failures of arms are tested; None without one."""
    return next((index for index, metric in enumerate(experiment.metrics) if is_watched(metric)), None)


def failing(
    counts: NDArray[np.int64], failures: Floats, control: int, margin: float, alpha: float
) -> NDArray[np.bool_]:
    """Tells which arms are shown to fail more often than control by more than `margin`, bool (K,).

    counts, failures (K,): predictions of each arm, and those that failed. Of K arms, each of the K - 1 is at level
    `PART_OF_ALPHA` alpha/(K - 1). Raises nothing; an arm without predictions is not shown to fail.
    """
    n_arms = len(counts)
    threshold = math.log(max(n_arms - 1, 1) / (PART_OF_ALPHA * alpha))
    q = _chances(margin)
    of_control = _mixture(counts[control], failures[control]) - _likelihood(
        counts[control], failures[control], q
    )
    log_e = partial(_log_e, q=q, of_control=of_control, margin=margin)
    shown = [
        arm != control and log_e(int(counts[arm]), float(failures[arm])) > threshold for arm in range(n_arms)
    ]
    return np.array(shown)


def broken(runs: FailureRuns, control: int, margin: float, alpha: float) -> NDArray[np.bool_]:
    """Tells which arms are shown to fail, since some prediction, more often than control by more than `margin`, (K,).

    Half of `PART_OF_ALPHA` alpha is for the bound of control's chance, the other for the K - 1 arms, alike.
    """
    log_level = math.log(PART_OF_ALPHA * alpha / 2.0)
    n, failures = int(runs.n[control]), float(runs.failures[control])
    q = _chances(margin)
    too_large = (q * n >= failures) & (_mixture(n, failures) - _likelihood(n, failures, q) > -log_level)
    most = float(q[too_large][0]) if too_large.any() else float(q[-1])
    before = runs.before.astype(np.float64)
    log_e = -runs.run * math.log(most + margin) - np.log((before + 1.0) * (before + 2.0))
    shown: NDArray[np.bool_] = log_e > math.log(max(len(runs.n) - 1, 1)) - log_level
    shown[control] = False
    return shown


def _chances(margin: float) -> Floats:
    """Chances of control, finer towards 0, where those of failures are."""
    q: Floats = np.linspace(0.0, 1.0, N_CHANCES) ** 3 * (1.0 - margin)
    return q


def _log_e(n: int, k: float, q: Floats, of_control: Floats, margin: float) -> float:
    if n == 0:
        return 0.0
    best = _likelihood(n, k, np.minimum(q + margin, k / n))
    return float(np.min(_mixture(n, k) - best + of_control))


def _mixture(n: int | np.int64, k: float) -> float:
    """Logarithm of the mixture of the likelihoods of k failures in n over Beta(1/2, 1/2)."""
    return math.lgamma(k + 0.5) + math.lgamma(n - k + 0.5) - math.lgamma(n + 1.0) - 2.0 * math.lgamma(0.5)


def _likelihood(n: int | np.int64, k: float, chance: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        failed = k * np.log(chance) if k else np.zeros_like(chance)
        passed = (n - k) * np.log1p(-chance) if n - k else np.zeros_like(chance)
    likelihood: Floats = failed + passed
    return likelihood
