"""Evaluation of policies that never change over a Parquet export of any size, by DuckDB, here or in a dask cluster.

It has the estimates of `evaluate`, from sums instead of decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import UsageError
from bandit_serve.evaluation.candidates import Candidate, Constant
from bandit_serve.evaluation.decision_folds import FOLDS
from bandit_serve.evaluation.evaluation import (
    CandidateValue,
    Evaluation,
    EvaluationOptions,
    bound_of,
    range_of,
    refused,
    residual_bound,
)
from bandit_serve.evaluation.parquet_sums import (
    ArmSums,
    FilesRead,
    ParquetSums,
    PolicySums,
    SumsOptions,
    TargetsAsked,
    TargetSums,
)
from bandit_serve.evaluation.parted_sums import PartedSums
from bandit_serve.evaluation.sources import ParquetExport
from bandit_serve.evaluation.withholding import Withholding, closed_to_all
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.reading import TimeSpan
from bandit_serve.results.off_policy import ArmMean, Crossed, Diagnostics, Estimate, Overlap
from bandit_serve.results.off_policy.crossing import MIN_OF_ARM
from bandit_serve.results.off_policy.estimate import IntervalOptions, of_moments
from bandit_serve.results.off_policy.overlap import MAX_UNTRIED
from bandit_serve.results.sequence import Floats


def evaluate_export(
    export: ParquetExport,
    metric: Metric,
    span: TimeSpan,
    candidates: Sequence[Candidate],
    options: EvaluationOptions,
    reading: SumsOptions,
) -> Evaluation:
    """Estimates what the candidates would have earned, as `evaluate`, in the memory that `reading` allows.

    Raises `UsageError` for what sums can not answer: a policy that learns, the bootstrap, and a model of outcomes by
    context.
    """
    engine = reading.engine
    targets = _targets(candidates, engine)
    if options.interval == "bootstrap":
        raise UsageError(
            f"--interval: expected another than bootstrap, which --engine {engine} does not have."
        )
    if export.has_context and options.model is not ArmMean:
        raise UsageError(
            f"--outcome: expected mean with --engine {engine}; the decisions have a context, and it fits no model to "
            "that."
        )
    experiment = export.experiment
    of_files = PartedSums if engine == "dask" else ParquetSums
    with of_files(FilesRead.of(export, engine), metric, span, options.seed, reading) as sums:
        by_arm = sums.of_arms()
        n = sum(each.n for each in by_arm)
        bounds = range_of(experiment, metric, n, options)
        outcomes = _outcomes(by_arm, len(experiment.arms))
        centre = math.fsum(each.total for each in by_arm) / n
        asked = TargetsAsked(
            targets,
            _withheld(experiment, by_arm),
            outcomes,
            centre,
            options.tau,
            ranges=options.interval == "bernstein",
        )
        found = sums.of_targets(asked)
    alpha_each = options.alpha / len(candidates)
    values = [
        _value(experiment, bounds, candidate, target, own, found, outcomes, centre, options, alpha_each)
        for candidate, target, own in zip(candidates, targets, found.targets, strict=True)
    ]
    return Evaluation(
        experiment=experiment.id,
        metric=metric.name,
        goal=metric.goal,
        missing=experiment.missing,
        unit=experiment.unit,
        n=n,
        first=rfc3339(min(each.first_ms for each in by_arm)),
        last=rfc3339(max(each.last_ms for each in by_arm)),
        interval=options.interval,
        alpha=options.alpha,
        alpha_each=alpha_each,
        logged=of_moments(found.values, _interval(options, alpha_each, bound_of(bounds, 1.0))),
        policies=values,
    )


def _targets(candidates: Sequence[Candidate], engine: str) -> list[Floats]:
    targets = []
    for candidate in candidates:
        if not isinstance(candidate, Constant):
            raise UsageError(
                f"--policy: {candidate.name} learns, and --engine {engine} takes policies that never change: shares, "
                "arms and versions."
            )
        targets.append(candidate.shares)
    return targets


def _outcomes(by_arm: Sequence[ArmSums], n_arms: int) -> Floats:
    """Mean outcomes, (folds, K), of every arm in the other folds; of all arms for one that is hardly there."""
    counts, totals = np.zeros((FOLDS, n_arms)), np.zeros((FOLDS, n_arms))
    for each in by_arm:
        counts[each.fold, each.arm] += each.n
        totals[each.fold, each.arm] += each.total
    others, sums = counts.sum(axis=0) - counts, totals.sum(axis=0) - totals
    n_others, of_others = others.sum(axis=1, keepdims=True), sums.sum(axis=1, keepdims=True)
    overall = np.where(n_others > 0, of_others / np.maximum(n_others, 1.0), 0.0)
    return np.where(others >= MIN_OF_ARM, sums / np.maximum(others, 1.0), overall)


def _withheld(experiment: Experiment, by_arm: Sequence[ArmSums]) -> list[list[int]]:
    """Revisions that withheld an arm, by arm."""
    withholding = Withholding(experiment, {})
    for each in by_arm:
        withholding.count(each.revision, np.array(each.given, np.int64), np.array(each.denied, np.int64))
    masks = withholding.masks()
    return [[revision for revision, mask in masks.items() if mask[k]] for k in range(len(experiment.arms))]


def _value(
    experiment: Experiment,
    bounds: tuple[float, float] | None,
    candidate: Candidate,
    target: Floats,
    sums: TargetSums,
    found: PolicySums,
    outcomes: Floats,
    centre: float,
    options: EvaluationOptions,
    alpha: float,
) -> CandidateValue:
    n_all, arms = found.values.n, experiment.arm_names
    closed: NDArray[np.int64] = np.where(target > MAX_UNTRIED, np.array(found.closed, np.int64), 0)
    warnings = closed_to_all(arms, closed, n_all)
    if sums.n < n_all:
        warnings.append(
            f"In {n_all - sums.n:,} decisions none of its arms could be chosen: they are left out."
        )
    if not sums.n:
        shares = dict.fromkeys(arms, 0.0)
        return refused(candidate, shares, warnings, None, None, "None of its arms ever had a chance.")
    shares = {arm: share / sums.n for arm, share in zip(arms, sums.shares, strict=True)}
    by_arm = tuple(untried / sums.n for untried in sums.untried)
    missed = Overlap(untried=math.fsum(by_arm), by_arm=by_arm)
    weights = _diagnostics(sums)
    refusal = missed.refusal(arms) or weights.refusal
    if refusal is not None:
        return refused(candidate, shares, warnings, weights, missed, refusal)
    return CandidateValue(
        name=candidate.name,
        policy=candidate.about,
        decisions=sums.n,
        shares=shares,
        estimates=_estimates(bounds, sums, outcomes, centre, options, alpha),
        diagnostics=weights,
        overlap=missed,
        warnings=[*warnings, *weights.warnings],
    )


def _diagnostics(sums: TargetSums) -> Diagnostics:
    weight = sums.moments["w"]
    total, _, squares, *_ = sums.squares
    return Diagnostics(
        n=sums.n,
        mean_weight=weight.mean,
        mean_weight_error=weight.error if math.isfinite(weight.error) else 0.0,
        max_weight=weight.most,
        effective_sample_size=total * total / squares if total else 0.0,
    )


def _estimates(
    bounds: tuple[float, float] | None,
    sums: TargetSums,
    outcomes: Floats,
    centre: float,
    options: EvaluationOptions,
    alpha: float,
) -> dict[str, Estimate]:
    normalised = IntervalOptions(
        kind="normal" if options.interval == "bernstein" else options.interval, alpha=alpha
    )
    plain = around = normalised
    if options.interval == "bernstein":
        largest = max(sums.reach, sums.moments["w"].most)
        seen = Crossed(outcomes[[fold for fold, n in enumerate(sums.folds) if n]])
        plain = _interval(options, alpha, bound_of(bounds, largest))
        around = _interval(options, alpha, residual_bound(bounds, seen, largest))
    direct = sums.moments["d"]
    return {
        "ips": of_moments(sums.moments["ips"], plain),
        "snips": _self_normalised(sums, centre, normalised),
        "dr": of_moments(sums.moments["dr"], around),
        "switch": of_moments(sums.moments["switch"], around),
        "dros": of_moments(sums.moments["dros"], around),
        "dm": Estimate(value=direct.mean, standard_error=direct.error),
    }


def _interval(options: EvaluationOptions, alpha: float, bound: float | None) -> IntervalOptions:
    return IntervalOptions(kind=options.interval, bound=bound, alpha=alpha)


def _self_normalised(sums: TargetSums, centre: float, options: IntervalOptions) -> Estimate:
    """Weighted mean of the values, with the delta method's error: the root of Σ w² (r - mean)² / (Σ w)²."""
    total, of_values, squares, crossed, of_both = sums.squares
    off = of_values / total
    variance = max(of_both - 2.0 * off * crossed + off * off * squares, 0.0)
    value, error = centre + off, math.sqrt(variance) / total if sums.n > 1 else math.inf
    return Estimate(
        value=value, standard_error=error, interval=options.around_mean(value, error, sums.n, 0.0)
    )
