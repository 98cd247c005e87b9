"""Publishing of what was learned so far: a version behind a gate, and its way into production or an experiment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from bandit_serve.errors import Conflict
from bandit_serve.experiments.spec import Arm, Ramp
from bandit_serve.models.model import Model
from bandit_serve.node import Node
from bandit_serve.training.gates import Gate
from bandit_serve.training.learning.learner import sha256_of

METRIC = "prequential.rmse"


class Publication(Struct, frozen=True):
    """Gates of versions. `staging`: the gate to pass; `production`: the gate into production, None for never.

    `begin` begins the way of a staged version into production by steps, once, and returns a sentence on it. Each
    version becomes an arm of the experiment `arm_of`, whose share is bounded by `ramp`.
    """

    staging: Gate
    production: Gate | None = None
    arm_of: str | None = None
    ramp: Ramp | None = None
    begin: Callable[[str], Awaitable[str]] | None = None


class Publisher:
    """Publishes once, however often it is tried: what an earlier try did stays done.

    `who` is for the history.
    """

    def __init__(
        self,
        node: Node,
        model: str,
        publication: Publication,
        folder: Path,
        who: str,
        say: Callable[[str], None],
    ) -> None:
        self.versions: list[str] = []
        self._node = node
        self._model = model
        self._publication = publication
        self._path = folder / "publish.safetensors"
        self._who = who
        self._say = say

    async def publish(
        self, name: str, model: Model, metrics: dict[str, float], learner: Mapping[str, Any]
    ) -> None:
        """Version of a model, where the gate is open. `learner`: for its metadata, what it was learned from."""
        changes = self._node.model_changes
        registered = (await changes.known()).models[self._model]
        current = (
            None if registered.production is None else registered.versions[registered.production].metrics
        )
        verdict = self._publication.staging.check(metrics, METRIC, current)
        if not verdict.open:
            self._say(f"{name} is not published: {verdict.reason}.")
            return
        await asyncio.to_thread(model.save, self._path)
        known = registered.versions.get(name)
        if known is None:
            await changes.register(
                self._model,
                self._path,
                self._who,
                version=name,
                status="training",
                metrics=metrics,
                metadata={"learner": learner},
            )
        elif known.sha256 != await asyncio.to_thread(sha256_of, self._path):
            raise Conflict(f"There is another version {name!r} of {self._model!r} already.")
        if known is None or known.status == "training":
            await changes.set_status(self._model, name, "staged", self._who, reason=verdict.reason)
        self.versions.append(name)
        self._say(f"{name}: {verdict.reason}.")
        await self._promote(name, metrics, current)
        if self._publication.begin is not None:
            self._say(await self._publication.begin(name))
        await self._add_arm(name)

    async def _promote(
        self, name: str, metrics: dict[str, float], current: Mapping[str, float] | None
    ) -> None:
        gate, changes = self._publication.production, self._node.model_changes
        if gate is None or (await changes.known()).version(self._model, name).status != "staged":
            return
        verdict = gate.check(metrics, METRIC, current)
        self._say(f"{name} {'goes' if verdict.open else 'does not go'} into production: {verdict.reason}.")
        if verdict.open:
            await changes.set_status(self._model, name, "production", self._who, reason=verdict.reason)

    async def _add_arm(self, name: str) -> None:
        experiment = self._publication.arm_of
        if experiment is None or name in self._node.replica.experiment(experiment).experiment.arm_names:
            return
        await self._node.experiment_changes.add_arm(
            experiment,
            Arm(name=name, model=self._model, version=name),
            self._who,
            ramp=self._publication.ramp,
            reason="learned from rewards",
        )
