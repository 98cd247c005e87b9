"""Session: an ONNX graph in memory, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidArtifact, ModelFailed
from bandit_serve.models.onnx.rows import Row, feeds
from bandit_serve.models.onnx.signature import (
    BRACKETS_BYTES,
    CHARACTER_BYTES,
    NUMBER_BYTES,
    Signature,
    TensorSpec,
)

RUNTIME, EXTRA = "onnxruntime", "onnx"
MAX_RUN_S = 10.0
"""Seconds after which a run is ended, between two operators."""
MAX_DETAIL = 300
MAX_PART_VALUES = 16_384
"""Values that become Python's at a time: other threads get the interpreter in between."""
# Of ONNX Runtime's errors, all but the sentence: code, place in its source, function.
_noise = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/\S*|[\w:]+::~?\w+\([^)]*\)|[\x00-\x1f]+")


def make_session(content: bytes) -> Any:
    """Session of ONNX Runtime. Nothing of the graph is run: constants are not folded before a request needs them.

    Raises `InvalidArtifact` for a graph that it does not take, `MemoryError`, and `NotInstalled` without the extra
    `onnx`.
    """
    runtime = require(RUNTIME, EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    # Memory of large runs is given back, not kept.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    # Never ONNX Runtime's own format, which has no checks.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
        )
    except Exception as error:  # each kind of fault has a class of its own, and none a public root
        if "bad_alloc" in str(error):
            raise MemoryError from error
        raise InvalidArtifact(f"ONNX Runtime does not take the graph: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """Sentence of ONNX Runtime without its paths."""
    return " ".join(_noise.sub(" ", str(error)).split())[:MAX_DETAIL].rstrip(" .")


class Session:
    """Graph in memory. Runs of it may be under way in many threads."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        self.signature = signature
        self._session = make_session(content)
        self._options = require(RUNTIME, EXTRA).RunOptions
        self._outputs = [each.name for each in signature.outputs]

    def run(self, rows: Sequence[Row]) -> Run:
        """Run over n rows, ready to begin."""
        options = self._options()
        options.log_severity_level = 4
        return Run(self, rows, options)

    def scores(self, rows: Sequence[Row], options: Any) -> list[dict[str, Any]]:
        """Scores of n rows. Raises `ModelFailed` if there are none for one of them."""
        try:
            given = self._session.run(self._outputs, feeds(self.signature, rows), options)
        except Exception as error:  # as in `make_session`
            raise ModelFailed(f"The graph failed: {_reason(error)}.") from error
        columns = [
            _values(output, len(rows), spec)
            for output, spec in zip(given, self.signature.outputs, strict=True)
        ]
        if self.signature.is_regression:
            return [{"prediction": value} for value in columns[0]]
        return [{"outputs": dict(zip(self._outputs, row, strict=True))} for row in zip(*columns, strict=True)]


class Run:
    """Run over n rows, which another thread may end with `stop`."""

    def __init__(self, session: Session, rows: Sequence[Row], options: Any) -> None:
        self._session = session
        self._rows = rows
        self._options = options
        self._began_s: float | None = None
        self.stopped = False

    @property
    def left_s(self) -> float:
        """Time in seconds that the run still has. None of it passes before a thread has begun the run."""
        return MAX_RUN_S if self._began_s is None else self._began_s + MAX_RUN_S - time.monotonic()

    def stop(self) -> None:
        """Ends the run after the operator that is under way; rows without scores have failed."""
        self.stopped = self._options.terminate = True

    def scores(self) -> list[dict[str, Any] | ModelFailed]:
        """Scores of each row, `{"outputs": {name: value}}` or a regression's `{"prediction": number}`, or its failure.

        All rows go together; if that fails, each goes alone, so that a row fails by its own fault only.
        """
        self._began_s = time.monotonic()
        if not self._session.signature.single:
            try:
                return [*self._session.scores(self._rows, self._options)]
            except ModelFailed as error:
                if len(self._rows) == 1 or self.stopped:
                    return [error] * len(self._rows)
        return [self._alone(row) for row in self._rows]

    def _alone(self, row: Row) -> dict[str, Any] | ModelFailed:
        if self.stopped:
            return ModelFailed(f"The graph took longer than {MAX_RUN_S:.0f} s.")
        try:
            return self._session.scores([row], self._options)[0]
        except ModelFailed as error:
            return error


def _values(output: NDArray[Any] | list[Mapping[Any, float]], n: int, spec: TensorSpec) -> list[Any]:
    """Values of n rows, as JSON: one for each row, or a list, or an object of a mapping."""
    if len(output) != n:
        raise ModelFailed(f"The graph gave {len(output)} rows for {n}.")
    row_bytes = _row_bytes(output)
    if row_bytes > spec.max_row_bytes:
        raise ModelFailed(
            f"The graph gave up to {row_bytes} bytes of {spec.name[:60]!r} for a row: no more than "
            f"{spec.max_row_bytes} are answered for the shape that it declares."
        )
    if isinstance(output, list):
        if not all(math.isfinite(score) for row in output for score in row.values()):
            raise _not_finite()
        return [{str(key): float(score) for key, score in row.items()} for row in output]
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        raise _not_finite()
    if output.ndim == 2 and output.shape[1] == 1:
        output = output[:, 0]
    step = max(1, MAX_PART_VALUES * n // max(1, output.size))
    return [value for begin in range(0, n, step) for value in output[begin : begin + step].tolist()]


def _row_bytes(output: NDArray[Any] | list[Mapping[Any, float]]) -> int:
    """Bytes of the row with the most in an answer, at most."""
    if isinstance(output, list):
        return max(sum(_text_bytes(str(key)) + NUMBER_BYTES for key in row) for row in output)
    brackets_bytes = BRACKETS_BYTES * (output.ndim - 1)
    if output.dtype.kind == "O":
        rows = output.reshape(len(output), -1)
        return max(sum(_text_bytes(text) + brackets_bytes for text in row) for row in rows)
    return output.size // len(output) * (NUMBER_BYTES + brackets_bytes)


def _text_bytes(text: str) -> int:
    return CHARACTER_BYTES * len(text) + 4


def _not_finite() -> ModelFailed:
    return ModelFailed("The graph gave a score that is not finite.")
