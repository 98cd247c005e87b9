"""Tensors on the wire: what is written is read again, in JSON and in binary, and nothing else is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandit_serve.api.inference import InferenceInput, InferenceRequest, InferenceResponse
from bandit_serve.errors import InvalidInput
from bandit_serve.server.tensors import NamedTensor, read_tensors, respond, split
from bandit_serve.serving.datatypes import NUMPY, wire_dtype

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=20)


def written(tensor: NamedTensor, as_binary: bool) -> tuple[dict[str, Any], bytes]:
    """Header and binary data of a response with one output."""
    response = asyncio.run(respond(InferenceResponse("m", []), [(tensor, as_binary)]))
    body = response.body
    assert isinstance(body, bytes)
    head, data = split(response.headers.get("Inference-Header-Content-Length"), body)
    return json.loads(head), data


def read(head: dict[str, Any], data: bytes) -> NamedTensor:
    """Reads an output as if it were an input."""
    (given,) = head["outputs"]
    tensor = InferenceInput(**given)
    return asyncio.run(read_tensors(InferenceRequest([tensor]), data))["x"]


@given(st.data(), st.sampled_from(sorted(NUMPY.keys() - {"BYTES"})), st.booleans())
def test_numbers_come_back(data: st.DataObject, datatype: str, as_binary: bool) -> None:
    dtype = wire_dtype(datatype)
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    array = data.draw(
        hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=5), elements=hnp.from_dtype(dtype, **finite))
    )
    tensor = NamedTensor("x", datatype, array.shape, array.ravel().tolist())  # type: ignore[arg-type]
    head, binary = written(tensor, as_binary)
    assert len(binary) == (array.nbytes if as_binary else 0)
    assert read(head, binary) == tensor


@given(TEXTS, st.booleans())
def test_texts_come_back(texts: list[str], as_binary: bool) -> None:
    tensor = NamedTensor("x", "BYTES", (len(texts),), texts)
    assert read(*written(tensor, as_binary)) == tensor


@given(TEXTS, st.data())
def test_texts_that_are_cut_or_longer_are_refused(texts: list[str], data: st.DataObject) -> None:
    head, binary = written(NamedTensor("x", "BYTES", (len(texts),), texts), True)
    end = data.draw(st.integers(0, len(binary) - 1))
    for wrong in (binary[:end], binary + b"\0"):
        head["outputs"][0]["parameters"]["binary_data_size"] = len(wrong)
        with pytest.raises(InvalidInput, match=r"inputs\[0\]"):
            read(head, wrong)


@given(st.binary(max_size=60), st.integers(1, 5))
def test_any_bytes_are_texts_or_refused(data: bytes, n: int) -> None:
    tensor = InferenceInput("x", [n], "BYTES", {"binary_data_size": len(data)})
    try:
        read_back = asyncio.run(read_tensors(InferenceRequest([tensor]), data))["x"]
    except InvalidInput:
        return
    assert written(read_back, True)[1] == data


@pytest.mark.parametrize("shape", [[6], [2, 3], [3, 2, 1], [1, 6]])
def test_data_may_be_flat_or_nested(shape: list[int]) -> None:
    flat = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    for data in (flat, np.reshape(flat, shape).tolist()):
        tensor = InferenceInput("x", shape, "FP32", data=data)
        assert asyncio.run(read_tensors(InferenceRequest([tensor]), b""))["x"].values == flat


def test_several_inputs_share_the_binary_data_in_their_order() -> None:
    inputs = [
        InferenceInput("a", [2], "INT16", {"binary_data_size": 4}),
        InferenceInput("b", [1], "FP32", data=[0.5]),
        InferenceInput("c", [2], "BYTES", {"binary_data_size": 10}),
    ]
    tensors = asyncio.run(read_tensors(InferenceRequest(inputs), b"\1\0\xff\xff\1\0\0\0u\1\0\0\0v"))
    assert [tensors[name].values for name in "abc"] == [[1, -1], [0.5], ["u", "v"]]
