"""Sparkline: how fast something was counted over time, in one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from bandit_serve.pictures.shapes import amount, path

WIDTH, HEIGHT = 88, 18
PARTS = 22
"""Stretches of equal time whose rates are drawn."""
UNITS = (("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("day", 86_400_000))

Count = tuple[int, int]
"""A time in milliseconds, and what was counted until then."""


def sparkline(counts: Sequence[Count], noun: str) -> str:
    """`<svg>` of the rates between `counts`, which ascend; empty without two of them at different times."""
    if len(counts) < 2 or counts[-1][0] <= counts[0][0]:
        return ""
    rates = _rates(counts)
    highest, wide = max(rates) or 1.0, WIDTH / (len(rates) - 1)
    top = [(k * wide, HEIGHT - 1 - (HEIGHT - 2) * rate / highest) for k, rate in enumerate(rates)]
    told = f"{noun} over time, {rate_of(counts)} at last"
    return (
        f'<svg class="picture spark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(told)}" xmlns="http://www.w3.org/2000/svg"><title>{escape(told)}</title>'
        f'<path class="area" d="{path([(0.0, HEIGHT), *top, (WIDTH, HEIGHT)])}Z"/>'
        f'<path class="line" d="{path(top)}"/></svg>'
    )


def rate_of(counts: Sequence[Count]) -> str:
    """Rate of the last tenth of the time in words, in a unit of which it is at least 1 if it can be."""
    if len(counts) < 2 or counts[-1][0] <= counts[0][0]:
        return ""
    end_ms, total = counts[-1]
    start_ms = end_ms - max((end_ms - counts[0][0]) / 10, 1.0)
    a_ms = (total - _at(counts, start_ms)) / (end_ms - start_ms)
    if a_ms <= 0.0:
        return "none lately"
    name, unit_ms = next((unit for unit in UNITS if a_ms * unit[1] >= 1.0), UNITS[-1])
    return f"{amount(float(f'{a_ms * unit_ms:.2g}'))}/{name}"


def _rates(counts: Sequence[Count]) -> list[float]:
    start_ms, end_ms = counts[0][0], counts[-1][0]
    cuts = [_at(counts, start_ms + (end_ms - start_ms) * k / PARTS) for k in range(PARTS + 1)]
    return [max(after - before, 0.0) for before, after in pairwise(cuts)]


def _at(counts: Sequence[Count], at_ms: float) -> float:
    """What was counted until a time, on the straight line between the counts around it."""
    for (left_ms, left), (right_ms, right) in pairwise(counts):
        if at_ms <= right_ms:
            part = (at_ms - left_ms) / (right_ms - left_ms) if right_ms > left_ms else 1.0
            return left + (right - left) * min(max(part, 0.0), 1.0)
    return float(counts[-1][1])
