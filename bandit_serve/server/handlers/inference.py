"""Routes of Open Inference v2: models and experiments, asked with tensors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from inspect import isawaitable
from typing import Any

from aiohttp import web
from msgspec import UNSET

from bandit_serve import __version__
from bandit_serve.api.decisions import (
    Decided,
    DecideRequest,
    ModelName,
    Predicted,
    PredictRequest,
    Scored,
    ScoreRequest,
)
from bandit_serve.api.inference import (
    ITEM,
    PLATFORM,
    SCORE,
    UNIT,
    IndexEntry,
    IndexRequest,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from bandit_serve.base.names import check_all_outside
from bandit_serve.base.turns import Turn
from bandit_serve.decisions.control_decider import ControlDecider
from bandit_serve.decisions.decider import Decider
from bandit_serve.errors import Conflict, NotFound, TooLarge, Unavailable
from bandit_serve.registry.registry import SERVABLE, Version
from bandit_serve.server.answer_sizes import AnswerSizes
from bandit_serve.server.declared_tensors import as_declared, common_names, common_outputs, own_outputs
from bandit_serve.server.news import read_news
from bandit_serve.server.rows import (
    InferenceRows,
    decision_parameters,
    decisions,
    n_rows,
    nothing_in_common,
    predictions,
)
from bandit_serve.server.service import Service
from bandit_serve.server.tensors import (
    HEADER_LENGTH,
    check_forms,
    check_media,
    check_names,
    read_tensors,
    respond,
    split,
    wanted_outputs,
)
from bandit_serve.server.wire import JSON_FORM, MAX_ANSWER_BYTES, Body, answer, encode_json, read_bytes
from bandit_serve.server.wire_form import JSON
from bandit_serve.serving.kinds import list_inputs, outputs_as_arm, rows_at_once
from bandit_serve.serving.loaded import require_servable
from bandit_serve.serving.servable import Described, described
from bandit_serve.store.keys import COMMON

EXTENSIONS = ["binary_tensor_data"]
OF_A_DECISION = (TensorMetadata("arm", "BYTES", [-1]), TensorMetadata("payload", "BYTES", [-1]))
BEST_ITEMS = (TensorMetadata(ITEM, "BYTES", [-1, -1]), TensorMetadata(SCORE, "FP64", [-1, -1]))

Subject = Version | Decider | ControlDecider


class InferenceHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._timeout_s = service.settings.seconds("body_timeout")
        self._body = Body(InferenceRequest, timeout_s=self._timeout_s, msgpack=False)
        self._sizes = AnswerSizes(service)
        self._index = Body(IndexRequest, timeout_s=self._timeout_s, msgpack=False, optional=True)

    async def live(self, request: web.Request) -> web.Response:
        return answer(request, ServerLive(True))

    async def ready(self, request: web.Request) -> web.Response:
        if not self._service.ready or self._service.draining:
            raise Unavailable("This worker is not ready.")
        return answer(request, ServerReady(True))

    async def about(self, request: web.Request) -> web.Response:
        return answer(request, ServerMetadata(PLATFORM, __version__, EXTENSIONS))

    async def model(self, request: web.Request) -> web.Response:
        """Describes a model or an experiment, with the tensors of the version that would answer."""
        name = request.match_info["model"]
        subject = await self._subject(request)
        if isinstance(subject, Version):
            versions = self._service.node.replica.registry.model(name).versions
            about = await self._described(subject)
            inputs, outputs = ((), ()) if about is None else (about.inputs, about.outputs)
            names = [each.version for each in versions.values() if each.status in SERVABLE]
            return answer(request, ModelMetadata(name, names, PLATFORM, list(inputs), list(outputs)))
        inputs, outputs = await self._tensors_of_experiment(subject)
        return answer(
            request,
            ModelMetadata(name, [], PLATFORM, [*inputs, TensorMetadata(UNIT, "BYTES", [-1])], outputs),
        )

    async def model_ready(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        subject = await self._subject(request)
        if isinstance(subject, Version):
            require_servable(subject)
        references = (
            [(subject.model, subject.version)]
            if isinstance(subject, Version)
            else [
                (model.id, model.version)
                for arm in subject.active
                if (model := subject.models[arm]) is not None
            ]
        )
        await asyncio.gather(*(self._check_ready(*reference) for reference in references))
        return answer(request, ModelReady(name, True))

    async def _check_ready(self, model: str, version: str) -> None:
        node = self._service.node
        registered = node.replica.registry.version(model, version)
        loaded = node.models.get(model, version) or await node.models.load(registered)
        await loaded.check_ready()

    async def index(self, request: web.Request) -> web.Response:
        asked = await self._index.read(request)
        content, turn = bytearray(b"["), Turn()
        for entry in self._entries():
            if entry.state == "READY" or not asked.ready:
                content += b"," * (len(content) > 1) + encode_json(entry)
            if len(content) > MAX_ANSWER_BYTES:
                raise TooLarge(
                    f"The index is larger than {MAX_ANSWER_BYTES} bytes; ask for models one by one."
                )
            if turn.over:
                await turn.give_way()
        return web.Response(body=bytes(content) + b"]", headers={"Content-Type": JSON})

    def _entries(self) -> Iterator[IndexEntry]:
        models = self._service.node.replica.registry.models
        for name in sorted(models):
            for version in list(models[name].versions.values()):
                if version.status in SERVABLE:
                    yield IndexEntry(name, version.version, "READY", "")
                else:
                    yield IndexEntry(
                        name, version.version, "UNAVAILABLE", f"The version is {version.status}."
                    )
        for name in self._service.decisions.names():
            decider = self._service.decisions.find(name)
            if decider is None or not decider.decides or name in models:
                continue
            if decider.status == "draft":
                yield IndexEntry(name, "", "UNAVAILABLE", "The experiment is a draft.")
            else:
                yield IndexEntry(name, "", "READY", "")

    async def infer(self, request: web.Request) -> web.Response:
        check_media(request.headers)
        head, binary = split(request.headers.get(HEADER_LENGTH), await read_bytes(request, self._timeout_s))
        asked = self._body.decode(JSON_FORM, head)
        check_forms(asked)
        subject = await self._subject(request)
        tensors = await read_tensors(asked, binary)
        name = request.match_info["model"]
        if isinstance(subject, Version):
            self._service.admit_batch(n_rows(tensors))
            about = await self._described(subject)
            rows = InferenceRows(asked, tensors, about=about)
            scored = await self._score(name, request.match_info.get("version"), rows, rows_at_once(subject))
            outputs = await predictions(scored)
            if not outputs:
                raise nothing_in_common()
            if scored[0].model_version != subject.version:  # another one is in production meanwhile
                about = described(self._service.node.models.get(name, scored[0].model_version))
            if about is not None:
                outputs = await own_outputs(outputs, about, {each.name for each in asked.outputs or ()})
            check_names(asked, [output.name for output in outputs])
            response = InferenceResponse(name, [], scored[0].model_version, asked.id)
            return await respond(response, wanted_outputs(asked, outputs))
        rows = InferenceRows(asked, tensors, subject.attributes)
        self._service.admit_batch(rows.n)
        known = self._known_outputs(subject, rows)
        names = common_names(known) if known else None
        check_names(asked, names)
        rows.check_list(self._lists_of(subject))
        if names == [] and rows.n > 1:
            raise nothing_in_common()
        if _only_decides(subject):
            await self._sizes.check(name, rows.n)
        else:
            await self._sizes.check_predictions(name, rows.n, 0, rows.n * (rows.k or 0))
        check_all_outside(rows.units or (), f"inputs.{UNIT}")
        decided: Sequence[Decided | Predicted]
        if _only_decides(subject):
            decided = drawn = await self._decide(name, rows)
            outputs = decisions(drawn)
        else:
            decided = predicted = await self._predict(name, rows)
            outputs = await as_declared(await predictions(predicted), common_outputs(known))
        response = InferenceResponse(name, [], UNSET, asked.id, decision_parameters(decided))
        return await respond(response, wanted_outputs(asked, outputs))

    async def _score(
        self, model: str, version: str | None, rows: InferenceRows, at_once: int
    ) -> list[Scored]:
        """Scores all rows; a few at a time are under way, so that they share runs of the model."""
        ways = self._service.decisions
        scored = await _all((ways.score(model, version, _plain(row)) for row in rows), at_once)
        self._service.counters.add("predictions", rows.n)
        return scored

    async def _decide(self, experiment: str, rows: InferenceRows) -> list[Decided]:
        ways, turn = self._service.decisions, Turn()
        decided = []
        for row in rows:
            decided.append(ways.decide(experiment, DecideRequest(row.unit, row.context)))
            if turn.over:
                await turn.give_way()
        self._service.counters.add("decisions", rows.n)
        return decided

    async def _predict(self, experiment: str, rows: InferenceRows) -> list[Predicted]:
        """Decides and predicts for all rows, after all of them have been checked: no row is drawn for in vain."""
        ways, turn = self._service.decisions, Turn()
        for row in rows:
            ways.check(experiment, row)
            if turn.over:
                await turn.give_way()
        predicted = await _all((ways.predict(experiment, row) for row in rows), ways.rows_at_once(experiment))
        self._service.counters.add("predictions", rows.n)
        return predicted

    async def _subject(self, request: web.Request) -> Subject:
        """Version or experiment that a path names."""
        name, version = request.match_info["model"], request.match_info.get("version")
        try:
            return self._find(name, version)
        except (NotFound, Conflict):
            await read_news(self._service.node.tail, COMMON, name)
            return self._find(name, version)

    def _find(self, name: str, version: str | None) -> Subject:
        registry = self._service.node.replica.registry
        if name in registry.models:
            return registry.production(name) if version is None else registry.version(name, version)
        decider = self._service.decisions.find(name)
        if version is not None or decider is None or decider.status == "draft":
            raise NotFound(f"There is no model {name!r}, and no experiment of this name that was started.")
        if not decider.decides:
            raise NotFound(f"There is no model {name!r}: the experiment of this name gives lists.")
        return decider

    async def _described(self, version: Version) -> Described | None:
        models = self._service.node.models
        require_servable(version)
        return described(models.get(version.model, version.version) or await models.load(version))

    async def _tensors_of_experiment(
        self, decider: Decider | ControlDecider
    ) -> tuple[list[TensorMetadata], list[TensorMetadata]]:
        """Inputs that some arm takes, and outputs that all arms give, of the arms whose versions can be loaded."""
        if _only_decides(decider):
            return [], list(OF_A_DECISION)
        registry = self._service.node.replica.registry
        inputs: dict[str, TensorMetadata] = {}
        outputs: list[Sequence[TensorMetadata]] = []
        for reference in _references(decider):
            with contextlib.suppress(Unavailable, NotFound, Conflict):
                about = await self._described(registry.version(reference.id, reference.version))
                inputs |= {} if about is None else {tensor.name: tensor for tensor in about.inputs}
                outputs.append(() if about is None else about.outputs_as_arm)
        return list(inputs.values()), common_outputs(outputs)

    def _known_outputs(
        self, decider: Decider | ControlDecider, rows: InferenceRows
    ) -> list[Sequence[TensorMetadata]]:
        """Outputs of each arm whose outputs are known before it is asked."""
        if _only_decides(decider):
            return [OF_A_DECISION]
        if rows.k is not None:
            return [BEST_ITEMS]
        registry, models = self._service.node.replica.registry, self._service.node.models
        known: list[Sequence[TensorMetadata]] = []
        for reference in _references(decider):
            with contextlib.suppress(NotFound):
                outputs = outputs_as_arm(registry.version(reference.id, reference.version))
                if outputs is None:
                    version = described(models.get(reference.id, reference.version))
                    outputs = None if version is None else version.outputs_as_arm
                if outputs:
                    known.append(outputs)
        return known

    def _lists_of(self, decider: Decider | ControlDecider) -> set[str]:
        """Names of inputs by which the arms take a list of numbers; none where some arm takes one by any name."""
        if _only_decides(decider):
            return set()
        registry, models = self._service.node.replica.registry, self._service.node.models
        names: set[str] = set()
        for reference in _references(decider):
            with contextlib.suppress(NotFound):
                lists = list_inputs(registry.version(reference.id, reference.version))
                if lists is None:
                    version = described(models.get(reference.id, reference.version))
                    if version is None or not version.features:
                        return set()
                    lists = version.features
                names.update(lists)
        return names


def _only_decides(decider: Decider | ControlDecider) -> bool:
    """Whether an experiment has an arm without a model, so that it can not predict."""
    return any(decider.models[arm] is None for arm in decider.active)


def _references(decider: Decider | ControlDecider) -> list[ModelName]:
    return [model for arm in decider.active if (model := decider.models[arm]) is not None]


async def _all(coming: Iterable[Any], at_once: int) -> list[Any]:
    """Awaits what has to be awaited, `at_once` of it together; an error comes when what was begun has ended."""
    done: list[Any] = []
    some: list[Any] = []
    turn = Turn()
    try:
        for each in coming:
            some.append(each)
            if len(some) >= at_once:
                begun, some = some, []
                done += await _together(begun)
            elif turn.over:
                await turn.give_way()
    except BaseException:
        await asyncio.gather(*filter(isawaitable, some), return_exceptions=True)
        raise
    return done + await _together(some)


async def _together(some: Sequence[Any]) -> list[Any]:
    results = list(some)
    places = [i for i, each in enumerate(some) if isawaitable(each)]
    answers = await asyncio.gather(*(some[i] for i in places), return_exceptions=True)
    for i, each in zip(places, answers, strict=True):
        if isinstance(each, BaseException):
            raise each
        results[i] = each
    return results


def _plain(row: PredictRequest) -> ScoreRequest:
    """Request without what is of an experiment."""
    return ScoreRequest(user_id=row.user_id, item_id=row.item_id, k=row.k, features=row.features)
