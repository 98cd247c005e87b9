"""The store and all that a worker knows of it, for the time of one command."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
from collections.abc import AsyncIterator, Iterator
from functools import cached_property

from bandit_serve.log.artifacts import open_artifacts
from bandit_serve.log.changes import Changes
from bandit_serve.log.experiment_changes import ExperimentChanges
from bandit_serve.log.model_changes import ModelChanges
from bandit_serve.log.results_log import ResultsLog
from bandit_serve.log.tail import Tail
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.loaded import LoadedModels
from bandit_serve.replica import Replica
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer, parse_store_url
from bandit_serve.store.store import Store


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
