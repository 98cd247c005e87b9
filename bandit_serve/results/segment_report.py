"""Results by segment: the comparisons with control within each value of a dimension, all corrected together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.experiments.dimensions import Segment, SegmentKind
from bandit_serve.experiments.spec import Record
from bandit_serve.metrics import KINDS
from bandit_serve.results.estimates import MIN_OBSERVATIONS, Estimates, Sums
from bandit_serve.results.finite import finite
from bandit_serve.results.segments import SegmentedSums, level_of_one
from bandit_serve.results.sequence import Floats, Sequence, holm, p_value
from bandit_serve.results.shrinkage import shrunk

Interval = tuple[float, float]


class SegmentMetric(Struct, frozen=True):
    """One arm on one metric within a segment. Fields are as in `MetricResult`, but for the levels.

    Intervals hold at the `level` of the whole each, so together at 1 - alpha on this metric, in all segments and at
    every time; `p_value` is adjusted by Holm over all segments and the arms that are compared with control.
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


class Shrunk(Struct, frozen=True):
    """Difference to control, moved towards the mean of those of all segments as far as they are alike.

    `weight`, 0 to 1, is that of the segment's own data: 0 where nothing tells the segments apart. It is an aid for
    deciding, not a test (normal-normal empirical Bayes with DerSimonian and Laird's variance between segments).
    """

    difference: float
    standard_error: float
    weight: float


class SegmentArm(Struct, frozen=True):
    name: str
    metrics: dict[str, SegmentMetric]


class SegmentResult(Struct, frozen=True):
    """One segment. `value` is that of the field; null for the `rest` of its values, which are one segment, and for
    `unknown`, where the value was missing or is none of the schema.

    `shrunk` has, by arm and metric, the arms that are compared with control; null where too little is known.
    """

    value: str | None
    kind: SegmentKind
    arms: tuple[SegmentArm, ...]
    shrunk: dict[str, dict[str, Shrunk | None]]


class SegmentReport(Struct, frozen=True):
    """Results by the values of one context field. `declared` before the start, or looked up afterwards.

    `level` is that of each interval. `reason` says how all of it is to be read.
    """

    field: str
    declared: bool
    level: float
    reason: str
    values: tuple[SegmentResult, ...]


def segment_report(segmented: SegmentedSums, record: Record, dimension: int, declared: bool) -> SegmentReport:
    """Report on one of the dimensions of `segmented`, given by its place."""
    experiment, about = record.experiment, segmented.dimensions[dimension]
    tables = {
        metric.name: SegmentTable(segmented, record, dimension, index)
        for index, metric in enumerate(experiment.metrics)
        if metric.is_mean
    }
    level = 1.0 - level_of_one(about, experiment.stopping.alpha, len(experiment.arms))
    return SegmentReport(
        field=about.name,
        declared=declared,
        level=level,
        reason=_reason(record, tables, about.name, declared),
        values=tuple(_segment(record, tables, segment, s) for s, segment in enumerate(about.segments)),
    )


def _segment(record: Record, tables: dict[str, SegmentTable], segment: Segment, place: int) -> SegmentResult:
    experiment = record.experiment
    names = experiment.arm_names
    return SegmentResult(
        value=segment.value,
        kind=segment.kind,
        arms=tuple(
            SegmentArm(name, {metric: table.row(arm, place) for metric, table in tables.items()})
            for arm, name in enumerate(names)
        ),
        shrunk={
            name: {metric: table.shrunk(arm, place) for metric, table in tables.items()}
            for arm, name in enumerate(names)
            if arm != experiment.control_arm
        },
    )


