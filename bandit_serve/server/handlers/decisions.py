"""Decisions and predictions."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import UNSET

from bandit_serve.decisions.messages import (
    DecideBatch,
    DecideRequest,
    PredictBatch,
    PredictRequest,
    ScoreRequest,
)
from bandit_serve.errors import BanditServeError, Conflict, FieldError, InvalidInput, NotFound, Unavailable
from bandit_serve.server.problems import as_entry
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, negotiated
from bandit_serve.store.keys import COMMON

COLUMNS_OR_REQUESTS = "expected either requests or units"


class DecisionHandlers:
    def __init__(self, service: Service) -> None:
        timeout_s = service.settings.seconds("body_timeout")
        self._service = service
        self._decide = Body(DecideRequest, timeout_s=timeout_s, msgpack=True, optional=True)
        self._predict = Body(PredictRequest, timeout_s=timeout_s, msgpack=True)
        self._score = Body(ScoreRequest, timeout_s=timeout_s, msgpack=True)
        self._decide_batch = Body(DecideBatch, timeout_s=timeout_s, msgpack=True)
        self._predict_batch = Body(PredictBatch, timeout_s=timeout_s, msgpack=True)

    async def decide(self, request: web.Request) -> web.Response:
        service = self._service
        wish = await self._decide.read(request)
        name = request.match_info["experiment"]
        try:
            decided = service.decisions.decide(name, wish)
        except (NotFound, Conflict):
            await self._hear_news(name)
            decided = service.decisions.decide(name, wish)
        service.counters.add("decisions")
        return negotiated(request, decided)

    async def predict(self, request: web.Request) -> web.Response:
        service = self._service
        wish = await self._predict.read(request)
        name = request.match_info["experiment"]
        try:
            predicted = await service.decisions.predict(name, wish)
        except (NotFound, Conflict):
            await self._hear_news(name)
            predicted = await service.decisions.predict(name, wish)
        service.counters.add("predictions")
        return negotiated(request, predicted)

    async def decide_batch(self, request: web.Request) -> web.Response:
        service = self._service
        batch = await self._decide_batch.read(request)
        name = await self._known(request)
        if batch.units is not UNSET:
            if batch.requests is not UNSET:
                raise InvalidInput(
                    f"The batch has both: {COLUMNS_OR_REQUESTS}.", [FieldError("", COLUMNS_OR_REQUESTS)]
                )
            if batch.contexts:
                detail = "this experiment has no context fields"
                raise InvalidInput(f"contexts: {detail}.", [FieldError("contexts", detail)])
            columns = service.decisions.decide_columns(name, batch.units)
            service.counters.add("decisions", len(batch.units))
            return negotiated(request, columns)
        if batch.requests is UNSET:
            raise InvalidInput(
                f"The batch is empty: {COLUMNS_OR_REQUESTS}.", [FieldError("", COLUMNS_OR_REQUESTS)]
            )
        responses: list[Any] = []
        for wish in batch.requests:
            try:
                responses.append(service.decisions.decide(name, wish))
            except BanditServeError as error:
                responses.append(as_entry(error))
        service.counters.add("decisions", len(responses))
        return negotiated(request, {"responses": responses})

    async def predict_batch(self, request: web.Request) -> web.Response:
        service = self._service
        batch = await self._predict_batch.read(request)
        name = await self._known(request)
        responses: list[Any] = []
        for wish in batch.requests:
            try:
                responses.append(await service.decisions.predict(name, wish))
            except BanditServeError as error:
                responses.append(as_entry(error))
        service.counters.add("predictions", len(responses))
        return negotiated(request, {"responses": responses})

    async def score(self, request: web.Request) -> web.Response:
        service = self._service
        wish = await self._score.read(request)
        model, version = request.match_info["model"], request.match_info.get("version")
        try:
            scored = await service.decisions.score(model, version, wish)
        except (NotFound, Conflict):
            await self._hear_news(COMMON)
            scored = await service.decisions.score(model, version, wish)
        service.counters.add("predictions")
        return negotiated(request, scored)

    async def _known(self, request: web.Request) -> str:
        name = request.match_info["experiment"]
        decider = self._service.decisions.deciders.get(name)
        if decider is None or decider.status == "draft":
            await self._hear_news(name)
        if self._service.decisions.decider(name).status == "draft":
            raise Conflict(f"The experiment {name!r} is a draft; start it first.")
        return name

    async def _hear_news(self, owner: str) -> None:
        """What this worker does not know yet another may have been told a moment ago.

        Only answers that would be a refusal wait for the store, and only while it answers.
        """
        tail = self._service.tail
        try:
            await tail.hear_news(owner)
        except Unavailable:
            return
