"""Which ratings are trained on and which are held out: at random, by folds, or in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput

Rows = NDArray[np.int64]


def random_folds(n: int, n_folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """(train, test) rows of each fold: every row is in one test set, and their sizes differ by at most 1."""
    if not 2 <= n_folds <= n:
        raise InvalidInput("n_folds must be from 2 to the number of ratings.")
    order = np.random.default_rng(seed).permutation(n)
    fold = np.empty(n, np.int64)
    fold[order] = np.arange(n) % n_folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]


def holdout(users: ArrayLike, share: float, seed: int) -> tuple[Rows, Rows]:
    """(train, test) rows: of each user's ratings a random `share` (rounded down) is held out.

    users : (n,) the user of each rating
    share : 0 to 1, exclusive; a user keeps at least one rating
    """
    if not 0 < share < 1:
        raise InvalidInput("share must be between 0 and 1.")
    codes = np.unique(np.asarray(users), return_inverse=True)[1]
    order = np.lexsort((np.random.default_rng(seed).random(codes.size), codes))
    counts = np.bincount(codes)
    place = np.arange(codes.size) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(codes.size, bool)
    held[order] = place < np.repeat(np.floor(counts * share), counts)
    return np.flatnonzero(~held), np.flatnonzero(held)


def random_split(n: int, share: float, seed: int) -> tuple[Rows, Rows]:
    """(train, test) rows: a random `share` of all, rounded, but at least one row is in each."""
    if not 0 < share < 1 or n < 2:
        raise InvalidInput("share must be between 0 and 1, of two ratings or more.")
    n_test = min(max(round(n * share), 1), n - 1)
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def latest(times: ArrayLike, share: float) -> tuple[Rows, Rows]:
    """(train, test) rows: the last `share` of all in time; equal times stay in their order."""
    order = np.argsort(np.asarray(times), kind="stable")
    n_test = round(order.size * share)
    if not 0 < share < 1 or not 0 < n_test < order.size:
        raise InvalidInput("share must be between 0 and 1, and leave ratings on both sides.")
    return np.sort(order[:-n_test]), np.sort(order[-n_test:])


def latest_of_each_user(users: ArrayLike, times: ArrayLike, share: float) -> tuple[Rows, Rows]:
    """(train, test) rows: of each user's ratings the last `share` in time, rounded down, is held out.

    users, times : (n,) the user and the time of each rating; equal times stay in their order
    share : 0 to 1, exclusive; a user keeps at least one rating
    """
    if not 0 < share < 1:
        raise InvalidInput("share must be between 0 and 1.")
    codes = np.unique(np.asarray(users), return_inverse=True)[1]
    order = np.lexsort((np.asarray(times), codes))
    counts = np.bincount(codes)
    place = np.arange(codes.size) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = counts - np.floor(counts * share).astype(np.int64)
    held = np.zeros(codes.size, bool)
    held[order] = place >= np.repeat(kept, counts)
    if not held.any():
        raise InvalidInput("No user has so many ratings that the share holds one out.")
    return np.flatnonzero(~held), np.flatnonzero(held)
