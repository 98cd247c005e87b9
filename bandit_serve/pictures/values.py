"""Chart of values, as an SVG file: a row for each policy, with its estimate and interval."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import amount, shortened
from bandit_serve.pictures.theme import FONTS, variables

WIDTH, LEFT, RIGHT = 860, 220, 120
TOP, BOTTOM, ROW = 74, 44, 34
MAX_NAME = 30

STYLE = f"""
svg {{ background: var(--paper); {variables("light")} font: 13px {FONTS}; }}
@media (prefers-color-scheme: dark) {{ svg {{ {variables("dark")} }} }}
text {{ fill: var(--ink); }} .soft {{ fill: var(--soft); font-variant-numeric: tabular-nums; }}
.heading {{ font-size: 18px; font-weight: 650; }}
.grid {{ stroke: var(--grid); }} .base {{ stroke: var(--axis); stroke-dasharray: 2 4; }}
.reach {{ stroke: var(--c); stroke-width: 3; stroke-linecap: round; }} .dot {{ fill: var(--c); }}
"""


class Valued(NamedTuple):
    """Policy by its name, its value and its interval; without a value the log has no answer."""

    name: str
    value: float | None
    interval: tuple[float, float] | None


def values_chart(title: str, about: str, logged: float, rows: Sequence[Valued]) -> str:
    """Draws the file; a dashed line is at `logged`, the value of the policy that made the decisions."""
    height = TOP + ROW * len(rows) + BOTTOM
    ends = [logged, *(end for row in rows for end in (row.value, *(row.interval or ())) if end is not None)]
    room = (max(ends) - min(ends) or abs(logged) or 1.0) * 0.05
    across = Scale("linear", min(ends) - room, max(ends) + room, LEFT, WIDTH - RIGHT)
    bottom = TOP + ROW * len(rows)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">',
        f"<style>{STYLE}</style>",
        f'<text class="heading" x="14" y="28">{escape(title)}</text>',
        f'<text class="soft" x="14" y="50">{escape(about)}</text>',
    ]
    for mark in across.marks(6):
        x = f"{across(mark):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>')
        parts.append(
            f'<text class="soft" x="{x}" y="{bottom + 20}" text-anchor="middle">{amount(mark)}</text>'
        )
    x = f"{across(logged):.1f}"
    parts.append(f'<line class="base" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>')
    for place, row in enumerate(rows):
        parts += _row(row, place, TOP + ROW * (place + 0.5), across)
    return "\n".join([*parts, "</svg>", ""])


def _row(row: Valued, place: int, y: float, across: Scale) -> list[str]:
    number = "no answer" if row.value is None else f"{row.value:.4g}"
    parts = [
        f'<g style="--c: var(--s{place % 8})"><title>{escape(row.name)}: {number}</title>',
        f'<text x="14" y="{y}" dy=".34em">{escape(shortened(row.name, MAX_NAME))}</text>',
        f'<text class="soft" x="{WIDTH - 14}" y="{y}" dy=".34em" text-anchor="end">{number}</text>',
    ]
    if row.interval is not None:
        low, high = (f"{across(end):.1f}" for end in row.interval)
        parts.append(f'<line class="reach" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
    if row.value is not None:
        parts.append(f'<circle class="dot" cx="{across(row.value):.1f}" cy="{y}" r="5.5"/>')
    return [*parts, "</g>"]
