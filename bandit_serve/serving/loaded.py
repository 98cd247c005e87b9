"""Versions in memory: an LRU by bytes that never evicts one that takes live traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict

from bandit_serve.base.private_files import translating_disk_full
from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import BanditServeError, Conflict, ModelLost, NotInstalled, Unavailable, in_full
from bandit_serve.registry.registry import SERVABLE, Version
from bandit_serve.serving.kinds import VersionOpener
from bandit_serve.serving.servable import Servable

log = logging.getLogger(__name__)

Reference = tuple[str, str]

# One whose file is not well is not read again before that.
LOST_REST_S = 3.0
TROUBLE = "model_missing"


def require_servable(version: Version) -> None:
    """Raise `Conflict` for a version whose status or retention does not let it serve."""
    if version.pruned:
        raise Conflict(f"The file of {version.version!r} of {version.model!r} was removed by retention.")
    if version.status not in SERVABLE:
        raise Conflict(f"The version {version.version!r} of {version.model!r} is {version.status}.")


def _lost(version: Version, error: BaseException) -> ModelLost:
    if isinstance(error, NotInstalled):
        return ModelLost(
            f"{version.model} {version.version} can not be loaded on this host: {error}", LOST_REST_S
        )
    sentence = f"The file of {version.model} {version.version} is missing or damaged on this host."
    return ModelLost(sentence, LOST_REST_S).noted(in_full(error))


def _again(error: ModelLost) -> ModelLost:
    """Same error for another request: one that was raised keeps growing its traceback."""
    again = ModelLost(str(error), LOST_REST_S)
    for note in getattr(error, "__notes__", ()):
        again.add_note(note)
    return again


class LoadedModels:
    """Models in memory. `max_bytes` bounds those beyond the live ones; `troubles` gets faulty files of live ones."""

    def __init__(self, opener: VersionOpener, *, max_bytes: int, troubles: Troubles | None = None) -> None:
        self.artifacts = opener.artifacts
        self._open = opener.open
        self._troubles = Troubles() if troubles is None else troubles
        self._lost: dict[Reference, tuple[float, ModelLost]] = {}
        self._max_bytes = max_bytes
        self._models: OrderedDict[Reference, Servable] = OrderedDict()
        self._loading: dict[Reference, asyncio.Task[Servable]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.live: frozenset[Reference] = frozenset()

    def __len__(self) -> int:
        return len(self._models)

    @property
    def nbytes(self) -> int:
        return sum(model.nbytes for model in self._models.values())

    def contents(self) -> list[tuple[str, str, int]]:
        """Model, version and bytes of each that is in memory."""
        return [(*reference, model.nbytes) for reference, model in self._models.items()]

    def get(self, model: str, version: str) -> Servable | None:
        loaded = self._models.get((model, version))
        if loaded is not None:
            self._models.move_to_end((model, version))
        return loaded

    async def load(self, version: Version) -> Servable:
        """Version in memory, opened if it is not there yet; those who ask together wait for one load.

        `Conflict` for a version that can not serve, `ModelLost` where the file is not what was registered or the
        upstream not ready.
        """
        reference = (version.model, version.version)
        loaded = self.get(*reference)
        if loaded is not None:
            return loaded
        require_servable(version)
        if reference in self._lost and time.monotonic() < self._lost[reference][0]:
            raise _again(self._lost[reference][1])
        task = self._loading.get(reference)
        if task is None:
            task = asyncio.create_task(self._load(version), name=f"load {version.model} {version.version}")
            self._loading[reference] = task
        return await asyncio.shield(task)

    async def _load(self, version: Version) -> Servable:
        reference = (version.model, version.version)
        try:
            model = await asyncio.to_thread(self._read, version)
            await model.warm()
            self._models[reference] = model
            if self._lost.pop(reference, None) is not None:
                log.warning("the model %s %s is back", *reference)
                self._say_lost()
            self._evict(keep=reference)
            return model
        except ModelLost as error:
            if reference not in self._lost:
                log.error("%s", in_full(error))
            self._lost[reference] = time.monotonic() + LOST_REST_S, error
            self._say_lost()
            raise
        finally:
            del self._loading[reference]

    def _read(self, version: Version) -> Servable:
        try:
            with translating_disk_full():
                return self._open(version)
        except Unavailable:
            raise
        except (BanditServeError, OSError, ValueError) as error:
            raise _lost(version, error) from error

    @property
    def lost(self) -> frozenset[Reference]:
        """Versions with live traffic whose files are missing or damaged here."""
        return frozenset(self._lost) & self.live

    def keep_live(self, references: frozenset[Reference]) -> None:
        """Says which versions take live traffic from now on."""
        self.live = references
        self._lost = {each: lost for each, lost in self._lost.items() if each in references}
        self._say_lost()
        self._evict(keep=None)

    def _say_lost(self) -> None:
        if self.lost:
            names = ", ".join(f"{model} {version}" for model, version in sorted(self.lost))
            self._troubles.begin(
                TROUBLE,
                "Models can not serve on this host, as their files are missing or damaged or their upstreams not "
                f"ready: {names}.",
            )
        else:
            self._troubles.end(TROUBLE)

    def _evict(self, keep: Reference | None) -> None:
        idle = [reference for reference in self._models if reference not in self.live and reference != keep]
        nbytes = sum(self._models[reference].nbytes for reference in idle)
        for reference in idle:
            if nbytes <= self._max_bytes:
                return
            model = self._models.pop(reference)
            nbytes -= model.nbytes
            closing = asyncio.create_task(model.close(), name=f"close {' '.join(reference)}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes all versions."""
        models = [model.close() for model in self._models.values()]
        self._models.clear()
        await asyncio.gather(*models, *self._closing)
