"""Results over time as callers see them: the points that a fold kept, and its state now as the last one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.spec import Record
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.history import BY_METRIC, MAX_POINTS
from bandit_serve.results.metric_result import Interval
from bandit_serve.results.point import point_of
from bandit_serve.results.sequence import Floats

TIMELINE_POINTS = 200


class MetricHistory(Struct, frozen=True):
    """One arm on one metric, an item for each point; each as in the results of that time.

    `log_e` is the natural logarithm of the largest evidence so far against no difference to control: its p-value,
    before those of several arms are adjusted, is exp(-log_e).
    """

    n: list[int]
    mean: list[float | None]
    interval: list[Interval | None]
    difference: list[float | None]
    difference_interval: list[Interval | None]
    p_value: list[float | None]
    log_e: list[float | None]


class ArmHistory(Struct, frozen=True):
    """One arm, an item for each point. `share` is the mean of what decisions since the point before were drawn from, as
    at that point where there were none; `exposures` counts all so far.
    """

    share: list[float]
    exposures: list[int]
    metrics: dict[str, MetricHistory]


class ResultsHistory(Struct, frozen=True):
    """Results at each time of `at`, the last of which is that of the newest entry of the log.

    `regret_bound`: at most so much less of the objective (more, where less is better) than with the best arm alone, at
    level 1 - alpha at every time; null where nothing is known of it, and under contextual policies.
    """

    experiment: str
    at: list[str]
    regret_bound: list[float | None]
    arms: dict[str, ArmHistory]


class ArmTimeline(Struct, frozen=True):
    """One arm on the objective, an item for each point; `share` and `exposures` as in `ArmHistory`."""

    share: list[float]
    exposures: list[int]
    mean: list[float | None]
    interval: list[Interval | None]


class TimelineChange(Struct, frozen=True):
    """Change of the experiment: when, what, whose, of which arm if it was of one, and why if that was said."""

    at: str
    what: str
    who: str
    arm: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class Timeline(Struct, frozen=True):
    at: list[str]
    arms: dict[str, ArmTimeline]
    changes: list[TimelineChange]


@dataclass(frozen=True)
class OverTime:
    """Points of `record`'s experiment, P of them, as arrays.

    at_ms: int64 (P,). exposures: int64 (P, K). shares: float64 (P, K). n: int64 (P, M, K). regret: float64 (P,).
    numbers: float64 (P, M, K) by the names of `BY_METRIC`; NaN is null.
    """

    record: Record
    at_ms: NDArray[np.int64]
    exposures: NDArray[np.int64]
    shares: Floats
    n: NDArray[np.int64]
    regret: Floats
    numbers: dict[str, Floats]

    @classmethod
    def of(cls, fold: ResultsFold, most: int = MAX_POINTS) -> OverTime:
        """Points of a fold, at most `most` of them, evenly chosen. The last is the fold as it is now.

        There is none before anything was exposed.
        """
        fold = fold.complete()
        kept = fold.history
        columns: dict[str, NDArray[Any]] = {name: kept.column(name) for name in kept.names}
        if fold.exposures.any():
            now = point_of(fold).cells()
            columns = {name: np.concatenate([column, [now[name]]]) for name, column in columns.items()}
        count = len(columns["at_ms"])
        chosen = np.unique(np.linspace(count - 1, 0, min(most, count)).round().astype(np.int64))
        columns = {name: column[chosen] for name, column in columns.items()}
        return cls(
            fold.record,
            columns["at_ms"],
            columns["exposures"],
            _shares(columns["drawn"], columns["decisions"]),
            columns["n"],
            columns["regret"],
            {name: columns[name] for name in BY_METRIC},
        )

    @property
    def at(self) -> list[str]:
        return [rfc3339(at_ms) for at_ms in self.at_ms.tolist()]

    def metric(self, metric: int, arm: int) -> MetricHistory:
        def numbers(name: str) -> list[float | None]:
            return _numbers(self.numbers[name][:, metric, arm])

        return MetricHistory(
            self.n[:, metric, arm].tolist(),
            numbers("mean"),
            _intervals(numbers("low"), numbers("high")),
            numbers("difference"),
            _intervals(numbers("difference_low"), numbers("difference_high")),
            numbers("p_value"),
            numbers("log_e"),
        )

    def arm(self, arm: int) -> ArmHistory:
        return ArmHistory(
            self.shares[:, arm].tolist(),
            self.exposures[:, arm].tolist(),
            {each.name: self.metric(m, arm) for m, each in enumerate(self.record.experiment.metrics)},
        )


def traffic_of(fold: ResultsFold, most: int) -> list[tuple[int, int]]:
    """Log times and decisions until then: the start, at most so many of the points that a fold kept, and now.

    Nothing is computed for them, unlike for `OverTime`.
    """
    fold = fold.complete()
    at_ms, exposures = fold.history.column("at_ms"), fold.history.column("exposures").sum(axis=1)
    chosen = np.unique(np.linspace(0, len(at_ms) - 1, min(most, len(at_ms))).round().astype(np.int64))
    kept = list(zip(at_ms[chosen].tolist(), exposures[chosen].tolist(), strict=True))
    now = (int(fold.now_ms), int(fold.exposures.sum()))
    first_ms = fold.record.started_ms
    if first_ms is not None and (not kept or first_ms < kept[0][0]):
        kept.insert(0, (first_ms, 0))
    return [*(each for each in kept if each[0] < now[0]), now] if now[1] else []


def results_history(fold: ResultsFold, points: int = MAX_POINTS) -> ResultsHistory:
    """History of all metrics at up to so many `points`."""
    over_time = OverTime.of(fold, points)
    experiment = over_time.record.experiment
    return ResultsHistory(
        experiment.id,
        over_time.at,
        _numbers(over_time.regret),
        {name: over_time.arm(k) for k, name in enumerate(experiment.arm_names)},
    )


def timeline(fold: ResultsFold, changes: Iterable[TimelineChange], points: int = TIMELINE_POINTS) -> Timeline:
    """Timeline of the objective at up to so many `points`, with all `changes`."""
    over_time = OverTime.of(fold, points)
    experiment = over_time.record.experiment
    objective = experiment.metrics.index(experiment.objective)
    arms = {}
    for k, name in enumerate(experiment.arm_names):
        of_objective = over_time.metric(objective, k)
        arms[name] = ArmTimeline(
            over_time.shares[:, k].tolist(),
            over_time.exposures[:, k].tolist(),
            of_objective.mean,
            of_objective.interval,
        )
    return Timeline(over_time.at, arms, list(changes))


def _shares(drawn: Floats, decisions: NDArray[np.int64]) -> Floats:
    """Mean shares between points, (P, K), of the sums so far; as before where nothing was decided since."""
    since = np.diff(drawn, axis=0, prepend=np.zeros((1, drawn.shape[1])))
    count = np.diff(decisions, prepend=0)
    shares = since / np.maximum(count, 1)[:, None]
    for row in np.flatnonzero(count == 0):
        shares[row] = shares[row - 1] if row else 0.0
    return shares


def _numbers(column: Floats) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


def _intervals(low: list[float | None], high: list[float | None]) -> list[Interval | None]:
    return [
        None if below is None or above is None else (below, above)
        for below, above in zip(low, high, strict=True)
    ]
