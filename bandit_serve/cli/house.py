"""The store and all that a worker knows of it, for the time of one command."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from pathlib import Path

from bandit_serve.base.mistakes import nearest
from bandit_serve.base.private_files import own_folder
from bandit_serve.changes.changes import Changes
from bandit_serve.changes.experiments import ExperimentChanges
from bandit_serve.changes.models import ModelChanges
from bandit_serve.errors import UsageError
from bandit_serve.folds.replica import Replica
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.registry.artifact_store import open_artifacts
from bandit_serve.registry.loaded import LoadedModels
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.tail import Tail
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer, parse_store_url
from bandit_serve.store.store import Store

MOST_LOOKED_AT = 1_000


class House:
    """The parts of a worker that a command needs. It serves nothing and holds no lease."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.replica = Replica()
        self.tail = Tail(store, self.replica)
        self.results = ResultsLog(store, self.replica)

    @property
    def place(self) -> str:
        return place_of(self.settings)

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """Made when needed, as it makes its directory."""
        return open_artifacts(self.settings, self.store.url)

    @cached_property
    def experiments(self) -> ExperimentChanges:
        return ExperimentChanges(*self._parts)

    @cached_property
    def models(self) -> ModelChanges:
        return ModelChanges(*self._parts)

    @cached_property
    def _parts(self) -> tuple[Store, Replica, Tail, Changes, LoadedModels]:
        models = LoadedModels(self.artifacts, max_bytes=self.settings.model_memory)
        changes = Changes(self.store, self.replica, self.tail)
        return self.store, self.replica, self.tail, changes, models


def place_of(settings: Settings) -> str:
    """Which store the settings mean, for a sentence."""
    if settings.store is None:
        return f"the private store of {settings.data_dir.absolute()}"
    return f"the store {parse_store_url(settings.store)}, namespace {settings.namespace}"


def require_data_directory(settings: Settings) -> None:
    """`UsageError` where no store is named, and the data directory has none either."""
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
    """Whether a private store has been there."""
    return (path / "store.lock").exists()


def data_directory_near(path: Path) -> Path | None:
    """What was probably meant by a path that is no data directory."""
    places = dict.fromkeys(place.resolve() for place in (path.parent, Path()))
    near = {str(each): each for place in places for each in _data_directories(place)}
    meant = nearest(str(path.absolute()), list(near)) or min(near, default=None)
    return None if meant is None else near[meant]


def _data_directories(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for each in itertools.islice(folder.iterdir(), MOST_LOOKED_AT):
            if is_data_directory(each):
                yield each


@contextlib.contextmanager
def store_url(settings: Settings) -> Iterator[str]:
    """The store that the settings name, or the data directory's own, which runs during the block."""
    if settings.store is not None:
        yield settings.store
        return
    with PrivateServer.start_or_adopt(settings.data_dir) as server:
        yield server.url


@contextlib.asynccontextmanager
async def open_store(settings: Settings, url: str) -> AsyncIterator[Store]:
    """A store that may be used; `StoreUnavailable` or `StoreRefused`."""
    store = Store(url, namespace=settings.namespace, timeout_s=settings.seconds("store_timeout"))
    try:
        await store.check()
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def open_house(settings: Settings, url: str) -> AsyncIterator[House]:
    """The state as it is now, followed until the block ends."""
    async with open_store(settings, url) as store:
        house = House(settings, store)
        await house.tail.load()
        following = asyncio.create_task(house.tail.run())
        try:
            yield house
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def actor() -> str:
    """Who is asking, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"cli:{user}@{socket.gethostname()}"
