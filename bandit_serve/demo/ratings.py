"""Ratings of the demo: from a file, MovieLens' small set, or made-up ones.

MovieLens' licence forbids redistribution: the set is not in the package, and kept in the user's cache only.
"""

from __future__ import annotations

import http.client
import io
import os
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bandit_serve.errors import InvalidInput, Unavailable
from bandit_serve.training.ratings import Ratings, read_ratings, synthetic_ratings

Kind = Literal["file", "movielens", "synthetic"]


@dataclass(frozen=True, slots=True)
class RatingsSource:
    """Ratings with their origin in words, `name`.

    `why` is the reason why they are not MovieLens' where that was wanted.
    """

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


def find_ratings(path: str | None, *, offline: bool) -> RatingsSource:
    """Reads the ratings in `path`; without a path MovieLens' small set, cached or downloaded, or else made-up ones.

    `offline` forbids the download. Raises as `read_ratings` for a file that was named.
    """
    if path is not None:
        return RatingsSource("file", os.path.basename(path), read_ratings(path))
    cached = cached_ratings()
    if cached.is_file():
        try:
            return RatingsSource("movielens", "MovieLens small set (from the cache)", read_ratings(cached))
        except (InvalidInput, OSError):
            cached.unlink(missing_ok=True)
    if offline:
        return _made_up("nothing is downloaded with --offline")
    try:
        ratings = read_ratings(download_ratings())
    except Unavailable as error:
        return _made_up(str(error))
    except InvalidInput as error:
        return _made_up(f"what was downloaded is not a ratings file ({error})")
    return RatingsSource("movielens", "MovieLens small set (downloaded from grouplens.org)", ratings)


def _made_up(why: str) -> RatingsSource:
    return RatingsSource("synthetic", "made-up ratings, not real ones", synthetic_ratings(), why)


URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
MEMBER = "ml-latest-small/ratings.csv"
MAX_ZIP_BYTES = 16 * 2**20
MAX_CSV_BYTES = 64 * 2**20
SOCKET_TIMEOUT_S = 5.0
DEADLINE_S = 15.0
CHUNK_BYTES = 1 << 16


def cached_ratings() -> Path:
    """Path of the set's `ratings.csv` after its download, under `$XDG_CACHE_HOME` or `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "bandit-serve" / "ml-latest-small-ratings.csv"


def download_ratings(url: str = URL, *, deadline_s: float = DEADLINE_S) -> Path:
    """Downloads the set and keeps its `ratings.csv`, whole or not at all; returns the path.

    Raises `Unavailable`, which says why as a clause, when that can not be done within `deadline_s`.
    """
    outcome: list[Path | str] = []

    def fetch() -> None:
        try:
            outcome.append(_keep(_ratings_in(_content(url, time.monotonic() + deadline_s))))
        except _TROUBLE as error:
            outcome.append(_why(error))

    # A name that does not resolve can hold a thread for longer than any socket's time-out.
    thread = threading.Thread(target=fetch, name="movielens", daemon=True)
    thread.start()
    thread.join(deadline_s + 1.0)
    result = outcome[0] if outcome else "no answer in time"
    if isinstance(result, Path):
        return result
    raise Unavailable(f"it can not be downloaded ({result})")


_TROUBLE = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    http.client.HTTPException,
)


def _why(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (isinstance(reason, OSError) and reason.strerror) or str(reason) or type(reason).__name__


def _content(url: str, until_s: float) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(url, timeout=SOCKET_TIMEOUT_S) as response:
        while chunk := response.read1(CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_ZIP_BYTES:
                raise ValueError(f"the answer is larger than {MAX_ZIP_BYTES} bytes")
            if time.monotonic() > until_s:
                raise TimeoutError("it takes too long")
    return bytes(content)


def _ratings_in(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as files, files.open(MEMBER) as file:
        content = file.read(MAX_CSV_BYTES + 1)
    if len(content) > MAX_CSV_BYTES:
        raise ValueError(f"its ratings are larger than {MAX_CSV_BYTES} bytes")
    return content


def _keep(content: bytes) -> Path:
    path = cached_ratings()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path
