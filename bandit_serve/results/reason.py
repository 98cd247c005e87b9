"""Reason of a report in two sentences: its finding, and its provisos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import UNSET

from bandit_serve.experiments.spec import Record
from bandit_serve.results.decision import Judgement
from bandit_serve.results.estimates import MIN_OBSERVATIONS
from bandit_serve.results.horizon import HorizonLooks
from bandit_serve.results.interleaving import InterleavingResult
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.sample_ratio import Verdict


def reason_of(
    record: Record,
    objective: MetricTable,
    guards: Sequence[MetricTable],
    judgement: Judgement,
    pending: int,
    one_in: int,
    srm: Verdict,
    told: Sequence[str] = (),
) -> str:
    """Reason in words, never empty. `pending` and `srm` as in the report, `one_in` as in the fold.

    told: what the metrics have to say, each of itself.
    """
    provisos = [*_provisos(record, objective, pending, one_in, srm), *told]
    names = record.experiment.arm_names
    shown = judgement.winner if judgement.winner is not None else judgement.best
    finding = _finding(record, objective, None if shown is None else names[shown])
    if record.status != "stopped" and guards:
        finding = finding.removesuffix(".") + _guarded(objective, guards, judgement, shown) + "."
    return f"{finding} {'; '.join(provisos)}."


def _guarded(
    objective: MetricTable, guards: Sequence[MetricTable], judgement: Judgement, shown: int | None
) -> str:
    """Clauses on the guardrails: of the arm that is better on the objective, and of those that harm one."""
    names, clause = objective.experiment.arm_names, ""
    harmful = np.flatnonzero(judgement.harmed).tolist()
    if shown is not None and shown != objective.control:
        clause = _of_shown(guards, shown)
        harmful = [arm for arm in harmful if arm != shown]
    worse = [
        f"{each.metric.name} of {names[arm]} is worse by {each.guard.worse_by(arm)}"
        for each in guards
        for arm in harmful
        if each.guard.harm[arm]
    ]
    return f"{clause}; {_listed(worse)}" if worse else clause


def _of_shown(guards: Sequence[MetricTable], arm: int) -> str:
    worse = [
        f"{each.metric.name} is worse by {each.guard.worse_by(arm)}"
        for each in guards
        if each.guard.harm[arm]
    ]
    if worse:
        return f", but {_listed(worse)}"
    unknown = [each.metric.name for each in guards if not each.guard.safe[arm]]
    if unknown:
        return f", and it is not known yet whether it is safe on {_listed(unknown)}"
    return f", and safe on {_listed([each.metric.name for each in guards])}"


def reason_of_contests(record: Record, interleaving: InterleavingResult, winner: str | None) -> str:
    """Reason in words of an experiment that interleaves."""
    experiment = record.experiment
    alpha, metric = experiment.stopping.alpha, experiment.objective.name
    wins = " and ".join(f"{n} those of {arm}" for arm, n in interleaving.wins.items())
    if record.status == "stopped":
        finding = "Stopped without a winner." if winner is None else f"Stopped with {winner} as the winner."
    elif winner is not None:
        finding = f"The items of {winner} are preferred on {metric}, at level {alpha:g}."
    elif interleaving.win_rate is None:
        finding = f"No request has preferred an arm's items on {metric} yet."
    else:
        finding = f"On {metric} neither arm's items are shown to be preferred, at level {alpha:g}."
    return (
        f"{finding} Of the requests whose window has closed, {wins} had more {metric}, {interleaving.ties} were ties; "
        f"{interleaving.pending} are pending; items of one list are not independent, so only requests are compared."
    )


def _finding(record: Record, objective: MetricTable, winner: str | None) -> str:
    metric, alpha = objective.metric.name, objective.alpha
    control = record.experiment.arm_names[objective.control]
    if record.status == "stopped":
        return (
            f"Stopped with {record.winner} as the winner." if record.winner else "Stopped without a winner."
        )
    if objective.sums.analysed == 0:
        return f"Nothing has been analysed on {metric} yet."
    if winner == control:
        return f"{control} is better on {metric} than every other arm, at level {alpha:g}."
    if winner is not None:
        return f"{winner} is better on {metric} than {control}, at level {alpha:g}."
    least = record.experiment.stopping.min_samples
    if objective.sums.n[objective.there].min() < least:
        return f"No winner is named before every arm has {least} observations of {metric}."
    if objective.looks is not None and not len(objective.looks.n):
        return f"Arms are not compared on {metric} before the first look."
    if not objective.valid or np.isnan(objective.p).all():
        return f"Whether an arm differs from {control} on {metric} can not be said."
    return f"On {metric} no arm is shown better than {control}, nor {control} than all, at level {alpha:g}."


def _provisos(record: Record, objective: MetricTable, pending: int, one_in: int, srm: Verdict) -> list[str]:
    experiment, sums = record.experiment, objective.sums
    unit = "units" if experiment.unit == "user" else "decisions"
    provisos = []
    if experiment.missing == "ignore":
        provisos.append(f"Everything is conditional on a reward: {unit} without one are left out")
    else:
        provisos.append(f"{unit.capitalize()} count once their window has closed, {pending} are pending")
    if one_in > 1 and experiment.unit == "user":
        provisos.append(
            f"there are more units than are kept, so now 1 in {one_in} of those that come is taken, by its hash"
        )
    elif one_in > 1:
        provisos.append(
            f"more decisions wait with shares of their own than are kept, so now 1 in {one_in} is analysed, by number"
        )
    if objective.looks is not None:
        provisos.append(_looks(record, objective, objective.looks))
    removed = [name for name, there in zip(experiment.arm_names, objective.there, strict=True) if not there]
    if removed:
        provisos.append(f"{_listed(removed)} {'was' if len(removed) == 1 else 'were'} removed")
    provisos += [
        f"{_listed(list(metrics))} {'does' if len(metrics) == 1 else 'do'} not pause {name} any more, as somebody has "
        "resumed it"
        for name, metrics in record.overridden.items()
    ]
    if objective.unguarded:
        provisos.append(
            f"{objective.unguarded} of {sums.analysed} {unit} were analysed by a version that did not keep the squares "
            "that intervals under a contextual policy need, so no interval, p-value or chance of being best is valid"
        )
    elif objective.lost.any():
        names = [name for name, is_lost in zip(experiment.arm_names, objective.lost, strict=True) if is_lost]
        provisos.append(
            f"a value of {_listed(names)} that was corrected or taken back was so large that sums of "
            f"{objective.metric.name} have lost the digits of the others, so no interval, p-value or "
            "chance of being best is valid"
        )
    elif not objective.valid:
        provisos.append(
            f"an adaptive policy without a floor (min_share 0) decided {sums.unfloored} of "
            f"{sums.analysed} {unit}, so no interval, p-value or chance of being best is valid"
        )
    elif sums.moved and sums.contextual:
        around = ", around what a regression on the context expects" if sums.modelled else ""
        provisos.append(
            f"shares moved, so intervals and differences weight each decision by its logged share (AIPW){around}"
        )
    elif sums.moved:
        provisos.append(
            "shares moved, so intervals and differences weight each decision by its logged share (AIPW), differences "
            "also by how much traffic both arms had: they are the effect over that traffic"
        )
    faded = [name for name, was in zip(experiment.arm_names, objective.faded(), strict=True) if was]
    if faded and objective.valid:
        provisos.append(f"a difference was shown before and is not any more: {_listed(faded)}")
    if objective.valid:
        provisos += _left_out(objective, experiment.arm_names)
    if srm == "mismatch":
        provisos.append(
            "the arms did not get the traffic that was logged (sample-ratio mismatch), so distrust all of it"
        )
    return provisos


def _looks(record: Record, objective: MetricTable, looks: HorizonLooks) -> str:
    """Proviso on the looks of a horizon: the last one, and when the next is."""
    stopping, metric = record.experiment.stopping, objective.metric.name
    due = looks.due(stopping)
    following = "which was the last" if due is None else f"the next is at {due:,} of {stopping.tuned_for:,}"
    if not len(looks.n):
        return f"the first look is at {due:,} of {stopping.tuned_for:,} values of {metric}"
    return f"differences are those of the look at {looks.n[-1]:,} values of {metric}, {following}"


def _left_out(objective: MetricTable, names: tuple[str, ...]) -> list[str]:
    """Provisos that list the means and lifts without an interval, and why."""

    def those(which: Iterable[bool]) -> list[str]:
        return [name for name, is_one in zip(names, which, strict=True) if is_one]

    estimates, others = objective.estimates, np.arange(len(names)) != objective.control
    has, liftable = objective.has_interval, objective.liftable
    provisos = []
    exact = those(interval is not None for interval in objective.exact)
    if exact:
        provisos.append(
            f"{'the interval' if len(exact) == 1 else 'the intervals'} of {_listed(exact)} "
            f"{'is' if len(exact) == 1 else 'are'} exact, for a mean that stays the same"
        )
    without = those(~has & ~estimates.usable)
    if without:
        provisos.append(
            f"no interval for {_listed(without)}: fewer than {MIN_OBSERVATIONS} observations, or no variance"
        )
    skewed = those(~has & estimates.usable)
    if skewed:
        provisos.append(
            f"no interval for the mean of {_listed(skewed)}: too few observations for values so skewed"
        )
    uncompared = those(has & ~estimates.usable)
    if uncompared:
        provisos.append(
            f"no comparison with {_listed(uncompared)}: fewer than {MIN_OBSERVATIONS} observations"
        )
    unlifted = those(others & estimates.compared & ~liftable)
    if unlifted:
        provisos.append(
            f"no lift of {_listed(unlifted)}: control is 0, or an estimate is below what {objective.metric.name} can be"
        )
    unbounded = those(liftable & estimates.comparable & ~objective.lifts.bounded)
    if unbounded:
        provisos.append(
            f"no interval for the lift of {_listed(unbounded)}: control's mean is not told apart from 0"
        )
    return provisos


def without_interval(tables: Sequence[MetricTable]) -> list[str]:
    """Proviso on metrics beside the objective on which arms have no interval; none where all have one."""
    without = [
        table.metric.name
        for table in tables
        if table.valid and table.metric.quantile is UNSET and (table.there & ~table.has_interval).any()
    ]
    if not without:
        return []
    return [
        f"no interval for some arms on {_listed(without)}: fewer than {MIN_OBSERVATIONS} observations, no variance, or "
        "too few for values so skewed"
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
