"""Where people read: every text that is shown goes through here, on a terminal or into a pipe."""

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
    """A console that takes no text for markup, and shows what would steer the terminal instead of sending it.

    What is piped is not broken at a terminal's width.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        piped = not (sys.stderr if stderr else sys.stdout).isatty()
        options = {"highlight": False, "markup": False, "emoji": False, **options}
        super().__init__(stderr=stderr, width=PIPED_WIDTH if piped else None, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Before it is measured, so that columns stay straight."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever else makes texts of its own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def print_line(text: str, *, to: TextIO | None = None) -> None:
    """A text of one or more lines, as it is but for what would steer a terminal."""
    out = to or sys.stdout
    out.write(f"{printable(text)}\n")
    out.flush()
