"""Harm on guardrails: which arms are shown to be worse than control, and the evidence of it."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Record
from bandit_serve.results.failing_arm import broken, failing, is_watched
from bandit_serve.results.failure_runs import FailureRuns
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.non_inferiority import Guard
from bandit_serve.results.tables import table_of


class Harm(Struct, frozen=True):
    """Arm that is shown to make a guardrail worse than control, at level alpha/(K - 1).

    `difference` is that to control and `bound` the one nearest to 0 that is not left out now, in units of the metric;
    `n` counts the observations of both arms.
    """

    arm: str
    metric: str
    difference: float
    bound: float
    n: int
    sentence: str


def harmed(fold: ResultsFold, record: Record) -> list[Harm]:
    """Lists the harm on all guardrails of `record`, by what the fold has seen, the present included.

    On `error` an arm that fails is found by exact tests, too (`failing_arm.py`).

    Arms that are paused are listed, those that were removed are not. Rewards whose exposures are on their way do not
    count yet.
    """
    record = max(record, fold.record, key=lambda known: known.revision)
    experiment = record.experiment
    harms = []
    for index, metric in enumerate(experiment.metrics):
        if metric.is_guardrail:
            table = table_of(fold, record, index)
            fails, breaks = _failing(table), _broken(table, fold.failure_runs)
            for arm in ((table.guard.harm | fails | breaks) & table.there).nonzero()[0]:
                harm = _harm(table, table.guard, arm)
                if fails[arm]:
                    harm = msgspec.structs.replace(harm, sentence=_failures(table, arm))
                elif breaks[arm] and fold.failure_runs is not None:
                    harm = msgspec.structs.replace(harm, sentence=_break(table, fold.failure_runs, arm))
                harms.append(harm)
    return harms


def _failures(table: MetricTable, arm: int) -> str:
    names, counts = table.experiment.arm_names, table.sums.n
    failed = np.rint(np.nan_to_num(table.sums.mean) * counts)
    said = [f"{failed[each]:,.0f} of {counts[each]:,.0f} of {names[each]}" for each in (arm, table.control)]
    return f"Too many predictions fail: {said[0]}, against {said[1]} (exact test)."


def _break(table: MetricTable, runs: FailureRuns, arm: int) -> str:
    names, control = table.experiment.arm_names, table.control
    return (
        f"The newest predictions of {names[arm]} fail: {runs.run[arm]:,} times in a row, seconds apart, after "
        f"{runs.before[arm]:,} predictions; of {names[control]} {runs.failures[control]:,} of {runs.n[control]:,} "
        "fail (exact test)."
    )


def _broken(table: MetricTable, runs: FailureRuns | None) -> NDArray[np.bool_]:
    """Arms whose newest predictions are shown to fail, bool (K,)."""
    margin = table.metric.margin
    if runs is None or not is_watched(table.metric) or margin is UNSET or margin.absolute is UNSET:
        return np.zeros(len(table.sums.n), np.bool_)
    return broken(runs, table.control, margin.absolute, table.guard.alpha)


def _failing(table: MetricTable) -> NDArray[np.bool_]:
    """Arms whose predictions are shown to fail, bool (K,)."""
    sums, margin = table.sums, table.metric.margin
    if not is_watched(table.metric) or margin is UNSET or margin.absolute is UNSET:
        return np.zeros(len(sums.n), np.bool_)
    failures = np.rint(np.nan_to_num(sums.mean) * sums.n)
    return failing(sums.n.astype(np.int64), failures, table.control, margin.absolute, table.guard.alpha)


def _harm(table: MetricTable, guard: Guard, arm: int) -> Harm:
    names, n = table.experiment.arm_names, table.sums.n
    difference, bound = (float(each[arm]) for each in (guard.sign * guard.gain.mean, guard.least_harm()))
    shown = (
        f"the difference is {difference:.3g}, and beyond {bound:.3g} at level {guard.alpha / guard.parts[arm]:.2g}"
        if guard.sign * bound < 0.0
        else f"the difference is {difference:.3g}, and at an earlier look it was shown"
    )
    return Harm(
        arm=names[arm],
        metric=table.metric.name,
        difference=difference,
        bound=bound,
        n=int(n[arm] + n[table.control]),
        sentence=f"{table.metric.name} of {names[arm]} is worse than that of {names[table.control]} by "
        f"{guard.worse_by(arm)}: {shown}.",
    )
