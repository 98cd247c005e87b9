"""Output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from bandit_serve.base.printable_text import printable_json
from bandit_serve.base.terminal import Terminal, print_line

Cell = str | Text


def print_json(document: Any) -> None:
    print_line(printable_json(msgspec.json.format(msgspec.json.encode(document), indent=2)).decode())


def say(text: str) -> None:
    """Prints a sentence or a title."""
    Terminal().print(text, soft_wrap=not sys.stdout.isatty())


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
    intervals: Collection[str] = (),
) -> None:
    """Prints a table. Columns in `numbers` are flush right; these and those in `whole` are never folded. Columns of
    `intervals` are flush right, too, and break between the ends of an interval where there is no room.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in numbers or column in intervals else "left",
            overflow="fold",
            no_wrap=column in numbers or column in whole,
        )
    for row in rows:
        table.add_row(*row)
    Terminal().print(table)


def print_facts(facts: Sequence[tuple[str, Cell]]) -> None:
    """Prints names with their values, one on each line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(*fact)
    Terminal().print(table)


def short_time(at: str) -> str:
    """Shortens a time (RFC 3339) to seconds."""
    return f"{at[:19].replace('T', ' ')}Z"
