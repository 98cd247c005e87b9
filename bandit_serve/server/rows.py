"""Rows of inference: tensors become requests, row by row, and their answers become tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from bandit_serve.api.decisions import (
    MAX_BATCH,
    MAX_BATCH_ITEMS,
    MAX_K,
    Decided,
    Predicted,
    PredictRequest,
    Scored,
)
from bandit_serve.api.inference import ITEM, PREDICTION, SCORE, UNIT, USER, Datatype, InferenceRequest
from bandit_serve.base.turns import Turn
from bandit_serve.errors import Conflict, FieldError, InvalidInput, TooLarge
from bandit_serve.server.tensors import NamedTensor
from bandit_serve.server.wire import encode_json
from bandit_serve.serving.datatypes import BY_TYPE
from bandit_serve.serving.servable import Described

NAMES = (USER, ITEM, UNIT)
MAX_INT64 = 2**63 - 1
_NUMBERS: frozenset[Datatype | None] = frozenset({"INT64", "UINT64", "FP64"})
MAX_QUOTED = 8
"""Names of inputs in the sentence of an error."""


class InferenceRows:
    """Rows of a request's tensors.

    Tensors that are called `user_id`, `item_id` and `unit` are those of the contract. Every other one is a feature by
    its name and, where it is in `context_fields`, a value of the context. One of several columns is a list of texts; of
    numbers, it is all of the features, in order, and no other one may be beside it that is not of the context.

    about: the version that is asked by its own name. Its features are such by whatever name. Of several, each may be a
    list; the only one is all of the features also where it is of texts.
    """

    def __init__(
        self,
        request: InferenceRequest,
        tensors: Mapping[str, NamedTensor],
        context_fields: frozenset[str] = frozenset(),
        about: Described | None = None,
    ) -> None:
        self._tensors = tensors
        self._context_fields = context_fields
        self.n = n_rows(tensors)
        own = () if about is None else about.features
        self._only = next(iter(own)) if len(own) == 1 else None
        self.k = _k(request, self.n)
        self._columns = {name: _column(tensor, self.n) for name, tensor in tensors.items()}
        self._names = {name: None if name in own else self._texts(name) for name in NAMES}
        others = [name for name in tensors if name in own or name not in NAMES]
        features = [name for name in others if name not in context_fields] or others
        wide = [
            name for name in features if self._is_wide(tensors[name]) and (name not in own or len(own) == 1)
        ]
        if about is not None:
            self._check_inputs(about, wide)
        if wide and len(features) > 1:
            raise _mistake(wide[0], "expected one value a row, as it is not the only input with features")
        self._numbered = wide[0] if wide else None
        self._others = [name for name in others if name != self._numbered]

    def _is_wide(self, tensor: NamedTensor) -> bool:
        return (tensor.datatype != "BYTES" or tensor.name == self._only) and _width(tensor, self.n) > 1

    @property
    def units(self) -> list[str] | None:
        return self._names[UNIT]

    def check_list(self, names: Collection[str]) -> None:
        """Raises `InvalidInput` where all features come in one tensor that has none of the names, if there are any."""
        if names and self._numbered is not None and self._numbered not in (*names, *self._context_fields):
            raise _missing(sorted(names), [self._numbered])

    def _check_inputs(self, about: Described, wide: Sequence[str]) -> None:
        """Raises `InvalidInput` for inputs that the version can not do without.

        One of several columns has to have the name of an input; those of one may be columns of an input.
        """
        takes = {tensor.name for tensor in about.inputs}
        missing = about.lacks([name for name in self._tensors if name not in wide or name in takes])
        if missing:
            raise _missing(
                missing, [name for name in self._tensors if name not in takes and name not in NAMES]
            )

    def __iter__(self) -> Iterator[PredictRequest]:
        users, items, units = (self._names[name] for name in NAMES)
        for i in range(self.n):
            named = {name: self._columns[name][i] for name in self._others}
            context = {name: named[name] for name in named if name in self._context_fields}
            numbered = None if self._numbered is None else self._columns[self._numbered][i]
            yield PredictRequest(
                user_id=None if users is None else users[i],
                item_id=None if items is None else items[i],
                k=self.k,
                features=numbered or named or None,
                unit=None if units is None else units[i],
                context=context or None,
            )

    def _texts(self, name: str) -> list[str] | None:
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        if tensor.datatype != "BYTES" or _width(tensor, self.n) != 1:
            raise _mistake(name, f"expected BYTES of the shape [{self.n}]")
        return self._columns[name]


def n_rows(tensors: Mapping[str, NamedTensor]) -> int:
    """Number of rows; 1 without any tensor."""
    sizes = {tensor.shape[0]: name for name, tensor in tensors.items()}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise InvalidInput(
            f"The inputs must have as many rows each: {first[:128]!r} has {one}, {second[:128]!r} has {other}."
        )
    n = next(iter(sizes), 1)
    if n == 0:
        raise InvalidInput("The inputs have no rows.")
    if n > MAX_BATCH:
        raise TooLarge(f"The inputs have {n} rows; send at most {MAX_BATCH} at once.")
    return n


def _k(request: InferenceRequest, n: int) -> int | None:
    k = (request.parameters or {}).get("k")
    if k is None:
        return None
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        detail = f"expected a whole number from 1 to {MAX_K}"
        raise InvalidInput(f"parameters.k: {detail}.", [FieldError("parameters.k", detail)])
    if n * k > MAX_BATCH_ITEMS:
        raise TooLarge(f"The request asks for more than {MAX_BATCH_ITEMS} items; send fewer rows at once.")
    return k


def _width(tensor: NamedTensor, n: int) -> int:
    return len(tensor.values) // n


def _column(tensor: NamedTensor, n: int) -> list[Any]:
    """Value of each row, or list of its values where they are several."""
    width = _width(tensor, n)
    if width == 0:
        raise _mistake(tensor.name, "expected a value in each row")
    if width == 1:
        return tensor.values
    return [tensor.values[i * width : (i + 1) * width] for i in range(n)]


def _missing(names: Sequence[str], others: Sequence[str]) -> InvalidInput:
    detail = "expected an input of this name"
    if others:
        detail += f", and none called {_quoted(others)}"
    return InvalidInput(
        f"The request lacks {_quoted(names)}: {detail}.",
        [FieldError(f"inputs.{name}", f"is missing: {detail}") for name in names],
    )


def _quoted(names: Sequence[str]) -> str:
    more = ", …" if len(names) > MAX_QUOTED else ""
    return ", ".join(repr(name[:128]) for name in names[:MAX_QUOTED]) + more


def _mistake(name: str, detail: str) -> InvalidInput:
    at = f"inputs.{name[:128]}"
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])


async def predictions(answers: Sequence[Predicted | Scored]) -> list[NamedTensor]:
    """Outputs that all answers have, in one shape and datatype; none where these have nothing in common.

    Of items, each row has as many as the row with the fewest.
    """
    n = len(answers)
    columns: dict[str, list[Any]] = {}
    if all(isinstance(answer.prediction, float) for answer in answers):
        columns[PREDICTION] = [answer.prediction for answer in answers]
    if all(isinstance(answer.items, list) for answer in answers):
        return _items([answer.items for answer in answers if isinstance(answer.items, list)])
    outputs = [answer.outputs for answer in answers if isinstance(answer.outputs, dict)]
    if len(outputs) == n:
        for name in outputs[0]:
            if all(name in output for output in outputs):
                columns[name] = [output[name] for output in outputs]
    tensors = [await _stacked(name, column) for name, column in columns.items()]
    return [tensor for tensor in tensors if tensor is not None]


def nothing_in_common() -> Conflict:
    return Conflict("The arms' answers have no output in common; send one row at a time.")


def decisions(answers: Sequence[Decided]) -> list[NamedTensor]:
    """Outputs of decisions without a model: names of arms, and their payloads as JSON."""
    shape = (len(answers),)
    return [
        NamedTensor("arm", "BYTES", shape, [answer.arm for answer in answers]),
        NamedTensor("payload", "BYTES", shape, [encode_json(answer.payload).decode() for answer in answers]),
    ]


def decision_parameters(answers: Sequence[Decided | Predicted]) -> dict[str, Any]:
    """Parameters of a response of decisions."""
    parameters: dict[str, Any] = {
        "arms": [answer.arm for answer in answers],
        "propensities": [answer.propensity for answer in answers],
    }
    # Of rows that are outside of the experiment there is none; a paused one has none at all.
    if any(answer.decision_id is not None for answer in answers):
        parameters = {"decision_ids": [answer.decision_id for answer in answers], **parameters}
    if any(answer.reason is not UNSET for answer in answers):
        parameters["reasons"] = [None if answer.reason is UNSET else answer.reason for answer in answers]
    if len(answers) == 1:
        parameters |= {
            name: parameters[f"{name}s"][0]
            for name in ("decision_id", "arm", "reason")
            if f"{name}s" in parameters
        }
        parameters["propensity"] = answers[0].propensity
    return parameters


def _items(rows: Sequence[Sequence[Any]]) -> list[NamedTensor]:
    width = min(map(len, rows))
    shape = (len(rows), width)
    best = [item for row in rows for item in row[:width]]
    return [
        NamedTensor(ITEM, "BYTES", shape, [item.item_id for item in best]),
        NamedTensor(SCORE, "FP64", shape, [item.score for item in best]),
    ]


async def _stacked(name: str, column: Sequence[Any]) -> NamedTensor | None:
    """Tensor of a value a row, an object as JSON; None where rows differ in shape or have no one datatype."""
    shape: tuple[int, ...] | None = None
    values: list[Any] = []
    datatypes: set[Datatype | None] = set()
    turn = Turn()
    for row in column:
        own_shape, own = _flat(encode_json(row).decode() if isinstance(row, dict) else row)
        if shape is None:
            shape = own_shape
        elif own_shape != shape:
            return None
        values += own
        datatypes |= {BY_TYPE.get(kind) for kind in set(map(type, own))}
        if "INT64" in datatypes and datatypes <= _NUMBERS and max(own, default=0) > MAX_INT64:
            datatypes.add("UINT64")
        if turn.over:
            await turn.give_way()
    if datatypes == {"INT64", "UINT64"} and min(values) >= 0:
        datatypes = {"UINT64"}
    elif len(datatypes) > 1 and datatypes <= _NUMBERS:
        datatypes = {"FP64"}
    if shape is None or len(datatypes) != 1:
        return None
    datatype = datatypes.pop()
    return None if datatype is None else NamedTensor(name, datatype, (len(column), *shape), values)


def _flat(value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Shape and values of a value or of nested lists; what is no list counts as one value."""
    if not isinstance(value, list):
        return (), [value]
    shape: tuple[int, ...] = (0,)
    values: list[Any] = []
    for i, part in enumerate(value):
        inner, more = _flat(part)
        if i and inner != shape[1:]:
            return (), [value]
        shape = (len(value), *inner)
        values += more
    return shape, values
