"""Routes of the catalogue of metrics."""

from __future__ import annotations

from aiohttp import web

from bandit_serve.api.definitions import definition_uses, definition_view, metric_use
from bandit_serve.base.turns import Turn
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.registry.definitions import definition_in
from bandit_serve.server.page import page
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, actor, answer, answer_in_turns, revision


class DefinitionHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._changes = service.node.definition_changes
        self._definition = Body(MetricDefinition, timeout_s=service.settings.seconds("body_timeout"))

    async def list_all(self, request: web.Request) -> web.Response:
        catalogue = await self._changes.known()
        names, after = page(request, sorted(catalogue))
        views = (definition_view(name, catalogue[name]) for name in names)
        return await answer_in_turns(request, {"metrics": views, **after}, "ask for fewer with ?limit=")

    async def show(self, request: web.Request) -> web.Response:
        """Answers with a definition, and with the experiments that have a metric of its name, in turns."""
        name = _name(request)
        defined = definition_in(await self._changes.known(), name)
        await self._service.node.tail.refresh_all()
        uses, turn = [], Turn()
        for _, record in sorted(self._service.node.replica.records().items()):
            use = metric_use(name, defined.definition, record)
            if use is not None:
                uses.append(use)
            if turn.over:
                await turn.give_way()
        return answer(request, definition_uses(name, defined, uses), etag=defined.revision)

    async def define(self, request: web.Request) -> web.Response:
        definition = await self._definition.read(request)
        name = _name(request)
        made = await self._changes.define(name, definition, actor(request), if_match=revision(request))
        status = 201 if made.is_new else 200
        return answer(request, definition_view(name, made.defined), status, made.defined.revision)

    async def remove(self, request: web.Request) -> web.Response:
        await self._changes.remove(_name(request), actor(request), if_match=revision(request))
        return web.Response(status=204)


def _name(request: web.Request) -> str:
    return request.match_info["metric"]
