"""Picture of who got which arm: a bar of shares for each group of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bandit_serve.pictures.shapes import coordinate, shortened
from bandit_serve.pictures.style import look

WIDTH, ROW, TOP, BOTTOM = 380, 26, 26, 4
LEFT, RIGHT, BAR = 100, 56, 16
MAX_NAME = 14
LETTER = 7.5


class GroupOfDecisions(NamedTuple):
    """Number of decisions of a group for each arm, in the order of the arms."""

    name: str
    counts: Sequence[int]

    @property
    def total(self) -> int:
        return sum(self.counts)


def allocation(groups: Sequence[GroupOfDecisions], arms: Sequence[str], title: str) -> str:
    """`<svg>` with a bar for each group, of the parts of its decisions that each arm got."""
    height = TOP + ROW * len(groups) + BOTTOM
    told = "; ".join(f"{group.name}: {_parts_told(group, arms)}" for group in groups)
    parts = [
        f'<svg class="picture" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(f"{title}. {told}")}" xmlns="http://www.w3.org/2000/svg">',
        f'<text class="title" x="0" y="14">{escape(title)}</text>',
    ]
    for place, group in enumerate(groups):
        parts += _bar(group, arms, TOP + ROW * place)
    return "\n".join([*parts, "</svg>"])


def _bar(group: GroupOfDecisions, arms: Sequence[str], top: float) -> list[str]:
    middle = coordinate(top + ROW / 2)
    parts = [
        f'<text x="0" y="{middle}" dy=".34em">{escape(shortened(group.name, MAX_NAME))}</text>',
        f'<text class="soft" x="{WIDTH}" y="{middle}" dy=".34em" text-anchor="end">{group.total:,}</text>',
    ]
    x, whole = float(LEFT), float(WIDTH - RIGHT - LEFT)
    for k, (arm, count) in enumerate(zip(arms, group.counts, strict=True)):
        share = count / group.total if group.total else 0.0
        wide = whole * share
        text = f"{share:.0%}"
        label = (
            f'<text class="on-area" x="{coordinate(x + wide / 2)}" y="{middle}" dy=".34em" '
            f'text-anchor="middle">{text}</text>'
            if wide > LETTER * (len(text) + 1)
            else ""
        )
        parts.append(
            f'<g class="{look(k)}"><title>{escape(group.name)}, {escape(arm)}: {count:,}, {share:.1%}</title>'
            f'<rect class="area" x="{coordinate(x)}" y="{coordinate(top + (ROW - BAR) / 2)}" '
            f'width="{coordinate(wide)}" height="{BAR}"/>{label}</g>'
        )
        x += wide
    return parts


def _parts_told(group: GroupOfDecisions, arms: Sequence[str]) -> str:
    total = max(group.total, 1)
    return ", ".join(f"{arm} {count / total:.0%}" for arm, count in zip(arms, group.counts, strict=True))
