"""ONNX graphs: classifiers of real libraries with what these predict, and small ones made by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

N_FEATURES = 20
OPSET = [helper.make_opsetid("", 17)]


class Exported(NamedTuple):
    """Graph, requests' features, and what the library predicts for them: labels and probabilities, (n, classes)."""

    content: bytes
    features: list[Any]
    labels: list[Any]
    probabilities: np.ndarray


@cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(1_500, N_FEATURES)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)


def _exported(content: bytes, model: Any, x: np.ndarray) -> Exported:
    return Exported(content, x.tolist(), model.predict(x).tolist(), model.predict_proba(x))


@cache
def random_forest(seed: int = 0, zipmap: bool = False) -> Exported:
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    x, y = _data()
    model = RandomForestClassifier(100, random_state=seed).fit(x, y)
    content = to_onnx(model, x[:1], options={"zipmap": zipmap}).SerializeToString()
    return _exported(content, model, x[:40])


@cache
def xgboost() -> Exported:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from xgboost import XGBClassifier

    x, y = _data()
    model = XGBClassifier(n_estimators=50, max_depth=4, random_state=0, n_jobs=1).fit(x, y)
    graph = convert_xgboost(model, initial_types=[("X", FloatTensorType([None, N_FEATURES]))])
    return _exported(graph.SerializeToString(), model, x[:40])


@cache
def lightgbm() -> Exported:
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    x, y = _data()
    model = LGBMClassifier(n_estimators=50, random_state=0, n_jobs=1, verbose=-1).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = convert_lightgbm(
            model, initial_types=[("X", FloatTensorType([None, N_FEATURES]))], zipmap=False
        )
        return _exported(graph.SerializeToString(), model, x[:40])


@cache
def text_pipeline() -> Exported:
    """Pipeline over a frame with two columns of text and two of numbers, one input a column."""
    import pandas
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    generator = np.random.default_rng(8)
    frame = pandas.DataFrame(
        {
            "country": generator.choice(["de", "fr", "it", "größer"], 500),
            "device": generator.choice(["ios", "web"], 500),
            "income": generator.normal(50_000, 9_000, 500),
            "age": generator.integers(18, 90, 500),
        }
    )
    repaid = np.where((frame.income > 48_000) ^ (frame.country == "it"), "repaid", "lost")
    encoder = ColumnTransformer(
        [
            ("texts", OneHotEncoder(handle_unknown="ignore"), ["country", "device"]),
            ("numbers", StandardScaler(), ["income", "age"]),
        ]
    )
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, repaid)
    types = [
        ("country", StringTensorType([None, 1])),
        ("device", StringTensorType([None, 1])),
        ("income", FloatTensorType([None, 1])),
        ("age", Int64TensorType([None, 1])),
    ]
    content = to_onnx(model, initial_types=types, options={"zipmap": False}).SerializeToString()
    asked = frame[:40].assign(income=lambda f: f.income.astype(np.float32))
    return Exported(
        content, asked.to_dict("records"), model.predict(asked).tolist(), model.predict_proba(asked)
    )


CLASSIFIERS: dict[str, Callable[[], Exported]] = {
    "random_forest": random_forest,
    "xgboost": xgboost,
    "lightgbm": lightgbm,
    "text_pipeline": text_pipeline,
}


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: dict[str, tuple[int, Sequence[Any]]],
    initializers: Sequence[onnx.TensorProto] = (),
    **changes: Any,
) -> onnx.ModelProto:
    """Model of these nodes; inputs and outputs are (element type, shape) by name."""
    made = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        initializer=list(initializers),
    )
    return helper.make_model(made, **{"opset_imports": OPSET, "ir_version": 8, **changes})


def arithmetic(operator: str = "Sum", n: int = 2, element: int = TensorProto.FLOAT) -> bytes:
    """Graph that puts n inputs of one column, a, b, …, together with this operator: a regression."""
    names = [chr(ord("a") + i) for i in range(n)]
    node = helper.make_node(operator, names, ["score"])
    return graph(
        [node], {name: (element, [None, 1]) for name in names}, {"score": (element, [None, 1])}
    ).SerializeToString()


def of_one_row() -> bytes:
    """Graph that takes one row a run, of four features, and gives their sum."""
    node = helper.make_node("ReduceSum", ["a"], ["score"], keepdims=1)
    return graph(
        [node], {"a": (TensorProto.FLOAT, [1, 4])}, {"score": (TensorProto.FLOAT, [1, 1])}
    ).SerializeToString()


def slow(rounds: int) -> bytes:
    """Graph with a loop of so many rounds, each of them some work, over one column."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
        initializer=[helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    loop = helper.make_node("Loop", ["rounds", "", "a"], ["score"], body=body)
    constants = [helper.make_tensor("rounds", TensorProto.INT64, [], [rounds])]
    return graph(
        [loop],
        {"a": (TensorProto.FLOAT, [None, 1])},
        {"score": (TensorProto.FLOAT, [None, 1])},
        constants,
    ).SerializeToString()
