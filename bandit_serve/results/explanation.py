"""Explanation of an experiment in sentences: what happened, whether it is decided, and what would decide it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from msgspec import UNSET, Struct

from bandit_serve.base.clock import rfc3339
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.over_time import OverTime, TimelineChange
from bandit_serve.results.report import Report
from bandit_serve.results.tables import objective_table

MAX_CHANGES = 10
MAX_ARMS_TOLD = 5
MAX_GROWTH = 1_000.0
"""Times the present traffic beyond which no number of decisions is named."""
MIN_MOVE = 0.05
"""Growth of a share that is told."""
RECENT = 0.25
"""Part of the time so far that traffic is counted over."""
MIN_SPAN_MS = 60_000
UNITS = ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"))


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
        [report.reason, *_differences(table, report), *_since(over_time, table, report)],
        _needs(over_time, table, report),
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


def _needs(over_time: OverTime, table: MetricTable, report: Report) -> list[str]:
    name = report.experiment
    if report.status == "stopped":
        return ["It is stopped: nothing more is learned."]
    if report.winner is not None:
        return [f"It is decided; `bandit-serve experiments stop {name} --winner {report.winner}` ends it."]
    if report.status == "draft":
        return [f"It has to be started: `bandit-serve experiments start {name}`."]
    sentences = []
    if report.status == "paused":
        sentences.append("It is paused: nothing is learned until it goes on.")
    if not table.valid:
        return [*sentences, "No traffic decides it: the last sentence of the reason says why."]
    least, fewest = table.experiment.stopping.min_samples, int(table.sums.n[table.there].min())
    if fewest < least:
        sentences.append(
            f"Every arm needs {least:,} observations of {table.metric.name}; the fewest that one has are {fewest:,}."
        )
    return [*sentences, *_more_traffic(over_time, table)]


def _more_traffic(over_time: OverTime, table: MetricTable) -> list[str]:
    """A sentence for each arm, those first that need the least: how much more traffic shows its difference, if it stays
    as it is.
    """
    names = table.experiment.arm_names
    total = int(over_time.exposures[-1].sum()) if len(over_time.at_ms) else 0
    shown = table.standing()
    told = []
    for arm in np.flatnonzero(table.there & (np.arange(len(names)) != table.control)):
        if not table.estimates.comparable[arm]:
            told.append((math.inf, f"{names[arm]} can not be compared yet: see the reason."))
            continue
        difference = float(table.estimates.differences.mean[arm])
        growth = _growth(table, int(arm))
        if shown[arm]:
            told.append((0.0, f"The difference of {names[arm]} is shown already."))
        elif growth is None:
            sentence = (
                f"A difference of {names[arm]} as small as {difference:+.4g} is not shown by {MAX_GROWTH:,.0f} times "
                "this traffic."
            )
            told.append((MAX_GROWTH, sentence))
        else:
            more = math.ceil((growth - 1.0) * total)
            sentence = (
                f"If the difference of {names[arm]} stays {difference:+.4g}, about {_round(more):,} more decisions "
                f"show it{_lasting(over_time, more)}."
            )
            told.append((growth, sentence))
    told.sort(key=lambda each: each[0])
    left_out = len(told) - MAX_ARMS_TOLD
    rest = [f"{left_out} more arms need as much or more."] if left_out > 0 else []
    return [*(sentence for _, sentence in told[:MAX_ARMS_TOLD]), *rest]


def _growth(table: MetricTable, arm: int) -> float | None:
    """Times the present traffic after which the evidence suffices for all compared arms, at the present estimate."""
    differences = table.estimates.differences
    growth = np.geomspace(1.0, MAX_GROWTH, 3_000)
    grown = type(differences)(
        growth * differences.observations[arm],
        growth * differences.total[arm],
        growth * differences.variance[arm],
        np.full(len(growth), differences.tightest_at[arm]),
    )
    wanted = math.log(max(len(table.there) - 1, 1)) - math.log(table.alpha)
    enough = np.flatnonzero(grown.log_e_value(table.alpha) >= wanted)
    return float(growth[enough[0]]) if len(enough) else None


def _lasting(over_time: OverTime, decisions: int) -> str:
    """How long so many decisions take at the traffic of late; nothing where too little of it was seen."""
    at_ms = over_time.at_ms
    since = int(np.searchsorted(at_ms, at_ms[-1] - RECENT * (at_ms[-1] - at_ms[0]), side="right")) - 1
    span_ms = int(at_ms[-1] - at_ms[since])
    seen = int(over_time.exposures[-1].sum() - over_time.exposures[since].sum())
    if span_ms < MIN_SPAN_MS or seen == 0:
        return ""
    return f": {_duration(decisions / seen * span_ms)} at this traffic"


def _duration(ms: float) -> str:
    size, unit = next((each for each in UNITS if ms >= each[0]), UNITS[-1])
    count = ms / size
    return (
        "less than a minute" if count < 1.0 else f"about {count:{'.0f' if count >= 10.0 else '.2g'}} {unit}"
    )


def _round(count: int) -> int:
    """`count` with two digits that are not 0."""
    return round(count, -max(len(str(count)) - 2, 0))


def _time(ms: np.int64) -> str:
    return f"{rfc3339(int(ms))[:16].replace('T', ' ')}Z"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
