"""Results of an experiment as callers see them (API.md, "results")."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import Conflict
from bandit_serve.experiments.spec import Record, Status
from bandit_serve.results import sample_ratio
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.metric_result import MetricResult, MetricTable
from bandit_serve.results.reason import reason_of
from bandit_serve.results.segment_report import SegmentReport, segment_report
from bandit_serve.results.sequence import p_value


class ArmResult(Struct, frozen=True):
    """Results of one arm. `share` is the current one; `exposures` counts the decisions that the log has shown."""

    name: str
    share: float
    exposures: int
    metrics: dict[str, MetricResult]


class SampleRatio(Struct, frozen=True):
    """Test of whether the analysed traffic of the objective came in the logged proportions (level .01, at any time).

    `insufficient`, with no p-value: some arm with a share was expected fewer than 5 times.
    """

    p_value: float | None
    verdict: sample_ratio.Verdict


class Report(Struct, frozen=True):
    experiment: str
    status: Status
    as_of: str
    arms: tuple[ArmResult, ...]
    srm: SampleRatio
    pending: int
    crossovers: int
    winner: str | None
    reason: str
    segments: SegmentReport | UnsetType = UNSET


def report(
    fold: ResultsFold, record: Record, shares: dict[str, float], as_of_ms: int, *, by: str | None = None
) -> Report:
    """Report at `as_of_ms`, Unix time; `shares` are the current ones by arm, 0 where none is given.

    `by` names a dimension of the fold, by whose segments the report is, too. Where the log has a later record than
    `record`, that is what is reported on: it may have more arms.
    """
    fold, record = fold.complete(), max(record, fold.record, key=lambda known: known.revision)
    experiment = record.experiment
    tables = [MetricTable(fold, record, index) for index in range(len(experiment.metrics))]
    objective = tables[experiment.metrics.index(experiment.objective)]
    srm = _sample_ratio(fold, objective)
    still_open = fold.still_open()
    winner = record.winner if record.status == "stopped" else objective.winner()
    return Report(
        experiment=experiment.id,
        status=record.status,
        as_of=rfc3339(as_of_ms),
        arms=tuple(
            ArmResult(
                name=name,
                share=float(shares.get(name, 0.0)),
                exposures=int(fold.exposures[arm]),
                metrics={
                    table.metric.name: table.row(arm, None if table.metric.served else still_open)
                    for table in tables
                },
            )
            for arm, name in enumerate(experiment.arm_names)
        ),
        srm=srm,
        pending=fold.pending,
        crossovers=fold.crossovers,
        winner=winner,
        reason=reason_of(record, objective, fold.pending, fold.one_in, srm.verdict, winner),
        segments=UNSET if by is None else _segments(fold, record, by),
    )


def _segments(fold: ResultsFold, record: Record, by: str) -> SegmentReport:
    segmented = fold.segmented
    names = [] if segmented is None else [dimension.name for dimension in segmented.dimensions]
    if segmented is None or by not in names:
        raise Conflict("The draft's dimensions have changed meanwhile; ask again.")
    return segment_report(
        segmented, record, names.index(by), declared=by in (record.experiment.dimensions or ())
    )


def _sample_ratio(fold: ResultsFold, objective: MetricTable) -> SampleRatio:
    sums = objective.sums
    if not sample_ratio.sufficient(sums.n, sums.balance):
        return SampleRatio(None, "insufficient")
    if sums.moved:
        so_far = fold.evidence.ratio_moving
        now = sample_ratio.log_e_moving(sums.balance, sums.spread, fold.evidence.peers)
    else:
        so_far, now = fold.evidence.ratio_fixed, sample_ratio.log_e_constant(sums.n, sums.split)
    p = float(p_value(max(so_far[0], now)))
    return SampleRatio(p, sample_ratio.verdict(p))
