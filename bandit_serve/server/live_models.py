"""Live models of a worker. They are loaded before a request needs them, and again after a lost file is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from bandit_serve.api.decisions import ModelName
from bandit_serve.decisions.decider import Decider
from bandit_serve.errors import BanditServeError, ModelLost, in_full
from bandit_serve.folds.replica import Replica
from bandit_serve.serving.loaded import LoadedModels, Reference

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class LiveModels:
    """Versions that arms of running and paused experiments serve, and those in production."""

    def __init__(self, replica: Replica, models: LoadedModels, deciders: Mapping[str, Decider]) -> None:
        self._replica = replica
        self._models = models
        self._deciders = deciders
        self._loading: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Loads all live models, so that the first request for an arm finds its model in memory."""
        self.keep()
        await self._load(self._models.live)

    def follow(self) -> None:
        """Brings the set of live models up to date, and starts to load new ones."""
        before = self._models.live
        self.keep()
        if self._models.live - before:
            task = asyncio.create_task(self._load(self._models.live))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    def keep(self) -> None:
        """Pins the live models in memory."""
        live = [
            (arm.model, arm.version)
            for record in self._replica.records().values()
            if record.status in ("running", "paused")
            for arm, status in zip(record.experiment.arms, record.arm_statuses.values(), strict=True)
            if status != "removed" and arm.model is not None and arm.version is not None
        ]
        live += [
            (model.name, model.production)
            for model in self._replica.registry.models.values()
            if model.production is not None
        ]
        self._models.keep_live(frozenset(live))

    async def look_for_lost(self) -> None:
        """Searches regularly for lost files; arms whose file is back are drawn again."""
        while True:
            lost = self._models.lost
            await asyncio.sleep(LOOK_EVERY_S)
            if self._models.lost:
                await self._load(self._models.lost)
            for reference in lost - self._models.lost:
                for decider in self._deciders.values():
                    decider.readmit(ModelName(*reference))

    async def _load(self, references: Collection[Reference]) -> None:
        """Loads models; leaves out the arms of a model whose file is lost."""
        for reference in references:
            try:
                await self._models.load(self._replica.registry.version(*reference))
            except ModelLost:
                for decider in self._deciders.values():
                    decider.leave_out(ModelName(*reference))
            except BanditServeError as error:
                log.warning("%s", in_full(error))
            except Exception:
                log.exception("the model %s %s can not be loaded", *reference)
