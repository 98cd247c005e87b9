"""Data directories of services: whether a path is one, and a guess where it is not."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from bandit_serve.base.mistakes import nearest
from bandit_serve.base.private_files import own_folder
from bandit_serve.errors import UsageError
from bandit_serve.settings import Settings

MAX_LISTED = 1_000


def require_data_directory(settings: Settings) -> None:
    """Raises `UsageError` where the settings name no store and the data directory has none."""
    data = settings.data_dir
    if settings.store is not None or is_data_directory(data):
        return
    if data.is_dir():
        own_folder(data)
    meant = data_directory_near(data)
    guess = "" if meant is None else f" Did you mean --data {meant}?"
    what = "has no store of its own" if data.is_dir() else "is not there"
    raise UsageError(
        f"The data directory {data} {what}: name the one that the service has, or its store with --store.{guess}"
    )


def is_data_directory(path: Path) -> bool:
    """Whether the directory has, or had, a private store."""
    return (path / "store.lock").exists()


def data_directory_near(path: Path) -> Path | None:
    """Data directory close to a path that is none, which the user probably meant; None without one."""
    places = dict.fromkeys(place.resolve() for place in (path.parent, Path()))
    near = {str(each): each for place in places for each in _data_directories(place)}
    meant = nearest(str(path.absolute()), list(near)) or min(near, default=None)
    return None if meant is None else near[meant]


def _data_directories(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for each in itertools.islice(folder.iterdir(), MAX_LISTED):
            if is_data_directory(each):
                yield each
