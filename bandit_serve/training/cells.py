"""Cells of a table: ids, numbers, times. `ValueError` or `TypeError` for text that is none."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

# Texts for a missing number.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "\\n"})
# Numbers whose comma may be a decimal one, or that of the thousands.
DOUBTFUL = re.compile(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*")


def is_missing(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def identity(cell: Any) -> str:
    """Id: text, UTF-8 bytes, or a whole number, as which a float counts that is one (7.0 is "7")."""
    if isinstance(cell, bytes):
        cell = cell.decode()
    if isinstance(cell, str) and cell:
        return cell
    if isinstance(cell, float | Decimal) and cell == cell.__trunc__():
        cell = int(cell)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    raise ValueError


def seconds(cell: Any) -> int:
    """Since 1970, rounded down: of a number of them, a date, or a time in ISO 8601, which is UTC unless it says."""
    if isinstance(cell, bytes):
        cell = cell.decode()
    if isinstance(cell, str):
        try:
            return math.floor(float(cell.replace(",", ".")))
        except ValueError:
            cell = datetime.fromisoformat(cell.strip())
    if isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime(cell.year, cell.month, cell.day)
    if isinstance(cell, datetime):
        return math.floor((cell if cell.tzinfo else cell.replace(tzinfo=UTC)).timestamp())
    whole: int = math.floor(cell)
    return whole


class Numbers:
    """Column of numbers, in which a comma may stand for the point.

    `doubtful` is the number of the first line in which it may as well be that of the thousands; None where there is
    none, or another line shows that commas are points here.
    """

    def __init__(self) -> None:
        self._doubtful: int | None = None
        self._settled = False

    @property
    def doubtful(self) -> int | None:
        return None if self._settled else self._doubtful

    def read(self, cell: Any, line: int) -> float:
        if isinstance(cell, bytes):
            cell = cell.decode()
        try:
            return float(cell)
        except ValueError:
            value = float(cell.replace(",", ".", 1))
        if not DOUBTFUL.fullmatch(cell):
            self._settled = True
        elif self._doubtful is None:
            self._doubtful = line
        return value
