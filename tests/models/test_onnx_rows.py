"""Rows of features: every dtype takes its own values and no others, and mistakes are named."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models.onnx.rows import RowReader, feeds
from bandit_serve.models.onnx.signature import MAX_INPUTS, signature_of, with_columns

OUTPUT = [SimpleNamespace(name="score", type="tensor(float)", shape=[None, 1])]


def signature(*inputs: tuple[str, str, list[Any]]) -> Any:
    return signature_of(
        [SimpleNamespace(name=n, type=f"tensor({t})", shape=shape) for n, t, shape in inputs], OUTPUT
    )


TAKEN = {
    "float": [0.0, -1.5, 3, 3.4028234e38],
    "double": [0.0, -1e308, 7],
    "int64": [0, -(2**53), 2**53, 4.0],
    "int32": [-(2**31), 2**31 - 1],
    "int16": [-32768, 32767],
    "int8": [-128, 127],
    "uint8": [0, 255],
    "uint64": [0, 2**53],
    "bool": [True, False],
    "string": ["", "größer", "x" * 10_000],
}
REFUSED = {
    "float": [1e39, math.nan, math.inf, "1", True, None, ["a"]],
    "double": [math.inf, "1", False],
    "int64": [0.5, 2**53 + 2, 1e300, True, "1", math.nan],
    "int32": [2**31, -(2**31) - 1],
    "int16": [32768],
    "int8": [128, -129],
    "uint8": [-1, 256],
    "uint64": [-1, 2**54],
    "bool": [0, 1.0, "true"],
    "string": [1.0, True, "a\0b", ["a"]],
}


@pytest.mark.parametrize("dtype", TAKEN)
def test_a_dtype_takes_its_values(dtype: str) -> None:
    made = signature(("a", dtype, [None, 1]), ("b", dtype, [None]))
    read = RowReader(made)
    for value in TAKEN[dtype]:
        row = read({"a": value, "b": value, "other": "left aside"})
        given = feeds(made, [row, row])
        assert given["a"].shape == (2, 1)
        assert given["b"].shape == (2,)
        assert given["a"][1, 0] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-7))


@pytest.mark.parametrize("dtype", REFUSED)
def test_a_dtype_refuses_all_else_by_name(dtype: str) -> None:
    read = RowReader(signature(("good", "float", [None, 1]), ("a", dtype, [None, 1])))
    for value in REFUSED[dtype]:
        with pytest.raises(InvalidInput, match=r"features\.a: expected") as refused:
            read({"good": 1.0, "a": value})
        assert [error.at for error in refused.value.errors] == ["features.a"]
    with pytest.raises(InvalidInput, match=r"features\.a: is missing: expected"):
        read({"good": 1.0})


def test_one_matrix_takes_a_list_or_names() -> None:
    made = signature(("X", "float", [None, 3]))
    read = RowReader(made)
    assert read([1.0, 2.0, 3.0]) == read({"x2": 3.0, "x0": 1.0, "x1": 2.0}) == [1.0, 2.0, 3.0]
    given = feeds(made, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert given["X"].dtype == np.float32
    assert given["X"].tolist() == [[1, 2, 3], [4, 5, 6]]
    for wrong in ([], [1.0], [1.0] * 4, None):
        with pytest.raises(InvalidInput, match="expected 3 numbers"):
            read(wrong)


def test_a_list_is_for_one_matrix_or_one_column() -> None:
    assert RowReader(signature(("a", "float", [None, 1])))([2.0]) == [2.0]
    with pytest.raises(InvalidInput, match="by name"):
        RowReader(signature(("a", "float", [None, 1]), ("b", "float", [None, 1])))([1.0, 2.0])


def test_columns_get_names() -> None:
    made = with_columns(signature(("X", "double", [None, 2])), ["age", "income"])
    assert RowReader(made)({"income": 5, "age": 4}) == [4, 5]
    for wrong in (
        ["age"],
        ["age", "age"],
        "ab",
        [1, 2],
        {"age": 1, "income": 2},
        ["", "x"],
        ["a", "b" * 300],
    ):
        with pytest.raises(InvalidInput, match=r"metadata\.features"):
            with_columns(made, wrong)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [("a", "float", [])],
        [("a", "float", [None, None])],
        [("a", "float", [None, 0])],
        [("a", "float", [None, 2, 2])],
        [("a", "float", [5, 2])],
        [("a", "float", [1, 2]), ("b", "float", [1, 2])],
        [("a", "float", [1, 1]), ("b", "float", [None, 1])],
        [("a", "float16", [None, 1])],
        [("a", "complex64", [None, 1])],
        [("", "float", [None, 1])],
        [(f"a{i}", "float", [None, 1]) for i in range(MAX_INPUTS + 1)],
        [("a", "float", [None, 10_001])],
    ],
)
def test_inputs_that_no_request_could_fill_are_refused(inputs: Any) -> None:
    with pytest.raises(InvalidArtifact):
        signature(*inputs)


def test_a_graph_of_one_row_says_so() -> None:
    assert signature(("a", "float", [1, 4])).single
    assert not signature(("a", "float", ["n", 4])).single
