"""Routes of the OpenFeature Remote Evaluation Protocol (OFREP): experiments as flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from bandit_serve.api.flags import EvaluationRequest
from bandit_serve.base.nesting import TOO_DEEP
from bandit_serve.base.turns import Turn
from bandit_serve.decisions.flags import Flags
from bandit_serve.errors import (
    FieldError,
    InvalidInput,
    NoTargetingKey,
    NotFound,
    TooLarge,
    Unparsable,
)
from bandit_serve.server.news import read_news
from bandit_serve.server.service import Service
from bandit_serve.server.wire import MAX_ANSWER_BYTES, Body, answer, encode_json
from bandit_serve.server.wire_form import JSON

KEY = "targetingKey"
A_KEY = "expected a text, the unit"


class FlagHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._flags: Flags | None = None
        self._body = Body(
            EvaluationRequest, timeout_s=service.settings.seconds("body_timeout"), msgpack=False
        )

    @property
    def flags(self) -> Flags:
        """Flags of the service, which has decisions only once its state is loaded."""
        if self._flags is None:
            service = self._service
            self._flags = Flags(service.decisions, service.node.store.clock.now_ms)
            service.node.replica.on_deleted(self._flags.forget)
        return self._flags

    async def evaluate(self, request: web.Request) -> web.Response:
        name = request.match_info["experiment"]
        unit, context = await self._read(request)
        try:
            needs_unit = self.flags.needs_unit(name)
        except NotFound:
            await read_news(self._service.node.tail, name)
            needs_unit = self.flags.needs_unit(name)
        if needs_unit and unit is None:
            raise NoTargetingKey(f"This experiment asks for a unit: context.{KEY} is needed.")
        flag = self.flags.evaluate(name, unit, context)
        self._service.counters.add("decisions")
        return answer(request, flag)

    async def evaluate_all(self, request: web.Request) -> web.Response:
        unit, context = await self._read(request)
        if unit is None:
            raise NoTargetingKey(f"Flags are evaluated for a user: context.{KEY} is needed.")
        assignments = await self.flags.all_for(unit, context)
        etag = f'"{self.flags.version_of(assignments)}"'
        if _names(request.headers.get(hdrs.IF_NONE_MATCH, ""), etag):
            return web.Response(status=304, headers={"ETag": etag})
        body, turn = bytearray(b'{"flags":['), Turn()
        for i, assignment in enumerate(assignments):
            body += b"," * (i > 0) + encode_json(self.flags.signed(assignment))
            if len(body) > MAX_ANSWER_BYTES:
                raise TooLarge(
                    f"All flags are larger than {MAX_ANSWER_BYTES} bytes; evaluate them one by one."
                )
            if turn.over:
                await turn.give_way()
        return web.Response(
            body=bytes(body) + b'],"metadata":{}}', headers={hdrs.CONTENT_TYPE: JSON, "ETag": etag}
        )

    async def _read(self, request: web.Request) -> tuple[str | None, Mapping[str, Any]]:
        """Unit, None without one, and context of a request."""
        try:
            asked = await self._body.read(request)
        except TooLarge:
            raise
        except InvalidInput as error:
            if error.errors and error.errors[0].detail != TOO_DEEP:
                raise
            raise Unparsable(str(error), error.errors) from None
        context = asked.context or {}
        unit = context.get(KEY)
        if unit is not None and not isinstance(unit, str):
            at = f"context.{KEY}"
            raise InvalidInput(f"{at}: {A_KEY}.", [FieldError(at, A_KEY)])
        return unit or None, context


def _names(if_none_match: str, etag: str) -> bool:
    """Whether `If-None-Match` (RFC 9110, 13.1.2) names an entity tag."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
