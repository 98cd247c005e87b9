"""A data set: ratings, and what is known of users, items and requests; read from files."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.extras import require
from bandit_serve.models.model import Feature, Features
from bandit_serve.training.ratings import Ratings, read_ratings

MOVIES = ["movieId", "title", "genres"]
MOVIELENS = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
YEAR = re.compile(r"\((\d{4})\)\s*$")
# A column in which more than this part of the values are distinct tells items apart as their ids do.
DISTINCT = 0.5


class Columns(Struct, frozen=True, forbid_unknown_fields=True):
    """What the columns of a CSV or Parquet file are called. `time` is in seconds; `features` are of the request."""

    user: str = "userId"
    item: str = "movieId"
    rating: str = "rating"
    time: str | None = "timestamp"
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataSet:
    """n ratings; features by id of users and of items, and n of requests, where there are such.

    `source` says where it comes from, for the record.
    """

    ratings: Ratings
    user_features: Mapping[str, Features] = field(default_factory=dict)
    item_features: Mapping[str, Features] = field(default_factory=dict)
    features: Sequence[Features] | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.ratings)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the ratings and their order, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for column in (self.ratings.users, self.ratings.items, self.ratings.values, self.ratings.timestamps):
            digest.update(f"{column.dtype.str} {column.size} ".encode())
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> DataSet:
        """The ratings of these rows, with all that is known of users and items."""
        features = None if self.features is None else [self.features[row] for row in rows.tolist()]
        return replace(self, ratings=self.ratings.take(rows), features=features)


def read_dataset(
    path: str | os.PathLike[str],
    *,
    columns: Columns | None = None,
    items: str | os.PathLike[str] | None = None,
    users: str | os.PathLike[str] | None = None,
) -> DataSet:
    """Ratings from MovieLens' `ratings.csv` or `u.data`, any CSV with a header, or Parquet, by how the name ends.

    columns : what its columns are called; MovieLens' names by default
    items, users : CSV files with an id in the first column and features in the others; a `movies.csv` beside a
        MovieLens `ratings.csv` is read without being named

    Raises `NotFound`, and `InvalidInput` with the line for what is not a rating.
    """
    place = Path(path)
    if place.suffix == ".parquet":
        ratings, features = _read_parquet(place, columns or Columns())
    elif columns is None:
        ratings, features = read_ratings(place), None
    else:
        ratings, features = _read_csv(place, columns)
    if items is None and columns is None and (place.parent / "movies.csv").is_file():
        items = place.parent / "movies.csv"
    return DataSet(
        ratings,
        user_features=read_features(users) if users is not None else {},
        item_features=read_features(items) if items is not None else {},
        features=features,
        source=place.name,
    )


def read_features(path: str | os.PathLike[str]) -> dict[str, Features]:
    """Features by id, from a CSV file with a header and the ids in its first column.

    A column of numbers is numeric; in another, `a|b` is a list of values. Columns that tell almost every row apart
    are left out, as ids do that already. Of MovieLens' `movies.csv`, the genres and the title's decade are read.
    """
    header, rows = _table(Path(path))
    if header == MOVIES:
        return {movie: _of_movie(title, genres) for movie, title, genres in rows}
    if len(header) < 2:
        raise InvalidInput(f"{os.fspath(path)!r} must have a column of ids and one of features.")
    kept: dict[str, list[Feature]] = {}
    for place, name in enumerate(header[1:], start=1):
        values = [row[place] for row in rows]
        numbers = _numbers(values)
        if numbers is not None:
            kept[name] = numbers
        elif len(set(values)) <= DISTINCT * len(values):
            kept[name] = [value.split("|") if "|" in value else value for value in values]
    return {row[0]: {name: values[i] for name, values in kept.items()} for i, row in enumerate(rows)}


def _of_movie(title: str, genres: str) -> Features:
    features: dict[str, Feature] = {"genre": [one for one in genres.split("|") if not one.startswith("(")]}
    year = YEAR.search(title)
    if year is not None:
        features["decade"] = f"{year[1][:3]}0s"
    return features


def _numbers(values: Sequence[str]) -> list[Feature] | None:
    try:
        numbers: list[Feature] = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if np.isfinite(np.array(numbers, np.float64)).all() else None


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise NotFound(f"There is no file {os.fspath(path)!r}.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{os.fspath(path)!r} can not be read as CSV: {error}.") from None
    if len(lines) < 2:
        raise InvalidInput(f"{os.fspath(path)!r} must have a header and a line below it.")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise InvalidInput(
                f"{path.name}, line {number}: expected {len(lines[0])} fields, not {len(line)}."
            )
    return lines[0], lines[1:]


def _read_csv(path: Path, columns: Columns) -> tuple[Ratings, list[Features] | None]:
    header, rows = _table(path)
    named = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return _from_columns(path, named, columns, first_line=2)


def _read_parquet(path: Path, columns: Columns) -> tuple[Ratings, list[Features] | None]:
    parquet = require("pyarrow.parquet", "train")
    wanted = [columns.user, columns.item, columns.rating, *columns.features]
    if columns.time is not None:
        wanted.append(columns.time)
    try:
        schema = set(parquet.read_schema(path).names)
        table = parquet.read_table(path, columns=[name for name in wanted if name in schema])
    except FileNotFoundError:
        raise NotFound(f"There is no file {os.fspath(path)!r}.") from None
    except Exception as error:  # pyarrow's errors have no common class but ValueError and OSError
        raise InvalidInput(
            f"{path.name} can not be read as Parquet: {' '.join(str(error).split())[:200]}"
        ) from None
    named = {name: table.column(name).to_pylist() for name in table.column_names}
    return _from_columns(path, named, columns, first_line=1)


def _from_columns(
    path: Path, named: Mapping[str, Sequence[Any]], columns: Columns, first_line: int
) -> tuple[Ratings, list[Features] | None]:
    for name in (columns.user, columns.item, columns.rating, *columns.features):
        if name not in named:
            raise InvalidInput(f"{path.name} has no column {name!r}; it has {', '.join(map(repr, named))}.")
    n = len(named[columns.user])
    if not n:
        raise InvalidInput(f"{path.name} has no ratings.")
    times = named.get(columns.time) if columns.time is not None else None
    values, seconds = np.empty(n, np.float32), np.zeros(n, np.int64)
    for row in range(n):
        try:
            value = float(named[columns.rating][row])
            seconds[row] = _seconds(times[row]) if times is not None else 0
        except (TypeError, ValueError, OverflowError):
            value = float("nan")
        if not abs(value) <= 1e6:
            raise InvalidInput(
                f"{path.name}, row {row + first_line}: expected a finite rating and a time in seconds."
            )
        values[row] = value
    users, items = _ids(path, named[columns.user]), _ids(path, named[columns.item])
    ratings = Ratings(users, items, values, seconds)
    if not columns.features:
        return ratings, None
    of_requests = {name: _numbers(named[name]) or list(named[name]) for name in columns.features}
    return ratings, [{name: column[row] for name, column in of_requests.items()} for row in range(n)]


def _seconds(value: Any) -> int:
    return int(value.timestamp()) if hasattr(value, "timestamp") else int(float(value))


def _ids(path: Path, values: Sequence[Any]) -> NDArray[np.str_]:
    if any(value is None or isinstance(value, float) for value in values):
        raise InvalidInput(f"{path.name}: ids must be text or whole numbers.")
    return np.array([str(value) for value in values])


def batches(n: int, size: int) -> Iterator[slice]:
    """Slices that cover 0 … n − 1."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
