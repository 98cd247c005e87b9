"""Parallel coordinates: which axes there are, and where the best is."""

from __future__ import annotations

import re
from typing import Any

from bandit_serve.pictures.parallel import BOTTOM, HEIGHT, TOP, Combination, parallel


def tried(*rows: tuple[dict[str, Any], float | None]) -> list[Combination]:
    return [Combination(values, result) for values, result in rows]


def axes(svg: str) -> list[str]:
    return re.findall(r'<text(?: class="title")? x="[^"]+" y="14"[^>]*>([^<]+)<', svg)


def test_parameters_that_differ_have_an_axis_and_the_metric_is_the_last() -> None:
    svg = parallel(
        tried(
            ({"factors": 8, "rate": 0.1, "kind": "a", "fixed": 1}, 0.9),
            ({"factors": 64, "rate": 0.001, "kind": "b", "fixed": 1}, 1.2),
        ),
        "rmse",
    )
    assert axes(svg) == ["factors", "rate", "kind", "rmse"]


def test_the_best_is_drawn_last_with_the_ends_of_its_axes() -> None:
    svg = parallel(tried(({"factors": 8}, 0.9), ({"factors": 64}, 1.2), ({"factors": 16}, None)), "rmse")
    best = svg.rpartition('<g class="s1 best">')[2]
    heights = [float(y) for y in re.findall(r'cy="([^"]+)"', best)]
    assert heights == [HEIGHT - BOTTOM, HEIGHT - BOTTOM]
    assert svg.count('<g class="s0 other">') == 2
    assert f"{TOP}" in svg


def test_nothing_is_drawn_where_nothing_differs_or_nothing_came_of_it() -> None:
    assert parallel([], "rmse") == ""
    assert parallel(tried(({"factors": 8}, 0.9), ({"factors": 8}, 1.0)), "rmse") == ""
    assert parallel(tried(({"factors": 8}, 0.9), ({"factors": 9}, 0.9)), "rmse") == ""
    many = [({"word": f"w{k}"}, float(k)) for k in range(40)]
    assert parallel(tried(*many), "rmse") == ""


def test_names_and_words_are_text() -> None:
    svg = parallel(tried(({"<b>": "<i>"}, 1.0), ({"<b>": "x"}, 2.0)), "<u>")
    assert not {"<b>", "<i>", "<u>"} & set(re.findall(r"<\w>", svg))
