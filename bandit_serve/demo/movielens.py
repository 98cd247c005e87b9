"""The MovieLens small set, fetched once into the user's cache.

Its licence forbids redistribution, so it is neither in the package nor put anywhere else.
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
from pathlib import Path

from bandit_serve.errors import Unavailable

URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
MEMBER = "ml-latest-small/ratings.csv"
MAX_ZIP_BYTES = 16 * 2**20
MAX_CSV_BYTES = 64 * 2**20
SOCKET_TIMEOUT_S = 5.0
DEADLINE_S = 15.0
CHUNK_BYTES = 1 << 16


def cached_ratings() -> Path:
    """Where the set's `ratings.csv` is once it was downloaded: under `$XDG_CACHE_HOME`, or `~/.cache`."""
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
    found = outcome[0] if outcome else "no answer in time"
    if isinstance(found, Path):
        return found
    raise Unavailable(f"it can not be downloaded ({found})")


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
