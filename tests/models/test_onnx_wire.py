"""Structure of ONNX files: what graphs of libraries have passes, and whatever bytes come end in a refusal, soon."""

from __future__ import annotations

import time
import tracemalloc

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models.onnx import wire
from bandit_serve.models.onnx.wire import MAX_DEPTH, check_structure, is_onnx

GRAPH = graphs.arithmetic()


@pytest.mark.parametrize("name", graphs.CLASSIFIERS)
def test_graphs_of_libraries_pass(name: str) -> None:
    content = graphs.CLASSIFIERS[name]().content
    assert is_onnx(content)
    check_structure(content)


def test_any_part_of_a_graph_is_refused_or_is_one() -> None:
    for length in range(len(GRAPH)):
        try:
            check_structure(GRAPH[:length])
        except InvalidArtifact:
            continue
        # Whole fields may be left away at the end: the graph is one of them, the last are the operators' versions.
        assert GRAPH[:length].endswith((b"\x42", b"\x17")) or length > len(GRAPH) - 8


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_refusal(content: bytes) -> None:
    for data in (content, b"\x08\x08" + content, b"\x08\x08\x3a" + bytes([min(127, len(content))]) + content):
        try:
            check_structure(data)
        except InvalidArtifact:
            continue


@given(st.integers(0, len(GRAPH) - 1), st.integers(0, 255))
def test_any_changed_byte_ends_in_a_refusal_or_a_graph(place: int, byte: int) -> None:
    changed = bytearray(GRAPH)
    changed[place] = byte
    try:
        check_structure(bytes(changed))
    except InvalidArtifact:
        return


def nested(depth: int) -> bytes:
    output = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
    node = helper.make_node("Constant", [], ["score"], value_float=1.0)
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [output])
        node = helper.make_node("If", ["c"], ["score"], then_branch=branch)
    inputs = {"c": (TensorProto.BOOL, [1])}
    return graphs.graph([node], inputs, {"score": (TensorProto.FLOAT, [1])}).SerializeToString()


def test_graphs_in_graphs_have_a_bound() -> None:
    check_structure(nested(MAX_DEPTH - 1))
    with pytest.raises(InvalidArtifact, match="deep"):
        check_structure(nested(MAX_DEPTH))


def test_lengths_that_lie_are_refused() -> None:
    for claimed in (b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\xff" * 10):
        with pytest.raises(InvalidArtifact, match="damaged"):
            check_structure(b"\x08\x08\x3a" + claimed + GRAPH)


@pytest.mark.parametrize(
    ("dims", "good"),
    [([0, 2**62], True), ([2, 2], True), ([2**62], False), ([-1], False), ([2**31, 2**31], False)],
)
def test_tensors_are_no_larger_than_their_bytes(dims: list[int], good: bool) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    add = helper.make_node("Add", ["a", "w"], ["score"])
    content = graphs.graph(
        [add], {"a": (1, [None, 4])}, {"score": (1, [None, 4])}, [tensor]
    ).SerializeToString()
    if good:
        check_structure(content)
    else:
        with pytest.raises(InvalidArtifact, match="more elements"):
            check_structure(content)


def test_sparse_tensors_and_training_graphs_are_refused() -> None:
    model = graphs.graph(
        [helper.make_node("Identity", ["a"], ["score"])], {"a": (1, [None, 1])}, {"score": (1, [None, 1])}
    )
    model.training_info.add()
    with pytest.raises(InvalidArtifact, match="training"):
        check_structure(model.SerializeToString())
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    node = helper.make_node(
        "Constant", [], ["score"], sparse_value=helper.make_sparse_tensor(values, indices, [2**40])
    )
    content = graphs.graph([node], {"a": (1, [None, 1])}, {"score": (1, [None])}).SerializeToString()
    with pytest.raises(InvalidArtifact, match="sparse"):
        check_structure(content)


def test_functions_of_the_file_are_read_like_nodes() -> None:
    def content(domain: str) -> bytes:
        function = helper.make_function(
            "own",
            "Twice",
            ["x"],
            ["y"],
            [helper.make_node("Add", ["x", "x"], ["y"], domain=domain)],
            graphs.OPSET,
        )
        opsets = [*graphs.OPSET, helper.make_opsetid("own", 1)]
        call = helper.make_node("Twice", ["a"], ["score"], domain="own")
        return graphs.graph(
            [call],
            {"a": (1, [None, 1])},
            {"score": (1, [None, 1])},
            opset_imports=opsets,
            functions=[function],
        ).SerializeToString()

    check_structure(content(""))
    with pytest.raises(InvalidArtifact, match="evil"):
        check_structure(content("evil"))


def test_a_forest_of_a_million_nodes_is_read_within_seconds() -> None:
    n = 300_000
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["a"],
        ["score"],
        domain="ai.onnx.ml",
        nodes_values=np.arange(n, dtype=np.float32).tolist(),
        nodes_nodeids=list(range(n)),
        nodes_modes=["BRANCH_LEQ"] * n,
    )
    content = graphs.graph([node], {"a": (1, [None, 1])}, {"score": (1, [None, 1])}).SerializeToString()
    started_s = time.process_time()
    check_structure(content)
    assert time.process_time() - started_s < 5.0


def delimited(number: int, content: bytes) -> bytes:
    """Field of bytes in protobuf's form."""
    length, size = len(content), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


@pytest.mark.parametrize(
    "part",
    [b"\x60\x00", b"\x0a\x00", delimited(1, b"\x2a\x00"), delimited(5, b"\x0a\x02\x01\x01"), b"\x08\x01"],
    ids=["unknown numbers", "nodes", "attributes", "dimensions", "numbers in place of nodes"],
)
def test_tiny_fields_are_refused_at_a_bounded_cost(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 20_000)
    monkeypatch.setattr(wire, "MAX_MESSAGES", 5_000)
    content = b"\x08\x08" + delimited(7, part * 200_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArtifact, match=r"more than|damaged"):
            check_structure(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"\x08\x08", bytes(100), b"\x08\x01\x12\x05", b"\x80\x04\x95"]
)
def test_what_is_not_onnx_is_not_taken_for_it(content: bytes) -> None:
    assert not is_onnx(content)
