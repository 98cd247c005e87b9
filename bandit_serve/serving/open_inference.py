"""Questions and answers of the Open Inference protocol, version 2: tensors in JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.api.inference import ITEM, PLATFORM, PREDICTION, SCORE, USER
from bandit_serve.errors import FieldError, InvalidInput, TooLarge
from bandit_serve.serving.datatypes import LARGEST, WHOLE, held
from bandit_serve.serving.json_questions import (
    MAX_OUTPUT_DEPTH,
    MAX_OUTPUT_VALUES,
    MAX_OUTPUTS,
    checked_items,
    checked_outputs,
)
from bandit_serve.serving.request_form import check_form
from bandit_serve.serving.servable import Scores

NUMBERED = "features"
"""Name of the tensor of a list of numbers, where the model does not say the names of its inputs."""
MAX_SIZE = 10**9
MAX_QUESTION_CELLS = 100_000
"""Values in the tensors of a question: rows times the values of one."""
MAX_QUESTION_TEXT_BYTES = 2**20
"""Texts in the tensors of a question for several items, where each row repeats those of the features."""


class TensorAbout(Struct, frozen=True):
    """Name, datatype and shape of a model's tensor; −1 in the shape where any size is taken."""

    name: str
    datatype: str = ""
    shape: list[int] = []


class ModelAbout(Struct, frozen=True):
    """Part of a model's metadata that is read. Some servers say nothing of tensors."""

    platform: str = ""
    inputs: list[TensorAbout] = []
    outputs: list[TensorAbout] = []


class InputTensor(Struct, frozen=True):
    """Tensor of a question. `data` is the JSON of a flat list."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw


class InferQuestion(Struct, frozen=True, omit_defaults=True):
    inputs: list[InputTensor]
    parameters: dict[str, Any] = {}


class OutputTensor(Struct, frozen=True):
    """Tensor of an answer. `data` may be flat or nested."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferAnswer(Struct, frozen=True):
    outputs: list[OutputTensor]


