"""Meter: a part of a whole as a short bar beside its number."""

from __future__ import annotations

from bandit_serve.pictures.shapes import coordinate
from bandit_serve.pictures.style import look

METER_WIDTH, METER_HEIGHT = 56, 4


def meter(part: float | None, series: int) -> str:
    """`<svg>` of a part, 0 to 1, in the colour of a series; empty for null. What it says stands beside it."""
    if part is None:
        return ""
    wide = METER_WIDTH * min(max(part, 0.0), 1.0)
    return (
        f'<svg class="picture meter {look(series)}" viewBox="0 0 {METER_WIDTH} {METER_HEIGHT}" width="{METER_WIDTH}" '
        f'height="{METER_HEIGHT}" aria-hidden="true" xmlns="http://www.w3.org/2000/svg">'
        f'<rect class="track" width="{METER_WIDTH}" height="{METER_HEIGHT}" rx="2"/>'
        f'<rect class="dot" width="{coordinate(wide)}" height="{METER_HEIGHT}" rx="2"/></svg>'
    )
