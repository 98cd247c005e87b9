"""Routes of callers' keys. A tenant's keys are all that its own callers see and change."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET

from bandit_serve.api.keys import CreatedKey, KeyRequest, key_view
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.errors import NotFound
from bandit_serve.server.page import page
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, actor, answer, answer_in_turns


class KeyHandlers:
    def __init__(self, service: Service) -> None:
        node = service.root.node
        self._tenant = service.tenant
        self._store = node.store
        self._changes = node.key_changes
        self._body = Body(KeyRequest, timeout_s=service.settings.seconds("body_timeout"))

    async def list_all(self, request: web.Request) -> web.Response:
        keys, now_ms = await self._changes.known(), self._store.clock.now_ms()
        seen = {id: key for id, key in keys.items() if self._tenant in (None, key.tenant)}
        ids, after = page(request, sorted(seen))
        views = (key_view(seen[id], now_ms) for id in ids)
        return await answer_in_turns(request, {"keys": views, **after}, "ask for fewer with ?limit=")

    async def create(self, request: web.Request) -> web.Response:
        asked = await self._body.read(request)
        tenant = self._tenant if asked.tenant is UNSET else asked.tenant
        if self._tenant not in (None, tenant):
            raise NotFound(f"There is no tenant {tenant!r}.")
        life_ms = None if asked.expires is UNSET else parse_duration_ms(asked.expires)
        made = await self._changes.create(asked.name or None, asked.scope, life_ms, actor(request), tenant)
        return answer(request, CreatedKey(made.event.id, made.text), 201)

    async def revoke(self, request: web.Request) -> web.Response:
        await self._changes.revoke(request.match_info["key"], actor(request), self._tenant)
        return web.Response(status=204)
