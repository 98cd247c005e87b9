"""Page of an experiment: its parts, each HTML that is replaced where it has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from markupsafe import Markup
from msgspec import UNSET

from bandit_serve.api.experiment_stats import ContextStats, ExperimentStats
from bandit_serve.api.views import ExperimentView, HistoryView
from bandit_serve.base.troubles import Trouble
from bandit_serve.dashboard.experiment_figures import CopiedTable, ExperimentFigures, scorecard_of
from bandit_serve.dashboard.numbers import ShownNumbers, text_of
from bandit_serve.dashboard.scorecard import scorecard
from bandit_serve.dashboard.templates import rendered
from bandit_serve.pictures.intervals import Row
from bandit_serve.pictures.meter import meter
from bandit_serve.pictures.share_bar import share_bar
from bandit_serve.pictures.shown import Shown
from bandit_serve.pictures.strip import strip_axis, strips
from bandit_serve.results import SegmentReport
from bandit_serve.results.facts import SRM

Parts = dict[str, Markup]

PARTS = (
    "notices",
    "verdict",
    "scorecard",
    "course",
    "densities",
    "allocations",
    "segments",
    "health",
    "arms",
    "told",
    "history",
    "rest",
)
"""In the order of the page."""
MAX_HISTORY = 100
MAX_ALARMS = 5


class SeenExperiment(NamedTuple):
    """All that the API says of an experiment at one time.

    `figures` may be somewhat older. `stats` are those of this worker; `reasons` say why the service is degraded. `by`
    is the field whose segments are asked for, `etag` what a change is sent with.
    """

    shown: Shown
    figures: ExperimentFigures
    view: ExperimentView
    history: Sequence[HistoryView]
    stats: ExperimentStats
    reasons: Sequence[Trouble]
    by: str | None
    etag: int


def experiment_parts(seen: SeenExperiment) -> Parts:
    """HTML of each of `PARTS`."""
    shown, report = seen.shown, seen.shown.report
    numbers = ShownNumbers(msgspec.to_builtins(report))
    alarms = seen.stats.alarms or []
    gaps = _gaps(seen.stats.context)
    content: dict[str, Any] = {
        "name": report.experiment,
        "by_query": f"&by={quote(seen.by)}" if seen.by else "",
        "etag": seen.etag,
        "n": numbers.show,
        "interval": numbers.interval,
        "numbers": numbers,
        "stat": ShownNumbers(msgspec.to_builtins(seen.stats), "stat").show,
        "text": text_of,
        "seen": seen,
        "view": seen.view,
        "shown": shown,
        "report": report,
        "reason": _reason(report.reason),
        "arms": report.arms,
        "metrics": [scorecard(shown, metric) for metric in shown.metrics],
        "bars": [Markup(meter(arm.share, k)) for k, arm in enumerate(report.arms)],
        "figures": seen.figures,
        "bar": Markup(share_bar({arm.name: arm.share for arm in report.arms}, 320)),
        "srm_words": SRM[report.srm.verdict],
        "alarms": alarms[-MAX_ALARMS:][::-1],
        "delays": seen.stats.delays or {},
        "gaps": gaps,
        "unreadable": len(gaps),
        "history": list(enumerate(seen.history, 1))[-MAX_HISTORY:][::-1],
        "others": max(len(seen.history) - MAX_HISTORY, 0),
        "reasons": [each for each in seen.reasons if each.experiment in (UNSET, report.experiment)],
        "warnings": _warnings(seen),
        **_segment_strips(shown),
    }
    return {part: rendered(f"experiment/{part}.html", **content) for part in PARTS}


def copied_table(seen: SeenExperiment, of: str) -> CopiedTable | None:
    """Table or figure of the page by its name, as rows; None where there is none of it."""
    kind, _, place = of.partition("-")
    metrics = seen.shown.metrics
    if kind == "results" and place in map(str, range(len(metrics))):
        return scorecard_of(seen.shown, metrics[int(place)])
    if of == "history":
        head = ("number", "at", "who", "what", "arm", "reason")
        rows = [
            (number, each.at, each.who, each.what, each.arm, each.reason)
            for number, each in enumerate(seen.history, 1)
        ]
        return CopiedTable(head, rows)
    segments = seen.shown.report.segments
    if of == "segments" and isinstance(segments, SegmentReport):
        return _segments_table(seen.shown, segments)
    figure = seen.figures.named(of)
    return None if figure is None else CopiedTable(figure.head, figure.rows)


def _segments_table(shown: Shown, segments: SegmentReport) -> CopiedTable:
    objective = shown.metrics[0].name
    head = ("segment", "arm", "n", "mean", "difference", "difference_low", "difference_high", "p_value")
    rows = [
        (segment.value or segment.kind, arm.name, of.n, of.mean, of.difference,
         *(of.difference_interval or (None, None)), of.p_value)
        for segment in segments.values
        for arm in segment.arms
        for of in (arm.metrics[objective],)
    ]  # fmt: skip
    return CopiedTable(head, rows)


def _segment_strips(shown: Shown) -> dict[str, Any]:
    """Strips of the objective's differences by segment and arm, all on one scale, and its axis."""
    segments = shown.report.segments
    if not isinstance(segments, SegmentReport):
        return {"segment_strips": [], "segment_axis": ""}
    objective = shown.metrics[0].name
    rows = [
        Row(arm.name, k, of.difference, of.difference_interval)
        for segment in segments.values
        for k, arm in enumerate(segment.arms)
        for of in (arm.metrics[objective],)
    ]
    drawn = [
        Markup(svg) if row.value is not None else "" for row, svg in zip(rows, strips(rows), strict=True)
    ]
    arms = len(shown.report.arms)
    return {
        "segment_strips": [drawn[start : start + arms] for start in range(0, len(drawn), arms)],
        "segment_axis": Markup(strip_axis(rows)),
    }


def _reason(reason: str) -> Markup:
    """Reason with its finding apart from its provisos."""
    finding, dot, provisos = reason.partition(". ")
    return Markup('<strong class="finding">{}{}</strong>{}').format(
        finding, dot.strip(), Markup(' <span class="provisos">{}</span>').format(provisos) if provisos else ""
    )


def _gaps(context: ContextStats | None) -> dict[str, str]:
    """What was wrong with the values of each field, of those with which something was."""
    if context is None:
        return {}
    counts = {"missing": context.missing, "unknown": context.unknown, "far outside": context.far}
    fields = dict.fromkeys(field for each in counts.values() for field in each)
    told = {
        field: ", ".join(f"{each[field]:,} {what}" for what, each in counts.items() if each.get(field))
        for field in fields
    }
    return {field: words for field, words in told.items() if words}


def _warnings(seen: SeenExperiment) -> list[str]:
    """Sentences on what needs somebody, the worst first."""
    report, view, told = seen.shown.report, seen.view, []
    if view.set_aside is not UNSET:
        told.append(f"Set aside since {view.set_aside.since}: {view.set_aside.reason}")
    if report.decision.state == "harm":
        of = "" if report.decision.arm is UNSET else f" by {report.decision.arm}"
        told.append(f"A guardrail is harmed{of}.")
    if report.srm.verdict == "mismatch":
        told.append("The split is not as it was logged: do not trust the comparisons.")
    told += [f"Arm {arm} is left out in this worker, as its model fails." for arm in seen.stats.ejected]
    if seen.stats.alarms:
        last = seen.stats.alarms[-1]
        told.append(
            f"The mean of {last.arm} changed from {last.before:.3g} to {last.after:.3g} soon after {last.since}."
        )
    return told
