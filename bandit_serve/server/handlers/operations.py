"""Routes of health, statistics and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve import __version__
from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.api.views import AlarmView, SetAsideView, alarm_view, set_aside_view
from bandit_serve.base.clock import rfc3339
from bandit_serve.base.troubles import Trouble
from bandit_serve.errors import NotBuilt, Unavailable
from bandit_serve.experiments.spec import Status
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.replication.census import living
from bandit_serve.server.metrics import ServiceCollector, counted, exposition
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Pairs, answer, answer_in_turns


class Health(Struct, frozen=True):
    """Health of the answering worker; `reasons` say why it is degraded."""

    status: Literal["live", "ready", "degraded"]
    reasons: list[Trouble] | UnsetType = UNSET


class WorkerView(Struct, frozen=True):
    id: str
    pid: int
    host: str
    started_at: str


class StoreView(Struct, frozen=True):
    """State of the store; only `available` while it is away. `used_memory` is in bytes."""

    available: bool
    server: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    durability: str | UnsetType = UNSET
    used_memory: int | UnsetType = UNSET


class ContextStats(Struct, frozen=True):
    """Values in contexts of requests that the features could not use, in the answering worker.

    `missing` and `unknown` count, by field, values that were absent or not among those of the schema. `unexpected`
    counts values without a field. `far` counts, by numeric field, decisions in the log with a value so far outside the
    field's others that a contextual policy clipped it.
    """

    missing: dict[str, int]
    unknown: dict[str, int]
    far: dict[str, int]
    unexpected: int


class ExperimentStats(Struct, frozen=True):
    """Figures of an experiment by arm: current shares, and logged exposures and rewards of the objective.

    The mean reward is the policy's estimate, null while nothing is known of it. Missing rewards that count as zero are
    in it; those of open decisions count by how likely a reward would have come by now. `alarms` lists the last 100
    changes of means that were noticed; it is null with a contextual policy, under which an arm's mean changes by
    itself. `ejected` lists the arms that the answering worker leaves out now because their model failed in it.
    `context` is null without a schema.
    """

    status: Status
    policy: str
    shares: dict[str, float]
    exposures: dict[str, int]
    rewards: dict[str, int]
    ejected: list[str]
    means: dict[str, float | None]
    alarms: list[AlarmView] | None
    context: ContextStats | None


class LoadedStats(Struct, frozen=True):
    """Models in this worker's memory."""

    models: int
    bytes: int


class Stats(Struct, frozen=True):
    """Counters are those of all workers since the service started; `models` maps each to its production version.

    `experiments_left_out` counts those, the newest, that have no room here, as in `/metrics`.
    """

    version: str
    status: Literal["ready", "degraded"]
    reasons: list[Trouble]
    uptime_s: float
    workers: list[WorkerView]
    store: StoreView
    experiments: dict[str, ExperimentStats]
    set_aside: dict[str, SetAsideView]
    experiments_left_out: int
    models: dict[str, str | None]
    loaded: LoadedStats
    decisions: int
    predictions: int
    rewards: dict[RewardVerdict, int]
    exposures_lost: int
    ejections: int


