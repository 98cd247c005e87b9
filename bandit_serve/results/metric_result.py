"""What is known about one metric, arm by arm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.experiment import Metric, Record
from bandit_serve.results import decision_aids
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.evidence import directed
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.sequence import Floats, Sequence, holm, p_value
from bandit_serve.results.winner import winner_of

Interval = tuple[float, float]


class MetricResult(Struct, frozen=True):
    """One arm on one metric. `n`, `mean` and `std` are those of the sample that is analysed.

    `interval` and `difference_interval` hold at level 1 - alpha each, at every time, not for all arms
    together; `p_value` is adjusted by Holm over the arms that are compared with control. When shares moved,
    the intervals and the difference weight each decision by its logged share, and need not be centred on
    `mean`.
    """

    n: int
    mean: float | None
    std: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    lift: float | None
    lift_interval: Interval | None
    p_value: float | None
    probability_best: float | None
    expected_loss: float | None


class MetricTable:
    """Everything about one metric, arrays [K]. `there`: the arms that were not removed, which alone can be best."""

    def __init__(self, fold: ResultsFold, record: Record, index: int) -> None:
        experiment = record.experiment
        self.experiment = experiment
        self.index = index
        self.metric: Metric = experiment.metrics[index]
        self.control = experiment.control_arm
        self.alpha = experiment.stopping.alpha
        self.sums = Sums.of(fold.sums, index)
        self.unguarded = self.sums.unsquared if self.sums.contextual and self.sums.moved else 0
        self.valid = self.sums.unfloored == 0 and self.unguarded == 0
        self.moving = self.sums.moved and self.valid
        kind, control = self.metric.kind, self.control
        self.estimates: Estimates = (
            moving_shares(self.sums, kind, control, fold.evidence.peers)
            if self.moving
            else fixed_split(self.sums, kind, control)
        )
        self.evidence = self._evidence(fold)
        self.p = self._p_values(np.maximum(*self.evidence))
        self.there = np.array([status != "removed" for status in record.arm_statuses.values()])
        self.best = decision_aids.probability_best(self.sums, self.metric, self.there)
        self.loss = decision_aids.expected_loss(self.sums, self.metric, self.there)

    def _evidence(self, fold: ResultsFold) -> tuple[Floats, Floats]:
        """The logarithms of the largest e-values, [K]: above and below control."""
        so_far = fold.evidence.found(self.index, self.moving)
        now = directed(self.estimates, self.alpha)
        return np.maximum(so_far[0], now[0]), np.maximum(so_far[1], now[1])

    def _p_values(self, log_e: Floats) -> Floats:
        """Adjusted [K]; NaN where there is none."""
        raw = np.where(self.estimates.comparable & self.valid, p_value(log_e), np.nan)
        others = np.arange(len(raw)) != self.control
        adjusted = np.full(len(raw), np.nan)
        adjusted[others] = holm(raw[others])
        return adjusted

    def standing(self) -> NDArray[np.bool_]:
        """Whose difference is shown, [K]: there is evidence enough in its present direction, and its present interval
        leaves 0 out.
        """
        above, below = self.evidence
        differences = self.estimates.differences
        p = self._p_values(np.where(differences.total > 0, above, below))
        with np.errstate(invalid="ignore"):
            leaves_out: NDArray[np.bool_] = differences.log_e_value(self.alpha) >= -math.log(self.alpha)
            return leaves_out & (p <= self.alpha)

    def faded(self) -> NDArray[np.bool_]:
        """Whose difference was shown once, [K], as the p-value says, and is not any more."""
        return (self.p <= self.alpha) & ~self.standing()

    def winner(self) -> str | None:
        sums, estimates = self.sums, self.estimates
        if not self.valid or sums.n[self.there].min() < self.experiment.stopping.min_samples:
            return None
        gain = np.where(estimates.compared, estimates.differences.mean, np.nan)
        gain = gain if self.metric.goal == "maximize" else -gain
        arm = winner_of(gain, self.standing(), self.control, self.there)
        return None if arm is None else self.experiment.arm_names[arm]

    def row(self, arm: int) -> MetricResult:
        sums, estimates = self.sums, self.estimates
        n = int(sums.n[arm])
        comparable = self._has_interval(estimates.comparable, arm)
        compared, liftable = bool(estimates.compared[arm]), bool(estimates.liftable[arm])
        return MetricResult(
            n=n,
            mean=_number(sums.mean[arm]) if n else None,
            std=_number(math.sqrt(sums.sample_variance[arm])) if n > 1 else None,
            interval=self._within_range(self._of_arm(arm)),
            difference=_number(estimates.differences.mean[arm]) if compared else None,
            difference_interval=self._interval(estimates.differences, arm) if comparable else None,
            lift=_number(estimates.lifts.mean[arm]) if liftable else None,
            lift_interval=self._lift_interval(arm) if liftable and comparable else None,
            p_value=_number(self.p[arm]),
            probability_best=_number(self.best[arm]),
            expected_loss=_number(self.loss[arm]),
        )

    def _of_arm(self, arm: int) -> Interval | None:
        """The interval of the arm's mean."""
        if not self._has_interval(self.estimates.usable & self.estimates.tame, arm):
            return None
        mean = self.estimates.arms.mean[arm]
        below, above = (side[arm] for side in self.estimates.reach(self.alpha))
        ends = (float(mean - below), float(mean + above))
        return ends if all(map(math.isfinite, ends)) else None

    def _has_interval(self, arms: NDArray[np.bool_], arm: int) -> bool:
        return self.valid and bool(arms[arm])

    def _interval(self, sequence: Sequence, arm: int) -> Interval | None:
        mean, half = sequence.mean[arm], sequence.half_width(self.alpha)[arm]
        return (
            (float(mean - half), float(mean + half)) if math.isfinite(mean) and math.isfinite(half) else None
        )

    def _lift_interval(self, arm: int) -> Interval | None:
        """None while control's own interval holds 0: there the delta method does not."""
        control = self._interval(self.estimates.arms, self.control)
        if control is None or control[0] <= 0.0 <= control[1]:
            return None
        return self._interval(self.estimates.lifts, arm)

    def _within_range(self, interval: Interval | None) -> Interval | None:
        """Without the part that no mean of this metric can have."""
        if interval is None or self.metric.kind == "continuous":
            return interval
        low, high = 0.0, math.inf
        if self.metric.kind == "binary":
            high = 1.0
        elif self.metric.kind == "bounded":
            if self.experiment.unit == "user":
                return interval
            low, high = self.metric.floor, self.metric.ceiling
            if self.experiment.missing == "zero":
                low, high = min(low, 0.0), max(high, 0.0)
        low, high = max(low, min(interval[0], high)), min(high, max(interval[1], low))
        return (low, high)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
