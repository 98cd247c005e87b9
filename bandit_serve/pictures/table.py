"""Tables of a page, as HTML: cells of numbers with their intervals, and columns that say something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from bandit_serve.results import p_text

NONE = "–"
Number = float | UnsetType | None


class Column(NamedTuple):
    """Title and cells of a column, both HTML."""

    title: str
    cells: Sequence[str]

    @property
    def says_something(self) -> bool:
        return any(cell != NONE for cell in self.cells)


def table(columns: Iterable[Column]) -> str:
    """Table with the first column as names; others in which no cell has anything are left out."""
    names, *others = columns
    kept = [names, *(column for column in others if column.says_something)]
    rows = "\n".join(row(cells) for cells in zip(*(column.cells for column in kept), strict=True))
    return (
        f'<div class="wide"><table>\n<thead>{head(column.title for column in kept)}</thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def head(titles: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"


def row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def number(value: Number, form: str = ".4g") -> str:
    return NONE if value is None or value is UNSET else f"{value:{form}}"


def with_interval(value: Number, interval: tuple[float, float] | None, form: str = ".4g") -> str:
    if value is None or value is UNSET:
        return NONE
    ends = "" if interval is None else f"<small>{interval[0]:{form}} to {interval[1]:{form}}</small>"
    return f"{value:{form}}{ends}"


def p_cell(value: Number) -> str:
    return NONE if value is None or value is UNSET else escape(p_text(value).replace("<", "< "))
