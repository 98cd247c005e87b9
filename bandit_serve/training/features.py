"""Features of users, items and requests, out of tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.models.model import Feature, Features
from bandit_serve.training.cells import Numbers, identity, is_missing
from bandit_serve.training.tables import MOVIELENS_SEPARATOR, Table, TextTable, tables

MOVIES = ["movieId", "title", "genres"]
# What MovieLens' files without names have in their columns, by how many those are.
MOVIELENS_NAMES = {3: MOVIES, 5: ["userId", "gender", "age", "occupation", "zip"]}
YEAR = re.compile(r"\((\d{4})\)\s*$")
# A column in which more than this part of the values are distinct tells items apart as their ids do.
DISTINCT = 0.5


def read_features(path: str | os.PathLike[str]) -> dict[str, Features]:
    """Features by id, from a table with names whose first column has the ids.

    A column of numbers is numeric; in another, `a|b` is a list of values. What is missing (an empty cell, and NA, null
    and their like among numbers) is left out of the one row. Columns that tell almost every row apart are left out, as
    ids do that already. Of MovieLens' `movies.csv` or `movies.dat`, the genres and the title's decade are read; of its
    `users.dat`, what it has.
    """
    ids: list[str] = []
    columns: dict[str, list[Any]] = {}
    names: list[str] = []
    for table in tables(path):
        names, named = _names(table)
        if len(names) < 2:
            raise InvalidInput(f"{table.name} must have a column of ids and one of features.")
        if not columns:
            columns = {name: [] for name in names[1:]}
        elif list(columns) != names[1:]:
            raise InvalidInput(f"{table.name} has other columns than the parts before it.")
        for number, cells in table.rows(range(len(names)), skip_head=named):
            try:
                ids.append(identity(cells[0]))
            except (ValueError, OverflowError):
                raise table.fault(number, f"expected an id, not {ascii(cells[0])[:60]}") from None
            for column, cell in zip(columns.values(), cells[1:], strict=True):
                column.append(cell)
    if not ids:
        raise InvalidInput(f"{os.fspath(path)!r} must have a header and a line below it.")
    if names == MOVIES:
        rows: Iterable[Features] = map(_of_movie, columns["title"], columns["genres"])
    else:
        rows = described(columns, len(ids), lists=True)
    return dict(zip(ids, rows, strict=True))


def described(columns: Mapping[str, Sequence[Any]], n: int, *, lists: bool) -> list[Features]:
    """Rows of columns, n of them, without what is missing; `lists`: `a|b` is a list, and names are left out."""
    rows: list[dict[str, Feature]] = [{} for _ in range(n)]
    for name, cells in columns.items():
        values = _numbers(cells) or [_category(cell, lists=lists) for cell in cells]
        present = [value for value in values if value is not None]
        texts = [value for value in present if isinstance(value, str)]
        if lists and len(set(texts)) > DISTINCT * len(present):
            continue
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = value
    return list(rows)


def _names(table: Table) -> tuple[list[str], bool]:
    """Names of the columns, and whether the first line has them."""
    if isinstance(table, TextTable) and table.separator == MOVIELENS_SEPARATOR:
        width = len(table.head)
        return MOVIELENS_NAMES.get(width, [str(place) for place in range(1, width + 1)]), False
    return [name.strip() for name in table.head], not table.named


def _of_movie(title: str, genres: str) -> Features:
    features: dict[str, Feature] = {"genre": [one for one in genres.split("|") if not one.startswith("(")]}
    year = YEAR.search(title)
    if year is not None:
        features["decade"] = f"{year[1][:3]}0s"
    return features


def _numbers(cells: Sequence[Any]) -> list[Feature | None] | None:
    """Numbers of a column, None where one is missing; None for a column that has something else or nothing."""
    numbers = Numbers()
    try:
        read = [None if is_missing(cell) else numbers.read(cell, line) for line, cell in enumerate(cells)]
    except (TypeError, ValueError, AttributeError):
        return None
    known = [value for value in read if value is not None]
    if not known or numbers.doubtful is not None or not np.isfinite(known).all():
        return None
    return list(read)


def _category(cell: Any, *, lists: bool) -> Feature | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, list):
        return [str(one) for one in cell]
    text = str(cell)
    return text.split("|") if lists and "|" in text else text
