"""Data set: ratings, and what is known of users, items and requests; read from files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models.model import Features
from bandit_serve.training.columns import RatingColumns
from bandit_serve.training.features import read_features
from bandit_serve.training.ratings import Ratings, read_rated

# Files of MovieLens in the folder of its ratings.
MOVIES = ("movies.csv", "movies.dat")


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data set of n ratings; features by id of users and of items, and n of requests, where there are such.

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
        """Ratings of these rows, with all that is known of users and items."""
        features = None if self.features is None else [self.features[row] for row in rows.tolist()]
        return replace(self, ratings=self.ratings.take(rows), features=features)


def read_dataset(
    path: str | os.PathLike[str],
    *,
    columns: RatingColumns | None = None,
    items: str | os.PathLike[str] | None = None,
    users: str | os.PathLike[str] | None = None,
) -> DataSet:
    """Ratings from a text, from Parquet, or from a directory of such parts (`read_rated`), with features.

    columns : which columns they are in; MovieLens' names by default, or their order in a text without names
    items, users : tables with an id in the first column and features in the others (`read_features`); a `movies.csv`
        or `movies.dat` beside ratings whose columns are not named is read without being named

    Raises `NotFound`, and `InvalidInput` with the line for what is not a rating.
    """
    place = Path(path)
    rated = read_rated(place, columns)
    if items is None and columns is None:
        candidates = [place.parent / name for name in MOVIES]
        items = next((each for each in candidates if each.is_file()), None)
    return DataSet(
        rated.ratings,
        user_features=read_features(users) if users is not None else {},
        item_features=read_features(items) if items is not None else {},
        features=rated.features,
        source=place.name + (" (read as Latin-1)" if "latin-1" in rated.encodings else ""),
    )


def batches(n: int, size: int) -> Iterator[slice]:
    """Slices that cover 0 … n − 1."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
