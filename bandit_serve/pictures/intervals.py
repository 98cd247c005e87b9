"""Picture of estimates, a row each: a dot for the value and a line for its interval."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import amount, coordinate, shortened
from bandit_serve.pictures.style import look

WIDTH = 380
LABELS, VALUES = 100, 70
TOP, BOTTOM, ROW = 34, 26, 22
MAX_NAME = 14
LETTER = 7.5
TICK = 8.0
INDENT = 12


class Row(NamedTuple):
    """An estimate of the arm with the number `series`; null where there is none.

    `mark`: another number on the scale, drawn as a tick. `label`: what stands before the row in place of its name.
    """

    name: str
    series: int
    value: float | None
    interval: tuple[float, float] | None
    mark: float | None = None
    label: str | None = None


def intervals(rows: Sequence[Row], title: str, *, zero: bool = False, signed: bool = False) -> str:
    """`<svg>` of all rows on one scale. `zero` is marked, and in it, if asked for; `signed` numbers show a plus."""
    height = TOP + ROW * len(rows) + BOTTOM
    ends = [end for row in rows for end in (row.value, row.mark, *(row.interval or ())) if end is not None]
    if zero:
        ends.append(0.0)
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = (high - low or abs(high) or 1.0) * 0.04
    across = Scale("linear", low - room, high + room, LABELS, WIDTH - VALUES)
    bottom = TOP + ROW * len(rows)
    parts = [
        f'<svg class="picture" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(_described(rows, title))}" xmlns="http://www.w3.org/2000/svg">',
        f'<text class="title" x="0" y="14">{escape(title)}</text>',
    ]
    for mark in _marks(across) if ends else []:
        x = coordinate(across(mark))
        parts.append(f'<line class="gridline" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>')
        parts.append(
            f'<text class="soft" x="{x}" y="{bottom + 16}" text-anchor="middle">{amount(mark)}</text>'
        )
    if zero:
        x = coordinate(across(0.0))
        parts.append(f'<line class="zero" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>')
    for place, row in enumerate(rows):
        parts += _row(row, TOP + ROW * place + ROW / 2, across, signed)
    return "\n".join([*parts, "</svg>"])


def _marks(across: Scale) -> list[float]:
    """Round numbers whose texts have room beside each other."""
    for about in (6, 4, 3, 2):
        marks = across.marks(about)
        widest = max((len(amount(mark)) for mark in marks), default=0)
        if LETTER * (widest + 1) * len(marks) <= across.end - across.start:
            return marks
    return []


def _row(row: Row, height: float, across: Scale, signed: bool) -> list[str]:
    y = coordinate(height)
    number = (
        "–"
        if row.value is None
        else f"{'+' if signed and row.value > 0 else ''}{amount(float(f'{row.value:.3g}'))}"
    )
    parts = [
        f'<g class="{look(row.series)}"><title>{escape(_told(row))}</title>',
        _label(row, y),
        f'<text class="soft" x="{WIDTH}" y="{y}" dy=".34em" text-anchor="end">{number}</text>',
    ]
    if row.interval is not None:
        low, high = (coordinate(across(end)) for end in row.interval)
        parts.append(f'<line class="reach" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
    if row.value is not None:
        parts.append(f'<circle class="dot" cx="{coordinate(across(row.value))}" cy="{y}" r="4.5"/>')
    if row.mark is not None:
        x = coordinate(across(row.mark))
        ends = coordinate(height - TICK), coordinate(height + TICK)
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}"/>')
    return [*parts, "</g>"]


def _label(row: Row, y: str) -> str:
    if row.label is None:
        return f'<text x="0" y="{y}" dy=".34em">{escape(shortened(row.name, MAX_NAME))}</text>'
    return (
        f'<text class="soft" x="{INDENT}" y="{y}" dy=".34em">{escape(shortened(row.label, MAX_NAME))}</text>'
    )


def _told(row: Row) -> str:
    if row.value is None:
        return f"{row.name}: not known"
    interval = "" if row.interval is None else f", between {row.interval[0]:.4g} and {row.interval[1]:.4g}"
    return f"{row.name}: {row.value:.4g}{interval}"


def _described(rows: Sequence[Row], title: str) -> str:
    return f"{title}. {'; '.join(map(_told, rows))}"
