"""Pictures of a course over time: lines with bands, or parts of a whole that are stacked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import Place, amount, coordinate, path, shortened, spread
from bandit_serve.pictures.style import look

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 120, 30, 24
LINE = 14
MAX_LABEL = 14
"""Letters of a name and its number, that fit in `RIGHT` in a wide font."""
MAX_BANDS = 4
"""Arms that have bands; those of more would hide each other."""
SETTLED = 0.2
"""Part of the points, from the first, whose values may lie outside."""
STEPS_MS = tuple(
    step * 1_000
    for step in (1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000)
)  # fmt: skip
DAY_MS = 86_400_000
MARKS = 4

LABEL_ROOM = 13.0
"""Width that a mark's label needs."""

Numbers = Sequence[float | None]


class TimeMark(NamedTuple):
    """Time with a line through the picture. `label` stands on it where there is room; `told` says what it is."""

    at_ms: int
    label: str = ""
    told: str = ""


class CourseOfArm(NamedTuple):
    """Values of the arm with the number `series`, one for each time, null where none is known; `low` and `high` of its
    intervals, if it has any.
    """

    name: str
    series: int
    values: Numbers
    low: Numbers = ()
    high: Numbers = ()


def stacked(
    at_ms: Sequence[int],
    parts: Sequence[CourseOfArm],
    title: str,
    marks: Sequence[TimeMark] = (),
    *,
    of: Sequence[str] = (),
    name: str = "stacked",
    whole: bool = True,
) -> str:
    """`<svg>` of parts, from the first at the bottom up: of a whole that is 1, or else of amounts of 0 or more.

    of: names on the way from an arm to these values in the results over time, if they are from there. `name` is unique
    in its page.
    """
    sums = [
        sum(value or 0.0 for value in values) for values in zip(*(each.values for each in parts), strict=True)
    ]
    top_of_all = 1.0 if whole else max([*sums, 0.0]) * 1.05 or 1.0
    across, up = _scales(at_ms, 0.0, top_of_all)
    below = [0.0] * len(at_ms)
    areas, wanted = [], []
    for each in parts:
        above = [low + (value or 0.0) for low, value in zip(below, each.values, strict=True)]
        top = [(across(t), up(min(value, top_of_all))) for t, value in zip(at_ms, above, strict=True)]
        bottom = [(across(t), up(min(value, top_of_all))) for t, value in zip(at_ms, below, strict=True)]
        first, last = each.values[0] or 0.0, each.values[-1] or 0.0
        told = f"{first:.1%} at first, {last:.1%} at last" if whole else f"{last:.3g} at last"
        areas.append(
            f'<g class="{look(each.series)}"><title>{escape(each.name)}: {told}</title>'
            f'<path class="area" d="{path([*top, *reversed(bottom)])}Z"/></g>'
        )
        text = f"{last:.0%}" if whole else amount(float(f"{last:.3g}"))
        wanted.append((up(min((below[-1] + above[-1]) / 2, top_of_all)), each, text))
        below = above
    return _picture(title, across, up, at_ms, marks, areas, wanted, name, of, percent=whole)


def lines(
    at_ms: Sequence[int],
    series: Sequence[CourseOfArm],
    title: str,
    marks: Sequence[TimeMark] = (),
    *,
    of: Sequence[str] = (),
    name: str,
) -> str:
    """`<svg>` of lines, with bands where there are few. `of` and `name` as in `stacked`."""
    with_bands = len(series) <= MAX_BANDS
    across, up = _scales(at_ms, *_range(series, with_bands))
    drawn, wanted = [], []
    for each in series:
        line = [(across(t), up(v)) for t, v in zip(at_ms, each.values, strict=True) if v is not None]
        if not line:
            continue
        last = next(value for value in reversed(each.values) if value is not None)
        band = _band(at_ms, each, across, up) if with_bands and each.low else ""
        drawn.append(
            f'<g class="{look(each.series)}"><title>{escape(each.name)}: {last:.4g} at last</title>'
            f'{band}<path class="line" d="{path(line)}"/></g>'
        )
        wanted.append((min(max(line[-1][1], TOP), HEIGHT - BOTTOM), each, amount(float(f"{last:.3g}"))))
    return _picture(title, across, up, at_ms, marks, drawn, wanted, name, of, percent=False)


def _band(at_ms: Sequence[int], each: CourseOfArm, across: Scale, up: Scale) -> str:
    upper: list[Place] = []
    lower: list[Place] = []
    for t, low, high in zip(at_ms, each.low, each.high, strict=True):
        if low is not None and high is not None:
            upper.append((across(t), up(high)))
            lower.append((across(t), up(low)))
    return f'<path class="band" d="{path([*upper, *reversed(lower)])}Z"/>' if upper else ""


