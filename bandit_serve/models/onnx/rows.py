"""Rows for an ONNX graph, from the features of requests: all numbers and texts of one request, in the graph's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.validation import as_invalid_input
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.models.onnx.signature import Signature

Cell = float | int | bool | str
Row = list[Cell]
GivenFeatures = Mapping[str, Any] | Sequence[float] | None
# Integers above are not exact in JSON's numbers.
MAX_EXACT = 2**53


class RowReader:
    """Reader of rows: a request's features become one row, or `InvalidInput` that names each that is missing or wrong.

    Named features that the graph does not take are left aside: another version may take them.
    """

    def __init__(self, signature: Signature) -> None:
        self._is_matrix = signature.is_matrix
        self._columns = signature.columns
        width = len(self._columns)
        dtypes = [each.dtype for each in signature.inputs] * (width if self._is_matrix else 1)
        self._cells = [_CELLS[dtype] for dtype in dtypes]
        self._expected = [_EXPECTED[dtype] for dtype in dtypes]
        self._is_real = self._is_matrix and dtypes[0] in ("float32", "float64")
        self._largest = float(np.finfo(dtypes[0]).max) if self._is_real else math.inf

    @property
    def plain_row(self) -> Row:
        """Row of zeros, false and empty texts."""
        return ["" if cell is _text else False if cell is _truth else 0 for cell in self._cells]

    def __call__(self, features: GivenFeatures) -> Row:
        if isinstance(features, Mapping):
            return self._named(features)
        if not features and not self._is_matrix:
            return self._named({})
        numbers = list(features or ())
        if not self._is_matrix and len(self._columns) > 1:
            self._refuse_list("expected an object with the features by name")
        if len(numbers) != len(self._columns):
            self._refuse_list(f"expected {len(self._columns)} numbers, or an object: {self._names()}")
        if self._is_real and all(-self._largest <= number <= self._largest for number in numbers):
            return numbers  # type: ignore[return-value]
        return self._named(dict(zip(self._columns, numbers, strict=True)))

    def _named(self, features: Mapping[str, Any]) -> Row:
        row: Row = []
        for name, cell in zip(self._columns, self._cells, strict=True):
            read = cell(features.get(name))
            if read is None:
                raise as_invalid_input(self._mistakes(features))
            row.append(read)
        return row

    def _mistakes(self, features: Mapping[str, Any]) -> list[FieldError]:
        mistakes = []
        for name, cell, expected in zip(self._columns, self._cells, self._expected, strict=True):
            if cell(features.get(name)) is None:
                lack = "" if name in features else "is missing: "
                mistakes.append(FieldError(f"features.{name}", f"{lack}expected {expected}"))
        return mistakes

    def _refuse_list(self, detail: str) -> None:
        raise InvalidInput(f"features: {detail}.", [FieldError("features", detail)])

    def _names(self) -> str:
        return ", ".join(self._columns[:8]) + (" …" if len(self._columns) > 8 else "")


def feeds(signature: Signature, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Arrays of n rows by the names of the graph's inputs: (n, d) of the one input, else (n, 1) or (n,) of each."""
    if signature.is_matrix:
        only = signature.inputs[0]
        return {only.name: np.array(rows, _dtype(only.dtype))}
    columns = zip(*rows, strict=True)
    return {
        each.name: np.array(column, _dtype(each.dtype)).reshape(-1, *each.shape)
        for each, column in zip(signature.inputs, columns, strict=True)
    }


def _dtype(name: str) -> Any:
    return object if name == "str" else name


def _real(dtype: str) -> Callable[[Any], Cell | None]:
    largest = float(np.finfo(dtype).max)

    def read(given: Any) -> Cell | None:
        is_number = type(given) is float or type(given) is int
        return given if is_number and -largest <= given <= largest else None

    return read


def _whole(dtype: str) -> Callable[[Any], Cell | None]:
    low, high = _range(dtype)

    def read(given: Any) -> Cell | None:
        is_number = type(given) is float or type(given) is int
        return int(given) if is_number and low <= given <= high and given == int(given) else None

    return read


def _range(dtype: str) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return max(int(info.min), -MAX_EXACT), min(int(info.max), MAX_EXACT)


def _truth(given: Any) -> Cell | None:
    return given if type(given) is bool else None


def _text(given: Any) -> Cell | None:
    return given if type(given) is str and "\0" not in given else None


REALS = ("float32", "float64")
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_CELLS: dict[str, Callable[[Any], Cell | None]] = {
    **{dtype: _real(dtype) for dtype in REALS},
    **{dtype: _whole(dtype) for dtype in WHOLE},
    "bool": _truth,
    "str": _text,
}
_EXPECTED = {
    "float32": "a number that float32 can hold",
    "float64": "a number",
    **{dtype: "a whole number from {} to {}".format(*_range(dtype)) for dtype in WHOLE},
    "bool": "true or false",
    "str": "text without the character U+0000",
}
