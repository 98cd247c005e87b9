"""Signature of an ONNX graph: the tensors that it takes and gives, as its version's record keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs

from bandit_serve.errors import FieldError, InvalidArtifact, InvalidInput

MAX_COLUMNS = 10_000
MAX_INPUTS = 1_000
MAX_OUTPUTS = 100
MAX_NAME = 256
NUMBER_BYTES = 26
"""Bytes of a number in a list of an answer, at most."""
CHARACTER_BYTES = 6
"""Bytes of a character in an answer, at most: U+0001 is written as an escape."""
MAX_TEXT_BYTES = 1_536
"""Bytes of each text of an output whose shape is known."""
MAX_OPEN_BYTES = 24 * 2**10
"""Bytes of a row's part of an output whose size the graph does not say: 780 numbers or more."""
BRACKETS_BYTES = 2
"""Bytes of a list's brackets, of which a value has at most a pair for each axis."""
MAX_ROW_BYTES = 512 * 2**10
"""Bytes of a row's part of an answer, as the graph says it: about 19,000 numbers."""
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}
# Of scikit-learn's classifiers: for each row, scores by class.
MAPPINGS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")


class TensorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor: dtype as NumPy writes it (`mapping`: a dict a row, scores by class), and its shape without rows."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether the graph says how many values a row has."""
        return self.dtype != "mapping" and None not in self.shape

    @property
    def max_row_bytes(self) -> int:
        """Bytes of a row's values in an answer, at most."""
        if not self.is_known:
            return MAX_OPEN_BYTES
        sizes = [size for size in self.shape if size is not None]
        value_bytes = MAX_TEXT_BYTES if self.dtype == "str" else NUMBER_BYTES
        return math.prod(sizes) * (value_bytes + BRACKETS_BYTES * len(sizes))


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """Tensors of a graph. Either one input of (n, d), with a name for each of its columns, or inputs of one column.

    `columns` are the names of features: of the one input's columns, else of the inputs. `single`: the graph takes one
    row a run. `nbytes` is what a session took.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    columns: tuple[str, ...]
    single: bool = False
    nbytes: int = 0

    @property
    def is_matrix(self) -> bool:
        """Whether one input takes all features, so that a list in order is enough."""
        return len(self.inputs) == 1 and bool(self.inputs[0].shape)

    @property
    def texts(self) -> set[str]:
        """Names of the features that are texts to the graph."""
        if self.is_matrix:
            return set(self.columns if self.inputs[0].dtype == "str" else ())
        return {name for name, each in zip(self.columns, self.inputs, strict=True) if each.dtype == "str"}

    @property
    def is_regression(self) -> bool:
        """Whether the only output is one real number a row: the version's `prediction`."""
        one = self.outputs[0]
        return len(self.outputs) == 1 and one.dtype in ("float32", "float64") and one.shape in ((), (1,))

    @property
    def max_row_bytes(self) -> int:
        """Bytes of a row's part of an answer, at most. A run that gives more has failed."""
        return sum(CHARACTER_BYTES * len(each.name) + each.max_row_bytes for each in self.outputs)


def signature_of(inputs: Sequence[Any], outputs: Sequence[Any], nbytes: int = 0) -> Signature:
    """Signature of a session's `NodeArg`s. Raises `InvalidArtifact` for those that no request could fill."""
    if not 0 < len(inputs) <= MAX_INPUTS or not 0 < len(outputs) <= MAX_OUTPUTS:
        raise InvalidArtifact(
            f"The graph has {len(inputs)} inputs and {len(outputs)} outputs: expected 1 to {MAX_INPUTS} and 1 to "
            f"{MAX_OUTPUTS}."
        )
    for each in (*inputs, *outputs):
        if not 0 < len(each.name) <= MAX_NAME:
            raise InvalidArtifact(
                f"A name of the graph has {len(each.name)} characters: expected 1 to {MAX_NAME}."
            )
    taken = [_input(each, alone=len(inputs) == 1) for each in inputs]
    rows = {each.shape[0] for each in inputs}
    single = 1 in rows
    if any(isinstance(n, int) and n != 1 for n in rows) or (single and len(rows) > 1):
        raise InvalidArtifact(
            "The graph takes a fixed number of rows: export it with a first dimension that is free, such as [None, 20]."
        )
    width = taken[0].shape[0] if taken[0].shape else None
    columns = (
        [f"x{i}" for i in range(width)] if width is not None and width > 1 else [each.name for each in taken]
    )
    signature = Signature(tuple(taken), tuple(map(_output, outputs)), tuple(columns), single, nbytes)
    if signature.max_row_bytes > MAX_ROW_BYTES:
        raise InvalidArtifact(
            f"The graph gives up to {signature.max_row_bytes} bytes for a row: expected {MAX_ROW_BYTES} or less, which "
            f"are about {MAX_ROW_BYTES // (NUMBER_BYTES + BRACKETS_BYTES)} numbers."
        )
    return signature


def with_columns(signature: Signature, names: Any) -> Signature:
    """Signature with names for the columns of its one input, from the version's `metadata.features`."""
    if names is None or not signature.is_matrix:
        return signature
    width = len(signature.columns)
    named = isinstance(names, list) and all(
        isinstance(name, str) and 0 < len(name) <= MAX_NAME for name in names
    )
    if not named or not len(names) == len(set(names)) == width:
        detail = f"expected {width} names, each once: one for each column of the input {signature.inputs[0].name!r}"
        raise InvalidInput(f"metadata.features: {detail}.", [FieldError("metadata.features", detail)])
    return structs.replace(signature, columns=tuple(names))


def _input(given: Any, alone: bool) -> TensorSpec:
    shape = given.shape
    if given.type not in DTYPES or len(shape) not in (1, 2):
        raise InvalidArtifact(
            f"The input {given.name!r} is {given.type} of shape {shape}: expected numbers, truth values or text, of "
            "shape [None, 1], or one input of [None, d]."
        )
    if len(shape) == 1:
        return TensorSpec(given.name, DTYPES[given.type])
    width = shape[1]
    if not isinstance(width, int):
        raise InvalidArtifact(
            f"The input {given.name!r} does not say how many columns it has: export it with a fixed second dimension."
        )
    if width < 1 or width > (MAX_COLUMNS if alone else 1):
        raise InvalidArtifact(
            f"The input {given.name!r} has {width} columns: expected one column for each of several inputs, or one "
            f"input of 1 to {MAX_COLUMNS} columns."
        )
    return TensorSpec(given.name, DTYPES[given.type], (width,))


def _output(given: Any) -> TensorSpec:
    if given.type in MAPPINGS:
        return TensorSpec(given.name, "mapping")
    if given.type not in DTYPES or not given.shape:
        raise InvalidArtifact(
            f"The output {given.name!r} is {given.type} of shape {given.shape}: expected a tensor with a row for each "
            "row of the inputs, or a mapping of scores by class."
        )
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in given.shape[1:])
    return TensorSpec(given.name, DTYPES[given.type], shape)
