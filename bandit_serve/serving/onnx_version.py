"""Version whose model is an ONNX graph: it scores the features of requests."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from functools import lru_cache

from msgspec import structs

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.api.inference import PREDICTION, Datatype, TensorMetadata
from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.errors import ContentRefused, FieldError, InvalidInput, ModelFailed, Overloaded
from bandit_serve.models.onnx.rows import Row, RowReader
from bandit_serve.models.onnx.session import MAX_PART_VALUES, Run, Session
from bandit_serve.models.onnx.signature import NUMBER_BYTES, Signature, TensorSpec
from bandit_serve.serving.datatypes import BY_NUMPY, in_common
from bandit_serve.serving.request_form import check_form
from bandit_serve.serving.servable import BackgroundScores, Check, Scores

MAX_RUN_ROWS = 64
MAX_RUN_CELLS = 16_384
"""Numbers and texts of a run. Making arrays of them holds the interpreter for half a millisecond or less."""
MAX_WAITING = 10_000
MAX_CHECKS = 1_000
MAX_FAILED_RUNS = 3
"""Runs in turn without a score, from the first on, until it is the version that fails."""


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


def graph_outputs_as_arm(signature: Signature) -> list[TensorMetadata]:
    """Tensors that a graph gives as an arm."""
    if signature.is_regression:
        return [TensorMetadata(PREDICTION, "FP64", [-1])]
    return [
        _about(each, in_common(BY_NUMPY[each.dtype]), () if each.shape == (1,) else each.shape)
        for each in signature.outputs
    ]


class OnnxVersion:
    """Graph in memory. Its runs are made in the scoring thread, one at a time.

    Requests that come while a run is under way share the next one, up to `MAX_RUN_ROWS`. A run that takes longer than
    `MAX_RUN_S` is stopped, and its rows have failed.

    A row without a score, as when its numbers are so large that the score is not finite, is refused for its content
    (`ContentRefused`) where the graph scores another row: one of the same run, or else the last one that it scored,
    in place of which a row of zeros and empty texts stands at first. Where it does not score that either, the version
    has failed. One that never scored a row fails from its `MAX_FAILED_RUNS`th run on.
    """

    def __init__(self, session: Session) -> None:
        self.signature = signature = session.signature
        self.nbytes = signature.nbytes
        self.inputs = [_about(each, BY_NUMPY[each.dtype], each.shape) for each in signature.inputs]
        self.features = [each.name for each in signature.inputs]
        self.outputs = [_about(each, BY_NUMPY[each.dtype], each.shape) for each in signature.outputs]
        self.outputs_as_arm = graph_outputs_as_arm(signature)
        self.prediction = signature.outputs[0].name if signature.is_regression else PREDICTION
        self._session = session
        self._read = RowReader(signature)
        self._check = onnx_check(signature)
        self._max_rows = _max_rows(signature)
        self._waiting: deque[tuple[Row, asyncio.Future[Scores]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._plain_row = self._read.plain_row
        self._has_scored = False
        self._n_failed = 0

    def lacks(self, names: Collection[str]) -> list[str]:
        """Inputs of the graph that are not among `names`. Columns of its one input may come instead of that."""
        if self.signature.is_matrix and any(name in self.signature.columns for name in names):
            return []
        return [name for name in self.features if name not in names]

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
        try:
            with _Watch(run):
                scores = await in_scoring_thread(run.scores)
            return scores if run.stopped else await self._blamed(rows, scores)
        except Exception as error:
            return [error] * len(rows)

    async def _blamed(
        self, rows: Sequence[Row], scores: Sequence[Scores | ModelFailed]
    ) -> Sequence[Scores | Exception]:
        """Scores, with refusals in place of failures that are the rows' own."""
        for row, each in zip(rows, scores, strict=True):
            if isinstance(each, dict):
                self._plain_row, self._has_scored = row, True
                break
        else:
            if rows and not await self._scores_plain():
                return scores
        return [each if isinstance(each, dict) else _refused(each) for each in scores]

    async def _scores_plain(self) -> bool:
        """Whether the graph scores a row that it scored before; true at first also where that is not known."""
        run = self._session.run([self._plain_row])
        with _Watch(run):
            (score,) = await in_scoring_thread(run.scores)
        if isinstance(score, dict):
            return True
        self._n_failed += 1
        return not self._has_scored and self._n_failed < MAX_FAILED_RUNS

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
            started_s = time.perf_counter()
            with _Watch(run):
                given = await asyncio.to_thread(run.scores)
            each_s = (time.perf_counter() - started_s) / len(part)
            scored += [BackgroundScores(each, each_s) for each in given]
        return scored


def _max_rows(signature: Signature) -> int:
    """Rows of a run, by what they take and what they give as far as the graph says it."""
    known_bytes = sum(each.max_row_bytes for each in signature.outputs if each.is_known)
    n_given = known_bytes // NUMBER_BYTES
    return max(
        1,
        min(MAX_RUN_ROWS, MAX_RUN_CELLS // len(signature.columns), MAX_PART_VALUES // max(1, n_given)),
    )


class _Watch:
    """Watch of a run: stops it once its time is over, which begins with the run and not with the wait for a thread."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._look_again()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._run.left_s, self._look)

    def _look(self) -> None:
        if self._run.left_s > 0.0:
            self._look_again()
        else:
            self._run.stop()


def _refused(error: ModelFailed) -> ContentRefused:
    detail = str(error)
    return ContentRefused(f"features: {detail}", [FieldError("features", detail)])


def _about(spec: TensorSpec, datatype: Datatype, shape: Sequence[int | None]) -> TensorMetadata:
    """Tensor of any number of rows of this shape."""
    return TensorMetadata(spec.name, datatype, [-1, *(-1 if size is None else size for size in shape)])
