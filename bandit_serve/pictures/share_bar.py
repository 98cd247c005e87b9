"""Bar of shares: how traffic is divided now, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from bandit_serve.pictures.shapes import coordinate
from bandit_serve.pictures.style import look

BAR_WIDTH, BAR_HEIGHT = 140, 12


def share_bar(shares: Mapping[str, float], width: int = BAR_WIDTH) -> str:
    """`<svg>` of shares by arm, in their order from the left."""
    parts, x = [], 0.0
    for k, share in enumerate(shares.values()):
        wide = width * min(max(share, 0.0), 1.0)
        parts.append(
            f'<g class="{look(k)}"><rect class="area" x="{coordinate(x)}" y="0" width="{coordinate(wide)}" '
            f'height="{BAR_HEIGHT}"/></g>'
        )
        x += wide
    told = ", ".join(f"{arm} {share:.1%}" for arm, share in shares.items())
    return (
        f'<svg class="picture bar" viewBox="0 0 {width} {BAR_HEIGHT}" width="{width}" height="{BAR_HEIGHT}" '
        f'role="img" aria-label="{escape(told)}" xmlns="http://www.w3.org/2000/svg"><title>{escape(told)}</title>'
        f"{''.join(parts)}</svg>"
    )
