"""Strip of a forest: one estimate and its interval on a scale that the rows of a table share."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from bandit_serve.pictures.intervals import Row
from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import amount, coordinate
from bandit_serve.pictures.style import look

STRIP_WIDTH, STRIP_HEIGHT, AXIS_HEIGHT = 180, 22, 16
MARGIN, EDGE = 7, 16
LETTER = 7.0


def strips(rows: Iterable[Row]) -> list[str]:
    """`<svg>` of each row. All have one scale with zero in it, which a line marks; a tick is the row's `mark`."""
    rows = list(rows)
    across = _scale(rows)
    return [_strip(row, across) for row in rows]


def strip_axis(rows: Iterable[Row]) -> str:
    """`<svg>` with the round numbers of the scale of `strips`; it stands below them or above."""
    across = _scale(list(rows))
    marks = next(filter(_have_room, (across.marks(about) for about in (4, 2, 1))), [0.0])
    texts = []
    for mark in marks:
        x = coordinate(across(mark))
        anchor = "start" if across(mark) < EDGE else "end" if across(mark) > STRIP_WIDTH - EDGE else "middle"
        texts.append(f'<text class="soft" x="{x}" y="11" text-anchor="{anchor}">{amount(mark)}</text>')
    return (
        f'<svg class="picture strip" viewBox="0 0 {STRIP_WIDTH} {AXIS_HEIGHT}" width="{STRIP_WIDTH}" '
        f'height="{AXIS_HEIGHT}" aria-hidden="true" xmlns="http://www.w3.org/2000/svg">{"".join(texts)}</svg>'
    )


def _have_room(marks: list[float]) -> bool:
    return LETTER * sum(len(amount(mark)) + 2 for mark in marks) <= STRIP_WIDTH


def _scale(rows: list[Row]) -> Scale:
    ends = [end for row in rows for end in (row.value, row.mark, *(row.interval or ())) if end is not None]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    return Scale("linear", low, high or (0.0 if low else 1.0), MARGIN, STRIP_WIDTH - MARGIN)


def _strip(row: Row, across: Scale) -> str:
    middle, zero = STRIP_HEIGHT // 2, coordinate(across(0.0))
    told = f"{row.name}: not known"
    parts = [f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{STRIP_HEIGHT}"/>']
    if row.interval is not None:
        low, high = (coordinate(across(end)) for end in row.interval)
        parts.append(f'<line class="reach" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>')
    if row.value is not None:
        told = f"{row.name}: {row.value:+.3g}"
        parts.append(f'<circle class="dot" cx="{coordinate(across(row.value))}" cy="{middle}" r="4.5"/>')
    if row.interval is not None:
        told += f", between {row.interval[0]:+.3g} and {row.interval[1]:+.3g}"
    if row.mark is not None:
        x = coordinate(across(row.mark))
        told += f"; the margin is {row.mark:+.3g}"
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="3" y2="{STRIP_HEIGHT - 3}"/>')
    return (
        f'<svg class="picture strip {look(row.series)}" viewBox="0 0 {STRIP_WIDTH} {STRIP_HEIGHT}" '
        f'width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" role="img" aria-label="{escape(told)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
