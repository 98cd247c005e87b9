"""Labelled data sets, from a CSV file with a header or from scikit-learn."""

from __future__ import annotations

import csv
import importlib
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.simulation.worlds.environment import Matrix, require_that

SHIPPED = ("breast_cancer", "digits", "iris", "wine")
"""Data sets that are part of scikit-learn's package, so nothing is downloaded."""
MAX_COLUMN_CATEGORIES = 64
MAX_CLASSES = 1_000
MISSING = frozenset(["", "?", "na", "nan", "null", "none"])


class LabelledDataSet(NamedTuple):
    """features: float64 (N, d), the first always 1, the others standardised. labels: intp (N,), indices of classes."""

    name: str
    features: Matrix
    labels: NDArray[np.intp]
    classes: tuple[str, ...]


@lru_cache(maxsize=1)
def read_csv(path: Path, label: str) -> LabelledDataSet:
    """Reads a CSV file. Numeric columns become one feature (a missing value is the column's mean), others one-hot.

    Raises `UsageError` that names what can not be used, and where.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise UsageError(f"The file {path} can not be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"The file {path} is not CSV in UTF-8: {error}.") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise UsageError(f"The file {path} must have a header and at least one row.")
    header, *body = rows
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise UsageError(
                f"Row {number} of {path} has {len(row)} cells, where the header has {len(header)}."
            )
    if label not in header:
        raise UsageError(f"The file {path} has no column {label!r}; it has {', '.join(header)}.")
    columns = {name: [row[i].strip() for row in body] for i, name in enumerate(header)}
    if len(columns) != len(header):
        raise UsageError(f"The file {path} has two columns of one name.")
    names = columns.pop(label)
    features = [part for name, cells in columns.items() for part in _column(name, cells)]
    return _data_set(path.name, features, names)


@lru_cache(maxsize=1)
def shipped(name: str) -> LabelledDataSet:
    """Loads one of `SHIPPED`. Raises `UsageError` for any other name, or without scikit-learn."""
    if name not in SHIPPED:
        raise UsageError(f"There is no data set {name!r}: expected one of {', '.join(SHIPPED)}.")
    try:
        loaders = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise UsageError(
            f"The data set {name} comes with scikit-learn, which is not installed: pip install scikit-learn."
        ) from None
    loaded = getattr(loaders, f"load_{name}")()
    classes = [str(each) for each in loaded.target_names]
    columns = [np.asarray(column, dtype=np.float64) for column in np.asarray(loaded.data).T]
    return _data_set(name, columns, [classes[target] for target in loaded.target])


def _column(name: str, cells: list[str]) -> list[NDArray[np.float64]]:
    """Turns a column into one of numbers, or into one of 0 and 1 for each category."""
    missing = [cell.lower() in MISSING for cell in cells]
    try:
        numbers = [math.nan if gone else float(cell) for cell, gone in zip(cells, missing, strict=True)]
    except ValueError:
        categories = sorted(set(cells))
        if len(categories) > MAX_COLUMN_CATEGORIES:
            raise UsageError(
                f"The column {name!r} has {len(categories)} different values; "
                f"at most {MAX_COLUMN_CATEGORIES} become features, so drop it first."
            ) from None
        return [np.array([cell == category for cell in cells], dtype=np.float64) for category in categories]
    column = np.array(numbers)
    known = np.isfinite(column)
    column[~known] = column[known].mean() if known.any() else 0.0
    return [column]


def _data_set(name: str, columns: list[NDArray[np.float64]], names: list[str]) -> LabelledDataSet:
    classes, labels = np.unique(names, return_inverse=True)
    require_that(
        2 <= len(classes) <= MAX_CLASSES,
        f"{name} must have from 2 to {MAX_CLASSES:,} different labels, not {len(classes):,}.",
    )
    kept = [(column - column.mean()) / sd for column in columns if (sd := float(column.std())) > 0.0]
    features = np.column_stack([np.ones(len(names)), *kept])
    if not np.isfinite(features).all():
        raise InvalidInput(f"{name} has numbers that are too large to be standardised.")
    return LabelledDataSet(name, features, labels.astype(np.intp), tuple(str(each) for each in classes))
