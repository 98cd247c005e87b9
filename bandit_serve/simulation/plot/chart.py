"""Chart of regret over decisions, as inline SVG: a curve with a band and a label for each policy, and the growth.

The page's style sheet (`page.py`) sets colours and fonts by class, so one chart serves the light and the dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.scale import AxisKind, Scale
from bandit_serve.pictures.shapes import coordinate, path, shortened, spread
from bandit_serve.pictures.theme import COLOURS
from bandit_serve.simulation.report import PolicySummary, SimulationReport

WIDTH, HEIGHT = 1000, 520
LEFT, TOP, BOTTOM = 62, 34, 46
LETTER = 7.1
LINE = 19
MAX_LABEL_CHARS = 34
ABOVE_THE_OTHERS = 1.5
LOG_STARTS = 10


class Series(NamedTuple):
    """Policy, and the class that its curve is styled by."""

    standing: PolicySummary
    look: str


class Label(NamedTuple):
    """Label at the end of a curve; `at` is the height of that end."""

    at: float
    look: str
    name: str
    value: str


def chart(report: SimulationReport, kind: AxisKind) -> str:
    """Draws the whole `<svg>`; `kind` is that of the axis of decisions."""
    series = _series(report)
    labels_width = LETTER * max(map(len, _texts(report))) + 34
    first = LOG_STARTS if kind == "log" and report.horizon >= 100 * LOG_STARTS else 1
    across = Scale(kind, first if kind == "log" else 0, report.horizon, LEFT, WIDTH - labels_width)
    up = Scale("linear", 0.0, _highest(report), HEIGHT - BOTTOM, TOP)
    growth = _growth(report)
    parts = [
        f'<svg class="chart {kind}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_described(report))}" xmlns="http://www.w3.org/2000/svg">',
        f'<clipPath id="frame-{kind}"><rect x="{LEFT}" y="{TOP}" '
        f'width="{coordinate(across.end - LEFT)}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        *_axes(report, across, up),
        *_changes(report, across),
    ]
    labels = _labels(series, up, growth, report)
    if growth is not None:
        parts += _guide(report, growth, across, up, labels["growth"])
    # The best policy is drawn last, on top.
    for each in sorted(series, key=lambda one: -one.standing.regret.mean):
        parts += _curve(each, report, across, up, labels.get(each.standing.name))
    return "\n".join([*parts, "</svg>"])


def _series(report: SimulationReport) -> list[Series]:
    learning = [standing for standing in report.policies if standing.learns]
    looks = {
        each.name: f"s{i % COLOURS}{' dashed' if i >= COLOURS else ''}" for i, each in enumerate(learning)
    }
    return [Series(standing, looks.get(standing.name, "even")) for standing in report.policies]


def _highest(report: SimulationReport) -> float:
    """Top of the regret axis: above all policies that learn, and above the others unless they are far higher."""
    tops = {each.name: _top(each) for each in report.policies}
    learning = max((tops[each.name] for each in report.policies if each.learns), default=0.0)
    within = [top for top in tops.values() if not learning or top <= ABOVE_THE_OTHERS * learning]
    return 1.06 * max([learning, *within]) or 1.0


def _top(standing: PolicySummary) -> float:
    errors = standing.curve_se or [0.0]
    return max(max(standing.curve), standing.curve[-1] + errors[-1])


def _growth(report: SimulationReport) -> list[float] | None:
    """C·ln t at the report's decisions, shifted so that it ends where the best policy that learns does."""
    if report.growth is None:
        return None
    ends = [each.curve[-1] for each in report.policies if each.learns]
    end = min(ends or [each.curve[-1] for each in report.policies])
    return [end + report.growth * math.log(t / report.horizon) for t in report.decisions]


