"""Routes of health, statistics and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray
from prometheus_client.registry import Collector

from bandit_serve import __version__
from bandit_serve.api.experiment_stats import ExperimentStats, experiment_stats
from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.api.views import SetAsideView, set_aside_view
from bandit_serve.base.clock import rfc3339
from bandit_serve.base.troubles import Trouble
from bandit_serve.errors import Unavailable
from bandit_serve.replication.census import living
from bandit_serve.server.forwarded import host_of, scheme_of
from bandit_serve.server.metrics import ServiceCollector, counted, exposition
from bandit_serve.server.service import Service
from bandit_serve.server.tenant_metrics import TenantCollector, WholeCollector
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
    """State of the store; only `available` while it is away. `used_memory` is in bytes; a tenant is not told it."""

    available: bool
    server: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    durability: str | UnsetType = UNSET
    used_memory: int | UnsetType = UNSET


class LoadedStats(Struct, frozen=True):
    """Models in this worker's memory."""

    models: int
    bytes: int


class TenantStats(Struct, frozen=True):
    """Figures of a tenant: what it has, and how many of its requests were refused because it sent too many."""

    status: Literal["ready", "degraded"]
    experiments: int
    models: int
    decisions: int
    predictions: int
    limited: int


class Stats(Struct, frozen=True):
    """Counters are those of all workers since the service started; `models` maps each to its production version.

    `experiments_left_out` counts those, the newest, that have no room here, as in `/metrics`. `tenants` is there where
    there are any, for callers who are of none.
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
    tenants: dict[str, TenantStats] | UnsetType = UNSET


class OperationHandlers:
    def __init__(self, service: Service, openapi: dict[str, Any]) -> None:
        self._service = service
        self._openapi = openapi
        self._collector: Collector = (
            WholeCollector(_collector(service), self._of_tenants)
            if service.tenant is None
            else _of_tenant(service.tenant, service)
        )
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
        for service in (self._service, *self._service.tenants.values()):
            service.publish_counters()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        # Some tens of thousands of lines: a thread lets others have their turn.
        return web.Response(body=await asyncio.to_thread(exposition, self._collector), headers=headers)

    async def stats(self, request: web.Request) -> web.Response:
        """Answers with workers, store, experiments, models and counters on one page."""
        return await answer_in_turns(request, await self.known(), "ask for experiments one by one")

    async def known(self, *, refresh: bool = True) -> dict[str, Any]:
        """Fields of `Stats`; what is by name is made as it is read. `refresh`: as of all that the logs have now."""
        service = self._service
        if refresh:
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
        if service.tenants:
            fields["tenants"] = Pairs(self._tenant_stats())
        return fields

    async def openapi(self, request: web.Request) -> web.Response:
        host = host_of(request)
        if host is None:
            return answer(request, self._openapi)
        return answer(request, {**self._openapi, "servers": [{"url": f"{scheme_of(request)}://{host}"}]})

    def _of_tenants(self) -> Iterator[Collector]:
        for tenant, service in sorted(self._service.tenants.copy().items()):
            yield _of_tenant(tenant, service)

    def _tenant_stats(self) -> Iterator[tuple[str, TenantStats]]:
        for tenant, service in sorted(self._service.tenants.items()):
            total = service.counters.total
            yield (
                tenant,
                TenantStats(
                    "degraded" if service.degraded else "ready",
                    len(service.node.replica.experiments),
                    len(service.node.replica.registry.models),
                    int(total("decisions")),
                    int(total("predictions")),
                    int(total("limited_requests")),
                ),
            )

    def _status(self) -> Literal["ready", "degraded"]:
        return "degraded" if self._service.degraded else "ready"

    def _experiments(self, names: list[str]) -> Iterator[tuple[str, ExperimentStats]]:
        for name in names:
            live = self._service.node.replica.experiments.get(name)
            if live is None:
                continue
            decider = self._service.decisions.decider(name)
            yield name, experiment_stats(live, decider.arm_names, decider.shares.tolist(), decider.ejected)

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
            used_memory=facts.used_memory if self._service.tenant is None else UNSET,
        )


def _collector(service: Service) -> ServiceCollector:
    def shares_of(name: str) -> NDArray[np.float64] | None:
        decider = service.decisions.deciders.get(name)
        return None if decider is None else decider.shares

    return ServiceCollector(
        service.counters,
        service.node.replica,
        shares_of,
        measured=lambda: None if service.measurer is None else service.measurer.found,
        now_ms=service.node.store.clock.now_ms,
        retention_s=service.settings.seconds("retention_time"),
    )


def _of_tenant(tenant: str, service: Service) -> TenantCollector:
    return TenantCollector(tenant, _collector(service), service.counters)
