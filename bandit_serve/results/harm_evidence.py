"""Largest one-sided e-values so far against each arm's being no worse than control, on the guardrails."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bandit_serve.experiments.metric import Metric
from bandit_serve.results.estimates import Estimates
from bandit_serve.results.sequence import Floats, Sequence


def log_e_of_harm(estimates: Estimates, metric: Metric, alpha: float) -> Floats:
    """Present logarithms of e-values against an arm's being no worse than control, (K,), 0 or more."""
    log_e = gains(estimates, metric, -1.0).log_e_above(alpha)
    return np.where(estimates.comparable, np.maximum(log_e, 0.0), 0.0)


def gains(estimates: Estimates, metric: Metric, sign: float = 1.0) -> Sequence:
    """Differences to control in the direction of the metric's goal, times `sign`."""
    sign = sign if metric.goal == "maximize" else -sign
    return replace(estimates.differences, total=sign * estimates.differences.total)


@dataclass
class HarmEvidence:
    """Logarithms of the largest e-values, 0 or more. Kept while an experiment has guardrails.

    fixed, moving: float64 (M, K), by either method; 0 for metrics that are no guardrails. `fixed` stays where it is
    once the shares have moved.
    """

    fixed: Floats
    moving: Floats

    @classmethod
    def none(cls, n_metrics: int, n_arms: int) -> HarmEvidence:
        return cls(np.zeros((n_metrics, n_arms)), np.zeros((n_metrics, n_arms)))

    def grow(self, n_arms: int) -> None:
        """Makes room for arms that have come."""
        added = n_arms - self.fixed.shape[1]
        self.fixed = np.pad(self.fixed, ((0, 0), (0, added)))
        self.moving = np.pad(self.moving, ((0, 0), (0, added)))

    def note(self, metric: int, moving: bool, log_e: Floats) -> None:
        so_far = (self.moving if moving else self.fixed)[metric]
        np.maximum(so_far, log_e, out=so_far)

    def largest(self, metric: int, moving: bool) -> Floats:
        """Largest log e-values of a metric, (K,).

        What was shown before the shares moved, as they do when an arm is paused for it, stays shown.
        """
        fixed: Floats = self.fixed[metric]
        return np.maximum(fixed, self.moving[metric]) if moving else fixed
