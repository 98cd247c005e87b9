"""Splits of ratings into those trained on and those held out: at random, by folds, or in time.

`pairs`, (n,) the number of each rating's (user, item) as `Ratings.pairs` has it: ratings of the same pair are on one
side, as what is learned of the one would be measured by the other. Without them each rating is a pair of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput

Rows = NDArray[np.int64]


def random_folds(
    n: int, n_folds: int, seed: int, pairs: NDArray[np.int64] | None = None
) -> list[tuple[Rows, Rows]]:
    """(train, test) rows of each fold: every row is in one test set, and the pairs in them differ by at most 1."""
    codes, n_pairs = _numbered(pairs, n)
    if not 2 <= n_folds <= n_pairs:
        raise InvalidInput(
            "n_folds must be from 2 to the number of ratings, those of one user and item as one."
        )
    fold = np.empty(n_pairs, np.int64)
    fold[np.random.default_rng(seed).permutation(n_pairs)] = np.arange(n_pairs) % n_folds
    fold = fold[codes]
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]


def holdout(
    users: ArrayLike, share: float, seed: int, pairs: NDArray[np.int64] | None = None
) -> tuple[Rows, Rows]:
    """(train, test) rows: of each user's pairs a random `share` (rounded down) is held out.

    users : (n,) the user of each rating
    share : 0 to 1, exclusive; a user keeps at least one pair
    """
    codes, n_pairs = _numbered(pairs, len(np.asarray(users)))
    return _last(users, codes, np.random.default_rng(seed).random(n_pairs), share, first=True)


def random_split(
    n: int, share: float, seed: int, pairs: NDArray[np.int64] | None = None
) -> tuple[Rows, Rows]:
    """(train, test) rows: a random `share` of all pairs, rounded, but at least one is in each."""
    codes, n_pairs = _numbered(pairs, n)
    if not 0 < share < 1 or n_pairs < 2:
        raise InvalidInput("share must be between 0 and 1, of two ratings or more.")
    held = np.zeros(n_pairs, bool)
    held[
        np.random.default_rng(seed).permutation(n_pairs)[: min(max(round(n_pairs * share), 1), n_pairs - 1)]
    ] = True
    return _sides(held[codes])


def latest(times: ArrayLike, share: float) -> tuple[Rows, Rows]:
    """(train, test) rows: the last `share` of all in time; equal times stay in their order."""
    order = np.argsort(np.asarray(times), kind="stable")
    n_test = round(order.size * share)
    if not 0 < share < 1 or not 0 < n_test < order.size:
        raise InvalidInput("share must be between 0 and 1, and leave ratings on both sides.")
    return np.sort(order[:-n_test]), np.sort(order[-n_test:])


def latest_of_each_user(
    users: ArrayLike, times: ArrayLike, share: float, pairs: NDArray[np.int64] | None = None
) -> tuple[Rows, Rows]:
    """(train, test) rows: of each user's pairs the last `share` in time, rounded down, is held out.

    users, times : (n,) the user and the time of each rating; a pair has the time of its last, and equal times stay in
        their order
    share : 0 to 1, exclusive; a user keeps at least one pair
    """
    when = np.asarray(times)
    codes, n_pairs = _numbered(pairs, when.size)
    last = np.full(n_pairs, np.iinfo(np.int64).min)
    np.maximum.at(last, codes, when.astype(np.int64))
    train, test = _last(users, codes, last, share)
    if not test.size:
        raise InvalidInput("No user has so many ratings that the share holds one out.")
    return train, test


def _last(
    users: ArrayLike, pairs: NDArray[np.int64], rank: NDArray[Any], share: float, *, first: bool = False
) -> tuple[Rows, Rows]:
    """(train, test) rows: of each user's pairs the `share` with the highest rank, or the lowest (`first`)."""
    if not 0 < share < 1:
        raise InvalidInput("share must be between 0 and 1.")
    owners = np.empty(rank.size, np.int64)
    owners[pairs] = np.unique(np.asarray(users), return_inverse=True)[1]
    order = np.lexsort((rank, owners))
    counts = np.bincount(owners)
    place = np.arange(rank.size) - np.repeat(np.cumsum(counts) - counts, counts)
    n_held = np.floor(counts * share).astype(np.int64)
    held = np.zeros(rank.size, bool)
    held[order] = place < np.repeat(n_held, counts) if first else place >= np.repeat(counts - n_held, counts)
    return _sides(held[pairs])


def _numbered(pairs: NDArray[np.int64] | None, n: int) -> tuple[NDArray[np.int64], int]:
    """Pair of each rating, and how many pairs there are."""
    if pairs is None:
        return np.arange(n), n
    return pairs, int(pairs.max(initial=-1)) + 1


def _sides(held: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    return np.flatnonzero(~held), np.flatnonzero(held)
