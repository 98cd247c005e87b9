"""Shapes of pictures: coordinates as text, paths through points, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Place = tuple[float, float]


def coordinate(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def amount(value: float) -> str:
    """A number in few characters."""
    size = abs(value)
    if size >= 1e12 or 0.0 < size < 1e-4:
        return f"{value:.2g}"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    return f"{value:.4g}"


def path(points: Iterable[Place]) -> str:
    """Path of straight lines through `points`; empty without any."""
    through = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points)
    return f"M{through}" if through else ""


def shortened(name: str, most: int) -> str:
    """`name` in at most `most` characters, of its beginning and, as many names differ there, its end."""
    if len(name) <= most:
        return name
    last = (most - 1) // 3
    return f"{name[: most - 1 - last]}…{name[len(name) - last :]}"


def spread(wanted: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Heights close to those `wanted` (ascending), at least `room` apart and within [low, high] if that is possible.

    Neighbours that would overlap become a group, which is centred on the mean of its wanted heights.
    """
    room = min(room, (high - low) / max(len(wanted) - 1, 1))
    groups: list[list[float]] = []
    for height in wanted:
        groups.append([height])
        while len(groups) > 1 and _middle(groups[-1], room, low, high) - _middle(
            groups[-2], room, low, high
        ) < room * (len(groups[-1]) + len(groups[-2])) / 2 * (1 - 1e-9):
            last = groups.pop()
            groups[-1] += last
    return [
        _middle(group, room, low, high) + room * (i - (len(group) - 1) / 2)
        for group in groups
        for i in range(len(group))
    ]


def _middle(group: Sequence[float], room: float, low: float, high: float) -> float:
    half = room * (len(group) - 1) / 2
    return min(max(sum(group) / len(group), low + half), high - half)
