"""Route of plans: how long an experiment takes, before it starts or while it runs."""

from __future__ import annotations

import asyncio

from aiohttp import web

from bandit_serve.results.plan_request import (
    PlanRequest,
    Seen,
    design_from,
    design_of,
    metric_of,
    planned,
    require_complete,
)
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, answer


class PlanHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._body = Body(PlanRequest, timeout_s=service.settings.seconds("body_timeout"))
        # Integrals take a second of a core: one plan after the other.
        self._turn = asyncio.Lock()

    async def plan(self, request: web.Request) -> web.Response:
        asked = await self._body.read(request)
        require_complete(asked)
        if asked.experiment is None:
            design = design_of(asked)
        else:
            live = await self._service.node.experiment_changes.known(asked.experiment)
            index = metric_of(asked, live.record)
            seen = await self._service.node.results.up_to_now(live, lambda fold: Seen.of(fold, index))
            design = design_from(asked, live.record, seen)
        async with self._turn:
            found = await asyncio.to_thread(planned, asked, design)
        return answer(request, found)
