"""Open Inference protocol of upstreams: the tensors that are sent, and which answers fit."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import msgspec
import pytest

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.errors import InvalidInput, TooLarge
from bandit_serve.serving.json_questions import MAX_OUTPUT_VALUES
from bandit_serve.serving.open_inference import InferInputs, Unfit, check_question, infer_scores


def request(**fields: Any) -> ScoreRequest:
    return msgspec.convert(fields, ScoreRequest)


def inputs(*tensors: tuple[str, str, list[int]]) -> InferInputs:
    about = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]
    return InferInputs(json.dumps({"name": "m", "inputs": about, "outputs": []}).encode())


def asked(known: InferInputs, alone: bool = False, **fields: Any) -> Any:
    return json.loads(known.question(request(**fields), alone))


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def test_a_user_and_an_item_are_one_row() -> None:
    assert asked(InferInputs(), user_id="u", item_id="i") == {
        "inputs": [tensor("user_id", "BYTES", [1], ["u"]), tensor("item_id", "BYTES", [1], ["i"])]
    }


def test_items_are_rows_with_the_same_user_and_features() -> None:
    body = asked(
        InferInputs(), user_id="u", item_ids=["a", "b"], features={"x": 1.5, "new": True, "city": "Ulm"}
    )
    assert body["inputs"] == [
        tensor("user_id", "BYTES", [2], ["u", "u"]),
        tensor("item_id", "BYTES", [2], ["a", "b"]),
        tensor("x", "FP64", [2], [1.5, 1.5]),
        tensor("new", "BOOL", [2], [True, True]),
        tensor("city", "BYTES", [2], ["Ulm", "Ulm"]),
    ]


def test_the_best_are_asked_for_with_those_that_are_left_out() -> None:
    body = asked(InferInputs(), user_id="u", k=3, exclude=["a", "b", "a"])
    assert body == {"inputs": [tensor("user_id", "BYTES", [1], ["u"])], "parameters": {"k": 5}}


def test_lists_are_columns() -> None:
    assert asked(InferInputs(), features=[1.0, 2.0, 3.0])["inputs"] == [
        tensor("features", "FP64", [1, 3], [1.0, 2.0, 3.0])
    ]
    assert asked(InferInputs(), features={"tags": ["a", "b"]})["inputs"] == [
        tensor("tags", "BYTES", [1, 2], ["a", "b"])
    ]


def test_metadata_say_names_and_datatypes() -> None:
    known = inputs(("age", "INT32", [-1, 1]), ("weight", "FP32", [-1]), ("item_id", "BYTES", [-1]))
    body = asked(known, user_id="u", item_id="i", features={"age": 30.0, "weight": 1, "more": "x"})
    assert body["inputs"] == [
        tensor("item_id", "BYTES", [1], ["i"]),
        tensor("age", "INT32", [1, 1], [30]),
        tensor("weight", "FP32", [1], [1]),
    ]


def test_numbers_go_to_the_one_input_there_is() -> None:
    assert asked(inputs(("predict", "FP32", [-1, 2])), features=[1.0, 2.0])["inputs"] == [
        tensor("predict", "FP32", [1, 2], [1.0, 2.0])
    ]


def test_numbers_are_as_exact_as_they_came() -> None:
    value = 0.1 + 0.2
    assert asked(InferInputs(), features={"x": value})["inputs"][0]["data"] == [value]


@pytest.mark.parametrize(
    ("known", "fields", "words"),
    [
        (inputs(("age", "FP64", [-1])), {}, "lacks the input 'age'"),
        (inputs(("user_id", "BYTES", [-1])), {"features": {"x": 1}}, "lacks the input 'user_id'"),
        (inputs(("age", "INT32", [-1])), {"features": {"age": 1.5}}, "takes INT32"),
        (inputs(("age", "UINT8", [-1])), {"features": {"age": 256}}, "takes UINT8"),
        (inputs(("age", "INT8", [-1])), {"features": {"age": -129}}, "takes INT8"),
        (inputs(("age", "FP64", [-1])), {"features": {"age": "30"}}, "takes FP64"),
        (inputs(("age", "FP64", [-1])), {"features": {"age": True}}, "takes FP64"),
        (inputs(("age", "FP32", [-1])), {"features": {"age": 1e39}}, "takes FP32"),
        (inputs(("age", "FP16", [-1])), {"features": {"age": 70_000}}, "takes FP16"),
        (inputs(("age", "BYTES", [-1])), {"features": {"age": 30}}, "takes BYTES"),
        (inputs(("age", "BOOL", [-1])), {"features": {"age": 1}}, "takes BOOL"),
        (inputs(("age", "COMPLEX", [-1])), {"features": {"age": 1}}, "takes COMPLEX"),
        (inputs(("x", "FP64", [-1, 3])), {"features": [1.0, 2.0]}, "has 3 columns, not 2"),
    ],
)
def test_a_request_that_does_not_fit_is_not_sent(
    known: InferInputs, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unfit, match=words):
        known.question(request(**fields))


def test_the_values_of_a_question_are_bounded_before_they_are_made() -> None:
    items = [f"i{i}" for i in range(10_000)]
    for features in ([1.0] * 9, {f"x{i}": "a" * 10 for i in range(9)}, {"x": ["a"] * 9}):
        check_question(request(item_ids=items, features=features))
    for features in ([1.0] * 10, {f"x{i}": True for i in range(10)}, {"x": ["a"] * 10}):
        with pytest.raises(TooLarge, match="at most 100000 values in all rows, and 10000 x 10 are more"):
            check_question(request(item_ids=items, features=features))
    with pytest.raises(TooLarge, match="at most 100000 values"):
        check_question(request(features={str(i): ["a"] * 10 for i in range(10_000)}))
    with pytest.raises(TooLarge, match="1048576 bytes of texts in all rows, and 1000 x 1050 are more"):
        check_question(request(item_ids=items[:1_000], features={"x": "ä" * 500, "y": ["a" * 50]}))
    check_question(request(item_id="i", features={"x": "a" * 2**21}))
    check_question(request(user_id="u", item_ids=items))
    with pytest.raises(InvalidInput, match="expected one of item_id"):
        check_question(request(item_id="i", k=3))


def test_the_largest_question_is_small() -> None:
    """Rows are repeated as bytes, so that no list of all values is ever made."""
    asked = request(user_id="u" * 128, item_ids=[f"i{i}" for i in range(10_000)], features=[0.1] * 9)
    tracemalloc.start()
    try:
        body = InferInputs().question(asked)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    tensors = {each["name"]: each for each in json.loads(body)["inputs"]}
    assert tensors["features"]["shape"] == [10_000, 9]
    assert tensors["features"]["data"] == [0.1] * 90_000
    assert tensors["user_id"]["data"] == ["u" * 128] * 10_000
    assert peak < 5 * len(body)


def test_rows_of_no_values_are_none() -> None:
    body = asked(InferInputs(), item_ids=["a", "b"], features={"x": []})
    assert body["inputs"][1] == tensor("x", "BYTES", [2, 0], [])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT32"])
def test_numbers_that_json_does_not_have_are_not_sent(value: float, datatype: str) -> None:
    known = inputs(("x", datatype, [-1]))
    for features in ({"x": value}, [0.0, value]):
        with pytest.raises(Unfit, match=f"takes {datatype}"):
            known.question(ScoreRequest(features=features))


def test_asked_alone_a_model_refuses_what_it_does_not_take() -> None:
    known = inputs(("age", "FP64", [-1]))
    assert known.question(request(features={"age": 1, "x": 2}))
    with pytest.raises(InvalidInput, match=r"features\.x: the model has no such input"):
        known.question(request(features={"age": 1, "x": 2}), alone=True)


@pytest.mark.parametrize("metadata", [b"", b"[]", b'{"inputs": 3}', b'{"inputs": [{"shape": [1]}]}', b"\xff"])
def test_metadata_that_are_none_are_refused(metadata: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        InferInputs(metadata)


ONE = {"user_id": "u", "item_id": "i"}
SOME = {"user_id": "u", "item_ids": ["a", "b"]}
BEST = {"user_id": "u", "k": 2, "exclude": ["b"]}
PLAIN = {"features": {"x": 1.0}}


def scores(fields: dict[str, Any], *outputs: dict[str, Any]) -> Any:
    content = {"model_name": "m", "model_version": "1", "id": "7", "outputs": list(outputs)}
    return infer_scores(request(**fields), json.dumps(content).encode())


@pytest.mark.parametrize(
    ("fields", "outputs", "expected"),
    [
        (ONE, [tensor("prediction", "FP64", [1], [0.5])], {"prediction": 0.5}),
        (ONE, [tensor("prediction", "INT64", [1, 1], [[3]])], {"prediction": 3.0}),
        (PLAIN, [tensor("prediction", "FP32", [1], [2])], {"prediction": 2.0}),
        (SOME, [tensor("prediction", "FP32", [2, 1], [[0.5], [1.5]])], {"predictions": [0.5, 1.5]}),
        (
            BEST,
            [
                tensor("item_id", "BYTES", [1, 3], ["a", "b", "c"]),
                tensor("score", "FP64", [1, 3], [3, 2, 1]),
            ],
            {"items": [ScoredItem("a", 3.0), ScoredItem("c", 1.0)]},
        ),
        (PLAIN, [tensor("label", "BYTES", [1], ["yes"])], {"outputs": {"label": "yes"}}),
        (PLAIN, [tensor("p", "FP32", [1, 2], [[0.25, 0.75]])], {"outputs": {"p": [0.25, 0.75]}}),
        (PLAIN, [tensor("p", "FP32", [1, 2], [0.25, 0.75])], {"outputs": {"p": [0.25, 0.75]}}),
        (PLAIN, [tensor("p", "FP32", [2], [0.25, 0.75])], {"outputs": {"p": [0.25, 0.75]}}),
        (PLAIN, [tensor("b", "BOOL", [1], [True])], {"outputs": {"b": True}}),
        (PLAIN, [tensor("m", "INT8", [1, 2, 2], [1, 2, 3, 4])], {"outputs": {"m": [[1, 2], [3, 4]]}}),
        (SOME, [tensor("p", "FP32", [2, 2], [1, 2, 3, 4])], {"outputs": {"p": [[1, 2], [3, 4]]}}),
        (
            ONE,
            [tensor("prediction", "FP64", [1], [0.5]), tensor("label", "BYTES", [1], ["x"])],
            {"prediction": 0.5, "outputs": {"label": "x"}},
        ),
    ],
)
def test_answers_that_fit(fields: dict[str, Any], outputs: list[Any], expected: Any) -> None:
    assert scores(fields, *outputs) == expected


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        (ONE, []),
        (ONE, [tensor("prediction", "FP64", [2], [0.5, 0.6])]),
        (ONE, [tensor("prediction", "FP64", [1], [])]),
        (ONE, [tensor("prediction", "FP64", [1], ["0.5"])]),
        (ONE, [tensor("prediction", "FP64", [1], [True])]),
        (ONE, [tensor("prediction", "FP64", [1], [None])]),
        (ONE, [tensor("prediction", "BYTES", [1], ["0.5"])]),
        (ONE, [tensor("prediction", "FP64", [0], [])]),
        (ONE, [tensor("prediction", "FP64", [-1], [0.5])]),
        (ONE, [tensor("prediction", "FP64", [10**18, 10**18], [0.5])]),
        (ONE, [tensor("prediction", "NUMBER", [1], [0.5])]),
        (SOME, [tensor("prediction", "FP64", [1], [0.5])]),
        (SOME, [tensor("p", "FP64", [3], [1, 2, 3])]),
        (BEST, [tensor("item_id", "BYTES", [2], ["a", "c"]), tensor("score", "FP64", [1], [1])]),
        (BEST, [tensor("item_id", "FP64", [1], [1]), tensor("score", "FP64", [1], [1])]),
        (BEST, [tensor("item_id", "BYTES", [2], ["a", "a"]), tensor("score", "FP64", [2], [1, 1])]),
        (PLAIN, [tensor("p", "FP64", [2, 2], [1, 2, 3])]),
        (PLAIN, [tensor("p", "FP64", [1], [{"x": 1}])]),
    ],
)
def test_answers_that_do_not(fields: dict[str, Any], outputs: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        scores(fields, *outputs)


def test_the_values_of_an_answer_are_bounded() -> None:
    for n in (MAX_OUTPUT_VALUES - 1, MAX_OUTPUT_VALUES + 1):
        output = tensor("p", "FP64", [1, n], [0] * n)
        if n < MAX_OUTPUT_VALUES:
            assert len(scores(PLAIN, output)["outputs"]["p"]) == n
        else:
            with pytest.raises(ValueError, match="at most 100000 values of 'p'"):
                scores(PLAIN, output)
