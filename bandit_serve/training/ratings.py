"""Ratings: read from files or made up."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.models._ids import id_text
from bandit_serve.models._learner import MAX_RATING
from bandit_serve.models.model import Features
from bandit_serve.training.cells import Numbers, identity, seconds
from bandit_serve.training.columns import Places, RatingColumns, find_columns
from bandit_serve.training.features import described
from bandit_serve.training.tables import Table, TextTable, tables

LATEST_S = 2**62


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as columns of length n: ids (str), `values` float32, `timestamps` int64 (seconds since 1970)."""

    users: NDArray[np.str_]
    items: NDArray[np.str_]
    values: NDArray[np.float32]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """(n,) the number of each rating's (user, item), counted from 0 in the order in which they come first."""
        users, items = (np.unique(ids, return_inverse=True)[1] for ids in (self.users, self.items))
        _, firsts, codes = np.unique(
            users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items,
            return_index=True,
            return_inverse=True,
        )
        place = np.empty(firsts.size, np.int64)
        place[np.argsort(firsts)] = np.arange(firsts.size)
        return place[codes]

    @property
    def liked_from(self) -> float:
        """Smallest rating that no more than half of all reach: 4 of MovieLens' stars. Without one, the largest."""
        values, counts = np.unique(self.values, return_counts=True)
        reached = counts[::-1].cumsum()[::-1]
        few = values[2 * reached <= len(self)]
        return float(few[0] if few.size else values[-1])

    def take(self, rows: NDArray[np.int64]) -> Ratings:
        """Ratings of these rows, in their order."""
        return Ratings(self.users[rows], self.items[rows], self.values[rows], self.timestamps[rows])


class Rated(NamedTuple):
    """Ratings; `features` of their requests, where the columns name some; and how texts were encoded."""

    ratings: Ratings
    features: list[Features] | None
    encodings: frozenset[str]


def read_ratings(path: str | os.PathLike[str], columns: RatingColumns | None = None) -> Ratings:
    """Ratings from a text, from Parquet, or from a directory of such parts; see `read_rated`."""
    return read_rated(path, columns).ratings


def read_rated(path: str | os.PathLike[str], columns: RatingColumns | None = None) -> Rated:
    """Ratings and features of their requests.

    columns : which columns they are in; without them MovieLens' names, or user, item, rating and time in a text
        without names (`find_columns`)

    A text may be gzipped, separated in any of the ways of `TextTable`, with decimal commas, with times in seconds or
    ISO 8601. Raises `NotFound`, and `InvalidInput` with the line for what is not a rating.
    """
    if not os.path.exists(path):
        raise NotFound(f"There is no ratings file {os.fspath(path)!r}.")
    reader = _RatingsReader()
    for table in tables(path):
        reader.take(table, columns)
    return reader.rated(os.path.basename(os.path.abspath(path)))


