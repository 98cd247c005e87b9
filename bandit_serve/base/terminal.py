"""Output for people: all text that a command shows goes through this module, on a terminal or into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bandit_serve.base.printable_text import printable

PIPED_WIDTH = 200


class Terminal(Console):
    """Console that never reads text as markup and spells out control characters.

    Piped output is `PIPED_WIDTH` columns wide, so that tables are not cut at a terminal's width.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        piped = not (sys.stderr if stderr else sys.stdout).isatty()
        options = {"highlight": False, "markup": False, "emoji": False, **options}
        super().__init__(stderr=stderr, width=PIPED_WIDTH if piped else None, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Spells text out before rich measures it, so that columns stay aligned."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Spells out the text of renderables that do not go through `render_str`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def print_line(text: str, *, to: TextIO | None = None) -> None:
    """Prints a text of one or more lines, with control characters spelled out."""
    out = to or sys.stdout
    out.write(f"{printable(text)}\n")
    out.flush()
