"""Routes of decisions, predictions and scores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from aiohttp import web
from msgspec import UNSET

from bandit_serve.api.decisions import (
    MAX_BATCH,
    MAX_BATCH_ITEMS,
    Context,
    DecideBatch,
    DecideRequest,
    PredictBatch,
    Predicted,
    PredictRequest,
    RawBatch,
    ScoreRequest,
)
from bandit_serve.base.turns import Turn
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    FieldError,
    InvalidInput,
    NotFound,
    TooLarge,
)
from bandit_serve.server.answer_sizes import AnswerSizes
from bandit_serve.server.news import read_news
from bandit_serve.server.problems import as_entry
from bandit_serve.server.service import Service
from bandit_serve.server.wire import (
    LARGE_BYTES,
    Body,
    Entries,
    Reply,
    Responses,
    encoded,
)
from bandit_serve.server.wire_form import WireForm, form_of
from bandit_serve.store.keys import COMMON

COLUMNS_OR_REQUESTS = "expected either requests or units"


# Entries of a batch of predictions that are under way together.
MAX_BEGUN = 256


class DecisionHandlers:
    def __init__(self, service: Service) -> None:
        timeout_s = service.settings.seconds("body_timeout")
        self._service = service
        self._decide = Body(DecideRequest, timeout_s=timeout_s, flat=True, optional=True)
        self._predict = Body(PredictRequest, timeout_s=timeout_s, flat=True)
        self._score = Body(ScoreRequest, timeout_s=timeout_s, flat=True)
        self._decide_batch = Body(DecideBatch, timeout_s=timeout_s, flat=True)
        self._raw_batch = Body(RawBatch, timeout_s=timeout_s, flat=True)
        self._contexts: Entries[Context | None] = Entries(Context | None, "contexts", MAX_BATCH)
        self._predict_batch = Body(PredictBatch, timeout_s=timeout_s, flat=True)
        self._decide_entries: Entries[DecideRequest] = Entries(DecideRequest, "requests", MAX_BATCH)
        self._sizes = AnswerSizes(service)
        self._predict_entries: Entries[PredictRequest] = Entries(PredictRequest, "requests", MAX_BATCH)

    def decide(self, experiment: str, form: WireForm, body: bytes) -> Reply | Awaitable[Reply]:
        asked = self._decide.decode(form, body)
        try:
            decided = self._service.decisions.decide(experiment, asked)
        except (NotFound, Conflict):
            return self._decide_after_news(experiment, form, asked)
        self._service.counters.add("decisions")
        return encoded(form, decided)

    async def _decide_after_news(self, experiment: str, form: WireForm, asked: DecideRequest) -> Reply:
        await read_news(self._service.node.tail, experiment)
        decided = self._service.decisions.decide(experiment, asked)
        self._service.counters.add("decisions")
        return encoded(form, decided)

    def predict(self, experiment: str, form: WireForm, body: bytes) -> Reply | Awaitable[Reply]:
        asked = self._predict.decode(form, body)
        try:
            prediction = self._service.decisions.predict(experiment, asked)
        except (NotFound, Conflict):
            return self._predict_after_news(experiment, form, asked)
        if not isinstance(prediction, Predicted):
            return self._predict_later(form, prediction)
        self._service.counters.add("predictions")
        return encoded(form, prediction)

    async def _predict_after_news(self, experiment: str, form: WireForm, asked: PredictRequest) -> Reply:
        await read_news(self._service.node.tail, experiment)
        return await self._predict_later(form, self._service.decisions.predict(experiment, asked))

    async def _predict_later(self, form: WireForm, prediction: Predicted | Awaitable[Predicted]) -> Reply:
        predicted = prediction if isinstance(prediction, Predicted) else await prediction
        self._service.counters.add("predictions")
        return encoded(form, predicted)

    async def decide_batch(self, experiment: str, form: WireForm, body: bytes) -> Reply:
        if len(body) > LARGE_BYTES:
            return await self._decide_many(experiment, form, body)
        try:
            batch = self._decide_batch.decode(form, body)
        except InvalidInput as error:
            requests = await self._decide_entries.after(error, form, body)
            return await self._decide_each(experiment, form, requests)
        _check_form(batch)
        if batch.units is UNSET:
            assert batch.requests is not UNSET
            return await self._decide_each(experiment, form, batch.requests)
        return await self._decide_columns(experiment, form, batch.units, batch.contexts)

    async def _decide_many(self, experiment: str, form: WireForm, body: bytes) -> Reply:
        """Decides a batch whose reading takes long: entry by entry, with turns for other requests."""
        batch = self._raw_batch.decode(form, body)
        _check_form(batch)
        if batch.units is UNSET:
            assert batch.requests is not UNSET
            requests = await self._decide_entries.each_of(form, batch.requests)
            return await self._decide_each(experiment, form, requests)
        contexts = None if batch.contexts is None else await self._contexts.read(form, batch.contexts)
        return await self._decide_columns(experiment, form, batch.units, contexts)

    async def _decide_columns(
        self,
        experiment: str,
        form: WireForm,
        units: list[str],
        contexts: list[Context | None] | None,
    ) -> Reply:
        self._service.admit_batch(len(units))
        await self._known(experiment)
        columns = await self._service.decisions.decide_columns(experiment, units, contexts)
        self._service.counters.add("decisions", len(units))
        return encoded(form, columns)

    async def _decide_each(
        self, experiment: str, form: WireForm, requests: Sequence[DecideRequest | InvalidInput]
    ) -> Reply:
        self._service.admit_batch(len(requests))
        await self._known(experiment)
        await self._sizes.check(experiment, len(requests))
        responses, turn = Responses(form), Turn()
        for asked in requests:
            try:
                if isinstance(asked, InvalidInput):
                    raise asked
                response: Any = self._service.decisions.decide(experiment, asked)
            except BanditServeError as error:
                response = as_entry(error)
            responses.add(response)
            if turn.over:
                await turn.give_way()
        self._service.counters.add("decisions", len(responses))
        return responses.reply()

    async def predict_batch(self, experiment: str, form: WireForm, body: bytes) -> Reply:
        service = self._service
        requests = await self._requests_to_predict(form, body)
        service.admit_batch(len(requests))
        items = [_items(asked) for asked in requests if isinstance(asked, PredictRequest)]
        if sum(ids + k for ids, k in items) > MAX_BATCH_ITEMS:
            raise TooLarge(
                f"The batch asks for more than {MAX_BATCH_ITEMS} items; send fewer requests at once."
            )
        await self._known(experiment)
        n_items, n_ranked = sum(ids for ids, _ in items), sum(k for _, k in items)
        await self._sizes.check_predictions(experiment, len(requests), n_items, n_ranked)
        responses, turn = Responses(form), Turn()
        at_once = min(MAX_BEGUN, service.decisions.rows_at_once(experiment))
        for first in range(0, len(requests), at_once):
            begun: list[Any] = []
            try:
                for asked in requests[first : first + at_once]:
                    begun.append(self._begin_to_predict(experiment, asked))
                    if turn.over:
                        await turn.give_way()
                for each in begun:
                    try:
                        response: Any = await each if isinstance(each, Awaitable) else each
                    except BanditServeError as error:
                        response = as_entry(error)
                    responses.add(response)
                    if turn.over:
                        await turn.give_way()
            finally:
                for each in begun:
                    if isinstance(each, asyncio.Future):
                        each.cancel()
        service.counters.add("predictions", len(responses))
        return responses.reply()

    def _begin_to_predict(
        self, experiment: str, asked: PredictRequest | InvalidInput
    ) -> Predicted | Awaitable[Predicted] | dict[str, Any]:
        """Begins an entry of a batch. Entries that are begun before one is awaited share the runs of their models."""
        try:
            if isinstance(asked, InvalidInput):
                raise asked
            prediction = self._service.decisions.predict(experiment, asked)
            # As a task, so that its time ends with its own answer and not with those before it.
            return prediction if isinstance(prediction, Predicted) else asyncio.ensure_future(prediction)
        except BanditServeError as error:
            return as_entry(error)

    async def _requests_to_predict(
        self, form: WireForm, body: bytes
    ) -> Sequence[PredictRequest | InvalidInput]:
        if len(body) > LARGE_BYTES:
            entries = await self._predict_entries.each(form, body)
            if entries is not None:
                return entries
        try:
            return self._predict_batch.decode(form, body).requests
        except InvalidInput as error:
            return await self._predict_entries.after(error, form, body)

    async def score(self, request: web.Request) -> web.Response:
        service = self._service
        asked = await self._score.read(request)
        model, version = request.match_info["model"], request.match_info.get("version")
        try:
            scored = await service.decisions.score(model, version, asked)
        except (NotFound, Conflict):
            await read_news(service.node.tail, COMMON)
            scored = await service.decisions.score(model, version, asked)
        service.counters.add("predictions")
        reply = encoded(form_of(request.headers), scored)
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    async def _known(self, name: str) -> None:
        decider = self._service.decisions.find(name)
        if decider is None or decider.status == "draft":
            await read_news(self._service.node.tail, name)
        if self._service.decisions.decider(name).status == "draft":
            raise Conflict(f"The experiment {name!r} is a draft; start it first.")


def _items(asked: PredictRequest) -> tuple[int, int]:
    """Numbers of items: those that a request names, and those that it asks for."""
    return len(asked.item_ids or ()), asked.k or 0


def _check_form(batch: DecideBatch | RawBatch) -> None:
    """Raises `InvalidInput` for a batch that has none of the two forms, or both."""
    if batch.units is UNSET and batch.requests is UNSET:
        fault = "is empty"
    elif batch.requests is not UNSET and (batch.units is not UNSET or batch.contexts is not None):
        fault = "has both"
    else:
        return
    raise InvalidInput(f"The batch {fault}: {COLUMNS_OR_REQUESTS}.", [FieldError("", COLUMNS_OR_REQUESTS)])