class _RatingsReader:
    """Ratings that were read so far."""

    def __init__(self) -> None:
        self._users: list[str] = []
        self._items: list[str] = []
        self._values = array("d")
        self._times = array("q")
        self._requests: dict[str, list[Any]] = {}
        self._ids: dict[str, str] = {}  # one str for each id, not one for each line
        self._first: tuple[Table, Places] | None = None
        self._encodings: set[str] = set()

    def take(self, table: Table, columns: RatingColumns | None) -> None:
        """Takes the ratings of a table; those of later parts may lack the names that the first one has."""
        if self._first is not None and not table.named and len(table.head) == len(self._first[0].head):
            places = self._first[1]._replace(named=self._first[1].named and table.head == self._first[0].head)
        else:
            places = find_columns(table, columns)
        self._first = self._first or (table, places)
        if isinstance(table, TextTable):
            self._encodings.add(table.encoding)
        numbers, timed = Numbers(), places.time is not None
        features = () if columns is None else columns.features
        requests = [self._requests.setdefault(name, []) for name in features]
        known = self._ids.get
        for number, cells in table.rows(places.all, skip_head=places.named):
            user, item, rating = cells[:3]
            self._users.append(
                (isinstance(user, str) and known(user)) or self._id(table, number, user, "user")
            )
            self._items.append(
                (isinstance(item, str) and known(item)) or self._id(table, number, item, "item")
            )
            try:
                value = numbers.read(rating, number)
            except (TypeError, ValueError):
                value = float("nan")
            if not abs(value) <= MAX_RATING:
                raise table.fault(number, f"expected a finite rating, not {_shown(rating)}")
            self._values.append(value)
            self._times.append(self._time(table, number, cells[3]) if timed else 0)
            for place, kept in enumerate(requests, 3 + timed):
                kept.append(cells[place])
        if numbers.doubtful is not None:
            raise table.fault(
                numbers.doubtful, "the comma in the rating may be the decimal one or that of the thousands"
            )

    def _id(self, table: Table, number: int, cell: Any, what: str) -> str:
        try:
            text = identity(cell)
            id_text(text)
        except (ValueError, OverflowError, InvalidInput):
            expected = f"expected the {what}'s id, text or a whole number, not {_shown(cell)}"
            is_empty = cell is None or cell == ""
            raise table.fault(number, f"the {what} is empty" if is_empty else expected) from None
        return self._ids.setdefault(text, text)

    def _time(self, table: Table, number: int, cell: Any) -> int:
        try:
            time = seconds(cell)
        except (TypeError, ValueError, OverflowError):
            time = LATEST_S
        if not abs(time) < LATEST_S:
            raise table.fault(number, f"expected a time in seconds or ISO 8601, not {_shown(cell)}")
        return time

    def rated(self, name: str) -> Rated:
        if not self._values:
            raise InvalidInput(f"{name} has no ratings.")
        ratings = Ratings(
            np.array(self._users),
            np.array(self._items),
            np.array(self._values, np.float32),
            np.array(self._times, np.int64),
        )
        features = None
        if self._requests:
            features = described(self._requests, len(ratings), lists=False)
        return Rated(ratings, features, frozenset(self._encodings))


def _shown(cell: Any) -> str:
    """Text for an error: short and printable."""
    return ascii(cell)[:60]


def synthetic_ratings(
    seed: int = 0, n_users: int = 600, n_items: int = 2_000, n_ratings: int = 100_000
) -> Ratings:
    """Made-up ratings with structure to find (biases, tastes of rank 4): half steps from 0.5 to 5, mean 3.5.

    Users differ in how much they rate and items in how often they are rated (both log-normal); better items
    are rated somewhat more often. A pair occurs at most once; at most a third of all pairs may be asked for.
    """
    if n_users < 1 or n_items < 1 or not 1 <= n_ratings <= n_users * n_items / 3:
        raise InvalidInput(
            "There must be users and items, and at most a third as many ratings as pairs of them."
        )
    random = np.random.default_rng(seed)
    quality = random.normal(0, 0.35, n_items)
    activity = random.lognormal(0, 0.8, n_users)
    popularity = np.exp(random.normal(0, 1.0, n_items) + 0.8 * quality)
    # The n largest of log-weight + Gumbel noise are a weighted sample without replacement
    # (Efraimidis, Spirakis 2006, in logarithms).
    keys = np.log(activity)[:, None] + np.log(popularity) + random.gumbel(size=(n_users, n_items))
    pairs = np.argpartition(keys.ravel(), -n_ratings)[-n_ratings:]
    random.shuffle(pairs)
    user, item = np.divmod(pairs, n_items)
    tastes = random.normal(0, 1, (n_users, _TASTES)), random.normal(0, 1, (n_items, _TASTES))
    taste = np.einsum("ij,ij->i", tastes[0][user], tastes[1][item]) / np.sqrt(_TASTES)
    exact = 3.5 + random.normal(0, 0.35, n_users)[user] + quality[item] + 0.6 * taste
    noisy = exact + random.normal(0, 0.6, n_ratings)
    return Ratings(
        np.char.add("u", user.astype(str)),
        np.char.add("i", item.astype(str)),
        (np.clip(np.round(2 * noisy), 1, 10) / 2).astype(np.float32),
        1_700_000_000 + np.sort(random.integers(0, 365 * 86_400, n_ratings)),
    )


_TASTES = 4
