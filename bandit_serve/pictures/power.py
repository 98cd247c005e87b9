"""Chart of plans, as an SVG file: the chance that each test has found a difference, over days or observations.

It has its own colours for a light and a dark reader, and loads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import spread
from bandit_serve.pictures.theme import FONTS, variables

WIDTH, HEIGHT = 1000, 520
LEFT, TOP, BOTTOM, RIGHT = 62, 66, 46, 250
LINE = 19
BEYOND = 1.12
"""Times the latest planned end that the chart goes on to."""

STYLE = f"""
svg {{ background: var(--paper); {variables("light")} font: 13px {FONTS}; }}
@media (prefers-color-scheme: dark) {{ svg {{ {variables("dark")} }} }}
text {{ fill: var(--ink); }} .soft {{ fill: var(--soft); font-variant-numeric: tabular-nums; }}
.heading {{ font-size: 18px; font-weight: 650; }} .name {{ font-weight: 600; }}
.grid {{ stroke: var(--grid); }} .axis {{ stroke: var(--axis); }}
.aim {{ stroke: var(--axis); stroke-dasharray: 2 4; }}
.line {{ fill: none; stroke: var(--c); stroke-width: 2.25; stroke-linejoin: round; }}
.end {{ fill: var(--c); stroke: var(--paper); stroke-width: 1.5; }} .leader {{ fill: none; stroke: var(--c); }}
"""


class PowerCurve(NamedTuple):
    """Test by its name, its points (n, chance) rising, and its planned `end`; `stepped` where it looks at a few n."""

    name: str
    points: Sequence[tuple[float, float]]
    end: float
    stepped: bool = False


def power_chart(title: str, curves: Sequence[PowerCurve], power: float, unit: str, per_unit: float) -> str:
    """Draws the file; `unit` is that of the axis ("days", "observations"), of `per_unit` observations each."""
    last = BEYOND * max(curve.end for curve in curves) / per_unit
    across = Scale("linear", 0.0, last, LEFT, WIDTH - RIGHT)
    up = Scale("linear", 0.0, 1.0, HEIGHT - BOTTOM, TOP)
    drawn = [_places(curve, across, up, per_unit) for curve in curves]
    order = sorted(range(len(curves)), key=lambda i: drawn[i][-1][1])
    heights = spread([drawn[i][-1][1] for i in order], LINE, TOP, HEIGHT - BOTTOM)
    labels = dict(zip(order, heights, strict=True))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">',
        f"<style>{STYLE}</style>",
        f'<text class="heading" x="14" y="28">{escape(title)}</text>',
        '<text class="soft" x="14" y="50">chance that it has been found</text>',
        *_axes(across, up, power, unit),
    ]
    for i, (curve, places) in enumerate(zip(curves, drawn, strict=True)):
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        end_x, end_y = across(curve.end / per_unit), up(_chance_at(curve))
        at, to = places[-1][1], labels[i]
        start, bend = f"{across.end:.1f}", across.end + 9.0
        end = curve.end / per_unit
        parts += [
            f'<g style="--c: var(--s{i})"><title>{escape(curve.name)}</title><path class="line" d="{path}"/>',
            f'<circle class="end" cx="{end_x:.1f}" cy="{end_y:.1f}" r="5"/>',
            f'<path class="leader" d="M{start} {at:.1f}C{bend} {at:.1f} {bend} {to:.1f} {bend + 11:.1f} {to:.1f}"/>',
            f'<text class="name" x="{across.end + 26:.1f}" y="{to:.1f}" dy=".34em">{escape(curve.name)} '
            f'<tspan class="soft">{end:,.{0 if end >= 100 else 1}f} {unit}</tspan></text></g>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _chance_at(curve: PowerCurve) -> float:
    """Chance at the planned end, on the line between the points beside it."""
    before = curve.points[0]
    for point in curve.points:
        if point[0] >= curve.end:
            part = (curve.end - before[0]) / (point[0] - before[0]) if point[0] > before[0] else 1.0
            return before[1] + part * (point[1] - before[1])
        before = point
    return before[1]


def _places(curve: PowerCurve, across: Scale, up: Scale, per_unit: float) -> list[tuple[float, float]]:
    """Coordinates of the curve from 0 to the right end of the chart."""
    places, chance = [(across.start, up(0.0))], 0.0
    for n, following in curve.points:
        x = across(n / per_unit)
        if x > across.end:
            break
        if curve.stepped:
            places.append((x, up(chance)))
        places.append((x, up(following)))
        chance = following
    return [*places, (across.end, places[-1][1])]


def _axes(across: Scale, up: Scale, power: float, unit: str) -> list[str]:
    parts = []
    for mark in up.marks(5):
        y = f"{up(mark):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{across.end}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="soft" x="{LEFT - 9}" y="{y}" dy=".34em" text-anchor="end">{mark:.0%}</text>'
        )
    base, aim = HEIGHT - BOTTOM, f"{up(power):.1f}"
    parts.append(f'<line class="aim" x1="{LEFT}" x2="{across.end}" y1="{aim}" y2="{aim}"/>')
    for mark in across.marks(6):
        x = f"{across(mark):.1f}"
        parts.append(f'<text class="soft" x="{x}" y="{base + 20}" text-anchor="middle">{mark:,g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{across.end}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + across.end) / 2
    parts.append(f'<text class="soft" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{unit}</text>')
    return parts
