"""Picture of an experiment as one SVG or PNG: the pictures of its page, two beside each other. No browser is needed."""

from __future__ import annotations

import re
from html import escape

from bandit_serve.base.extras import require
from bandit_serve.errors import BanditServeError
from bandit_serve.pictures.intervals import WIDTH
from bandit_serve.pictures.report_page import pictures_of
from bandit_serve.pictures.shapes import shortened
from bandit_serve.pictures.shown import Shown
from bandit_serve.pictures.style import STYLE
from bandit_serve.pictures.theme import PALETTES, Theme, with_colours

MARGIN, GAP, HEAD = 28, 36, 64
PIXEL_RATIO = 2.0
MAX_TITLE = 70
FONTS = '"DejaVu Sans", "Noto Sans", "Segoe UI", "Helvetica Neue", Arial, sans-serif'
ALONE = 16
"""Margin around a picture that stands alone."""
_WIDTH, _HEIGHT = re.compile(r' width="(\d+)"'), re.compile(r' height="(\d+)"')


def report_svg(shown: Shown, theme: Theme = "light") -> str:
    """SVG with the theme's colours in it, for readers that know no variables."""
    pictures = pictures_of(shown)
    report = shown.report
    parts, y = [], HEAD + MARGIN
    for i in range(0, len(pictures), 2):
        row = pictures[i : i + 2]
        for column, picture in enumerate(row):
            x = MARGIN + column * (WIDTH + GAP)
            parts.append(picture.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1))
        y += max(map(_height, row)) + GAP
    width, height = 2 * MARGIN + 2 * WIDTH + GAP, y - GAP + MARGIN
    verdict = f"winner {report.winner}" if report.winner else "no winner yet"
    about = f"{report.status}, {verdict}, as of {report.as_of[:16].replace('T', ' ')} UTC"
    style = with_colours(f"{STYLE}\n.head {{ fill: var(--ink); }} .about {{ fill: var(--soft); }}", theme)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="{escape(FONTS)}">',
            f"<style>{style}</style>",
            f'<rect width="{width}" height="{height}" fill="{PALETTES[theme]["paper"]}"/>',
            f'<text class="head" x="{MARGIN}" y="46" font-size="22" font-weight="700">'
            f"{escape(shortened(report.experiment, MAX_TITLE))}</text>",
            f'<text class="about" x="{MARGIN}" y="68" font-size="13">{escape(about)}</text>',
            *parts,
            "</svg>",
        ]
    )


def alone(picture: str, theme: Theme = "light") -> str:
    """SVG of one picture of a page that needs no page: with its style and colours in it, and a margin around it."""
    width, height = (int(_found(pattern, picture)) + 2 * ALONE for pattern in (_WIDTH, _HEIGHT))
    style = with_colours(STYLE, theme)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{escape(FONTS)}"><style>{style}</style>'
        f'<rect width="{width}" height="{height}" fill="{PALETTES[theme]["paper"]}"/>'
        + picture.replace("<svg ", f'<svg x="{ALONE}" y="{ALONE}" ', 1)
        + "</svg>"
    )


def report_png(shown: Shown, theme: Theme = "light") -> bytes:
    """PNG at twice the size of the SVG. Raises `NotInstalled` without the extra, `BanditServeError` if it fails."""
    resvg = require("resvg_py", "png")
    try:
        return bytes(resvg.svg_to_bytes(svg_string=report_svg(shown, theme), zoom=PIXEL_RATIO))
    except ValueError as error:
        raise BanditServeError(f"No picture could be made: {error}.") from None


def _height(picture: str) -> int:
    return int(_found(_HEIGHT, picture))


def _found(pattern: re.Pattern[str], picture: str) -> str:
    found = pattern.search(picture)
    assert found is not None
    return found[1]
