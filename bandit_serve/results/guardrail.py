"""Harm on guardrails: which arms are shown to be worse than control, and the evidence of it."""

from __future__ import annotations

from msgspec import Struct

from bandit_serve.experiments.spec import Record
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

    Arms that are paused are listed, those that were removed are not. Rewards whose exposures are on their way do not
    count yet.
    """
    record = max(record, fold.record, key=lambda known: known.revision)
    experiment = record.experiment
    harms = []
    for index, metric in enumerate(experiment.metrics):
        if metric.is_guardrail:
            table = table_of(fold, record, index)
            harms += [_harm(table, table.guard, arm) for arm in (table.guard.harm & table.there).nonzero()[0]]
    return harms


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
