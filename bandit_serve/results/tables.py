"""Table of results on a metric, whatever they are of: means or a quantile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from bandit_serve.experiments.spec import Record
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.quantile_result import QuantileTable

if TYPE_CHECKING:
    from bandit_serve.results.fold import ResultsFold


def table_of(fold: ResultsFold, record: Record, index: int) -> MetricTable:
    """Table of the metric with this index. `record` has as many arms as the fold."""
    kind = MetricTable if record.experiment.metrics[index].quantile is UNSET else QuantileTable
    return kind(fold, record, index)


def objective_table(fold: ResultsFold, record: Record) -> MetricTable:
    experiment = record.experiment
    return table_of(fold, record, experiment.metrics.index(experiment.objective))