class Unfit(ValueError):
    """Request whose content the model's inputs do not take."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(InferAnswer).decode
_decode_about = msgspec.json.Decoder(ModelAbout).decode


def check_question(request: ScoreRequest) -> None:
    """`Check` of all models behind this protocol: `check_form`, and `TooLarge` for a question of too many values.

    Each of `item_ids` is a row that repeats the features. All of these count, whichever the model takes.
    """
    check_form(request)
    features = request.features
    if not features:
        return
    n = 1 if request.item_ids is None else len(request.item_ids)
    values = list(features.values()) if isinstance(features, dict) else features
    n_cells = sum(len(value) if isinstance(value, list) else 1 for value in values)
    if n * (1 + n_cells) > MAX_QUESTION_CELLS:
        raise TooLarge(
            f"features: expected at most {MAX_QUESTION_CELLS} values in all rows, and {n} x {n_cells} are more."
        )
    if n > 1:
        n_bytes = sum(map(_text_bytes, values))
        if n * n_bytes > MAX_QUESTION_TEXT_BYTES:
            raise TooLarge(
                f"features: expected at most {MAX_QUESTION_TEXT_BYTES} bytes of texts in all rows, and {n} x {n_bytes} "
                "are more."
            )


def _text_bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    return len(value.encode()) if isinstance(value, str) else 0


class InferInputs:
    """Inputs of a model by name, as its metadata tell them; empty where those tell nothing. So are `outputs`.

    `is_regression`: the model's only output, whatever its name, is its prediction. This is known of models of this
    service alone, as where a deployment serves a graph.
    """

    def __init__(self, metadata: bytes = b"{}") -> None:
        """Raises `ValueError` for metadata that are none."""
        about = _decode_about(metadata)
        self.by_name = {tensor.name: tensor for tensor in about.inputs}
        self.outputs = about.outputs
        self.is_regression = about.platform == PLATFORM and _is_one_number(about.outputs)
        others = [name for name in self.by_name if name not in (USER, ITEM)]
        self._numbered = others[0] if len(others) == 1 else NUMBERED

    def question(self, request: ScoreRequest, alone: bool = False) -> bytes:
        """Body of the question that a request asks: one row, or one for each of `item_ids`.

        `request` has passed `check_question`. Only inputs that the model names are sent. alone: features beside these
        are refused (`InvalidInput`). Raises `Unfit` where an input lacks its value, or has one that its datatype does
        not hold.
        """
        tensors = list(self._tensors(request))
        missing = self.by_name.keys() - {tensor.name for tensor in tensors}
        if missing:
            raise Unfit(f"it lacks the input {min(missing)!r}")
        if alone and self.by_name:
            _refuse_others(request.features, self.by_name)
        more = {} if request.k is None else {"k": request.k + len(set(request.exclude))}
        return _encode(InferQuestion(tensors, more))

    def _takes(self, name: str) -> bool:
        return not self.by_name or name in self.by_name

    def _tensors(self, request: ScoreRequest) -> Iterator[InputTensor]:
        """Tensors of the inputs that the request has a value for."""
        n = 1 if request.item_ids is None else len(request.item_ids)
        if request.user_id is not None and self._takes(USER):
            yield self._tensor(USER, request.user_id, n)
        items = request.item_ids if request.item_id is None else [request.item_id]
        if items is not None and self._takes(ITEM):
            yield InputTensor(ITEM, self._shape(ITEM, n), *self._data(ITEM, items))
        if isinstance(request.features, dict):
            for name, value in request.features.items():
                if self._takes(name):
                    yield self._tensor(name, value, n)
        elif request.features and self._takes(self._numbered):
            yield self._tensor(self._numbered, request.features, n)

    def _tensor(self, name: str, value: Any, n: int) -> InputTensor:
        """Tensor of n rows that are the same: a value, or a list of them."""
        if not isinstance(value, list):
            return InputTensor(name, self._shape(name, n), *self._data(name, [value], n))
        shape, about = [n, len(value)], self.by_name.get(name)
        if about is not None and len(about.shape) == 2 and about.shape[1] not in (-1, len(value)):
            raise Unfit(f"the input {name!r} has {about.shape[1]} columns, not {len(value)}")
        return InputTensor(name, shape, *self._data(name, value, n))

    def _shape(self, name: str, n: int) -> list[int]:
        """Shape of n rows of one value each, with the model's number of axes up to 2."""
        about = self.by_name.get(name)
        return [n, 1] if about is not None and len(about.shape) > 1 else [n]

    def _data(self, name: str, values: list[Any], n: int = 1) -> tuple[str, msgspec.Raw]:
        """Datatype of an input, and JSON of the list of `values`, n times over."""
        about = self.by_name.get(name)
        datatype = about.datatype if about is not None and about.datatype else _datatype(values)
        row = _encode(_fitted(values, datatype, name))[1:-1]
        return datatype, msgspec.Raw(b"[" + b",".join([row] * n if row else []) + b"]")


def _is_one_number(outputs: Sequence[TensorAbout]) -> bool:
    """Whether the only output is one real number a row, as in `Signature.is_regression`."""
    return (
        len(outputs) == 1 and outputs[0].datatype in ("FP32", "FP64") and outputs[0].shape in ([-1], [-1, 1])
    )


def _refuse_others(features: Any, known: Mapping[str, Any]) -> None:
    for name in features if isinstance(features, dict) else ():
        if name not in known:
            detail = "the model has no such input"
            raise InvalidInput(f"features.{name}: {detail}.", [FieldError(f"features.{name}", detail)])


def _datatype(values: Sequence[Any]) -> str:
    """Datatype of values whose model names none."""
    first = values[0] if values else ""
    if isinstance(first, bool):
        return "BOOL"
    return "BYTES" if isinstance(first, str) else "FP64"


def _fitted(values: list[Any], datatype: str, name: str) -> list[Any]:
    """`values` as a tensor of `datatype` holds them; `Unfit` where it does not."""
    fitted = held(values, datatype)
    if fitted is None:
        raise Unfit(f"the input {name!r} takes {datatype}")
    return fitted