class SegmentTable:
    """Results on one metric by arm and segment, arrays (K, S)."""

    def __init__(self, segmented: SegmentedSums, record: Record, dimension: int, index: int) -> None:
        experiment = record.experiment
        metric, control, n_arms = experiment.metrics[index], experiment.control_arm, len(experiment.arms)
        rows, kind = segmented.rows(dimension, index), KINDS[metric.kind]
        self.sums = sums = Sums.of_rows(segmented.sums, rows)
        self.alpha = level_of_one(segmented.dimensions[dimension], experiment.stopping.alpha, n_arms)
        guarded = np.asarray(sums.unfloored) == 0
        moving = np.asarray(sums.moved) & guarded
        lost = np.where(sums.moved, sums.lost(kind, True), sums.lost(kind, False))
        self.valid: NDArray[np.bool_] = guarded & ~lost.any(axis=0)
        by_moving, moving_now = segmented.estimates(sums, True, dimension, index, experiment)
        by_fixed, fixed_now = segmented.estimates(sums, False, dimension, index, experiment)
        self.estimates = _chosen(moving, by_moving, by_fixed)
        self.comparable: NDArray[np.bool_] = self.estimates.comparable & self.valid
        log_e = np.where(
            moving,
            np.maximum(segmented.moving[rows].T, moving_now),
            np.maximum(segmented.fixed[rows].T, fixed_now),
        )
        others = np.arange(n_arms) != control
        self.p = np.full(log_e.shape, np.nan)
        raw = np.where(self.comparable, p_value(log_e), np.nan)[others]
        self.p[others] = holm(raw.ravel()).reshape(raw.shape)
        limits = metric.traits.mean_limits(experiment.unit, experiment.missing)
        self.known = (sums.n > 0) & ~lost
        self._read(control, limits, lost)

    def _read(self, control: int, limits: Interval, lost: NDArray[np.bool_]) -> None:
        """Numbers as they are shown; NaN where there is none."""
        sums, estimates, differences = self.sums, self.estimates, self.estimates.differences
        self.mean = np.where(self.known, sums.mean, np.nan)
        self.std = np.where(self.known & (sums.n > 1), np.sqrt(sums.sample_variance), np.nan)
        has = self.valid & estimates.usable & estimates.tame
        below, above = estimates.reach(self.alpha)
        ends = np.clip([estimates.arms.mean - below, estimates.arms.mean + above], *limits)
        self.ends = np.where(has, ends, np.nan)
        compared = estimates.compared & self.known & self.known[control]
        self.difference = np.where(compared, differences.mean, np.nan)
        half = differences.half_width(self.alpha)
        both = np.stack([differences.mean - half, differences.mean + half])
        self.difference_ends = np.where(self.comparable, both, np.nan)
        lifts = estimates.lifts(self.alpha)
        liftable = estimates.liftable(lifts, lost, control, limits[0])
        self.lift = np.where(liftable, lifts.value, np.nan)
        least = -1.0 if limits[0] >= 0.0 else -np.inf
        both = np.stack([np.maximum(lifts.low, least), np.maximum(lifts.high, least)])
        self.lift_ends = np.where(liftable & self.comparable & lifts.bounded, both, np.nan)
        self._shrunk = [
            shrunk(differences.mean[arm], differences.variance_of_mean[arm], self.comparable[arm])
            for arm in range(len(self.mean))
        ]

    def row(self, arm: int, place: int) -> SegmentMetric:
        """Result of an arm in the segment at `place`."""
        return SegmentMetric(
            n=int(self.sums.n[arm, place]),
            mean=finite(self.mean[arm, place]),
            std=finite(self.std[arm, place]),
            interval=_interval(self.ends[:, arm, place]),
            difference=finite(self.difference[arm, place]),
            difference_interval=_interval(self.difference_ends[:, arm, place]),
            lift=finite(self.lift[arm, place]),
            lift_interval=_interval(self.lift_ends[:, arm, place]),
            p_value=finite(self.p[arm, place]),
        )

    def shrunk(self, arm: int, place: int) -> Shrunk | None:
        """Shrunk difference of an arm in a segment; None where nothing was seen there, or fewer than two are known."""
        of_arm = self._shrunk[arm]
        if of_arm is None or math.isnan(self.difference[arm, place]):
            return None
        return Shrunk(*(float(column[place]) for column in of_arm))

    @property
    def n_uncompared(self) -> int:
        """Number of segments in which no arm is compared with control."""
        return int((~self.comparable.any(axis=0)).sum())


def _chosen(first: NDArray[np.bool_], one: Estimates, other: Estimates) -> Estimates:
    """Estimates of `one` in the segments that are `first`, bool (S,), and of `other` elsewhere."""

    def each(a: Any, b: Any) -> Any:
        if isinstance(a, Sequence | Estimates):
            names = [field.name for field in dataclasses.fields(a)]
            return type(a)(**{name: each(getattr(a, name), getattr(b, name)) for name in names})
        return np.where(first, a, b)

    chosen: Estimates = each(one, other)
    return chosen


def _reason(record: Record, tables: dict[str, SegmentTable], field: str, declared: bool) -> str:
    """Reason in words, never empty. It tells of the objective, or of the first metric where that is a ratio."""
    experiment = record.experiment
    name = experiment.objective.name if experiment.objective.name in tables else next(iter(tables))
    objective = tables[name]
    n_segments, n_others = objective.valid.size, len(experiment.arms) - 1
    alpha = experiment.stopping.alpha
    how = (
        f"{field} was declared before the start."
        if declared
        else f"{field} was looked up afterwards: what stands out here is to be confirmed by another experiment."
    )
    provisos = [
        f"On each metric p-values are adjusted for {n_segments} segments"
        + (f" and {n_others} arms" if n_others > 1 else "")
        + f", and intervals hold together, at level {alpha:g}"
    ]
    if not objective.valid.all():
        provisos.append(
            f"no interval and no p-value in {np.count_nonzero(~objective.valid)} of {n_segments} segments: an adaptive "
            "policy without a floor (min_share 0) decided there, or a value that was taken back took the digits along"
        )
    uncompared = objective.n_uncompared
    if uncompared:
        provisos.append(
            f"no comparison in {uncompared} of {n_segments} segments: fewer than {MIN_OBSERVATIONS} observations of "
            f"{name} in every arm but one, or no variance"
        )
    whole = [metric.name for metric in experiment.metrics if metric.name not in tables]
    if whole:
        provisos.append(f"ratios and quantiles are not split: {', '.join(whole)}")
    return f"{how} {'; '.join(provisos)}."


def _interval(ends: Floats) -> Interval | None:
    low, high = float(ends[0]), float(ends[1])
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
