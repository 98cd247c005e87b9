"""Style sheet of pictures, by class. Its colours are the variables of a page; `with_colours` puts them in."""

from __future__ import annotations

from bandit_serve.pictures.theme import COLOURS


def _of_series(name: str, colour: str) -> str:
    return (
        f".{name} .line, .{name} .reach {{ stroke: {colour}; }}\n"
        f".{name} .band, .{name} .area, .{name} .dot {{ fill: {colour}; }}\n"
        f".{name}.dashed .dot {{ fill: var(--paper); stroke: {colour}; stroke-width: 1.75; }}\n"
    )


STYLE = """
.picture text { fill: var(--ink); font-size: 12px; }
.picture .soft { fill: var(--soft); }
.picture .title { font-weight: 600; font-size: 13px; }
.picture .gridline { stroke: var(--grid); stroke-width: 1; }
.picture .zero { stroke: var(--axis); stroke-width: 1; }
.picture .change { stroke: var(--axis); stroke-width: 1; stroke-dasharray: 2 3; }
.picture .label { fill: var(--soft); font-size: 10px; }
.picture .on-area { fill: var(--paper); font-size: 10.5px; font-weight: 600; }
.picture .track { fill: var(--grid); }
.picture .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.picture .band { fill-opacity: .13; stroke: none; }
.picture .area { fill-opacity: .78; stroke: var(--paper); stroke-width: 1; }
.picture .reach { stroke-width: 3; stroke-linecap: round; stroke-opacity: .55; }
.picture .mark { stroke: var(--ink); stroke-width: 2; }
.picture .dashed .line { stroke-dasharray: 6 4; }
.picture .dashed .area { fill-opacity: .42; }
""" + "".join(_of_series(f"s{i}", f"var(--s{i})") for i in range(COLOURS))


def look(series: int) -> str:
    """Class of a series: its colour, and a dash for those that come after all colours are used."""
    dashed = " dashed" if (series // COLOURS) % 2 else ""
    return f"s{series % COLOURS}{dashed}"
