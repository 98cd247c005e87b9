"""Health, statistics, metrics."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from bandit_serve import __version__
from bandit_serve.errors import NotBuilt, Unavailable
from bandit_serve.log.census import living
from bandit_serve.server.metrics import ServiceCollector, exposition
from bandit_serve.server.service import Service
from bandit_serve.server.wire import answer
from bandit_serve.times import rfc3339


class OperationHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._collector = ServiceCollector(service.counters, service.replica)
        self._started_s = time.monotonic()

    async def live(self, request: web.Request) -> web.Response:
        return answer(request, {"status": "live"})

    async def ready(self, request: web.Request) -> web.Response:
        if not self._service.ready:
            raise Unavailable("The first state is not loaded yet.")
        if self._service.draining:
            raise Unavailable("This worker is draining.")
        return answer(request, {"status": "degraded" if self._service.degraded else "ready"})

    async def metrics(self, request: web.Request) -> web.Response:
        self._publish()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=exposition(self._collector), headers=headers)

    async def stats(self, request: web.Request) -> web.Response:
        """The service in one page: workers, store, experiments, models, counters."""
        service = self._service
        self._publish()
        total = service.counters.total
        found: dict[str, Any] = {
            "version": __version__,
            "status": "degraded" if service.degraded else "ready",
            "uptime_s": time.monotonic() - self._started_s,
            "workers": await self._workers(),
            "store": await self._store(),
            "experiments": {
                name: {
                    "status": live.record.status,
                    "policy": live.experiment.policy.kind,
                    "shares": dict(
                        zip(decider.arm_names, decider.draw.propensities, strict=True)
                    ),
                    "exposures": dict(zip(decider.arm_names, live.exposures.tolist(), strict=True)),
                    "rewards": dict(zip(decider.arm_names, live.rewards.tolist(), strict=True)),
                }
                for name, live in sorted(service.replica.experiments.items())
                for decider in [service.decisions.decider(name)]
            },
            "models": {name: model.production for name, model in sorted(service.replica.registry.models.items())},
            "loaded": {"models": len(service.models), "bytes": service.models.nbytes},
            "decisions": int(total("decisions")),
            "predictions": int(total("predictions")),
            "rewards": {
                verdict: int(total(f"rewards_{verdict}"))
                for verdict in ("accepted", "duplicate", "late", "unknown", "invalid")
            },
            "exposures_lost": int(total("exposures_lost")),
        }
        return answer(request, found)

    async def not_built(self, request: web.Request) -> web.Response:
        raise NotBuilt(f"{request.method} {request.path} is part of the contract but not built yet.")

    async def _workers(self) -> list[dict[str, Any]]:
        try:
            workers = await living(self._service.store)
        except Unavailable:
            workers = [self._service.card]
        return [
            {"id": f"{w.incarnation:016x}", "pid": w.pid, "host": w.host, "started_at": rfc3339(w.started_ms)}
            for w in workers
        ]

    async def _store(self) -> dict[str, Any]:
        try:
            facts = await self._service.store.facts()
        except Unavailable:
            return {"available": False}
        return {
            "available": True,
            "server": facts.name,
            "version": ".".join(map(str, facts.version)),
            "durability": facts.durability,
            "used_memory": facts.used_memory,
        }

    def _publish(self) -> None:
        self._service.publish_counters()
