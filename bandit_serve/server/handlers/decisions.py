"""Decisions and predictions."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from aiohttp import web
from msgspec import UNSET

from bandit_serve.decisions.messages import (
    MAX_BATCH,
    DecideBatch,
    DecideRequest,
    PredictBatch,
    Predicted,
    PredictRequest,
    ScoreRequest,
)
from bandit_serve.errors import BanditServeError, Conflict, FieldError, InvalidInput, NotFound, Unavailable
from bandit_serve.server.problems import as_entry
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, Entries, Reply, negotiated
from bandit_serve.store.keys import COMMON
from bandit_serve.turn import Turn

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
        self._decide_entries = Entries(DecideRequest, "requests", MAX_BATCH)
        self._predict_entries = Entries(PredictRequest, "requests", MAX_BATCH)

    def decide(self, experiment: str, headers: Mapping[str, str], body: bytes) -> Reply | Awaitable[Reply]:
        wish = self._decide.decode(headers, body)
        try:
            decided = self._service.decisions.decide(experiment, wish)
        except (NotFound, Conflict):
            return self._decide_after_news(experiment, headers, wish)
        self._service.counters.add("decisions")
        return negotiated(headers, decided)

    async def _decide_after_news(
        self, experiment: str, headers: Mapping[str, str], wish: DecideRequest
    ) -> Reply:
        await self._hear_news(experiment)
        decided = self._service.decisions.decide(experiment, wish)
        self._service.counters.add("decisions")
        return negotiated(headers, decided)

    def predict(self, experiment: str, headers: Mapping[str, str], body: bytes) -> Reply | Awaitable[Reply]:
        wish = self._predict.decode(headers, body)
        try:
            found = self._service.decisions.predict(experiment, wish)
        except (NotFound, Conflict):
            return self._predict_after_news(experiment, headers, wish)
        if not isinstance(found, Predicted):
            return self._predict_later(headers, found)
        self._service.counters.add("predictions")
        return negotiated(headers, found)

    async def _predict_after_news(
        self, experiment: str, headers: Mapping[str, str], wish: PredictRequest
    ) -> Reply:
        await self._hear_news(experiment)
        return await self._predict_later(headers, self._service.decisions.predict(experiment, wish))

    async def _predict_later(
        self, headers: Mapping[str, str], found: Predicted | Awaitable[Predicted]
    ) -> Reply:
        predicted = found if isinstance(found, Predicted) else await found
        self._service.counters.add("predictions")
        return negotiated(headers, predicted)

    async def decide_batch(self, experiment: str, headers: Mapping[str, str], body: bytes) -> Reply:
        try:
            batch = self._decide_batch.decode(headers, body)
        except InvalidInput as error:
            wishes = self._decide_entries.after(error, headers, body)
            return await self._decide_each(experiment, headers, wishes)
        if batch.units is UNSET:
            if batch.requests is UNSET:
                raise InvalidInput(
                    f"The batch is empty: {COLUMNS_OR_REQUESTS}.", [FieldError("", COLUMNS_OR_REQUESTS)]
                )
            return await self._decide_each(experiment, headers, batch.requests)
        if batch.requests is not UNSET:
            raise InvalidInput(
                f"The batch has both: {COLUMNS_OR_REQUESTS}.", [FieldError("", COLUMNS_OR_REQUESTS)]
            )
        await self._known(experiment)
        columns = await self._service.decisions.decide_columns(experiment, batch.units, batch.contexts)
        self._service.counters.add("decisions", len(batch.units))
        return negotiated(headers, columns)

    async def _decide_each(
        self, experiment: str, headers: Mapping[str, str], wishes: Sequence[DecideRequest | InvalidInput]
    ) -> Reply:
        await self._known(experiment)
        responses: list[Any] = []
        turn = Turn()
        for wish in wishes:
            try:
                if isinstance(wish, InvalidInput):
                    raise wish
                responses.append(self._service.decisions.decide(experiment, wish))
            except BanditServeError as error:
                responses.append(as_entry(error))
            if turn.over:
                await turn.give_way()
        self._service.counters.add("decisions", len(responses))
        return negotiated(headers, {"responses": responses})

    async def predict_batch(self, experiment: str, headers: Mapping[str, str], body: bytes) -> Reply:
        service = self._service
        wishes: Sequence[PredictRequest | InvalidInput]
        try:
            wishes = self._predict_batch.decode(headers, body).requests
        except InvalidInput as error:
            wishes = self._predict_entries.after(error, headers, body)
        await self._known(experiment)
        responses: list[Any] = []
        turn = Turn()
        for wish in wishes:
            try:
                if isinstance(wish, InvalidInput):
                    raise wish
                found = service.decisions.predict(experiment, wish)
                responses.append(found if isinstance(found, Predicted) else await found)
            except BanditServeError as error:
                responses.append(as_entry(error))
            if turn.over:
                await turn.give_way()
        service.counters.add("predictions", len(responses))
        return negotiated(headers, {"responses": responses})

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
        reply = negotiated(request.headers, scored)
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    async def _known(self, name: str) -> None:
        decider = self._service.decisions.find(name)
        if decider is None or decider.status == "draft":
            await self._hear_news(name)
        if self._service.decisions.decider(name).status == "draft":
            raise Conflict(f"The experiment {name!r} is a draft; start it first.")

    async def _hear_news(self, owner: str) -> None:
        """What this worker does not know yet another may have been told a moment ago.

        Only answers that would be a refusal wait for the store, and only while it answers.
        """
        tail = self._service.tail
        try:
            await tail.hear_news(owner)
        except Unavailable:
            return
