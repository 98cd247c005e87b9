"""Section of a page on one field: the differences to control within each of its segments."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.experiments.metric import Metric
from bandit_serve.pictures.intervals import Row, intervals
from bandit_serve.pictures.shown import Shown
from bandit_serve.pictures.table import NONE, head, number, p_cell, row, with_interval
from bandit_serve.results import SegmentReport, SegmentResult

MAX_PICTURES = 12
"""Pictures of a field: of the objective's first arms, then of the metrics after it whose arms all have room."""
MAX_ROWS = 1_000
"""Rows in the tables of a field."""
NOTE = (
    "Dots and lines are the differences of the segments alone; the tick is the shrunk difference, moved towards the "
    "mean of all segments as far as they are alike. It is an aid for deciding, not a test; its weight is that of the "
    "segment's own data. p-values are corrected for all segments and arms."
)


class Part(NamedTuple):
    """Pictures and tables on one metric, and how many rows were left out of it."""

    html: str
    pictures: int
    rows: int
    left_out: int


def segment_section(shown: Shown, segments: SegmentReport) -> str:
    said = "declared before the start" if segments.declared else "looked up afterwards"
    flag = "" if segments.declared else ' class="flag"'
    parts: list[Part] = []
    for metric in shown.metrics:
        pictures = MAX_PICTURES - sum(part.pictures for part in parts)
        rows = MAX_ROWS - sum(part.rows for part in parts)
        if any(metric.name in arm.metrics for each in segments.values for arm in each.arms):
            parts.append(_part(shown, segments, metric, pictures, rows))
    left_out = sum(part.left_out for part in parts)
    rest = (
        f'<p class="aside">{left_out:,} rows are left out; <code>--by {escape(segments.field)} --json</code> has '
        "all.</p>\n"
        if left_out
        else ""
    )
    return f"""<section>
<h2>By {escape(segments.field)} <small{flag}>{said}</small></h2>
<p>{escape(segments.reason)}</p>
<p class="aside">Intervals here are of level {segments.level:.4g}. {NOTE}</p>
{"".join(part.html for part in parts)}{rest}</section>
"""


def _part(shown: Shown, segments: SegmentReport, metric: Metric, most_pictures: int, most_rows: int) -> Part:
    pictures = [
        _picture(shown, segments, metric.name, k, arm)
        for k, arm in enumerate(shown.experiment.arm_names)
        if arm != shown.control and _compared(segments.values, arm, metric.name)
    ]
    if len(pictures) > most_pictures:
        pictures = pictures[:MAX_PICTURES] if most_pictures == MAX_PICTURES else []
    bodies, shown_rows, left_out = [], 0, 0
    for each in segments.values:
        rows = _rows(shown, each, metric.name)
        kept = rows[: most_rows - shown_rows]
        if kept:
            bodies.append(f"<tbody>\n{_body(each, kept)}\n</tbody>")
        shown_rows += len(kept)
        left_out += len(rows) - len(kept)
    titles = (
        "segment",
        "arm",
        "n",
        "mean",
        f"to {escape(shown.control)}",
        "p",
        "shrunk",
        "weight",
        "lift",
        "std",
    )
    drawn = f'<div class="pictures">{"".join(pictures)}</div>\n' if pictures else ""
    tables = (
        f'<div class="wide"><table class="grouped">\n<thead>{head(titles)}</thead>\n{"".join(bodies)}</table></div>\n'
        if bodies
        else ""
    )
    return Part(f"<h3>{escape(metric.name)}</h3>\n{drawn}{tables}", len(pictures), shown_rows, left_out)


def _compared(values: Sequence[SegmentResult], arm: str, metric: str) -> bool:
    return any(
        each.metrics[metric].difference is not None
        for segment in values
        for each in segment.arms
        if each.name == arm
    )


def _picture(shown: Shown, segments: SegmentReport, metric: str, series: int, arm: str) -> str:
    """Differences of an arm by segment, and that of all traffic below."""
    rows = []
    for segment in segments.values:
        of, shrunk = segment.arms[series].metrics[metric], segment.shrunk[arm][metric]
        mark = None if shrunk is None else shrunk.difference
        rows.append(Row(_name(segment), series, of.difference, of.difference_interval, mark))
    whole = shown.report.arms[series].metrics[metric]
    rows.append(Row("all", series, whole.difference, whole.difference_interval, label="all traffic"))
    return intervals(rows, f"{arm}: difference to {shown.control}", zero=True, signed=True)


def _name(segment: SegmentResult) -> str:
    return segment.kind if segment.value is None else segment.value


def _rows(shown: Shown, segment: SegmentResult, metric: str) -> list[tuple[str, ...]]:
    """Cells of each arm, without the segment's own."""
    rows: list[tuple[str, ...]] = []
    for arm in segment.arms:
        of, shrunk = arm.metrics[metric], segment.shrunk.get(arm.name, {}).get(metric)
        rows.append(
            (
                escape(arm.name),
                f"{of.n:,}",
                with_interval(of.mean, of.interval),
                "control"
                if arm.name == shown.control
                else with_interval(of.difference, of.difference_interval, "+.4g"),
                p_cell(of.p_value),
                NONE
                if shrunk is None
                else f"{shrunk.difference:+.4g}<small>± {shrunk.standard_error:.2g}</small>",
                NONE if shrunk is None else f"{shrunk.weight:.2f}",
                with_interval(of.lift, of.lift_interval, "+.1%"),
                number(of.std),
            )
        )
    return rows


def _body(segment: SegmentResult, rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of a segment, whose name stands beside the first and goes down to the last."""
    name = f"<i>{segment.kind}</i>" if segment.value is None else escape(segment.value)
    first, *others = (row(cells) for cells in rows)
    named = first.replace("<tr>", f'<tr><th scope="rowgroup" rowspan="{len(rows)}">{name}</th>', 1)
    return "\n".join([named, *others])
