"""Ratings: read from MovieLens files or made up."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput, NotFound

HEADER = ["userId", "movieId", "rating", "timestamp"]


@dataclass(frozen=True, slots=True)
class Ratings:
    """n ratings as columns: ids (str), `values` float32, `timestamps` int64 (seconds since 1970)."""

    users: NDArray[np.str_]
    items: NDArray[np.str_]
    values: NDArray[np.float32]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.int64]) -> Ratings:
        """The ratings of these rows, in their order."""
        return Ratings(self.users[rows], self.items[rows], self.values[rows], self.timestamps[rows])


def read_ratings(path: str | os.PathLike[str]) -> Ratings:
    """Reads MovieLens' `ratings.csv` (with its header) or `u.data` (tabs, no header), gzipped or not.

    Raises `InvalidInput` with the line number for a malformed line, and for a file without ratings;
    `NotFound` when there is no file.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with (
            (gzip.open if zipped else open)(path, "rb") as content,
            io.TextIOWrapper(content, "utf-8-sig", newline="") as text,
        ):
            return _read(text)
    except FileNotFoundError:
        raise NotFound(f"There is no ratings file {os.fspath(path)!r}.") from None
    except IsADirectoryError:
        raise InvalidInput(f"{os.fspath(path)!r} is a directory, not a ratings file.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InvalidInput(f"{os.fspath(path)!r} is not a whole gzip file.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{os.fspath(path)!r} is not UTF-8 text.") from None


def _read(text: io.TextIOWrapper) -> Ratings:
    first = text.readline()
    tabs = "\t" in first
    if not tabs and first.strip().split(",") != HEADER:
        raise InvalidInput(
            f"Line 1: expected the header {','.join(HEADER)}, or four fields separated by tabs."
        )
    users: list[str] = []
    items: list[str] = []
    values: list[float] = []
    timestamps: list[int] = []
    ids: dict[str, str] = {}  # one str for each id, not one for each line
    for number, fields in _lines(text, first, tabs):
        try:
            user, item, value, timestamp = fields
            values.append(float(value))
            timestamps.append(int(timestamp))
        except ValueError:
            raise InvalidInput(
                f"Line {number}: expected user, item, a number and a timestamp in seconds, "
                f"separated by {'tabs' if tabs else 'commas'}."
            ) from None
        if not user or not item:
            raise InvalidInput(f"Line {number}: expected a user and an item, one is empty.")
        if not -1e6 <= values[-1] <= 1e6 or not -(2**62) < timestamps[-1] < 2**62:
            raise InvalidInput(f"Line {number}: expected a finite rating and a timestamp in seconds.")
        users.append(ids.setdefault(user, user))
        items.append(ids.setdefault(item, item))
    if not values:
        raise InvalidInput("The file has no ratings.")
    return Ratings(
        np.array(users), np.array(items), np.array(values, np.float32), np.array(timestamps, np.int64)
    )


def _lines(text: io.TextIOWrapper, first: str, tabs: bool) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line of ratings, with its number; empty lines are passed over."""
    reader = csv.reader(text, delimiter="\t" if tabs else ",", strict=True)
    if tabs:
        yield 1, first.rstrip("\r\n").split("\t")
    try:
        for fields in reader:
            if fields:
                yield reader.line_num + 1, fields
    except csv.Error:
        raise InvalidInput(
            f"Line {reader.line_num + 1}: a quote is not closed or a field is too long."
        ) from None


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
