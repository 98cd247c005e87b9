"""Sparklines: rates over time, and the last one in words."""

from __future__ import annotations

import pytest

from bandit_serve.pictures.sparkline import rate_of, sparkline

HOUR_MS = 3_600_000


def steady(a_second: float, hours: int) -> list[tuple[int, int]]:
    return [(k * HOUR_MS, round(k * 3_600 * a_second)) for k in range(hours + 1)]


@pytest.mark.parametrize(
    ("a_second", "words"), [(12.0, "12/s"), (0.5, "30/min"), (0.01, "36/h"), (0.00025, "22/day")]
)
def test_a_rate_is_told_in_a_unit_of_which_there_are_some(a_second: float, words: str) -> None:
    assert rate_of(steady(a_second, 100)) == words


def test_the_rate_is_that_of_the_end() -> None:
    counts = [*steady(2.0, 10), (100 * HOUR_MS, 72_000)]
    assert rate_of(counts) == "none lately"
    assert rate_of([*counts, (110 * HOUR_MS, 72_000 + 36_000)]) == "55/min"


@pytest.mark.parametrize("counts", [[], [(5, 3)], [(5, 0), (5, 3)]])
def test_nothing_is_drawn_without_a_stretch_of_time(counts: list[tuple[int, int]]) -> None:
    assert sparkline(counts, "Decisions") == ""
    assert rate_of(counts) == ""


def test_the_highest_rate_reaches_the_top() -> None:
    svg = sparkline([(0, 0), (HOUR_MS, 10), (2 * HOUR_MS, 1_010)], "Decisions")
    line = svg.rpartition('class="line" d="M')[2].partition('"')[0]
    heights = [float(point.split()[1]) for point in line.split("L")]
    assert min(heights) == heights[-1] == 1.0
    assert heights[0] > 16.0
    assert 'aria-label="Decisions over time, 17/min at last"' in svg
