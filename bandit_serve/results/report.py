"""Results of an experiment as callers see them (API.md, "results")."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import Conflict
from bandit_serve.experiments.spec import Record, Status
from bandit_serve.results import sample_ratio
from bandit_serve.results.decision import Decision, Judgement, decision_of, judged
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.interleaving import InterleavingResult
from bandit_serve.results.metric_result import MetricResult, MetricTable
from bandit_serve.results.reason import reason_of, reason_of_contests, without_interval
from bandit_serve.results.segment_report import SegmentReport, segment_report
from bandit_serve.results.sequence import holm, p_value
from bandit_serve.results.tables import table_of
from bandit_serve.results.to_go import to_go
from bandit_serve.results.tradeoff_result import TradeoffResult


class ArmResult(Struct, frozen=True):
    """Results of one arm. `share` is the current one; `exposures` counts the decisions that the log has shown."""

    name: str
    share: float
    exposures: int
    metrics: dict[str, MetricResult]


class SampleRatio(Struct, frozen=True):
    """Test of whether the analysed traffic of the objective came in the logged proportions (level .01, at any time).

    `insufficient`, with no p-value: some arm with a share was expected fewer than 5 times, or lists are interleaved.
    There the arms get the same requests, and what is analysed of each are its clicks.
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
    decision: Decision
    interleaving: InterleavingResult | UnsetType = UNSET
    segments: SegmentReport | UnsetType = UNSET
    tradeoff: TradeoffResult | UnsetType = UNSET


def report(
    fold: ResultsFold, record: Record, shares: dict[str, float], as_of_ms: int, *, by: str | None = None
) -> Report:
    """Report at `as_of_ms`, Unix time; `shares` are the current ones by arm, 0 where none is given.

    `by` names a dimension of the fold, by whose segments the report is, too. Where the log has a later record than
    `record`, that is what is reported on: it may have more arms.
    """
    fold, record = fold.complete(), max(record, fold.record, key=lambda known: known.revision)
    experiment = record.experiment
    tables = [table_of(fold, record, index) for index in range(len(experiment.metrics))]
    objective = tables[experiment.metrics.index(experiment.objective)]
    srm = sample_ratio_of(fold, objective)
    still_open = fold.still_open()
    guards = [table for table in tables if table.metric.is_guardrail]
    judgement = judged(record, objective, guards)
    winner = None if judgement.winner is None else experiment.arm_names[judgement.winner]
    _correct([table for table in tables if not table.metric.is_guardrail])
    contests = fold.contests
    interleaving = (
        UNSET if contests is None else contests.report(experiment.arm_names, experiment.control_arm)
    )
    told = [proviso for table in tables if (proviso := table.proviso()) is not None]
    told += without_interval([table for table in tables if table is not objective])
    reason = (
        reason_of(record, objective, guards, judgement, fold.pending, fold.one_in, srm.verdict, told)
        if interleaving is UNSET
        else reason_of_contests(record, interleaving, winner)
    )
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
        reason=reason,
        decision=_decision(fold, record, judgement),
        interleaving=interleaving,
        segments=UNSET if by is None else segments_of(fold, record, by),
    )


def _decision(fold: ResultsFold, record: Record, judgement: Judgement) -> Decision:
    """Decision so far, and how long it will take at this rate where there is none yet."""
    decision = decision_of(judgement, fold.noted, fold.now_ms, record.experiment.arm_names)
    if decision.state != "undecided" or record.status != "running" or fold.contests is not None:
        return decision
    left = to_go(fold, record)
    if left is None:
        return decision
    days = UNSET if left.days is None else left.days
    return msgspec.structs.replace(decision, samples_to_go=left.samples, days_to_go=days)


def segments_of(fold: ResultsFold, record: Record, by: str) -> SegmentReport:
    """Results by the segments of a dimension of the fold, which is complete; `Conflict` where it is none of them."""
    segmented = fold.segmented
    names = [] if segmented is None else [dimension.name for dimension in segmented.dimensions]
    if segmented is None or by not in names:
        raise Conflict("The draft's dimensions have changed meanwhile; ask again.")
    return segment_report(
        segmented, record, names.index(by), declared=by in (record.experiment.dimensions or ())
    )


def _correct(tables: Sequence[MetricTable]) -> None:
    """Adjusts p-values over the arms of several metrics (Holm)."""
    if len(tables) > 1:
        adjusted = holm(np.concatenate([table.unadjusted() for table in tables]))
        for table, p in zip(tables, np.split(adjusted, len(tables)), strict=True):
            table.correct(p)


def sample_ratio_of(fold: ResultsFold, objective: MetricTable) -> SampleRatio:
    """Test of the analysed traffic of the objective, at any time."""
    sums = objective.sums
    if fold.contests is not None or not sample_ratio.sufficient(sums.n, sums.balance):
        return SampleRatio(None, "insufficient")
    if sums.moved:
        so_far = fold.evidence.ratio_moving
        now = sample_ratio.log_e_moving(sums.balance, sums.spread, fold.evidence.peers)
    else:
        so_far, now = fold.evidence.ratio_fixed, sample_ratio.log_e_constant(sums.n, sums.split)
    p = float(p_value(max(so_far[0], now)))
    return SampleRatio(p, sample_ratio.verdict(p))
