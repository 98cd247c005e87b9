"""Figure: a picture with a name and a title, and the numbers that it is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Cell = str | int | float | None


class Figure(NamedTuple):
    """Picture as `<svg>`. `name` is unique in its page; `rows` of the table under `head` are what it shows."""

    name: str
    title: str
    svg: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def says_something(self) -> bool:
        """Whether a row has more than its name."""
        return any(cell is not None for row in self.rows for cell in row[1:])
