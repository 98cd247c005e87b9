"""Models in memory: an LRU by bytes that never evicts one that takes live traffic."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from bandit_serve.errors import BanditServeError, Conflict, ModelLost, Unavailable
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.family import load_model
from bandit_serve.models.model import Model
from bandit_serve.models.registry import SERVABLE, Version

log = logging.getLogger(__name__)

Reference = tuple[str, str]


def require_servable(version: Version) -> None:
    """`Conflict` for a version whose status or retention does not let it serve."""
    if version.pruned:
        raise Conflict(f"The file of {version.version!r} of {version.model!r} was removed by retention.")
    if version.status not in SERVABLE:
        raise Conflict(f"The version {version.version!r} of {version.model!r} is {version.status}.")


class LoadedModels:
    """`max_bytes` bounds what is kept beyond the live ones."""

    def __init__(self, artifacts: ArtifactStore, *, max_bytes: int) -> None:
        self.artifacts = artifacts
        self._max_bytes = max_bytes
        self._models: OrderedDict[Reference, Model] = OrderedDict()
        self._loading: dict[Reference, asyncio.Task[Model]] = {}
        self.live: frozenset[Reference] = frozenset()

    def __len__(self) -> int:
        return len(self._models)

    @property
    def nbytes(self) -> int:
        return sum(model.nbytes for model in self._models.values())

    def contents(self) -> list[tuple[str, str, int]]:
        """Model, version and bytes of each that is in memory."""
        return [(*reference, model.nbytes) for reference, model in self._models.items()]

    def get(self, model: str, version: str) -> Model | None:
        found = self._models.get((model, version))
        if found is not None:
            self._models.move_to_end((model, version))
        return found

    async def load(self, version: Version) -> Model:
        """The model, from its artifact if it is not in memory; those who ask together wait for one load.

        `Conflict` for a version that can not serve, `ModelLost` where the file is not what was registered.
        """
        reference = (version.model, version.version)
        found = self.get(*reference)
        if found is not None:
            return found
        require_servable(version)
        task = self._loading.get(reference)
        if task is None:
            task = asyncio.create_task(self._load(version), name=f"load {version.model} {version.version}")
            self._loading[reference] = task
        return await asyncio.shield(task)

    async def _load(self, version: Version) -> Model:
        reference = (version.model, version.version)
        try:
            model = await asyncio.to_thread(self._read, version)
            self._models[reference] = model
            self._evict(keep=reference)
            return model
        finally:
            del self._loading[reference]

    def _read(self, version: Version) -> Model:
        try:
            return load_model(self.artifacts.open(version.sha256))
        except Unavailable:
            raise
        except BanditServeError as error:
            raise ModelLost(f"{version.model} {version.version} can not be loaded: {error}") from error
        except (OSError, ValueError) as error:
            raise ModelLost(
                f"{version.model} {version.version} can not be loaded: its file is not readable."
            ) from error

    def keep_live(self, references: frozenset[Reference]) -> None:
        """Says which versions take live traffic from now on."""
        self.live = references
        self._evict(keep=None)

    def _evict(self, keep: Reference | None) -> None:
        idle = [reference for reference in self._models if reference not in self.live and reference != keep]
        nbytes = sum(self._models[reference].nbytes for reference in idle)
        for reference in idle:
            if nbytes <= self._max_bytes:
                return
            nbytes -= self._models.pop(reference).nbytes
