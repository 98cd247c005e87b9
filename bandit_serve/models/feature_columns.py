"""Features by name, as columns of a factorization machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.models._ids import MAX_ID_BYTES
from bandit_serve.models._learner import MAX_FEATURES, Rows
from bandit_serve.models.model import Feature, Features

# How many standard deviations from the mean a number counts as, at most: so that no outlier drives a model away.
MAX_DEVIATIONS = 10.0

ColumnValues = tuple[NDArray[np.int32], NDArray[np.float32]]


class FeatureColumns:
    """Columns of named features, with their values.

    A number is one column, `user:age`, whose value is standardised by what the fit saw (and kept within ±10). A str
    or bool is the column of its value, `item:year=1995`, with the value 1; a list of n str is n columns of 1/√n, so
    that many genres weigh as much as one. Values of the names in `hashed` share so many columns as it says, by a
    hash. What no column was learned for is left out, or gets a column when it is learned from.

    rows: the columns' parameters. hashed: name (`item:title`) to number of columns.
    """

    def __init__(self, rows: Rows, hashed: Mapping[str, int]) -> None:
        self._rows = rows
        self._hashed = hashed
        # Mean and standard deviation of numeric columns, by key.
        self.scales: dict[str, tuple[float, float]] = {}

    def scale(self, side: str, described: Iterable[Features]) -> None:
        """Learns the mean and the standard deviation of each number that is among the features."""
        numbers: dict[str, list[float]] = {}
        for features in described:
            for name, value in checked_features(features):
                if _is_number(value):
                    numbers.setdefault(f"{side}:{name}", []).append(float(value))  # type: ignore[arg-type]
        for key, values in numbers.items():
            std = float(np.std(values))
            self.scales[key] = float(np.mean(values)), std if std > 0.0 else 1.0

    def is_number(self, side: str, name: str) -> bool:
        """Whether a feature of a side was learned as a number."""
        return self._rows.ids.row(f"{side}:{name}") >= 0

    def columns(self, side: str, features: Features, *, learn: bool) -> ColumnValues:
        """Rows, int32 (n,), −1 for one that is not known, and values, float32 (n,).

        With `learn`, new columns are made. `InvalidInput` for features that are not a mapping of names to numbers,
        str, bool or lists of str, or are more than 256 columns.
        """
        keyed = [
            pair
            for name, value in checked_features(features)
            for pair in self._keyed(f"{side}:{name}", value)
        ]
        row_of = self._rows.add if learn else self._rows.ids.row
        rows = np.fromiter((row_of(key) for key, _ in keyed), np.int32, len(keyed))
        return rows, np.fromiter((value for _, value in keyed), np.float32, len(keyed))

    def _keyed(self, key: str, value: Feature) -> list[tuple[str, float]]:
        if _is_number(value):
            mean, std = self.scales.get(key, (0.0, 1.0))
            return [(key, min(max((float(value) - mean) / std, -MAX_DEVIATIONS), MAX_DEVIATIONS))]  # type: ignore[arg-type]
        if isinstance(value, str | bool):
            return [(self._category(key, value), 1.0)]
        weight = 1.0 / math.sqrt(max(1, len(value)))  # type: ignore[arg-type]
        return [(self._category(key, one), weight) for one in value]  # type: ignore[union-attr]

    def _category(self, key: str, value: str | bool) -> str:
        text = str(value).lower() if isinstance(value, bool) else value
        columns = self._hashed.get(key)
        if columns is not None:
            digest = blake2b(text.encode(), digest_size=8).digest()
            return f"{key}#{int.from_bytes(digest, 'little') % columns}"
        whole = f"{key}={text}"
        if len(whole.encode()) <= MAX_ID_BYTES and whole.isprintable():
            return whole
        return f"{key}={blake2b(text.encode(), digest_size=16).hexdigest()}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def checked_features(features: Features) -> list[tuple[str, Feature]]:
    """Features by name. Raises `InvalidInput` for those that `FeatureColumns.columns` does not take."""
    if not isinstance(features, Mapping):
        raise InvalidInput("Features must be an object of names and values.")
    for name, value in features.items():
        if not isinstance(name, str) or not 1 <= len(name.encode()) <= 128 or not name.isprintable():
            raise InvalidInput("A feature's name must be 1 to 128 bytes of printable text.")
        if _is_number(value):
            fits = math.isfinite(value)  # type: ignore[arg-type]
        elif isinstance(value, list | tuple):
            fits = all(isinstance(one, str) for one in value)
        else:
            fits = isinstance(value, str | bool)
        if not fits:
            raise InvalidInput(
                f"The feature {name[:60]!r} must be a finite number, a str, a bool or a list of str."
            )
    n_columns = sum(len(value) if isinstance(value, list | tuple) else 1 for value in features.values())
    if n_columns > MAX_FEATURES:
        raise InvalidInput(f"Features must be at most {MAX_FEATURES} columns, not {n_columns}.")
    return list(features.items())
