"""Version whose answers come from an upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from msgspec import structs

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.api.inference import ITEM, PREDICTION, USER, Datatype, TensorMetadata
from bandit_serve.errors import InvalidInput, ModelLost, UpstreamFailed
from bandit_serve.serving.datatypes import in_common
from bandit_serve.serving.json_questions import json_question, json_scores
from bandit_serve.serving.open_inference import InferInputs, TensorAbout, Unfit, check_question, infer_scores
from bandit_serve.serving.request_form import check_form
from bandit_serve.serving.servable import BackgroundScores, Check, Scores
from bandit_serve.upstreams.pool import Endpoint, UpstreamPool
from bandit_serve.upstreams.upstream import Upstream

if TYPE_CHECKING:
    from yarl import URL

WARM_S = 2.0
"""Time in which an upstream says that it is ready, and what inputs its model has."""
MAX_TRIALS_AT_ONCE = 16
"""Requests of a shadow that are under way at a time."""
MAX_FAILURES_IN_TURN = 3
"""After so many the rest of the requests at hand is not asked, and has failed: a shadow that hangs delays others."""
VERSION_BYTES = 2**16
"""About the memory that a version and its connections take."""


class Speech(Protocol):
    """Protocol that an upstream speaks. `ask` raises `ContentRefused` and `UpstreamFailed`, as its endpoint does.

    `inputs` and `outputs` are the model's tensors, empty where the protocol does not tell them. `prediction` is the
    name of the output that is the prediction.
    """

    @property
    def inputs(self) -> Sequence[TensorMetadata]: ...

    @property
    def outputs(self) -> Sequence[TensorMetadata]: ...

    @property
    def prediction(self) -> str: ...

    async def warm(self) -> None: ...

    async def check_ready(self) -> None: ...

    async def ask(self, request: ScoreRequest, alone: bool) -> Scores: ...


class JsonSpeech:
    """Protocol `json`: the request's ids and features are posted as they are. It has no call for readiness."""

    inputs: Sequence[TensorMetadata] = ()
    outputs: Sequence[TensorMetadata] = ()
    prediction = PREDICTION

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def warm(self) -> None:
        self._endpoint.url()
        await self._endpoint.read_headers()

    async def check_ready(self) -> None:
        """Nothing: this protocol has no call for it."""

    async def ask(self, request: ScoreRequest, alone: bool) -> Scores:
        content = await self._endpoint.post(self._endpoint.url(), json_question(request))
        return _read(self._endpoint, json_scores, request, content)


