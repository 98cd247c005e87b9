"""Looks of an experiment in horizon mode: its estimates at a few times on the way to the end it has committed to.

The fold notes them when the objective's analysed values pass the next part of `expected_samples`, so a look is at what
the log said then, whoever asks when. Between looks nothing of them changes: that is what their bounds suppose
(`group_sequential.py`; repeated confidence intervals: Jennison and Turnbull 1989).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.stopping import MAX_LOOKS, Stopping
from bandit_serve.metrics import METRIC_KINDS
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.group_sequential import MAX_Z, bounds, quantile
from bandit_serve.results.sequence import Floats, Sequence

CLOSE = 0.25
"""Part of the way between two looks that has to be between them: one that came late takes the place of the next."""
LEVELS = (1e-12, 1e-8, 1e-5, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.95)
"""Levels for which bounds are computed; between them they are interpolated."""

OF_LOOK = ("difference", "variance", "control", "control_variance")


@dataclass
class HorizonLooks:
    """Looks so far, L of them; K arms, M metrics.

    n: int64 (L,), values of the objective that were analysed. z: float64 (L, M, K), each arm's difference to control
    over its standard error, NaN where they could not be compared. Of the latest look, float64 (M, K): `difference`,
    its `variance`, the mean of `control` and its variance. All are NaN of a metric that is of no mean: its evidence
    holds at any time.
    """

    n: NDArray[np.int64]
    z: Floats
    difference: Floats
    variance: Floats
    control: Floats
    control_variance: Floats

    @classmethod
    def none(cls, n_metrics: int, n_arms: int) -> HorizonLooks:
        of_look = (np.full((n_metrics, n_arms), np.nan) for _ in OF_LOOK)
        return cls(np.zeros(0, np.int64), np.zeros((0, n_metrics, n_arms)), *of_look)

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], n_metrics: int, n_arms: int) -> HorizonLooks:
        """Looks whose columns these are; `ValueError` for what can not have been noted."""
        looks, none = cls(**state), cls.none(n_metrics, n_arms)
        shapes = {name: getattr(none, name).shape for name in OF_LOOK}
        shapes |= {"n": (len(looks.n),), "z": (len(looks.n), n_metrics, n_arms)}
        for name, shape in shapes.items():
            column = getattr(looks, name)
            if column.shape != shape or column.dtype != getattr(none, name).dtype:
                raise ValueError(f"the looks' {name} does not fit its experiment")
        if not 1 <= len(looks.n) <= MAX_LOOKS or (np.diff(looks.n, prepend=0) <= 0).any():
            raise ValueError("the looks are not one after the other")
        if (looks.variance <= 0.0).any():
            raise ValueError("the looks have a variance that there can not be")
        return looks

    def due(self, stopping: Stopping) -> int | None:
        """Number of analysed values at which the next look is; None after the last."""
        last, end = int(self.n[-1]) if len(self.n) else 0, stopping.tuned_for
        if last >= end:
            return None
        each = end / stopping.n_looks
        following = math.floor((last + CLOSE * each) / each) + 1 if last else 1
        return min(math.ceil(following * each), end)

    def grow(self, n_arms: int) -> None:
        """Makes room for arms that have come: they had no part in the looks so far."""
        added = n_arms - self.z.shape[2]
        self.z = np.pad(self.z, ((0, 0), (0, 0), (0, added)), constant_values=np.nan)
        for name in OF_LOOK:
            setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, added)), constant_values=np.nan))

    def look(self, sums: Accumulators, experiment: Experiment, peers: NDArray[np.int64]) -> bool:
        """Notes the estimates of all metrics, if a look is due, and returns whether it is."""
        objective = experiment.metrics.index(experiment.objective)
        n, due = int(sums.counts()[objective]), self.due(experiment.stopping)
        if due is None or n < due:
            return False
        z = np.full((1, *self.difference.shape), np.nan)
        for index, metric in enumerate(experiment.metrics):
            if not metric.is_mean:
                continue
            of_metric, kind = Sums.of(sums, index), METRIC_KINDS[metric.kind]
            estimates = (
                moving_shares(of_metric, kind, experiment.control_arm, peers)
                if of_metric.moved
                else fixed_split(of_metric, kind, experiment.control_arm)
            )
            known = estimates.comparable & ~of_metric.lost(kind, of_metric.moved).any()
            difference, variance = estimates.differences.mean, estimates.differences.variance_of_mean
            known &= np.isfinite(difference) & np.isfinite(variance) & (variance > 0.0)
            self.difference[index] = np.where(known, difference, np.nan)
            self.variance[index] = np.where(known, variance, np.nan)
            self.control[index] = np.where(known, estimates.controls.mean, np.nan)
            self.control_variance[index] = np.where(known, estimates.control_variance, np.nan)
            z[0, index, known] = difference[known] / np.sqrt(variance[known])
        self.n, self.z = np.append(self.n, np.int64(n)), np.concatenate([self.z, z])
        return True

    def estimates(self, metric: int, present: Estimates, stopping: Stopping) -> Estimates:
        """`present` estimates of a metric, with the differences to control of the latest look in their place."""
        known = np.isfinite(self.difference[metric])
        mean, variance = (np.where(known, part[metric], 1.0) for part in (self.difference, self.variance))
        control, control_variance = (
            np.where(known, part[metric], 1.0) for part in (self.control, self.control_variance)
        )
        fractions = self.fractions(stopping)
        return replace(
            present,
            differences=LookSequence.of(mean, variance, fractions),
            controls=LookSequence.of(control, control_variance, fractions),
            control_variance=control_variance,
            covariance=-control_variance,
            compared=known,
            comparable=known,
        )

    def fractions(self, stopping: Stopping) -> tuple[float, ...]:
        """Parts of the planned observations at which the looks were."""
        return tuple((self.n / stopping.tuned_for).tolist())

    def evidence(self, metric: int, stopping: Stopping) -> tuple[Floats, Floats]:
        """-ln p, (K,), of the differences above and below control: p the least level at which a look was beyond it."""
        z = np.nan_to_num(self.z[:, metric], nan=0.0)
        above, below = np.zeros((2, z.shape[1]))
        for at_look, (at, nominal) in zip(
            z, level_bounds(self.fractions(stopping), stopping.alpha), strict=True
        ):
            for side, sign in ((above, 1.0), (below, -1.0)):
                # Nearly a straight line, unlike levels by bounds.
                reached = np.interp(sign * at_look, at, nominal, left=0.0)
                np.maximum(side, [-math.log(math.erfc(x * math.sqrt(0.5))) for x in reached], out=side)
        return above, below


@functools.lru_cache(maxsize=64)
def level_bounds(fractions: tuple[float, ...], alpha: float) -> tuple[tuple[Floats, Floats], ...]:
    """Bounds of |Z|, rising, for some levels, `alpha` one of them, and for each level the two-sided bound of a test
    with a single look; for each of the looks.

    Large levels have spent all before a late look: those that no Z there would be beyond have none.
    """
    if not fractions:
        return ()
    levels = sorted({*LEVELS, alpha}, reverse=True)
    found = np.array([bounds(fractions, level) for level in levels])
    nominal = np.array([quantile(0.5 * level) for level in levels])
    firsts = np.argmin(found, axis=0)
    return tuple(
        (np.maximum.accumulate(found[first:, look]), nominal[first:]) for look, first in enumerate(firsts)
    )


@dataclass(frozen=True)
class LookSequence(Sequence):
    """Estimates at the latest of some looks, at these `fractions` of the planned observations."""

    fractions: tuple[float, ...]

    @classmethod
    def of(cls, mean: Floats, variance: Floats, fractions: tuple[float, ...]) -> LookSequence:
        one = np.ones_like(mean)
        return cls(one, mean, variance, one, fractions)

    def half_width(self, alpha: float) -> Floats:
        """Half the width of the repeated 1 - alpha interval."""
        half: Floats = _bound(self.fractions, alpha) * np.sqrt(self.variance_of_mean)
        return half

    def leaves_out_zero(self, alpha: float) -> NDArray[np.bool_]:
        out: NDArray[np.bool_] = np.abs(self.mean) >= self.half_width(alpha)
        return out


@functools.lru_cache(maxsize=256)
def _bound(fractions: tuple[float, ...], alpha: float) -> float:
    return bounds(fractions, alpha)[-1] if fractions else MAX_Z
