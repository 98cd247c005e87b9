"""Numbers as the demo prints them."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "-"


def percent(share: float | None) -> str:
    """Whole percents; what is not quite none or all does not read as if it were."""
    if share is None:
        return NONE
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def mean(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def interval(ends: Sequence[float] | None) -> str:
    return NONE if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def difference(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return NONE
    return f"{value:+.3f} {interval(ends)}" if ends is not None else f"{value:+.3f}"