class OperationHandlers:
    def __init__(self, service: Service, openapi: dict[str, Any]) -> None:
        self._service = service
        self._openapi = openapi
        self._collector = ServiceCollector(service.counters, service.node.replica, self._shares_of)
        self._started_s = time.monotonic()

    async def live(self, request: web.Request) -> web.Response:
        return answer(request, Health("live"))

    async def ready(self, request: web.Request) -> web.Response:
        if not self._service.ready:
            raise Unavailable("The first state is not loaded yet.")
        if self._service.draining:
            raise Unavailable("This worker is draining.")
        return answer(request, Health(self._status(), self._service.reasons or UNSET))

    async def metrics(self, request: web.Request) -> web.Response:
        """Answers with the counters of all workers; the series are the same whichever worker is asked."""
        with contextlib.suppress(Unavailable):
            await self._service.node.tail.refresh_new()
        self._service.publish_counters()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        # Some tens of thousands of lines: a thread lets others have their turn.
        return web.Response(body=await asyncio.to_thread(exposition, self._collector), headers=headers)

    async def stats(self, request: web.Request) -> web.Response:
        """Answers with workers, store, experiments, models and counters on one page."""
        service = self._service
        with contextlib.suppress(Unavailable):
            await service.node.tail.refresh_all()
        service.publish_counters()
        total = service.counters.total
        names = sorted(name for name, _ in counted(service.node.replica))
        fields = {
            "version": __version__,
            "status": self._status(),
            "reasons": service.reasons,
            "uptime_s": time.monotonic() - self._started_s,
            "workers": await self._workers(),
            "store": await self._store(),
            "experiments": Pairs(self._experiments(names)),
            "set_aside": {
                name: set_aside_view(each) for name, each in sorted(service.node.replica.aside.items())
            },
            "experiments_left_out": len(service.node.replica.experiments) - len(names),
            "models": Pairs(
                (name, model.production)
                for name, model in sorted(service.node.replica.registry.models.items())
            ),
            "loaded": LoadedStats(len(service.node.models), service.node.models.nbytes),
            "decisions": int(total("decisions")),
            "predictions": int(total("predictions")),
            "rewards": {verdict: int(total(f"rewards_{verdict}")) for verdict in get_args(RewardVerdict)},
            "exposures_lost": int(total("exposures_lost")),
            "ejections": int(total("ejections")),
        }
        return await answer_in_turns(fields, "ask for experiments one by one")

    async def openapi(self, request: web.Request) -> web.Response:
        return answer(request, self._openapi)

    async def not_built(self, request: web.Request) -> web.Response:
        raise NotBuilt(f"{request.method} {request.path} is part of the contract but not built yet.")

    def _shares_of(self, name: str) -> NDArray[np.float64] | None:
        decider = self._service.decisions.deciders.get(name)
        return None if decider is None else decider.shares

    def _status(self) -> Literal["ready", "degraded"]:
        return "degraded" if self._service.degraded else "ready"

    def _experiments(self, names: list[str]) -> Iterator[tuple[str, ExperimentStats]]:
        for name in names:
            live = self._service.node.replica.experiments.get(name)
            if live is None:
                continue
            decider = self._service.decisions.decider(name)
            shares, exposures, rewards = (
                dict(zip(decider.arm_names, column, strict=True))
                for column in (decider.shares.tolist(), live.exposures.tolist(), live.rewards.tolist())
            )
            means = [None if math.isnan(mean) else mean for mean in live.means().tolist()]
            yield (
                name,
                ExperimentStats(
                    live.record.status,
                    live.experiment.policy.kind,
                    shares,
                    exposures,
                    rewards,
                    list(decider.ejected),
                    dict(zip(decider.arm_names, means, strict=True)),
                    None
                    if live.alarms is None
                    else [alarm_view(alarm, decider.arm_names) for alarm in live.alarms.alarms],
                    _context_stats(live),
                ),
            )

    async def _workers(self) -> list[WorkerView]:
        try:
            workers = await living(self._service.node.store)
        except Unavailable:
            workers = [self._service.card]
        return [WorkerView(f"{w.incarnation:016x}", w.pid, w.host, rfc3339(w.started_ms)) for w in workers]

    async def _store(self) -> StoreView:
        try:
            facts = await self._service.node.store.facts()
        except Unavailable:
            return StoreView(available=False)
        return StoreView(
            available=True,
            server=facts.name,
            version=".".join(map(str, facts.version)),
            durability=facts.durability,
            used_memory=facts.used_memory,
        )


def _context_stats(live: LiveExperiment) -> ContextStats | None:
    features = live.features
    if features is None:
        return None
    return ContextStats(dict(features.missing), dict(features.unknown), dict(live.far), features.unexpected)