def _axes(report: SimulationReport, across: Scale, up: Scale) -> list[str]:
    parts = []
    for mark in up.marks(6):
        y = coordinate(up(mark))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{coordinate(across.end)}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="mark" x="{LEFT - 9}" y="{y}" dy=".34em" text-anchor="end">{mark:,g}</text>'
        )
    for mark in across.between_marks():
        x = coordinate(across(mark))
        parts.append(f'<line class="grid faint" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    base = HEIGHT - BOTTOM
    for mark in across.marks(6):
        x = coordinate(across(mark))
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{base}" y2="{base + 5}"/>')
        parts.append(f'<text class="mark" x="{x}" y="{base + 20}" text-anchor="middle">{_count(mark)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{coordinate(across.end)}" y1="{base}" y2="{base}"/>')
    middle = coordinate((LEFT + across.end) / 2)
    on_log = ", on a log scale" if across.kind == "log" else ""
    parts.append(
        f'<text class="title" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">decisions{on_log}</text>'
    )
    band = f", mean of {report.seeds} seeds ± 1 standard error" if report.seeds > 1 else ", of one seed"
    parts.append(f'<text class="title" x="0" y="15">cumulative regret{band}</text>')
    return parts


def _changes(report: SimulationReport, across: Scale) -> list[str]:
    parts = []
    for point in report.change_points:
        x = coordinate(across(point))
        parts.append(f'<line class="change" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="mark" x="{x}" dx="6" y="{TOP + 11}">change</text>')
    return parts


def _guide(report: SimulationReport, growth: list[float], across: Scale, up: Scale, label: str) -> list[str]:
    points = [
        (across(t), up(value))
        for t, value in zip(report.decisions, growth, strict=True)
        if value >= 0.0 and t >= across.low
    ]
    about = f"{_growth_name(report)}: the Lai–Robbins growth, ending where the best curve of a policy that learns does"
    return [
        f'<g class="series growth"><title>{escape(about)}</title>',
        f'<path class="line" clip-path="url(#frame-{across.kind})" d="{path(points)}"/>',
        label,
        "</g>",
    ]


def _curve(
    series: Series, report: SimulationReport, across: Scale, up: Scale, label: str | None
) -> list[str]:
    standing = series.standing
    # A log axis may begin in the middle of a curve; earlier points are left out.
    start = next(i for i, t in enumerate(report.decisions) if t >= across.low)
    places = [across(t) for t in report.decisions[start:]]
    line = [(x, up(value)) for x, value in zip(places, standing.curve[start:], strict=True)]
    clip = f'clip-path="url(#frame-{across.kind})"'
    parts = [
        f'<g class="series {series.look}"><title>{escape(standing.name)}: '
        f"{standing.regret} after {report.horizon:,} decisions</title>"
    ]
    if standing.curve_se is not None:
        band = list(zip(places, standing.curve[start:], standing.curve_se[start:], strict=True))
        upper = [(x, up(value + error)) for x, value, error in band]
        lower = [(x, up(value - error)) for x, value, error in reversed(band)]
        parts.append(f'<path class="band" {clip} d="{path([*upper, *lower])}Z"/>')
    parts.append(f'<path class="line" {clip} d="{path(line)}"/>')
    return [*parts, label or _leaving(standing, line, across), "</g>"]


def _leaving(standing: PolicySummary, line: Sequence[tuple[float, float]], across: Scale) -> str:
    """Label of a curve that leaves the chart at the top, next to that place."""
    x = next(x for x, y in line if y <= TOP)
    to_the_right = x < (across.start + across.end) / 2
    side = f'dx="{10 if to_the_right else -10}" text-anchor="{"start" if to_the_right else "end"}"'
    name = escape(shortened(standing.name, MAX_LABEL_CHARS))
    return (
        f'<text class="name" x="{coordinate(x)}" y="{TOP + 11}" {side}>{name} '
        f'<tspan class="value">↑ {standing.regret}</tspan></text>'
    )


def _labels(
    series: Sequence[Series], up: Scale, growth: list[float] | None, report: SimulationReport
) -> dict[str, str]:
    """Labels at the ends of curves, by name, spread so that they do not overlap."""
    wanted = {
        each.standing.name: Label(
            up(each.standing.curve[-1]),
            each.look,
            shortened(each.standing.name, MAX_LABEL_CHARS),
            str(each.standing.regret),
        )
        for each in series
        if each.standing.curve[-1] <= up.high
    }
    if growth is not None:
        wanted["growth"] = Label(up(growth[-1]), "growth", _growth_name(report), "")
    # The guide ends at the height of the best curve: its label comes below that one.
    order = sorted(wanted, key=lambda name: (wanted[name].at, name == "growth"))
    heights = spread([wanted[name].at for name in order], LINE, 14.0, HEIGHT - 8.0)
    left = WIDTH - (LETTER * max(map(len, _texts(report))) + 34)
    return {name: _label(wanted[name], height, left) for name, height in zip(order, heights, strict=True)}


def _label(label: Label, height: float, left: float) -> str:
    start, bend, end, at, to = map(coordinate, (left, left + 9, left + 20, label.at, height))
    leader = f"M{start} {at}C{bend} {at} {bend} {to} {end} {to}"
    value = f' <tspan class="value">{escape(label.value)}</tspan>' if label.value else ""
    return (
        f'<path class="leader" d="{leader}"/>'
        f'<text class="name" x="{coordinate(left + 26)}" y="{coordinate(height)}" dy=".34em">'
        f"{escape(label.name)}{value}</text>"
    )


def _texts(report: SimulationReport) -> list[str]:
    texts = [f"{shortened(each.name, MAX_LABEL_CHARS)} ↑ {each.regret}" for each in report.policies]
    return [*texts, _growth_name(report)] if report.growth is not None else texts


def _growth_name(report: SimulationReport) -> str:
    return f"C ln t, C = {report.growth:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,g} M"


def _described(report: SimulationReport) -> str:
    ends = ", ".join(f"{each.name} {each.regret}" for each in report.ranked)
    return f"Cumulative regret after {report.horizon:,} decisions: {ends}"
