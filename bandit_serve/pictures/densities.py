"""Picture of what the observations say of each mean: densities, one over the other, and the intervals below them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import Place, amount, coordinate, path, shortened
from bandit_serve.pictures.style import look

WIDTH, ROW, TOP, BOTTOM = 380, 38, 30, 26
LEFT, RIGHT = 110, 12
POINTS = 80
REACH = 3.5
"""Standard errors to each side that are drawn."""
FLOOR = 5.0
"""Height of a row below its density, where its interval is."""


class MeanOfArm(NamedTuple):
    """Mean of the arm with the number `series`, and its standard error, which is above 0.

    counts: successes and failures where the values are 0 and 1: the density is that of a Beta distribution then, with
        one more of each, and else normal. interval: drawn below the density.
    """

    name: str
    series: int
    mean: float
    error: float
    counts: tuple[float, float] | None = None
    interval: tuple[float, float] | None = None

    def log_density(self, value: float) -> float:
        """Logarithm of the density, up to a constant."""
        if self.counts is None:
            return -0.5 * ((value - self.mean) / self.error) ** 2
        successes, failures = self.counts
        return _times_log(successes, value) + _times_log(failures, 1.0 - value)

    @property
    def span(self) -> tuple[float, float]:
        """Values between which the density is drawn."""
        if self.counts is None:
            return self.mean - REACH * self.error, self.mean + REACH * self.error
        a, b = self.counts[0] + 1.0, self.counts[1] + 1.0
        middle = a / (a + b)
        wide = REACH * math.sqrt(a * b / (a + b + 1.0)) / (a + b)
        return max(middle - wide, 0.0), min(middle + wide, 1.0)


def densities(arms: Sequence[MeanOfArm], title: str) -> str:
    """`<svg>` with a row for each arm; all have one scale, and each density is as high as its row."""
    low, high = min(arm.span[0] for arm in arms), max(arm.span[1] for arm in arms)
    across = Scale("linear", low, high, LEFT, WIDTH - RIGHT)
    height, base = TOP + ROW * len(arms) + BOTTOM, TOP + ROW * len(arms)
    told = "; ".join(f"{arm.name}: {arm.mean:.4g}, standard error {arm.error:.2g}" for arm in arms)
    parts = [
        f'<svg class="picture" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(f"{title}. {told}")}" xmlns="http://www.w3.org/2000/svg">',
        f'<text class="title" x="0" y="14">{escape(title)}</text>',
    ]
    for mark in across.marks(4):
        x = coordinate(across(mark))
        parts.append(f'<line class="gridline" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{base}"/>')
        parts.append(f'<text class="soft" x="{x}" y="{base + 16}" text-anchor="middle">{amount(mark)}</text>')
    for place, arm in enumerate(arms):
        parts.append(_row(arm, across, TOP + ROW * (place + 1) - FLOOR))
    return "\n".join([*parts, "</svg>"])


def _row(arm: MeanOfArm, across: Scale, floor: float) -> str:
    curve = _curve(arm, across, floor)
    parts = [
        f'<path class="band" d="{path([(curve[0][0], floor), *curve, (curve[-1][0], floor)])}Z"/>',
        f'<path class="line" d="{path(curve)}"/>',
    ]
    if arm.interval is not None:
        ends = (coordinate(across(min(max(end, across.low), across.high))) for end in arm.interval)
        parts.append(
            '<line class="reach" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'.format(*ends, y=coordinate(floor + 2))
        )
    if across.low <= arm.mean <= across.high:
        parts.append(
            f'<circle class="dot" cx="{coordinate(across(arm.mean))}" cy="{coordinate(floor + 2)}" r="3"/>'
        )
    return (
        f'<g class="{look(arm.series)}"><title>{escape(arm.name)}: {arm.mean:.4g}</title>{"".join(parts)}</g>'
        f'<text x="0" y="{coordinate(floor)}">{escape(shortened(arm.name, 14))}</text>'
    )


def _curve(arm: MeanOfArm, across: Scale, floor: float) -> list[Place]:
    low, high = arm.span
    values = [low + (high - low) * i / (POINTS - 1) for i in range(POINTS)]
    heights = [arm.log_density(value) for value in values]
    top = max(heights)
    return [
        (across(value), floor - (ROW - FLOOR - 7) * math.exp(height - top))
        for value, height in zip(values, heights, strict=True)
    ]


def _times_log(count: float, chance: float) -> float:
    if chance <= 0.0:
        return -math.inf if count else 0.0
    return count * math.log(chance)