class InferOutput(NamedTuple):
    """Tensor of an answer whose values are as many as its shape says, and of its datatype."""

    name: str
    shape: list[int]
    values: list[Any]
    is_number: bool


def infer_scores(request: ScoreRequest, content: bytes, is_regression: bool = False) -> Scores:
    """Scores in an answer. Raises `ValueError`, which says what was expected.

    An output `prediction` is taken as that, and of a regression the only one; `item_id` and `score` as items where the
    request has k; all others are `outputs`, without the axis of rows where there is one row.
    """
    outputs = {tensor.name: _output(tensor) for tensor in _decode(content).outputs}
    if not 0 < len(outputs) <= MAX_OUTPUTS:
        raise ValueError(f"expected 1 to {MAX_OUTPUTS} outputs, each name once")
    n = 1 if request.item_ids is None else len(request.item_ids)
    if request.k is not None and ITEM in outputs and SCORE in outputs:
        return {"items": _items(request, outputs[ITEM], outputs[SCORE])}
    name = next(iter(outputs)) if is_regression and len(outputs) == 1 else PREDICTION
    prediction = outputs.pop(name, None) if request.k is None else None
    scores: Scores = {}
    if prediction is not None:
        if not prediction.is_number or len(prediction.values) != n:
            raise ValueError(f"expected {n} numbers as prediction")
        values = [float(value) for value in prediction.values]
        scores = {"prediction": values[0]} if request.item_ids is None else {"predictions": values}
    if outputs:
        rows = {name: _rows(output, n, request.item_ids is None) for name, output in outputs.items()}
        scores["outputs"] = checked_outputs(rows)
    return scores


def _items(request: ScoreRequest, items: InferOutput, scores: InferOutput) -> list[ScoredItem]:
    if items.is_number or not scores.is_number or len(items.values) != len(scores.values):
        raise ValueError("expected item_id, texts, and as many numbers as score")
    excluded = set(request.exclude)
    pairs = [
        ScoredItem(item, float(score))
        for item, score in zip(items.values, scores.values, strict=True)
        if item not in excluded
    ]
    return checked_items(request, pairs[: request.k])


def _rows(output: InferOutput, n: int, single: bool) -> Any:
    """Values of an output row by row; of a single row the row itself, and of one value that."""
    if single and len(output.values) == 1:
        return output.values[0]
    if single and output.shape[:1] != [1]:
        return _nested(output.values, output.shape)
    if output.shape[:1] != [n]:
        raise ValueError(f"expected {n} rows of {output.name}, not the shape {output.shape}")
    rows = _nested(output.values, output.shape)
    return rows[0] if single else rows


def _nested(values: list[Any], shape: Sequence[int]) -> list[Any]:
    for size in reversed(shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size)]
    return values


def _output(tensor: OutputTensor) -> InferOutput:
    flat: list[Any] = tensor.data
    for _ in range(MAX_OUTPUT_DEPTH):
        if len(flat) > MAX_OUTPUT_VALUES:
            raise ValueError(f"expected at most {MAX_OUTPUT_VALUES} values of {tensor.name!r}")
        if not any(isinstance(value, list) for value in flat):
            break
        flat = [each for value in flat for each in (value if isinstance(value, list) else [value])]
    shape = tensor.shape
    if not all(0 < size <= MAX_SIZE for size in shape) or len(shape) > MAX_OUTPUT_DEPTH:
        raise ValueError(f"expected sizes above 0 as shape of {tensor.name!r}")
    if math.prod(shape) != len(flat):
        raise ValueError(f"expected as many values of {tensor.name!r} as its shape says")
    if tensor.datatype in LARGEST or tensor.datatype in WHOLE:
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in flat):
            raise ValueError(f"expected numbers as {tensor.name!r}")
        return InferOutput(tensor.name, shape, flat, True)
    kind = {"BOOL": bool, "BYTES": str}.get(tensor.datatype)
    if kind is None or not all(isinstance(value, kind) for value in flat):
        raise ValueError(f"expected values of the datatype of {tensor.name!r}")
    return InferOutput(tensor.name, shape, flat, False)
