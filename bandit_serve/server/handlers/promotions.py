"""Routes of promotions: a version's way into production, with the evidence of each step."""

from __future__ import annotations

from aiohttp import web

from bandit_serve.api.promotions import CancelRequest, PromotionList, PromotionRequest, promotion_view
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.registry.promotions import promotion_in
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, actor, answer


class PromotionHandlers:
    def __init__(self, service: Service) -> None:
        self._changes = service.node.model_changes
        self._promoting = Promoting(service.node)
        timeout_s = service.settings.seconds("body_timeout")
        self._begin = Body(PromotionRequest, timeout_s=timeout_s)
        self._cancel = Body(CancelRequest, timeout_s=timeout_s, optional=True)

    async def begin(self, request: web.Request) -> web.Response:
        asked = await self._begin.read(request)
        model = request.match_info["model"]
        begun = await self._promoting.begin(model, asked.version, asked.plan, actor(request))
        return answer(request, promotion_view(begun), status=202)

    async def list_all(self, request: web.Request) -> web.Response:
        registry, model = await self._changes.known(), request.match_info["model"]
        registry.model(model)
        known = registry.promotions.get(model, ())
        return answer(request, PromotionList([promotion_view(each) for each in reversed(known)]))

    async def show(self, request: web.Request) -> web.Response:
        registry = await self._changes.known()
        return answer(request, promotion_view(promotion_in(registry.promotions, *_reference(request))))

    async def cancel(self, request: web.Request) -> web.Response:
        asked = await self._cancel.read(request)
        ended = await self._promoting.cancel(*_reference(request), actor(request), asked.reason)
        return answer(request, promotion_view(ended))


def _reference(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info["promotion"]
