"""Live models of a worker. They are loaded before a request needs them, and again after a lost file is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

from bandit_serve.api.decisions import ModelName
from bandit_serve.decisions.decider import Decider
from bandit_serve.errors import BanditServeError, LimitReached, ModelLost, in_full
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.replica import Replica
from bandit_serve.serving.loaded import LoadedModels, Reference

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class _Served(NamedTuple):
    """Versions that the experiment of a record serves."""

    record: Record
    references: frozenset[Reference]


class LiveModels:
    """Versions that arms of running and paused experiments serve, and those in production."""

    def __init__(self, replica: Replica, models: LoadedModels, deciders: Mapping[str, Decider]) -> None:
        self._replica = replica
        self._models = models
        self._deciders = deciders
        self._loading: set[asyncio.Task[None]] = set()
        self._served: dict[str, _Served] = {}

    async def load(self) -> None:
        """Loads all live models, so that the first request for an arm finds its model in memory."""
        self.keep()
        await self._load(self._models.live)

    def follow(self) -> None:
        """Brings the set of live models up to date, and starts to load new ones."""
        before = self._models.live
        self.keep()
        if self._models.live - before or any(map(self._is_outdated, self._models.live)):
            task = asyncio.create_task(self._load(self._models.live))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    def _is_outdated(self, reference: Reference) -> bool:
        model = self._replica.registry.models.get(reference[0])
        version = None if model is None else model.versions.get(reference[1])
        return version is not None and self._models.is_outdated(version)

    def keep(self) -> None:
        """Pins the live models in memory."""
        self._served = {name: self._of(name, record) for name, record in self._replica.records().items()}
        in_production = [
            (model.name, model.production)
            for model in self._replica.registry.models.values()
            if model.production is not None
        ]
        served = (each.references for each in self._served.values() if each.references)
        self._models.keep_live(frozenset(in_production).union(*served))

    def _of(self, name: str, record: Record) -> _Served:
        """Versions that an experiment serves; of many experiments, hardly any record is new."""
        known = self._served.get(name)
        if known is not None and known.record is record:
            return known
        arms = zip(record.experiment.arms, record.arm_statuses.values(), strict=True)
        references = frozenset(
            (arm.model, arm.version)
            for arm, status in arms
            if status != "removed" and arm.model is not None and arm.version is not None
        )
        return _Served(record, references if record.status in ("running", "paused") else frozenset())

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
        """Loads models, at once: an upstream that is slow to be ready delays no other."""
        await asyncio.gather(*map(self._load_one, references))

    async def _load_one(self, reference: Reference) -> None:
        """Loads a model; leaves out its arms where its file is lost, its upstream not ready, or it has no room."""
        try:
            await self._models.load(self._replica.registry.version(*reference))
        except (ModelLost, LimitReached):
            for decider in self._deciders.values():
                decider.leave_out(ModelName(*reference))
        except BanditServeError as error:
            log.warning("%s", in_full(error))
        except Exception:
            log.exception("the model %s %s can not be loaded", *reference)
