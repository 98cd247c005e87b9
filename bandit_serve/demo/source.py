"""Where the demo's ratings come from: a file that was named, MovieLens, or made up; and saying which."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bandit_serve.demo import movielens
from bandit_serve.errors import InvalidInput, Unavailable
from bandit_serve.training.ratings import Ratings, read_ratings, synthetic_ratings

Kind = Literal["file", "movielens", "synthetic"]


@dataclass(frozen=True, slots=True)
class Source:
    """`name` says in a few words which data this is, `why` why it is not MovieLens where that was wanted."""

    kind: Kind
    name: str
    ratings: Ratings
    why: str | None = None

    @property
    def n_users(self) -> int:
        return len(np.unique(self.ratings.users))

    @property
    def n_items(self) -> int:
        return len(np.unique(self.ratings.items))


def find_ratings(path: str | None, *, offline: bool) -> Source:
    """The ratings in `path`; without one MovieLens' small set, cached or downloaded; else made-up ones.

    `offline`: nothing is downloaded. Raises what `read_ratings` raises for a file that was named.
    """
    if path is not None:
        return Source("file", os.path.basename(path), read_ratings(path))
    cached = movielens.cached_ratings()
    if cached.is_file():
        try:
            return Source("movielens", "MovieLens small set (from the cache)", read_ratings(cached))
        except (InvalidInput, OSError):
            cached.unlink(missing_ok=True)
    if offline:
        return _made_up("nothing is downloaded with --offline")
    try:
        found = read_ratings(movielens.download_ratings())
    except Unavailable as error:
        return _made_up(str(error))
    except InvalidInput as error:
        return _made_up(f"what was downloaded is not a ratings file ({error})")
    return Source("movielens", "MovieLens small set (downloaded from grouplens.org)", found)


def _made_up(why: str) -> Source:
    return Source("synthetic", "made-up ratings, not real ones", synthetic_ratings(), why)
