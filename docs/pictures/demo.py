"""The picture of results: the closing table of a demo that is played now.

    python docs/pictures/demo.py --offline --visits 20000

Arguments are those of `bandit-serve demo`.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from bandit_serve.demo.screen import print_closing
from bandit_serve.demo.summary import Summary

PICTURE = Path(__file__).with_suffix(".svg")
COLUMNS = 88
PAPER, INK = (250, 250, 248), (36, 41, 47)
THEME = TerminalTheme(
    PAPER,
    INK,
    [INK, (180, 30, 30), (0, 110, 55), (140, 100, 0), (30, 80, 170), (130, 50, 150), (0, 120, 130), INK],
)
FONT = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'


def main() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "bandit_serve", "demo", "--json", *sys.argv[1:]],
        stdout=subprocess.PIPE,
        check=True,
    )
    console = Console(
        file=io.StringIO(),
        record=True,
        width=COLUMNS,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )
    print_closing(console, msgspec.json.decode(played.stdout, type=Summary))
    PICTURE.write_text(without_fonts(console.export_svg(title="bandit-serve demo", theme=THEME)))


def without_fonts(svg: str) -> str:
    """With the reader's own monospaced font, so that nothing is loaded from elsewhere."""
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.S)
    return re.sub(r"font-family: (?:Fira Code|arial)[^;]*;", f"font-family: {FONT};", svg)


if __name__ == "__main__":
    main()
