"""Outlook of an experiment in sentences: what would decide it, and about how much more traffic that takes."""

from __future__ import annotations

import math

import numpy as np

from bandit_serve.experiments.stopping import MAX_EXPECTED
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.interleaving import Contests
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.over_time import OverTime
from bandit_serve.results.report import Report
from bandit_serve.results.to_go import growth, growth_until

MAX_ARMS_TOLD = 5
RECENT = 0.25
"""Part of the time so far that traffic is counted over."""
MIN_SPAN_MS = 60_000
UNITS = ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"))


def outlook(fold: ResultsFold, over_time: OverTime, table: MetricTable, report: Report) -> list[str]:
    """What decides the experiment, by the `table` of its objective and how things went until now."""
    name = report.experiment
    if report.status == "stopped":
        return ["It is stopped: nothing more is learned."]
    if report.winner is not None:
        return [f"It is decided; `bandit-serve experiments stop {name} --winner {report.winner}` ends it."]
    if report.status == "draft":
        return [f"It has to be started: `bandit-serve experiments start {name}`."]
    paused = ["It is paused: nothing is learned until it goes on."] if report.status == "paused" else []
    if fold.contests is not None:
        return [*paused, *_more_contests(fold.contests, over_time, table)]
    if not table.valid:
        return [*paused, "No traffic decides it: the last sentence of the reason says why."]
    sentences = [*paused, *_enough(int(table.sums.n[table.there].min()), table)]
    if table.looks is not None:
        return [*sentences, *_looks(table)]
    return [*sentences, *_more_traffic(over_time, table)]


def _enough(fewest: int, table: MetricTable) -> list[str]:
    """A sentence where an arm has fewer observations than are asked for."""
    least = table.experiment.stopping.min_samples
    if fewest >= least:
        return []
    return [
        f"Every arm needs {least:,} observations of {table.metric.name}; the fewest that one has are {fewest:,}."
    ]


def _looks(table: MetricTable) -> list[str]:
    """When an experiment that has committed to its looks is looked at next."""
    assert table.looks is not None
    stopping, metric = table.experiment.stopping, table.metric.name
    due, done = table.looks.due(stopping), len(table.looks.n)
    if due is None:
        return [
            f"Its last look, at {int(table.looks.n[-1]):,} values of {metric}, decided nothing: no more comes."
        ]
    so_far = f" after {done} of them" if done else ""
    return [
        f"It is decided at its looks alone. The next{so_far} is at {due:,} of {stopping.tuned_for:,} values of "
        f"{metric}; {table.sums.analysed:,} have been analysed."
    ]


def _more_contests(contests: Contests, over_time: OverTime, table: MetricTable) -> list[str]:
    """How many more lists with a preference decide it, if the arms go on to win as they do."""
    won, least = contests.decided, table.experiment.stopping.min_samples
    sentences = []
    if won < least:
        sentences.append(f"It needs {least:,} requests that preferred an arm; there are {won:,}.")
    names = table.experiment.arm_names
    times = (
        growth_until(lambda by: contests.log_e_against(0.5, by), -math.log(contests.alpha))
        if won
        else math.inf
    )
    if not math.isfinite(times):
        return [*sentences, "Neither arm is preferred so far as to say how many more lists decide it."]
    more, total = math.ceil((times - 1.0) * won), _decisions(over_time)
    ahead = int(contests.wins[1] > contests.wins[0])
    sentences.append(
        f"If {names[ahead]} goes on to win {contests.wins[ahead] / won:.0%} of the requests that prefer an arm, about "
        f"{_round(more):,} more of those decide it{_lasting(over_time, math.ceil(more * total / won))}."
    )
    return sentences


def _more_traffic(over_time: OverTime, table: MetricTable) -> list[str]:
    """A sentence for each arm, those first that need the least: how much more traffic shows its difference, if it stays
    as it is.
    """
    names = table.experiment.arm_names
    total = _decisions(over_time)
    shown, comparisons = table.standing(), max(int(table.there.sum()) - 1, 1)
    told = []
    for arm in np.flatnonzero(table.there & (np.arange(len(names)) != table.control)):
        if not table.estimates.comparable[arm]:
            told.append((math.inf, f"{names[arm]} can not be compared yet: see the reason."))
            continue
        difference = float(table.estimates.differences.mean[arm])
        times = growth(table.estimates.differences, int(arm), table.alpha, comparisons)
        if shown[arm]:
            told.append((0.0, f"The difference of {names[arm]} is shown already."))
        elif not math.isfinite(times):
            told.append(
                (
                    MAX_EXPECTED,
                    f"No traffic to speak of shows a difference of {names[arm]} of {difference:+.4g}.",
                )
            )
        else:
            more = math.ceil((times - 1.0) * total)
            sentence = (
                f"If the difference of {names[arm]} stays {difference:+.4g}, about {_round(more):,} more decisions "
                f"show it{_lasting(over_time, more)}."
            )
            told.append((times, sentence))
    told.sort(key=lambda each: each[0])
    left_out = len(told) - MAX_ARMS_TOLD
    rest = [f"{left_out} more arms need as much or more."] if left_out > 0 else []
    return [*(sentence for _, sentence in told[:MAX_ARMS_TOLD]), *rest]


def _decisions(over_time: OverTime) -> int:
    """Number of decisions so far."""
    return int(over_time.exposures[-1].sum()) if len(over_time.at_ms) else 0


def _lasting(over_time: OverTime, decisions: int) -> str:
    """How long so many decisions take at the traffic of late; nothing where too little of it was seen."""
    at_ms = over_time.at_ms
    if not len(at_ms):
        return ""
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
