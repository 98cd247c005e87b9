"""Explanation of an experiment in sentences: what happened, whether it is decided, and what would decide it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from msgspec import UNSET, Struct

from bandit_serve.base.clock import rfc3339
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.outlook import MAX_ARMS_TOLD, outlook
from bandit_serve.results.over_time import OverTime, TimelineChange
from bandit_serve.results.report import Report
from bandit_serve.results.tables import objective_table

MAX_CHANGES = 10
MIN_MOVE = 0.05
"""Growth of a share that is told."""


class Explanation(Struct, frozen=True):
    """Sentences: what `happened`, whether and why it is `decided`, and what `would_decide` it."""

    experiment: str
    happened: list[str]
    decided: list[str]
    would_decide: list[str]


def explanation(fold: ResultsFold, report: Report, changes: Iterable[TimelineChange]) -> Explanation:
    """Explanation of a `report` of this fold, with all `changes` of the experiment."""
    fold = fold.complete()
    over_time = OverTime.of(fold)
    table = objective_table(fold, fold.record)
    return Explanation(
        report.experiment,
        [*_traffic(over_time, report), *_told(changes)],
        [report.reason, *_compared(over_time, table, report)],
        outlook(fold, over_time, table, report),
    )


def _traffic(over_time: OverTime, report: Report) -> list[str]:
    experiment = over_time.record.experiment
    if not len(over_time.at_ms):
        return [f"{experiment.id} is {report.status} and has decided nothing yet."]
    names, exposures = experiment.arm_names, over_time.exposures[-1]
    total = int(exposures.sum())
    by_arm = ", ".join(f"{names[k]} {exposures[k]:,} times" for k in np.argsort(-exposures)[:MAX_ARMS_TOLD])
    others = len(names) - MAX_ARMS_TOLD
    first_ms, last_ms = over_time.at_ms[0], over_time.at_ms[-1]
    sentences = [
        f"{experiment.id} is {report.status}. It decided {total:,} times from {_time(first_ms)} to {_time(last_ms)}: "
        f"{by_arm}{f' and {others} more arms the others' if others > 0 else ''}."
    ]
    moved = over_time.shares[-1] - over_time.shares[0]
    arm = int(np.argmax(moved))
    if moved[arm] >= MIN_MOVE:
        was, now = over_time.shares[0, arm], over_time.shares[-1, arm]
        sentences.append(
            f"The share of {names[arm]} went from {was:.0%} to {now:.0%} under {experiment.policy.kind}."
        )
    return sentences


def _told(changes: Iterable[TimelineChange]) -> list[str]:
    every = list(changes)
    told = []
    for change in every[-MAX_CHANGES:]:
        arm = "" if change.arm is UNSET else f" {change.arm}"
        reason = "" if change.reason is UNSET else f", because: {change.reason.rstrip('.')}"
        told.append(f"{change.at[:16].replace('T', ' ')}Z, {change.who}: {change.what}{arm}{reason}.")
    left_out = len(every) - len(told)
    return [f"{left_out} earlier changes are in the history.", *told] if left_out else told


def _compared(over_time: OverTime, table: MetricTable, report: Report) -> list[str]:
    if report.interleaving is UNSET:
        return [*_differences(table, report), *_since(over_time, table, report)]
    lists = report.interleaving
    if lists.win_rate is None or lists.interval is None or lists.p_value is None:
        return []
    names, (low, high) = table.experiment.arm_names, lists.interval
    other = names[1 - table.control]
    return [
        f"{other} won {lists.win_rate:.1%} of them, between {low:.1%} and {high:.1%} (p {_p(lists.p_value)}); "
        "the means of the arms are not compared."
    ]


def _differences(table: MetricTable, report: Report) -> list[str]:
    """A sentence for each arm that is compared with control, the clearest first."""
    name = table.metric.name
    rows = {arm.name: arm.metrics[name] for arm in report.arms}
    control = rows[table.experiment.arm_names[table.control]]
    compared = [arm for arm, row in rows.items() if row.difference is not None]
    compared.sort(key=lambda arm: (rows[arm].p_value is None, rows[arm].p_value or 0.0))
    sentences = []
    for arm in compared[:MAX_ARMS_TOLD]:
        row = rows[arm]
        between = ""
        if row.difference_interval is not None:
            low, high = row.difference_interval
            between = f", between {low:+.4g} and {high:+.4g}"
        p = "" if row.p_value is None else f" (p {_p(row.p_value)})"
        sentences.append(
            f"{arm} brought {row.mean:.4g} of {name} against {control.mean:.4g}: {row.difference:+.4g}{between}{p}."
        )
    return sentences


def _since(over_time: OverTime, table: MetricTable, report: Report) -> list[str]:
    """Since when a named winner's difference, or control's smallest one, has been shown without a break."""
    names = table.experiment.arm_names
    if report.winner is None or not len(over_time.at_ms):
        return []
    arm = names.index(report.winner)
    p = over_time.numbers["p_value"][:, table.index]
    shown = p[:, arm] if arm != table.control else np.max(np.delete(p, arm, axis=1), axis=1)
    below = shown <= table.alpha
    if not below[-1]:
        return []
    last = int(np.flatnonzero(~below)[-1]) + 1 if not below.all() else 0
    return [f"That has been shown since {_time(over_time.at_ms[last])}."]


def _time(ms: np.int64) -> str:
    return f"{rfc3339(int(ms))[:16].replace('T', ' ')}Z"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
