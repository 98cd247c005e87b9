"""Results on one metric, arm by arm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Record
from bandit_serve.metrics import KINDS
from bandit_serve.results import betting, decision_aids
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.evidence import directed
from bandit_serve.results.fold import ResultsFold, StillOpen
from bandit_serve.results.sequence import Floats, Sequence, holm, p_value
from bandit_serve.results.winner import winner_of

Interval = tuple[float, float]

MIN_EXACT = 2
"""Observations from which there is an exact interval."""
AFTER_EXACT = 0.5
"""The part of alpha at which an asymptotic interval misses that comes after an exact one. With all of it one of the two
missed at some time in 6.1 % of 1,500 runs (Bernoulli .5, alpha .05).
"""


class Preview(Struct, frozen=True):
    """Not final: what is open, and counted nowhere else. `n` decisions (units) whose window has not closed, and the
    `mean` of the rewards that they have had so far, 0 for one without: it is low until the slow ones have come.
    """

    n: int
    mean: float


class MetricResult(Struct, frozen=True):
    """One arm on one metric. `n`, `mean` and `std` are those of the sample that is analysed; `preview` is null where
    nothing is open, or a missing reward is none. All but `n` is null where a value that left the sums took their digits
    along.

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
    preview: Preview | None


class MetricTable:
    """Results on one metric, arrays (K,). `there`: the arms that were not removed, which alone can be best."""

    def __init__(self, fold: ResultsFold, record: Record, index: int) -> None:
        experiment = record.experiment
        self.experiment = experiment
        self.index = index
        self.metric: Metric = experiment.metrics[index]
        self.control = experiment.control_arm
        self.alpha = experiment.stopping.alpha
        self.mean_limits = self.metric.traits.mean_limits(experiment.unit, experiment.missing)
        self.sums = Sums.of(fold.sums, index)
        self.unguarded = self.sums.unsquared if self.sums.contextual and self.sums.moved else 0
        kind, control, tuned_for = KINDS[self.metric.kind], self.control, experiment.stopping.tuned_for
        guarded = self.sums.unfloored == 0 and self.unguarded == 0
        self.lost = self.sums.lost(kind, self.sums.moved)
        self.valid = guarded and not self.lost.any()
        self.moving = self.sums.moved and guarded
        self.estimates: Estimates = (
            moving_shares(self.sums, kind, control, fold.evidence.peers, tuned_for)
            if self.moving
            else fixed_split(self.sums, kind, control, tuned_for)
        )
        self.evidence = self._evidence(fold)
        self.p = self._p_values(np.maximum(*self.evidence))
        self.there = np.array([status != "removed" for status in record.arm_statuses.values()])
        self.lifts = self.estimates.lifts(self.alpha)
        part = AFTER_EXACT if fold.begins_exactly(index) else 1.0
        # A part of the least number that there is would be 0.
        self.asymptotic_alpha = max(part * self.alpha, math.ulp(0.0))
        self.exact = [self._exact(fold, arm) for arm in range(len(experiment.arms))]
        self._make_aids()

    def _make_aids(self) -> None:
        sums, metric, there = self.sums, self.metric, self.there
        if self.lost.any():
            self.best = self.loss = np.full(len(there), np.nan)
        elif not sums.moved:
            self.best = decision_aids.probability_best(sums, metric, there)
            self.loss = decision_aids.expected_loss(sums, metric, there)
        elif self.valid:
            weighted = self.estimates, sums.n, metric, self.control, there
            self.best = decision_aids.weighted_probability_best(*weighted)
            self.loss = decision_aids.weighted_expected_loss(*weighted)
        else:
            self.best = self.loss = np.full(len(there), np.nan)

    def _exact(self, fold: ResultsFold, arm: int) -> Interval | None:
        """Interval of an arm's few observations, from all of them, where there can be one."""
        values = fold.beginning(self.index, arm)
        if not self.valid or values is None or len(values) < MIN_EXACT:
            return None
        return betting.mean_interval(values, *self.mean_limits, self.alpha)

    def _evidence(self, fold: ResultsFold) -> tuple[Floats, Floats]:
        """Logarithms of the largest e-values, (K,): above and below control."""
        so_far = fold.evidence.largest(self.index, self.moving)
        now = directed(self.estimates, self.alpha)
        return np.maximum(so_far[0], now[0]), np.maximum(so_far[1], now[1])

    def _p_values(self, log_e: Floats) -> Floats:
        """Adjusted p-values, (K,); NaN where there is none."""
        raw = np.where(self.estimates.comparable & self.valid, p_value(log_e), np.nan)
        others = np.arange(len(raw)) != self.control
        adjusted = np.full(len(raw), np.nan)
        adjusted[others] = holm(raw[others])
        return adjusted

    def standing(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose difference is shown: by the evidence in its direction and by its interval."""
        above, below = self.evidence
        differences = self.estimates.differences
        p = self._p_values(np.where(differences.total > 0, above, below))
        with np.errstate(invalid="ignore"):
            leaves_out: NDArray[np.bool_] = differences.log_e_value(self.alpha) >= -math.log(self.alpha)
            return leaves_out & (p <= self.alpha)

    def faded(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose difference was shown once, by the p-value, and is not any more."""
        return (self.p <= self.alpha) & ~self.standing()

    def winner(self) -> str | None:
        sums, estimates = self.sums, self.estimates
        if not self.valid or sums.n[self.there].min() < self.experiment.stopping.min_samples:
            return None
        gain = np.where(estimates.compared, estimates.differences.mean, np.nan)
        gain = gain if self.metric.goal == "maximize" else -gain
        arm = winner_of(gain, self.standing(), self.control, self.there)
        return None if arm is None else self.experiment.arm_names[arm]

    def liftable(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms with a lift."""
        return self.estimates.liftable(self.lifts, self.lost, self.control, self.mean_limits[0])

    def has_interval(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose mean has an interval."""
        exact = np.array([interval is not None for interval in self.exact])
        has: NDArray[np.bool_] = self.valid & ((self.estimates.usable & self.estimates.tame) | exact)
        return has

    def row(self, arm: int, still_open: StillOpen | None) -> MetricResult:
        """Result of one arm; `still_open` as in the fold."""
        sums, estimates = self.sums, self.estimates
        n, lost = int(sums.n[arm]), bool(self.lost[arm])
        compared = bool(estimates.compared[arm]) and not (lost or self.lost[self.control])
        comparable = self.valid and bool(estimates.comparable[arm])
        liftable = bool(self.liftable()[arm])
        return MetricResult(
            n=n,
            mean=_number(sums.mean[arm]) if n and not lost else None,
            std=_number(math.sqrt(sums.sample_variance[arm])) if n > 1 and not lost else None,
            interval=self._mean_interval(arm),
            difference=_number(estimates.differences.mean[arm]) if compared else None,
            difference_interval=self._interval(estimates.differences, arm, self.alpha)
            if comparable
            else None,
            lift=_number(self.lifts.value[arm]) if liftable else None,
            lift_interval=self._lift_interval(arm) if liftable and comparable else None,
            p_value=_number(self.p[arm]),
            probability_best=_number(self.best[arm]),
            expected_loss=_number(self.loss[arm]),
            preview=None if still_open is None else self._preview(arm, *still_open),
        )

    def _mean_interval(self, arm: int) -> Interval | None:
        """Interval of the mean: exact while the fold keeps all of the arm's values, asymptotic from then on."""
        if self.exact[arm] is not None:
            return self.exact[arm]
        if not self.has_interval()[arm]:
            return None
        mean = self.estimates.arms.mean[arm]
        below, above = (side[arm] for side in self.estimates.reach(self.asymptotic_alpha))
        ends = (float(mean - below), float(mean + above))
        return _clipped(ends, *self.mean_limits) if all(map(math.isfinite, ends)) else None

    def _interval(self, sequence: Sequence, arm: int, alpha: float) -> Interval | None:
        mean, half = sequence.mean[arm], sequence.half_width(alpha)[arm]
        return (
            (float(mean - half), float(mean + half)) if math.isfinite(mean) and math.isfinite(half) else None
        )

    def _lift_interval(self, arm: int) -> Interval | None:
        if not self.lifts.bounded[arm]:
            return None
        interval = float(self.lifts.low[arm]), float(self.lifts.high[arm])
        return _clipped(interval, -1.0, math.inf) if self.mean_limits[0] >= 0.0 else interval

    def _preview(self, arm: int, n: NDArray[np.int64], total: Floats) -> Preview | None:
        open_here = int(n[arm])
        return Preview(open_here, float(total[self.index, arm]) / open_here) if open_here else None


def _clipped(interval: Interval, low: float, high: float) -> Interval:
    """Interval without its part below `low` and above `high`."""
    return max(low, min(interval[0], high)), min(high, max(interval[1], low))


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
