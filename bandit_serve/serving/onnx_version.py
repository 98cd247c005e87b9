"""Version whose model is an ONNX graph: it scores the features of requests."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from msgspec import structs

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.api.inference import Datatype, TensorMetadata
from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.errors import FieldError, InvalidInput, Overloaded
from bandit_serve.models.onnx.rows import Row, RowReader
from bandit_serve.models.onnx.session import MAX_RUN_S, Session
from bandit_serve.models.onnx.signature import DTYPES, Signature, TensorSpec
from bandit_serve.serving.request_form import check_form
from bandit_serve.serving.servable import BackgroundScores, Check, Scores

MAX_RUN_ROWS = 64
MAX_RUN_CELLS = 16_384
"""Numbers and texts of a run. Making arrays of them holds the interpreter for half a millisecond or less."""
MAX_WAITING = 10_000
MAX_CHECKS = 1_000
DATATYPES: dict[str, Datatype] = {
    "float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "int16": "INT16", "int8": "INT8",
    "uint64": "UINT64", "uint32": "UINT32", "uint16": "UINT16", "uint8": "UINT8", "bool": "BOOL", "str": "BYTES",
}  # fmt: skip
"""Datatypes of Open Inference that inputs take, by NumPy's names."""
GIVEN: dict[str, Datatype] = {
    **{dtype: "FP64" if dtype.startswith("float") else "INT64" for dtype in DTYPES.values()},
    "bool": "BOOL",
    "str": "BYTES",
    "mapping": "BYTES",
}
"""Datatypes in which outputs are answered; a mapping is an object of JSON."""


def onnx_check(signature: Signature) -> Check:
    """Check of a graph: its features are there, of its types, and no items are asked for."""
    return _check_of_inputs(structs.replace(signature, outputs=(), nbytes=0))


@lru_cache(MAX_CHECKS)
def _check_of_inputs(signature: Signature) -> Check:
    """Makes the one check of all graphs with these inputs."""
    read = RowReader(signature)

    def check(request: ScoreRequest) -> None:
        check_form(request)
        for name, value in (("item_ids", request.item_ids), ("k", request.k)):
            if value is not None:
                detail = "not expected: an ONNX version scores the request's features, one row a request"
                raise InvalidInput(f"{name}: {detail}.", [FieldError(name, detail)])
        read(request.features)

    return check


class OnnxVersion:
    """Graph in memory. Its runs are made in the scoring thread, one at a time.

    Requests that come while a run is under way share the next one, up to `MAX_RUN_ROWS`. A run that takes longer than
    `MAX_RUN_S` is stopped, and its rows have failed.
    """

    def __init__(self, session: Session) -> None:
        signature = session.signature
        self.nbytes = signature.nbytes
        self.inputs = [_about(each, DATATYPES[each.dtype]) for each in signature.inputs]
        self.outputs = (
            [TensorMetadata("prediction", "FP64", [-1])]
            if signature.is_regression
            else [_about(each, GIVEN[each.dtype]) for each in signature.outputs]
        )
        self._session = session
        self._read = RowReader(signature)
        self._check = onnx_check(signature)
        self._max_rows = max(1, min(MAX_RUN_ROWS, MAX_RUN_CELLS // len(signature.columns)))
        self._waiting: deque[tuple[Row, asyncio.Future[Scores]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def warm(self) -> None:
        """Nothing: the first run needs no more than later ones."""

    async def check_ready(self) -> None:
        """Nothing: one that is in memory scores."""

    async def close(self) -> None:
        """Nothing: the session is freed once nobody holds it."""

    def score(self, request: ScoreRequest, alone: bool = False) -> asyncio.Future[Scores]:
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(f"More than {MAX_WAITING} requests wait for a model.")
        scores: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._read(request.features), scores))
        if self._running is None:
            self._running = asyncio.create_task(self._run_all(), name="runs of a graph")
        return scores

    async def _run_all(self) -> None:
        """Runs until nobody waits."""
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._max_rows, len(self._waiting)))]
                asked = [(row, scores) for row, scores in taken if not scores.cancelled()]
                given = await self._run([row for row, _ in asked])
                for (_, scores), each in zip(asked, given, strict=True):
                    if scores.cancelled():
                        continue
                    if isinstance(each, Exception):
                        scores.set_exception(each)
                    else:
                        scores.set_result(each)
        finally:
            self._running = None

    async def _run(self, rows: Sequence[Row]) -> Sequence[Scores | Exception]:
        run = self._session.run(rows)
        stop = asyncio.get_running_loop().call_later(MAX_RUN_S, run.stop)
        try:
            return await in_scoring_thread(run.scores)
        except Exception as error:
            return [error] * len(rows)
        finally:
            stop.cancel()

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundScores]:
        rows = [self._try_to_read(request) for request in requests]
        good = [row for row in rows if not isinstance(row, InvalidInput)]
        scored = iter(await self._run_aside(good))
        return [BackgroundScores(row, 0.0) if isinstance(row, InvalidInput) else next(scored) for row in rows]

    def _try_to_read(self, request: ScoreRequest) -> Row | InvalidInput:
        try:
            self._check(request)
            return self._read(request.features)
        except InvalidInput as error:
            return error

    async def _run_aside(self, rows: Sequence[Row]) -> list[BackgroundScores]:
        """Runs over rows that nobody waits for, beside the scoring thread, so that no request waits for them."""
        scored: list[BackgroundScores] = []
        for first in range(0, len(rows), self._max_rows):
            part = rows[first : first + self._max_rows]
            run = self._session.run(part)
            stop = asyncio.get_running_loop().call_later(MAX_RUN_S, run.stop)
            started_s = time.perf_counter()
            try:
                given = await asyncio.to_thread(run.scores)
            finally:
                stop.cancel()
            each_s = (time.perf_counter() - started_s) / len(part)
            scored += [BackgroundScores(each, each_s) for each in given]
        return scored


def _about(spec: TensorSpec, datatype: Datatype) -> TensorMetadata:
    shape = [] if spec.shape == (1,) else spec.shape
    return TensorMetadata(spec.name, datatype, [-1, *(-1 if size is None else size for size in shape)])
