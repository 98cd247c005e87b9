"""Content of an experiment's page, all of it read from a fold at one time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment, Record
from bandit_serve.results import (
    Explanation,
    Report,
    ResultsFold,
    ResultsHistory,
    SegmentReport,
    TimelineChange,
    explanation,
    report,
    results_history,
    segments_of,
)


class Shown(NamedTuple):
    """Everything that a page shows. `segments`: those of declared dimensions, and of what was looked up."""

    report: Report
    history: ResultsHistory
    changes: Sequence[TimelineChange]
    explained: Explanation
    experiment: Experiment
    segments: Sequence[SegmentReport]

    @property
    def metrics(self) -> list[Metric]:
        """Metrics, the objective first."""
        return sorted(self.experiment.metrics, key=lambda metric: metric.role != "objective")

    @property
    def control(self) -> str:
        return self.experiment.arm_names[self.experiment.control_arm]

    @property
    def level(self) -> float:
        """Level of the intervals outside of segments."""
        return 1.0 - self.experiment.stopping.alpha


def shown_of(
    fold: ResultsFold,
    record: Record,
    shares: dict[str, float],
    changes: Sequence[TimelineChange],
    as_of_ms: int,
    looked_up: SegmentReport | None = None,
    history: ResultsHistory | None = None,
) -> Shown:
    """Reads what a page shows of a fold; `record`, `shares` and `as_of_ms` as for a report.

    `looked_up`: results by a field that was not declared. Those by declared dimensions are the fold's. `history`:
    results over time that were read before, where they are recent enough.
    """
    fold, record = fold.complete(), max(record, fold.record, key=lambda known: known.revision)
    made = report(fold, record, shares, as_of_ms)
    declared = () if fold.segmented is None else fold.segmented.dimensions
    segments = [segments_of(fold, record, dimension.name) for dimension in declared]
    return Shown(
        made,
        results_history(fold) if history is None else history,
        changes,
        explanation(fold, made, changes),
        record.experiment,
        segments if looked_up is None else [*segments, looked_up],
    )
