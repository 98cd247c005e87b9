"""Parallel coordinates: combinations of parameters, a line for each through its values, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from bandit_serve.pictures.scale import AxisKind, Scale
from bandit_serve.pictures.shapes import Place, amount, coordinate, path, shortened

WIDTH, HEIGHT = 720, 250
SIDE, TOP, BOTTOM = 64, 44, 26
MAX_AXES = 8
MAX_WORDS = 12
"""Different values of an axis of words; one with more is left out."""
MAX_LABEL = 12
LOG_FROM = 20.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


class Combination(NamedTuple):
    """Values by parameter, and the value of the metric; None where there is none."""

    values: Mapping[str, Any]
    result: float | None


class _Axis(NamedTuple):
    name: str
    scale: Scale
    words: Sequence[str]

    def at(self, value: Any) -> float | None:
        if self.words:
            return self.scale(self.words.index(str(value))) if str(value) in self.words else None
        return self.scale(float(value)) if _is_number(value) else None

    @property
    def ends(self) -> tuple[str, str]:
        """Texts of the lowest and the highest value."""
        if self.words:
            return self.words[0], self.words[-1]
        return amount(self.scale.low), amount(self.scale.high)


def parallel(combinations: Sequence[Combination], metric: str) -> str:
    """`<svg>` of combinations, the best first, which is drawn on top; empty where no parameter differs."""
    names = list(dict.fromkeys(name for each in combinations for name in each.values))
    axes = [axis for name in names if (axis := _axis(name, [each.values.get(name) for each in combinations]))]
    last = _axis(metric, [each.result for each in combinations])
    if not axes or last is None:
        return ""
    axes = [*axes[: MAX_AXES - 1], last]
    step = (WIDTH - 2 * SIDE) / (len(axes) - 1)
    told = f"{len(combinations)} combinations of {', '.join(axis.name for axis in axes[:-1])}, and their {metric}"
    parts = [
        f'<svg class="picture parallel" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(told)}" xmlns="http://www.w3.org/2000/svg">'
    ]
    parts += [_line(each, axes, step, best=each is combinations[0]) for each in reversed(combinations)]
    parts += [_drawn(axis, coordinate(SIDE + k * step), is_last=axis is last) for k, axis in enumerate(axes)]
    return "\n".join([*parts, "</svg>"])


def _axis(name: str, values: Sequence[Any]) -> _Axis | None:
    """Axis of values, of which at least two differ; None where it would say nothing or too much."""
    known = [value for value in values if value is not None]
    numbers = [float(value) for value in known if _is_number(value)]
    if numbers and len(numbers) == len(known):
        low, high = min(numbers), max(numbers)
        kind: AxisKind = "log" if low > 0.0 and high / low >= LOG_FROM else "linear"
        return _Axis(name, Scale(kind, low, high, HEIGHT - BOTTOM, TOP), ()) if high > low else None
    words = sorted({str(value) for value in known})
    if not 2 <= len(words) <= MAX_WORDS:
        return None
    return _Axis(name, Scale("linear", 0.0, len(words) - 1.0, HEIGHT - BOTTOM, TOP), words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _line(each: Combination, axes: Sequence[_Axis], step: float, *, best: bool) -> str:
    values = [*(each.values.get(axis.name) for axis in axes[:-1]), each.result]
    heights = [axis.at(value) for axis, value in zip(axes, values, strict=True)]
    points: list[Place] = [(SIDE + k * step, y) for k, y in enumerate(heights) if y is not None]
    told = ", ".join(f"{axis.name} {_text(value)}" for axis, value in zip(axes, values, strict=True))
    dots = "".join(
        f'<circle class="dot" cx="{coordinate(x)}" cy="{coordinate(y)}" r="3.5"/>' for x, y in points
    )
    look = "s1 best" if best else "s0 other"
    return (
        f'<g class="{look}"><title>{escape(told)}</title><path class="line" d="{path(points)}"/>'
        f"{dots if best else ''}</g>"
    )


def _drawn(axis: _Axis, x: str, *, is_last: bool) -> str:
    low, high = axis.ends
    weight = ' class="title"' if is_last else ""
    return (
        f'<line class="zero" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text{weight} x="{x}" y="14" text-anchor="middle">{escape(shortened(axis.name, MAX_LABEL))}</text>'
        f'<text class="soft" x="{x}" y="32" text-anchor="middle">{escape(shortened(high, MAX_LABEL))}</text>'
        f'<text class="soft" x="{x}" y="{HEIGHT - 8}" text-anchor="middle">{escape(shortened(low, MAX_LABEL))}</text>'
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
