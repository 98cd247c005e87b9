"""Versions in memory: an LRU by bytes that never evicts one that takes live traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict

from bandit_serve.base.private_files import translating_disk_full
from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    LimitReached,
    ModelLost,
    NotInstalled,
    Unavailable,
    in_full,
)
from bandit_serve.registry.registry import SERVABLE, Version
from bandit_serve.serving.kinds import VersionOpener
from bandit_serve.serving.memory import ModelMemory
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


def _opened(version: Version) -> tuple[str, object]:
    return version.sha256, version.remote


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
    """Models in memory. `max_bytes` bounds those beyond the live ones; `troubles` gets faulty files of live ones.

    Those `beside` others, of another tenant, share the memory that they have. `limit_bytes` bounds all of them, live
    ones included.
    """

    def __init__(
        self,
        opener: VersionOpener,
        *,
        max_bytes: int,
        troubles: Troubles | None = None,
        beside: LoadedModels | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        self.artifacts = opener.artifacts
        self._open = opener.open
        self._troubles = Troubles() if troubles is None else troubles
        self._lost: dict[Reference, tuple[float, ModelLost]] = {}
        self._memory: ModelMemory = ModelMemory(max_bytes) if beside is None else beside._memory
        self._memory.take_in(self)
        self._limit_bytes = limit_bytes
        # The one that is just asked for stays, however large it is.
        self._kept: Reference | None = None
        self._models: OrderedDict[Reference, Servable] = OrderedDict()
        # What of a version was opened: a deployment may answer for it, and its file again later.
        self._opened: dict[Reference, tuple[str, object]] = {}
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
        if loaded is not None and not self.is_outdated(version):
            return loaded
        require_servable(version)
        self._require_room(version)
        if reference in self._lost and time.monotonic() < self._lost[reference][0]:
            raise _again(self._lost[reference][1])
        task = self._loading.get(reference)
        if task is None:
            task = asyncio.create_task(self._load(version), name=f"load {version.model} {version.version}")
            self._loading[reference] = task
        return await asyncio.shield(task)

    def is_outdated(self, version: Version) -> bool:
        """Whether a version is in memory, but answers of another place than it now does."""
        return self._opened.get((version.model, version.version), _opened(version)) != _opened(version)

    async def try_out(self, version: Version) -> None:
        """Opens a version and closes it again, beside what is in memory; raises as `load` does."""
        require_servable(version)
        model = await asyncio.to_thread(self._read, version)
        try:
            await model.warm()
        finally:
            await model.close()

    async def _load(self, version: Version) -> Servable:
        reference = (version.model, version.version)
        try:
            model = await asyncio.to_thread(self._read, version)
            await model.warm()
            former = self._models.pop(reference, None)
            self._models[reference], self._opened[reference] = model, _opened(version)
            if former is not None:
                self._close(reference, former)
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

    def _require_room(self, version: Version) -> None:
        """Raises `LimitReached` where a version does not fit beside the live ones, before it is read."""
        if self._limit_bytes is None:
            return
        others = sum(self._models[each].nbytes for each in self.live if each in self._models)
        if others + version.size > self._limit_bytes:
            raise LimitReached(
                f"The model has {version.size} bytes; with those that take traffic it would be more than the "
                f"{self._limit_bytes} that models may take here.",
                "model_memory",
            )

    def _idle(self) -> list[Reference]:
        return [each for each in self._models if each not in self.live and each != self._kept]

    @property
    def idle_bytes(self) -> int:
        return sum(self._models[each].nbytes for each in self._idle())

    def evict_one(self) -> None:
        reference = self._idle()[0]
        model = self._models.pop(reference)
        self._opened.pop(reference, None)
        self._close(reference, model)

    def _evict(self, keep: Reference | None) -> None:
        self._kept = keep
        if self._limit_bytes is not None:
            while self.nbytes > self._limit_bytes and self._idle():
                self.evict_one()
        self._memory.make_room()
        self._kept = None

    def _close(self, reference: Reference, model: Servable) -> None:
        closing = asyncio.create_task(model.close(), name=f"close {' '.join(reference)}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes all versions."""
        self._memory.forget(self)
        models = [model.close() for model in self._models.values()]
        self._models.clear()
        await asyncio.gather(*models, *self._closing)
