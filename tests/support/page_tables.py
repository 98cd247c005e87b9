"""Tables and pictures in the HTML of a page's section, read as XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

SVG = "{http://www.w3.org/2000/svg}"
Cells = dict[str, str]


def section_of(html: str) -> ElementTree.Element:
    """Section by its HTML, which has to be well-formed."""
    return ElementTree.fromstring(html)


def tables_in(section: ElementTree.Element) -> list[list[Cells]]:
    """Rows of each table, by the titles of their columns; a cell that goes down several rows is in each."""
    return [list(_rows(table)) for table in section.iter("table")]


def _rows(table: ElementTree.Element) -> Iterator[Cells]:
    titles = [_text(each) for each in table.findall("thead/tr/th")]
    named = ""
    for row in table.findall("tbody/tr"):
        cells = [_text(cell) for cell in row]
        if row.find("th") is not None:
            named = cells[0]
        elif len(cells) < len(titles):
            cells.insert(0, named)
        yield dict(zip(titles, cells, strict=True))


def _text(cell: ElementTree.Element) -> str:
    """Text of a cell; what is small, such as an interval, after a bar."""
    small = cell.find("small")
    return "".join(cell.itertext()) if small is None else f"{cell.text}|{small.text}"


def picture(section: ElementTree.Element, title: str) -> ElementTree.Element:
    """Picture with this title."""
    (found,) = (each for each in section.iter(f"{SVG}svg") if each.findtext(f"{SVG}text") == title)
    return found
