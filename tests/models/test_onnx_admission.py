"""Admission of ONNX files: the check has bounds of its own, runs nothing of a graph, and says what it found."""

from __future__ import annotations

import importlib
from typing import Any

import graphs
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bandit_serve.base import extras
from bandit_serve.errors import InvalidArtifact, NotInstalled
from bandit_serve.models.onnx import admission
from bandit_serve.models.onnx.admission import admit_onnx
from bandit_serve.models.onnx.file import OnnxFile

pytestmark = pytest.mark.server


def test_a_signature_says_what_the_graph_takes_and_its_bytes() -> None:
    content = graphs.random_forest().content
    signature = admit_onnx(OnnxFile(content))
    assert [(each.name, each.dtype, each.shape) for each in signature.inputs] == [("X", "float32", (20,))]
    assert [(each.name, each.dtype, each.shape) for each in signature.outputs] == [
        ("label", "int64", ()),
        ("probabilities", "float32", (2,)),
    ]
    assert signature.columns == tuple(f"x{i}" for i in range(20))
    assert len(content) <= signature.nbytes < 20 * len(content)


def test_a_check_runs_nothing_of_the_graph() -> None:
    """A constant of 32 GiB is not made before a request asks for it."""
    shape = numpy_helper.from_array(np.array([2**33], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["a", "sum"], ["score"]),
    ]
    content = graphs.graph(
        nodes,
        {"a": (TensorProto.FLOAT, [None, 1])},
        {"score": (TensorProto.FLOAT, [None, 1])},
        [shape],
    )
    assert admit_onnx(OnnxFile(content.SerializeToString())).columns == ("a",)


def test_too_long_a_check_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_SECONDS", 0.05)
    with pytest.raises(InvalidArtifact, match="within"):
        admit_onnx(OnnxFile(graphs.arithmetic()))


def test_too_much_memory_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BASE_BYTES", 2**20)
    with pytest.raises(InvalidArtifact, match="memory"):
        admit_onnx(OnnxFile(graphs.arithmetic()))


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras, "importlib", type("Missing", (), {"import_module": staticmethod(missing)}))
    assert importlib.import_module("onnxruntime")
    with pytest.raises(NotInstalled, match=r"pip install 'bandit-serve\[onnx\]'"):
        admit_onnx(OnnxFile(graphs.arithmetic()))