def _range(series: Sequence[CourseOfArm], with_bands: bool) -> tuple[float, float]:
    """Range of the values and of the ends of bands, without those of the first points."""
    known: list[float] = []
    for each in series:
        start = int(SETTLED * len(each.values))
        columns = [each.values, each.low, each.high] if with_bands else [each.values]
        known += [value for column in columns for value in column[start:] if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = (high - low or abs(high) or 1.0) * 0.05
    return low - room, high + room


def _scales(at_ms: Sequence[int], low: float, high: float) -> tuple[Scale, Scale]:
    return (
        Scale("linear", at_ms[0], max(at_ms[-1], at_ms[0] + 1), LEFT, WIDTH - RIGHT),
        Scale("linear", low, high, HEIGHT - BOTTOM, TOP),
    )


def _picture(
    title: str,
    across: Scale,
    up: Scale,
    at_ms: Sequence[int],
    marks: Sequence[TimeMark],
    drawn: Sequence[str],
    wanted: Sequence[tuple[float, CourseOfArm, str]],
    name: str,
    of: Sequence[str],
    *,
    percent: bool,
) -> str:
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM
    # What a script needs to find the values at a place.
    found_by = (
        f'data-of="{escape(json.dumps(list(of)))}" data-frame="{LEFT} {right} {TOP} {base}" '
        f'data-span="{at_ms[0]} {at_ms[-1]}" '
        if of
        else ""
    )
    parts = [
        f'<svg class="picture" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'{found_by}aria-label="{escape(_described(title, wanted))}" xmlns="http://www.w3.org/2000/svg">',
        f'<text class="title" x="0" y="14">{escape(title)}</text>',
        f'<clipPath id="frame-{name}"><rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{base - TOP}"/>'
        "</clipPath>",
    ]
    for mark in up.marks(6):
        y = coordinate(up(mark))
        text = f"{mark:.0%}" if percent else amount(mark)
        parts.append(f'<line class="gridline" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{y}" dy=".34em" text-anchor="end">{text}</text>')
    for time_ms, text in _times(at_ms[0], at_ms[-1]):
        parts.append(
            f'<text class="soft" x="{coordinate(across(time_ms))}" y="{base + 16}" text-anchor="middle" '
            f'data-at="{time_ms}">{text}</text>'
        )
    parts += [f'<g clip-path="url(#frame-{name})">', *drawn, "</g>", *_marked(marks, at_ms, across)]
    return "\n".join([*parts, *_labels(wanted), "</svg>"])


def _marked(marks: Sequence[TimeMark], at_ms: Sequence[int], across: Scale) -> list[str]:
    """Lines of the marks within the times, and the labels that have room beside those before."""
    parts, room_from = [], LEFT - LABEL_ROOM
    for mark in sorted(marks):
        if not at_ms[0] <= mark.at_ms <= at_ms[-1]:
            continue
        place = across(mark.at_ms)
        x, label = coordinate(place), ""
        if mark.label and place >= room_from:
            label = (
                f'<text class="label" x="{x}" y="{TOP - 3}" text-anchor="middle">{escape(mark.label)}</text>'
            )
            room_from = place + LABEL_ROOM
        told = f"<title>{escape(mark.told)}</title>" if mark.told else ""
        parts.append(
            f'<g>{told}<line class="change" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>{label}</g>'
        )
    return parts


def _labels(wanted: Sequence[tuple[float, CourseOfArm, str]]) -> list[str]:
    order = sorted(wanted, key=lambda each: each[0])
    heights = spread([height for height, _, _ in order], LINE, TOP + 4.0, HEIGHT - BOTTOM)
    parts = []
    for (_, each, text), height in zip(order, heights, strict=True):
        y = coordinate(height)
        name = escape(shortened(each.name, MAX_LABEL - 1 - len(text)))
        parts.append(
            f'<g class="{look(each.series)}"><circle class="dot" cx="{WIDTH - RIGHT + 8}" cy="{y}" r="3.5"/></g>'
            f'<text x="{WIDTH - RIGHT + 16}" y="{y}" dy=".34em">{name} <tspan class="soft">{text}</tspan></text>'
        )
    return parts


def _times(first_ms: int, last_ms: int) -> list[tuple[int, str]]:
    """Round times between two, and their texts: as dates where they are days apart."""
    span_ms = last_ms - first_ms
    step = next((step for step in STEPS_MS if span_ms / step <= MARKS), STEPS_MS[-1])
    form = "%d %b" if step >= DAY_MS else "%H:%M" if step >= 60_000 else "%H:%M:%S"
    start = -(-first_ms // step) * step
    times = range(start, last_ms + 1, step) if span_ms / step <= 10 * MARKS else range(0)
    return [(time_ms, datetime.fromtimestamp(time_ms / 1_000, UTC).strftime(form)) for time_ms in times]


def _described(title: str, wanted: Sequence[tuple[float, CourseOfArm, str]]) -> str:
    return f"{title}. At last: {', '.join(f'{each.name} {text}' for _, each, text in wanted)}"