class OpenInferenceSpeech:
    """Protocol `open-inference`, version 2. The names and datatypes of inputs are read once, by `warm`."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model
        self._inputs = InferInputs()

    @property
    def inputs(self) -> Sequence[TensorMetadata]:
        return [_metadata(tensor) for tensor in self._inputs.by_name.values()]

    @property
    def outputs(self) -> Sequence[TensorMetadata]:
        return [_output(_metadata(tensor)) for tensor in self._inputs.outputs]

    @property
    def prediction(self) -> str:
        return self._inputs.outputs[0].name if self._inputs.is_regression else PREDICTION

    def _url(self, *below: str) -> URL:
        return self._endpoint.url("v2", "models", self._model, *below)

    async def warm(self) -> None:
        endpoint = self._endpoint
        await endpoint.read_headers()
        await endpoint.get(self._url("ready"), WARM_S)
        content = await endpoint.get(self._url(), WARM_S)
        try:
            self._inputs = InferInputs(content)
        except Exception as error:
            raise endpoint.failed("gave metadata that are none").noted(_noted(error)) from None

    async def check_ready(self) -> None:
        await self._endpoint.get(self._url("ready"), self._endpoint.timeout_s)

    async def ask(self, request: ScoreRequest, alone: bool) -> Scores:
        try:
            question = self._inputs.question(request, alone)
        except Unfit as error:
            raise self._endpoint.content_refused(f"as {error}") from None
        content = await self._endpoint.post(self._url("infer"), question)
        read = partial(infer_scores, is_regression=self._inputs.is_regression)
        return _read(self._endpoint, read, request, content)


def _metadata(tensor: TensorAbout) -> TensorMetadata:
    # BF16 is none of our own datatypes, and FP32 holds its numbers. Others are handed on as the upstream says them.
    datatype = "FP32" if tensor.datatype == "BF16" else tensor.datatype
    return TensorMetadata(tensor.name, cast("Datatype", datatype), tensor.shape)


def _output(tensor: TensorMetadata) -> TensorMetadata:
    """Output of n rows of a model that is asked for one row at a time: some say that one, or no rows at all."""
    shape = tensor.shape[1:] if tensor.shape[:1] in ([-1], [1]) else tensor.shape
    return structs.replace(tensor, shape=[-1, *shape])


def _as_arm(tensor: TensorMetadata, prediction: str) -> TensorMetadata:
    """Output as an arm gives it: one value of a row has no axes of its own."""
    if tensor.name in (prediction, PREDICTION):
        return TensorMetadata(PREDICTION, "FP64", [-1])
    shape = [-1] if all(size == 1 for size in tensor.shape[1:]) else tensor.shape
    return TensorMetadata(tensor.name, in_common(tensor.datatype), shape)


def _read(endpoint: Endpoint, read: _Read, request: ScoreRequest, content: bytes) -> Scores:
    """Scores in an answer. Nothing that it may hold raises anything but `UpstreamFailed`: it may be nested too deeply
    to be read, or have numbers beyond float64.
    """
    try:
        return read(request, content)
    except Exception as error:
        raise endpoint.failed("gave an answer that does not fit the request").noted(_noted(error)) from None


def _noted(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else type(error).__name__


class _Read(Protocol):
    def __call__(self, request: ScoreRequest, content: bytes) -> Scores: ...


def upstream_check(upstream: Upstream) -> Check:
    """Check of all versions whose upstream speaks this protocol."""
    return check_form if upstream.protocol == "json" else check_question


class UpstreamVersion:
    """Servable that asks an upstream. Its answer awaits HTTP; what bounds that is in `upstreams/pool.py`."""

    nbytes = VERSION_BYTES

    def __init__(self, pool: UpstreamPool, upstream: Upstream, model: str, version: str) -> None:
        endpoint = Endpoint(pool, upstream, f"{model} {version}")
        self._check = upstream_check(upstream)
        self._speech: Speech = (
            JsonSpeech(endpoint)
            if upstream.protocol == "json"
            else OpenInferenceSpeech(endpoint, upstream.model or model)
        )

    @property
    def inputs(self) -> Sequence[TensorMetadata]:
        """Tensors that the upstream takes; none where it does not tell."""
        return self._speech.inputs

    @property
    def outputs(self) -> Sequence[TensorMetadata]:
        """Tensors that the upstream gives; none where it does not tell."""
        return self._speech.outputs

    @property
    def outputs_as_arm(self) -> Sequence[TensorMetadata]:
        """Tensors that it gives as an arm; none where it does not tell."""
        return [_as_arm(each, self.prediction) for each in self.outputs]

    @property
    def prediction(self) -> str:
        """Name of the output that is the prediction."""
        return self._speech.prediction

    @property
    def features(self) -> Collection[str]:
        """Names of inputs that are features: texts called `user_id` and `item_id` are of the request's own."""
        return [
            each.name for each in self.inputs if each.name not in (USER, ITEM) or each.datatype != "BYTES"
        ]

    def lacks(self, names: Collection[str]) -> list[str]:
        """Inputs of the upstream that are not among `names`."""
        return [each.name for each in self.inputs if each.name not in names]

    async def warm(self) -> None:
        try:
            await self._speech.warm()
        except UpstreamFailed as error:
            lost = ModelLost(str(error))
            for note in getattr(error, "__notes__", ()):
                lost.add_note(note)
            raise lost from None

    async def check_ready(self) -> None:
        await self._speech.check_ready()

    async def close(self) -> None:
        """Nothing: connections are the pool's."""

    def score(self, request: ScoreRequest, alone: bool = False) -> Awaitable[Scores]:
        scores = self._speech.ask(request, alone)
        return self._alone(scores) if alone else scores

    async def _alone(self, scores: Awaitable[Scores]) -> Scores:
        return {**await scores, "cached": False}

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundScores]:
        places = asyncio.Semaphore(MAX_TRIALS_AT_ONCE)
        failures: list[Exception] = []

        async def trial(request: ScoreRequest) -> BackgroundScores:
            async with places:
                if len(failures) >= MAX_FAILURES_IN_TURN:
                    return BackgroundScores(failures[-1], 0.0)
                started_s = time.perf_counter()
                try:
                    self._check(request)
                    scores: Scores | Exception = await self._speech.ask(request, False)
                    failures.clear()
                except InvalidInput as error:
                    scores = error
                except Exception as error:
                    failures.append(error)
                    scores = error
                return BackgroundScores(scores, time.perf_counter() - started_s)

        return list(await asyncio.gather(*map(trial, requests)))
