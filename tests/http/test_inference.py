"""Open Inference v2 as the contract has it: models and experiments, asked with tensors in JSON and in binary."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import arithmetic, graph, random_forest
from http_calls import check_problem, check_refusal, draft, new_name, running, upload
from services import Answer, ThrowawayService

from bandit_serve.models import FactorizationMachine, MatrixFactorization

USERS, ITEMS = ["u1", "u2", "u3"], [f"i{i}" for i in range(9)]
B = {"name": "b", "version": "v1"}
LENGTH = "Inference-Header-Content-Length"


def fitted(seed: int) -> MatrixFactorization:
    pairs = list(itertools.product(USERS, ITEMS))
    ratings = np.random.default_rng(seed).uniform(1, 5, len(pairs))
    users, items = zip(*pairs, strict=True)
    return MatrixFactorization(n_factors=2, n_epochs=3, seed=seed).fit(users, items, ratings)


MODELS = {"v1": fitted(1), "v2": fitted(2)}


@pytest.fixture(scope="module")
def ranker(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    for version, model in MODELS.items():
        model.save(folder / version)
        assert upload(service, "ranker", (folder / version).read_bytes(), {"version": version}).status == 201
    status = "/v1/models/ranker/versions/v1/status"
    assert service.call("POST", status, {"status": "production"}).status == 200
    return "ranker"


@pytest.fixture(scope="module")
def routed(service: ThrowawayService, ranker: str) -> str:
    arms = [{"name": version, "model": ranker, "version": version} for version in MODELS]
    return running(service, unit="user", arms=arms, control="v1")


def texts(name: str, values: list[str], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(values)], "datatype": "BYTES", "data": values}


def pairs(users: list[str], items: list[str]) -> dict[str, Any]:
    return {"inputs": [texts("user_id", users), texts("item_id", items)]}


def infer(service: ThrowawayService, model: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
    return service.call("POST", f"/v2/models/{model}/infer", body, headers)


def outputs_of(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer
    return {output["name"]: output for output in answer.body["outputs"]}


def check_declared(about: dict[str, Any], outputs: dict[str, Any]) -> None:
    """Checks that metadata and an answer have the same tensors."""
    assert [each["name"] for each in about["outputs"]] == list(outputs)
    for said in about["outputs"]:
        output = outputs[said["name"]]
        assert output["datatype"] == said["datatype"], said
        assert len(output["shape"]) == len(said["shape"]), said
        sizes = zip(output["shape"][1:], said["shape"][1:], strict=True)
        assert all(told in (-1, size) for size, told in sizes), said


def with_binary(document: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(document).encode()
    return head + b"".join(parts), {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}


def packed(values: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def test_the_server_and_its_health(service: ThrowawayService) -> None:
    about = service.call("GET", "/v2")
    assert about.body["name"] == "bandit_serve"
    assert about.body["extensions"] == ["binary_tensor_data"]
    assert service.call("GET", "/v2/health/live").body == {"live": True}
    assert service.call("GET", "/v2/health/ready").body == {"ready": True}


def test_models_and_experiments_say_what_they_take(
    service: ThrowawayService, ranker: str, routed: str
) -> None:
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("user_id", "item_id")]
    outputs = [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    expected = {"name": ranker, "versions": ["v1", "v2"], "platform": "bandit_serve", "inputs": inputs}
    for path in ("", "/versions/v2"):
        about = service.call("GET", f"/v2/models/{ranker}{path}")
        assert about.body == {**expected, "outputs": outputs}
        ready = service.call("GET", f"/v2/models/{ranker}{path}/ready")
        assert (ready.status, ready.body) == (200, {"name": ranker, "ready": True})
    about = service.call("GET", f"/v2/models/{routed}")
    assert [each["name"] for each in about.body["inputs"]] == ["user_id", "item_id", "unit"]
    assert about.body["outputs"] == outputs
    only = running(service)
    about = service.call("GET", f"/v2/models/{only}").body
    assert [each["name"] for each in about["outputs"]] == ["arm", "payload"]
    assert service.call("GET", f"/v2/models/{only}/ready").status == 200


def test_the_index_lists_them(service: ThrowawayService, ranker: str, routed: str) -> None:
    waiting = draft(service)
    for body in (None, {}, {"ready": False}):
        index = service.call("POST", "/v2/repository/index", body)
        entries = {(each["name"], each["version"]): each for each in index.body}
        assert len(entries) == len(index.body)
        assert entries[ranker, "v1"] == {"name": ranker, "version": "v1", "state": "READY", "reason": ""}
        assert entries[routed, ""]["state"] == "READY"
        assert entries[waiting, ""]["state"] == "UNAVAILABLE"
    names = [each["name"] for each in service.call("POST", "/v2/repository/index", {"ready": True}).body]
    assert ranker in names
    assert waiting not in names


@pytest.mark.parametrize("version", [None, "v1", "v2"])
def test_a_model_predicts_rows(service: ThrowawayService, ranker: str, version: str | None) -> None:
    path = ranker if version is None else f"{ranker}/versions/{version}"
    answer = infer(service, path, {"id": "r7", **pairs(["u1", "u3", "nobody"], ["i0", "i8", "i1"])})
    model = MODELS[version or "v1"]
    expected = [model.predict(user, item) for user, item in (("u1", "i0"), ("u3", "i8"), ("nobody", "i1"))]
    (output,) = answer.body.pop("outputs")
    assert answer.body == {"model_name": ranker, "model_version": version or "v1", "id": "r7"}
    assert output == {"name": "prediction", "datatype": "FP64", "shape": [3], "data": expected}


def test_the_best_items_of_each_user(service: ThrowawayService, ranker: str) -> None:
    asked = {"inputs": [texts("user_id", ["u1", "u2"])], "parameters": {"k": 4}}
    outputs = outputs_of(infer(service, ranker, asked))
    best = [MODELS["v1"].top_k(user, k=4) for user in ("u1", "u2")]
    assert outputs["item_id"]["shape"] == outputs["score"]["shape"] == [2, 4]
    assert (outputs["item_id"]["datatype"], outputs["score"]["datatype"]) == ("BYTES", "FP64")
    assert outputs["item_id"]["data"] == [item for row in best for item, _ in row]
    assert outputs["score"]["data"] == pytest.approx([score for row in best for _, score in row], rel=1e-6)
    more = {**asked, "parameters": {"k": 100}}
    assert outputs_of(infer(service, ranker, more))["item_id"]["shape"] == [2, 9], "there are only so many"


def test_each_row_of_an_experiment_is_a_decision(service: ThrowawayService, routed: str) -> None:
    n = 40
    users = [f"u{i % 3 + 1}" for i in range(n)]
    asked = pairs(users, ["i2"] * n)
    asked["inputs"].append(texts("unit", [f"unit-{i}" for i in range(n)]))
    answer = infer(service, routed, asked)
    parameters = answer.body["parameters"]
    assert "model_version" not in answer.body
    assert set(parameters) == {"decision_ids", "arms", "propensities"}
    assert set(parameters["arms"]) == {"v1", "v2"}
    assert parameters["propensities"] == [0.5] * n
    expected = [MODELS[arm].predict(user, "i2") for arm, user in zip(parameters["arms"], users, strict=True)]
    assert outputs_of(answer)["prediction"]["data"] == expected
    for i in (0, 7):
        decided = service.call(
            "POST",
            f"/v1/experiments/{routed}/predict",
            {"unit": f"unit-{i}", "user_id": "u1", "item_id": "i2"},
        )
        assert decided.body["arm"] == parameters["arms"][i]
    rewards = [{"decision_id": token, "value": 1} for token in parameters["decision_ids"]]
    assert service.call("POST", "/v1/rewards", {"rewards": rewards}).body["accepted"] == n
    results = service.call("GET", f"/v1/experiments/{routed}/results").body["arms"]
    assert sum(arm["metrics"]["click"]["n"] for arm in results) == n


def test_one_row_has_its_decision_by_itself_too(service: ThrowawayService, routed: str) -> None:
    parameters = infer(service, routed, pairs(["u1"], ["i1"])).body["parameters"]
    assert parameters["decision_ids"] == [parameters["decision_id"]]
    assert parameters["arms"] == [parameters["arm"]]
    assert parameters["propensities"] == [parameters["propensity"]] == [0.5]


def test_an_experiment_without_models_gives_its_arms(service: ThrowawayService) -> None:
    arms = [{"name": "control", "payload": {"colour": "grey"}}, {"name": "challenger"}]
    name = running(service, unit="user", arms=arms)
    payloads = {"control": '{"colour":"grey"}', "challenger": "null"}
    answer = infer(service, name, {"inputs": [texts("unit", [f"u{i}" for i in range(20)])]})
    outputs = outputs_of(answer)
    assert outputs["arm"]["data"] == answer.body["parameters"]["arms"]
    assert outputs["payload"]["data"] == [payloads[arm] for arm in outputs["arm"]["data"]]
    only = {"inputs": [texts("unit", ["u"])], "outputs": [{"name": "payload"}]}
    assert list(outputs_of(infer(service, name, only))) == ["payload"]
    assert len(outputs_of(infer(service, running(service), {"inputs": []}))["arm"]["data"]) == 1
    refused = infer(service, name, {"inputs": []})
    check_refusal("/v2", refused, 400)
    assert "unit" in refused.body["error"]


def test_context_comes_by_the_names_of_its_fields(service: ThrowawayService) -> None:
    name = running(
        service,
        metrics=[{"name": "score", "kind": "bounded", "low": 0, "high": 1}],
        policy={"kind": "lin_ts"},
        context=[
            {"name": "hour", "kind": "numeric"},
            {"name": "device", "kind": "categorical", "values": ["ios"]},
        ],
    )
    hour = {"name": "hour", "shape": [2, 1], "datatype": "INT8", "data": [[3], [4]]}
    answer = infer(service, name, {"inputs": [hour, texts("device", ["ios", "web"])]})
    tokens = answer.body["parameters"]["decision_ids"]
    assert len(set(tokens)) == 2
    stats = service.call("GET", "/v1/stats").body["experiments"][name]["context"]
    assert stats["missing"] == {"hour": 0, "device": 0}
    assert stats["unknown"] == {"hour": 0, "device": 1}


def test_features_come_by_name(service: ThrowawayService, tmp_path: Path) -> None:
    machine = FactorizationMachine(n_factors=2, n_epochs=3, seed=1).fit(
        ["u1", "u2", "u1", "u2"], ["i1", "i2", "i2", "i1"], [1.0, 5.0, 3.0, 4.0],
        features=[{"hour": 1.0, "device": "ios"}, {"hour": 9.0, "device": "web"}] * 2,
    )  # fmt: skip
    machine.save(tmp_path / "m")
    assert upload(service, "machine", (tmp_path / "m").read_bytes()).status == 201
    asked = pairs(["u1", "u2"], ["i1", "i1"])
    asked["inputs"] += [
        {"name": "hour", "shape": [2], "datatype": "FP32", "data": [1.0, 9.0]},
        texts("device", ["ios", "web"]),
    ]
    answer = infer(service, "machine/versions/v1", asked)
    expected = [
        machine.predict("u1", "i1", {"hour": 1.0, "device": "ios"}),
        machine.predict("u2", "i1", {"hour": 9.0, "device": "web"}),
    ]
    assert outputs_of(answer)["prediction"]["data"] == pytest.approx(expected)


def test_paused_and_stopped_experiments_give_one_arm_without_decisions(
    service: ThrowawayService, ranker: str
) -> None:
    arms = [{"name": version, "model": ranker, "version": version} for version in MODELS]
    name = running(service, arms=arms, control="v2")
    for step in ("pause", "stop"):
        assert service.call("POST", f"/v1/experiments/{name}/{step}").status == 200
        answer = infer(service, name, pairs(["u1"], ["i1"]))
        assert answer.body["parameters"] == {
            "arms": ["v2"], "propensities": [1.0], "arm": "v2", "propensity": 1.0,
        }  # fmt: skip
        assert outputs_of(answer)["prediction"]["data"] == [MODELS["v2"].predict("u1", "i1")]


def test_a_model_comes_before_an_experiment_of_its_name(service: ThrowawayService, ranker: str) -> None:
    assert running(service, id=ranker) == ranker
    assert "parameters" not in infer(service, ranker, pairs(["u1"], ["i1"])).body


# ONNX


@pytest.mark.parametrize("zipmap", [False, True])
def test_graphs_have_their_own_tensors(service: ThrowawayService, zipmap: bool) -> None:
    forest = random_forest(zipmap=zipmap)
    name = f"forest-{zipmap}"
    assert upload(service, name, forest.content).status == 201
    about = service.call("GET", f"/v2/models/{name}/versions/v1").body
    (given,) = about["inputs"]
    x = np.array(forest.features[:5])
    assert given == {"name": given["name"], "datatype": "FP32", "shape": [-1, x.shape[1]]}
    tensor = {**given, "shape": list(x.shape), "data": x.ravel().tolist()}
    outputs = outputs_of(infer(service, f"{name}/versions/v1", {"inputs": [tensor]}))
    for said in about["outputs"]:
        output = outputs[said["name"]]
        assert output["datatype"] == said["datatype"]
        assert [-1, *output["shape"][1:]] == [-1, *said["shape"][1:]]
        assert output["shape"][0] == len(x)
    label, scores = (outputs[said["name"]]["data"] for said in about["outputs"])
    expected = forest.probabilities[:5]
    if zipmap:
        scores = [score for row in map(json.loads, scores) for score in row.values()]
    assert np.reshape(scores, expected.shape) == pytest.approx(expected, abs=1e-5)
    assert label == forest.labels[:5]
    arms = [{"name": "control", "model": name, "version": "v1"}]
    routed = running(service, arms=arms, context=[{"name": "hour", "kind": "numeric"}])
    hour = {"name": "hour", "shape": [5], "datatype": "INT8", "data": [1, 2, 3, 4, 5]}
    answer = infer(service, routed, {"inputs": [hour, tensor]})
    routed_outputs = outputs_of(answer)
    assert {name: each["data"] for name, each in routed_outputs.items()} == {
        name: each["data"] for name, each in outputs.items()
    }
    check_declared(service.call("GET", f"/v2/models/{routed}").body, routed_outputs)
    assert len(set(answer.body["parameters"]["decision_ids"])) == 5
    short = {**tensor, "shape": [5, x.shape[1] - 1], "data": tensor["data"][: 5 * (x.shape[1] - 1)]}
    check_refusal("/v2", infer(service, routed, {"inputs": [short]}), 400)


FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


def sum_of(width: int, name: str = "y", element: int = FLOAT, given: Any = (None, 1)) -> bytes:
    """Graph that adds the columns of its one input, `features`."""
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")
    keeps = len(given) > 1
    return graph(
        [onnx.helper.make_node("ReduceSum", ["features", "axes"], [name], keepdims=int(keeps))],
        {"features": (element, [None, width])},
        {name: (element, list(given))},
        [axes],
    ).SerializeToString()


def registered(service: ThrowawayService, content: bytes) -> str:
    """Model whose version v1 is in production."""
    model = new_name("graph")
    assert upload(service, model, content).status == 201
    status = f"/v1/models/{model}/versions/v1/status"
    assert service.call("POST", status, {"status": "production"}).status == 200
    return model


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


SIX = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("name", "element", "given", "datatype"),
    [
        ("y", FLOAT, (None, 1), "FP32"),
        ("y", DOUBLE, (None, 1), "FP64"),
        ("y", FLOAT, (None,), "FP32"),
        ("prediction", FLOAT, (None, 1), "FP32"),
        ("y", onnx.TensorProto.INT64, (None, 1), "INT64"),
    ],
)
def test_a_graph_with_one_output_has_its_own_name(
    service: ThrowawayService, name: str, element: int, given: Any, datatype: str
) -> None:
    model = registered(service, sum_of(3, name, element, given))
    whole = datatype == "INT64"
    values = [round(value) for value in SIX] if whole else SIX
    asked = {"inputs": [tensor("features", datatype, [2, 3], values)]}
    sums = [sum(values[:3]), sum(values[3:])]
    shape = [2, *given[1:]]
    for path in (model, f"{model}/versions/v1"):
        about = service.call("GET", f"/v2/models/{path}").body
        assert about["inputs"] == [{"name": "features", "datatype": datatype, "shape": [-1, 3]}]
        assert about["outputs"] == [{"name": name, "datatype": datatype, "shape": [-1, *given[1:]]}]
        own = tensor(name, datatype, shape, sums)
        assert outputs_of(infer(service, path, asked)) == {name: own}
        assert outputs_of(infer(service, path, {**asked, "outputs": [{"name": name}]})) == {name: own}
        refused = infer(service, path, {**asked, "outputs": [{"name": "other"}]})
        check_refusal("/v2", refused, 400)
        assert f"expected one of {name}, not" in refused.body["error"]
        if name == "prediction":
            continue
        alias = infer(service, path, {**asked, "outputs": [{"name": "prediction"}, {"name": name}]})
        if whole:
            check_refusal("/v2", alias, 400)
        else:
            assert outputs_of(alias) == {"prediction": tensor("prediction", "FP64", [2], sums), name: own}


def test_own_outputs_come_in_binary_as_they_are_declared(service: ThrowawayService) -> None:
    model = registered(service, sum_of(3))
    asked = {
        "inputs": [tensor("features", "FP32", [2, 3], SIX)],
        "parameters": {"binary_data_output": True},
    }
    answer = infer(service, model, asked)
    length = int(answer.headers[LENGTH])
    (output,) = json.loads(answer.body[:length])["outputs"]
    assert output == {
        "name": "y", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": 8},
    }  # fmt: skip
    assert struct.unpack("<2f", answer.body[length:]) == (3.5, 12.0)


@pytest.mark.parametrize(
    "element",
    [
        "UINT8",
        "INT8",
        "UINT16",
        "INT16",
        "INT32",
        "INT64",
        "UINT32",
        "UINT64",
        "FLOAT",
        "DOUBLE",
        "BOOL",
        "STRING",
    ],
)
def test_every_datatype_of_a_graph_is_answered_as_it_is_declared(
    service: ThrowawayService, element: str
) -> None:
    kind = onnx.TensorProto.DataType.Value(element)
    content = graph(
        [
            onnx.helper.make_node("Cast", ["a"], ["narrow"], to=kind),
            onnx.helper.make_node("Identity", ["a"], ["wide"]),
        ],
        {"a": (DOUBLE, [None, 1])},
        {"narrow": (kind, [None, 1]), "wide": (DOUBLE, [None, 1])},
    ).SerializeToString()
    model = registered(service, content)
    name = running(service, arms=[{"name": "control", "model": model, "version": "v1"}])
    highest = {"UINT64": 2.0**63 + 2.0**20, "BOOL": 1.0}.get(element, 100.0)
    for n in (1, 3):
        asked = {"inputs": [tensor("a", "FP64", [n, 1], [highest] * n)]}
        for asked_name in (model, name):
            about = service.call("GET", f"/v2/models/{asked_name}").body
            outputs = outputs_of(infer(service, asked_name, asked))
            if asked_name == model or element != "UINT64":
                check_declared(about, outputs)
            binary = infer(service, asked_name, {**asked, "parameters": {"binary_data_output": True}})
            assert binary.status == 200, binary
            if element not in ("STRING", "BOOL"):
                assert outputs["narrow"]["data"] == [highest] * n
    declared = {"FLOAT": "FP32", "DOUBLE": "FP64", "STRING": "BYTES"}.get(element, element)
    about = service.call("GET", f"/v2/models/{model}").body
    assert [each["datatype"] for each in about["outputs"]] == [declared, "FP64"]


def test_an_input_that_a_graph_lacks_is_named(service: ThrowawayService) -> None:
    model = registered(service, sum_of(3))
    wrong = tensor("wrong", "FP32", [2, 3], SIX)
    for inputs in ([wrong], [wrong, texts("user_id", ["u", "v"])], [texts("unit", ["u", "v"])], []):
        for path in (model, f"{model}/versions/v1"):
            refused = infer(service, path, {"inputs": inputs})
            check_refusal("/v2", refused, 400)
            assert "'features'" in refused.body["error"]
            assert ("'wrong'" in refused.body["error"]) == (wrong in inputs)
    column = {"inputs": [tensor("x0", "FP32", [2, 3], SIX)]}
    check_refusal("/v2", infer(service, model, column), 400)
    columns = [tensor(f"x{i}", "FP32", [2], SIX[i::3]) for i in range(3)]
    assert outputs_of(infer(service, model, {"inputs": columns}))["y"]["data"] == [3.5, 12.0]
    refused = infer(service, model, {"inputs": columns[:2]})
    check_refusal("/v2", refused, 400)
    assert "x2" in refused.body["error"]
    beside = [
        tensor("features", "FP32", [2, 3], SIX),
        *(texts(name, ["u", "v"]) for name in ("user_id", "item_id")),
    ]
    assert outputs_of(infer(service, model, {"inputs": beside}))["y"]["data"] == [3.5, 12.0]


def test_an_input_that_a_graph_of_several_lacks_is_named(service: ThrowawayService) -> None:
    model = registered(service, arithmetic("Sum", 3))
    one = [tensor("a", "FP32", [1], [1.0]), tensor("z", "FP32", [1], [1.0])]
    refused = infer(service, model, {"inputs": one})
    check_refusal("/v2", refused, 400)
    for name in ("'b'", "'c'", "'z'"):
        assert name in refused.body["error"]
    assert "'a'" not in refused.body["error"]


def test_inputs_of_a_graph_are_features_whatever_they_are_called(service: ThrowawayService) -> None:
    whole = onnx.TensorProto.INT64
    names = ["user_id", "item_id", "unit"]
    added = graph(
        [
            onnx.helper.make_node("Add", names[:2], ["some"]),
            onnx.helper.make_node("Add", ["some", "unit"], ["y"]),
        ],
        {name: (whole, [None, 1]) for name in names},
        {"y": (whole, [None, 1])},
    )
    model = registered(service, added.SerializeToString())
    about = service.call("GET", f"/v2/models/{model}").body
    assert [each["name"] for each in about["inputs"]] == names
    given = [tensor(name, "INT64", [2, 1], [3, 4]) for name in names]
    assert outputs_of(infer(service, model, {"inputs": given}))["y"]["data"] == [9, 12]
    refused = infer(service, model, {"inputs": given[:2]})
    check_refusal("/v2", refused, 400)
    assert "'unit'" in refused.body["error"]


@pytest.mark.parametrize("name", ["words", "user_id"])
def test_a_graph_takes_texts_in_several_columns(service: ThrowawayService, name: str) -> None:
    element = onnx.TensorProto.STRING
    same = graph(
        [onnx.helper.make_node("Identity", [name], ["same"])],
        {name: (element, [None, 2])},
        {"same": (element, [None, 2])},
    )
    model = registered(service, same.SerializeToString())
    (about,) = service.call("GET", f"/v2/models/{model}").body["inputs"]
    assert about == {"name": name, "datatype": "BYTES", "shape": [-1, 2]}
    words = ["a", "b", "c", "d"]
    answer = infer(service, model, {"inputs": [texts(name, words, [2, 2])]})
    assert outputs_of(answer)["same"] == {**texts("same", words, [2, 2])}


def test_an_input_that_the_arms_of_an_experiment_lack_is_named(
    service: ThrowawayService, ranker: str
) -> None:
    one = registered(service, sum_of(3))
    arms = [{"name": each, "model": each, "version": "v1"} for each in (ranker, one)]
    name = running(service, arms=arms, control=one, context=[{"name": "hour", "kind": "numeric"}])
    asked = [*pairs(["u1", "u2"], ["i1", "i1"])["inputs"], tensor("hour", "INT8", [2], [3, 4])]
    refused = infer(service, name, {"inputs": [*asked, tensor("wrong", "FP32", [2, 3], SIX)]})
    check_refusal("/v2", refused, 400)
    assert "'features'" in refused.body["error"]
    assert "'wrong'" in refused.body["error"]
    answer = infer(service, name, {"inputs": [*asked, tensor("features", "FP32", [2, 3], SIX)]})
    assert answer.status == 200, answer
    numbered = sorted(map(number_in, answer.body["parameters"]["decision_ids"]))
    assert numbered == [0, 1], "nothing was drawn before"


def test_arms_of_graphs_with_other_names_have_a_prediction_in_common(
    service: ThrowawayService, ranker: str
) -> None:
    one, other = registered(service, sum_of(3, "y")), registered(service, sum_of(3, "z", DOUBLE, (None,)))
    arms = [{"name": each, "model": each, "version": "v1"} for each in (one, other, ranker)]
    name = running(service, arms=arms, control=one)
    asked = {
        "inputs": [
            tensor("features", "FP64", [40, 3], [0.5] * 120),
            *pairs(["u1"] * 40, ["i1"] * 40)["inputs"],
        ]
    }
    about = service.call("GET", f"/v2/models/{name}").body
    assert about["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    answer = infer(service, name, {**asked, "outputs": [{"name": "prediction"}]})
    check_declared(about, outputs_of(answer))
    assert set(answer.body["parameters"]["arms"]) == {one, other, ranker}
    check_refusal("/v2", infer(service, name, {**asked, "outputs": [{"name": "y"}]}), 400)


def test_arms_whose_outputs_differ_in_datatype_and_width_are_declared_as_they_answer(
    service: ThrowawayService,
) -> None:
    def two(kind: int, width: int) -> str:
        ones = onnx.numpy_helper.from_array(np.ones((1, width), np.float64), "ones")
        return registered(service, graph(
            [
                onnx.helper.make_node("Cast", ["a"], ["p"], to=kind),
                onnx.helper.make_node("MatMul", ["a", "ones"], ["q"]),
            ],
            {"a": (DOUBLE, [None, 1])},
            {"p": (kind, [None, 1]), "q": (DOUBLE, [None, width])},
            [ones],
        ).SerializeToString())  # fmt: skip

    models = two(onnx.TensorProto.INT32, 2), two(FLOAT, 3)
    arms = [{"name": each, "model": each, "version": "v1"} for each in models]
    name = running(service, arms=arms, control=models[0])
    about = service.call("GET", f"/v2/models/{name}").body
    assert about["outputs"] == [
        {"name": "p", "datatype": "FP64", "shape": [-1]}, {"name": "q", "datatype": "FP64", "shape": [-1, -1]},
    ]  # fmt: skip
    seen = set()
    for _ in range(16):
        answer = infer(service, name, {"inputs": [tensor("a", "FP64", [1], [2.0])]})
        check_declared(about, outputs_of(answer))
        seen.add(answer.body["parameters"]["arm"])
    assert seen == set(models)


def test_arms_with_other_outputs_are_asked_row_by_row(service: ThrowawayService, ranker: str) -> None:
    assert upload(service, "other-forest", random_forest().content).status == 201
    x = random_forest().features[:2]
    arms = [
        {"name": "control", "model": ranker, "version": "v1"},
        {"name": "b", "model": "other-forest", "version": "v1"},
    ]
    name = running(service, arms=arms)
    asked = pairs(["u1", "u2"], ["i1", "i1"])
    asked["inputs"].append({"name": "X", "shape": [2, len(x[0])], "datatype": "FP64", "data": x})
    check_refusal("/v2", infer(service, name, asked), 409)
    check_refusal("/v2", infer(service, name, {**asked, "outputs": [{"name": "prediction"}]}), 400)
    one = {
        "inputs": [
            {**tensor, "shape": [1, *tensor["shape"][1:]], "data": tensor["data"][:1]}
            for tensor in asked["inputs"]
        ]
    }
    seen = set()
    for _ in range(12):
        answer = infer(service, name, one)
        seen.add((answer.body["parameters"]["arm"], *sorted(outputs_of(answer))))
    assert seen == {("control", "prediction"), ("b", "label", "probabilities")}
    assert number_in(answer.body["parameters"]["decision_id"]) == 11, "nothing was drawn before"


# Binary


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answers", ["binary", "json", "all"])
def test_binary_both_ways(service: ThrowawayService, ranker: str, encoding: str | None, answers: str) -> None:
    names = [packed([b"u1", b"u2"]), packed([b"i3", b"i4"])]
    asked: dict[str, Any] = {
        "inputs": [
            {"name": name, "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(part)}}
            for name, part in zip(("user_id", "item_id"), names, strict=True)
        ]
    }
    if answers == "all":
        asked["parameters"] = {"binary_data_output": True}
    else:
        asked["outputs"] = [{"name": "prediction", "parameters": {"binary_data": answers == "binary"}}]
    body, headers = with_binary(asked, *names)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    answer = infer(service, ranker, body, headers)
    assert answer.status == 200, answer
    expected = [MODELS["v1"].predict("u1", "i3"), MODELS["v1"].predict("u2", "i4")]
    if answers == "json":
        assert LENGTH not in answer.headers
        assert outputs_of(answer)["prediction"]["data"] == expected
        return
    assert answer.headers["Content-Type"] == "application/octet-stream"
    length = int(answer.headers[LENGTH])
    head, data = json.loads(answer.body[:length]), answer.body[length:]
    (output,) = head["outputs"]
    assert output == {
        "name": "prediction", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16},
    }  # fmt: skip
    assert struct.unpack("<2d", data) == tuple(expected)


def test_some_outputs_in_json_and_some_in_binary(service: ThrowawayService, ranker: str) -> None:
    asked = {
        "inputs": [texts("user_id", ["u1", "u2"])],
        "parameters": {"k": 2, "binary_data_output": True},
        "outputs": [{"name": "score"}, {"name": "item_id", "parameters": {"binary_data": False}}],
    }
    answer = infer(service, ranker, asked)
    length = int(answer.headers[LENGTH])
    score, item = json.loads(answer.body[:length])["outputs"]
    assert (score["name"], score["parameters"]) == ("score", {"binary_data_size": 32})
    assert len(answer.body) == length + 32
    assert len(item["data"]) == 4


# Hostile


def binary(shape: Any, data: bytes, size: Any = None, datatype: str = "BYTES", **more: Any) -> dict[str, Any]:
    given = {"binary_data_size": len(data) if size is None else size, **more}
    return {"name": "user_id", "shape": shape, "datatype": datatype, "parameters": given}


ONE = texts("item_id", ["i1"])
HOSTILE: dict[str, tuple[Any, bytes]] = {
    "no inputs": ({}, b""),
    "inputs that are none": ({"inputs": 3}, b""),
    "a tensor that is none": ({"inputs": [3]}, b""),
    "no shape": ({"inputs": [{"name": "user_id", "datatype": "BYTES", "data": ["u"]}]}, b""),
    "an empty shape": ({"inputs": [{**texts("user_id", ["u"]), "shape": []}, ONE]}, b""),
    "a negative shape": ({"inputs": [{**texts("user_id", ["u"]), "shape": [-1]}, ONE]}, b""),
    "a shape of texts": ({"inputs": [{**texts("user_id", ["u"]), "shape": ["1"]}, ONE]}, b""),
    "no rows": ({"inputs": [texts("user_id", []), texts("item_id", [])]}, b""),
    "nine dimensions": ({"inputs": [texts("user_id", ["u"], [1] * 9), ONE]}, b""),
    "a large product": ({"inputs": [texts("user_id", ["u"], [2**31, 2**31, 2**31]), ONE]}, b""),
    "a huge dimension": ({"inputs": [texts("user_id", ["u"], [10**30]), ONE]}, b""),
    "too few values": ({"inputs": [texts("user_id", ["u"], [2]), ONE]}, b""),
    "no data": ({"inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES"}, ONE]}, b""),
    "numbers as texts": ({"inputs": [{**texts("user_id", ["u"]), "data": [1]}, ONE]}, b""),
    "ragged": ({"inputs": [{**texts("user_id", ["u"], [2, 1]), "data": [["u"], "v"]}, ONE]}, b""),
    "deep": ({"inputs": [{**texts("user_id", ["u"]), "data": json.loads("[" * 90 + "]" * 90)}, ONE]}, b""),
    "an unknown datatype": ({"inputs": [{**texts("user_id", ["u"]), "datatype": "BF16"}, ONE]}, b""),
    "a name twice": ({"inputs": [texts("user_id", ["u"]), texts("user_id", ["v"]), ONE]}, b""),
    "unequal rows": ({"inputs": [texts("user_id", ["u", "v"]), ONE]}, b""),
    "several columns of names": ({"inputs": [texts("user_id", ["u", "v"], [1, 2]), ONE]}, b""),
    "a missing input": ({"inputs": [texts("user_id", ["u"])]}, b""),
    "names out of bounds": ({"inputs": [texts("user_id", ["u" * 257]), ONE]}, b""),
    "an unknown output": ({**pairs(["u"], ["i"]), "outputs": [{"name": "x"}]}, b""),
    "an output twice": ({**pairs(["u"], ["i"]), "outputs": [{"name": "prediction"}] * 2}, b""),
    "k of text": ({"inputs": [texts("user_id", ["u"])], "parameters": {"k": "3"}}, b""),
    "k too large": ({"inputs": [texts("user_id", ["u"])], "parameters": {"k": 10**9}}, b""),
    "k and items": ({**pairs(["u"], ["i"]), "parameters": {"k": 3}}, b""),
    "a flag of text": ({**pairs(["u"], ["i"]), "parameters": {"binary_data_output": "yes"}}, b""),
    "classification": (
        {**pairs(["u"], ["i"]), "outputs": [{"name": "prediction", "parameters": {"classification": 2}}]},
        b"",
    ),
    "shared memory": ({"inputs": [binary([1], b"", 0, shared_memory_region="r"), ONE]}, b""),
    "a size of text": ({"inputs": [binary([1], b"", "5"), ONE]}, b"\1\0\0\0u"),
    "a negative size": ({"inputs": [binary([1], b"", -5), ONE]}, b"\1\0\0\0u"),
    "a size beyond the body": ({"inputs": [binary([1], b"", 10**12), ONE]}, b"\1\0\0\0u"),
    "bytes that nobody claims": ({"inputs": [binary([1], b"\1\0\0\0u"), ONE]}, b"\1\0\0\0ux"),
    "data and a size": ({"inputs": [{**binary([1], b"\1\0\0\0u"), "data": ["u"]}, ONE]}, b"\1\0\0\0u"),
    "a length beyond the data": ({"inputs": [binary([1], b"\xff\xff\xff\xffu"), ONE]}, b"\xff\xff\xff\xffu"),
    "a cut length": ({"inputs": [binary([1], b"\1\0"), ONE]}, b"\1\0"),
    "fewer elements": ({"inputs": [binary([2], b"\1\0\0\0u"), ONE]}, b"\1\0\0\0u"),
    "more elements": ({"inputs": [binary([1], b"\1\0\0\0u\1\0\0\0v"), ONE]}, b"\1\0\0\0u\1\0\0\0v"),
    "no utf-8": ({"inputs": [binary([1], b"\1\0\0\0\xff"), ONE]}, b"\1\0\0\0\xff"),
    "numbers cut short": ({"inputs": [binary([1], b"\0" * 7, datatype="FP64"), ONE]}, b"\0" * 7),
    "not finite": (
        {"inputs": [{**binary([1], b"\0" * 8, datatype="FP64"), "name": "x"}, texts("user_id", ["u"]), ONE]},
        struct.pack("<d", float("nan")),
    ),
    "a byte that is no truth value": (
        {"inputs": [{**binary([1], b"\2", datatype="BOOL"), "name": "x"}, texts("user_id", ["u"]), ONE]},
        b"\2",
    ),
    "a number that does not fit": (
        {"inputs": [{"name": "x", "shape": [1], "datatype": "UINT8", "data": [256]}, *pairs(["u"], ["i"])["inputs"]]},
        b"",
    ),
    "a fraction of a whole number": (
        {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [0.5]}, *pairs(["u"], ["i"])["inputs"]]},
        b"",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tensors_are_refused(service: ThrowawayService, ranker: str, routed: str, case: str) -> None:
    document, data = HOSTILE[case]
    for name in (ranker, routed):
        body, headers = with_binary(document, data)
        refused = infer(service, name, body, headers)
        assert refused.status in (400, 413), refused
        check_refusal("/v2", refused, refused.status)


def test_nothing_is_drawn_for_a_request_that_is_refused(service: ThrowawayService, ranker: str) -> None:
    arms = [{"name": version, "model": ranker, "version": version} for version in MODELS]
    name = running(service, arms=arms, control="v1")
    for document, data in HOSTILE.values():
        body, headers = with_binary(document, data)
        assert infer(service, name, body, headers).status in (400, 413)
    first = infer(service, name, pairs(["u1"], ["i1"])).body["parameters"]["decision_id"]
    assert number_in(first) == 0, "the worker numbers its decisions from 0"


@pytest.mark.parametrize(
    "features",
    [
        {"": 1.0},
        {"a\nb": 1.0},
        {"ö" * 65: 1.0},
        {"x" * 129: "text"},
        {f"x{i}": 1.0 for i in range(257)},
        {"genres": [f"g{i}" for i in range(257)]},
        [1.0] * 300,
    ],
    ids=range(7),
)
def test_features_are_refused_whatever_arm_is_drawn(
    service: ThrowawayService, ranker: str, tmp_path: Path, features: Any
) -> None:
    machine = FactorizationMachine(n_factors=2, n_epochs=1).fit(["u"], ["i"], [1.0], features=[{"age": 3.0}])
    machine.save(tmp_path / "machine")
    model = new_name("machine")
    assert upload(service, model, (tmp_path / "machine").read_bytes()).status == 201
    arms = [
        {"name": "control", "model": ranker, "version": "v1"},
        {"name": "b", "model": model, "version": "v1"},
    ]
    name = running(service, arms=arms)
    asked = {"user_id": "u1", "item_id": "i1", "features": features}
    for _ in range(8):
        check_problem(service.call("POST", f"/v1/experiments/{name}/predict", asked), 400)
    asked["features"] = {"a": 1.0, "b": ["x"] * 255}
    answers = [service.call("POST", f"/v1/experiments/{name}/predict", asked) for _ in range(12)]
    assert {answer.status for answer in answers} == {200}
    assert max(number_in(answer.body["decision_id"]) for answer in answers) == 11, "nothing was drawn before"


def embedding(width: int, shown: int | None = None) -> bytes:
    """Graph that gives so many numbers for one; `shown` is the width that it declares."""
    weights = onnx.numpy_helper.from_array(np.ones((1, width), np.float32), "weights")
    return graph(
        [onnx.helper.make_node("MatMul", ["a", "weights"], ["embedding"])],
        {"a": (onnx.TensorProto.FLOAT, [None, 1])},
        {"embedding": (onnx.TensorProto.FLOAT, [None, shown])},
        [weights],
    ).SerializeToString()


def numbers(n: int) -> dict[str, Any]:
    return {"inputs": [{"name": "a", "shape": [n, 1], "datatype": "FP64", "data": [1.5] * n}]}


@pytest.mark.parametrize(("shown", "fits"), [(768, 1_500), (None, 1_000)])
def test_outputs_are_bounded_before_anything_is_drawn(
    service: ThrowawayService, shown: int | None, fits: int
) -> None:
    model = new_name("embedding")
    assert upload(service, model, embedding(768, shown)).status == 201
    name = running(
        service, arms=[{"name": "control", "model": model, "version": "v1"}, {**B, "model": model}]
    )
    too_many = 3_500
    check_refusal("/v2", infer(service, name, numbers(too_many)), 413)
    batch = {"requests": [{"features": {"a": 1.5}}] * too_many}
    check_problem(service.call("POST", f"/v1/experiments/{name}/predict/batch", batch), 413)
    answer = infer(service, name, numbers(fits))
    assert outputs_of(answer)["embedding"]["data"] == [1.5] * 768 * fits
    assert outputs_of(answer)["embedding"]["shape"] == [fits, 768]
    numbered = sorted(map(number_in, answer.body["parameters"]["decision_ids"]))
    assert numbered == list(range(fits)), "nothing was drawn before"


def test_a_wide_answer_gives_turns_to_others(service: ThrowawayService) -> None:
    model = new_name("embedding")
    assert upload(service, model, embedding(768, 768)).status == 201
    promoted = service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
    assert promoted.status == 200
    assert infer(service, model, numbers(1)).status == 200
    with ThreadPoolExecutor(1) as pool:
        wide_s = time.perf_counter()
        wide = pool.submit(infer, service, model, numbers(1_500))
        latencies_s = []
        while not wide.done():
            began_s = time.perf_counter()
            assert service.call("GET", "/v2/health/live").status == 200
            latencies_s.append(time.perf_counter() - began_s)
        assert wide.result().status == 200
    # Whatever the machine: none waited for most of it.
    assert max(latencies_s) < 0.5 * (time.perf_counter() - wide_s)
    assert len(latencies_s) > 3


def number_in(token: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(token)[18:24], "little")


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "99999999999999999999", "٣", " 1"])
def test_a_length_that_lies_is_refused(service: ThrowawayService, ranker: str, length: str) -> None:
    body, _ = with_binary(pairs(["u"], ["i"]))
    refused = infer(service, ranker, body, {LENGTH: length.encode().decode("latin-1")})
    check_refusal("/v2", refused, 400)


def test_a_length_that_is_too_short_cuts_the_json(service: ThrowawayService, ranker: str) -> None:
    body, headers = with_binary(pairs(["u1"], ["i1"]))
    for length in (0, 1, len(body) - 1):
        check_refusal("/v2", infer(service, ranker, body, {**headers, LENGTH: str(length)}), 400)
    assert infer(service, ranker, body, {**headers, LENGTH: str(len(body))}).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated(service: ThrowawayService, ranker: str, encoding: str) -> None:
    many = b'{"inputs": [' + b" " * 400 * 2**20 + b"]}"
    body = gzip.compress(many, 1) if encoding == "gzip" else zlib.compress(many, 1)
    pids = service.worker_pids()
    before = max(resident_bytes(pid) for pid in pids)
    refused = infer(service, ranker, body, {"Content-Encoding": encoding})
    check_refusal("/v2", refused, 413)
    assert service.worker_pids() == pids
    assert max(resident_bytes(pid) for pid in pids) < before + 100 * 2**20


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
def test_a_broken_encoding_is_refused(service: ThrowawayService, ranker: str, encoding: str) -> None:
    refused = infer(service, ranker, b"\x1f\x8b\x08nonsense", {"Content-Encoding": encoding})
    assert refused.status == 400
    assert set(refused.body) == {"error"}


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nobody", 404), ("ranker/versions/v9", 404), ("%2e%2e", 404), ("nobody/versions/v1", 404),
        ("ranker/versions/%00", 404),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(
    service: ThrowawayService, ranker: str, path: str, status: int
) -> None:
    for method, below in (("POST", "/infer"), ("GET", ""), ("GET", "/ready")):
        body = pairs(["u"], ["i"]) if method == "POST" else None
        check_refusal("/v2", service.call(method, f"/v2/models/{path}{below}", body), status)


def test_drafts_are_not_found_and_a_model_without_production_conflicts(
    service: ThrowawayService, tmp_path: Path
) -> None:
    check_refusal("/v2", infer(service, draft(service), {"inputs": []}), 404)
    MODELS["v1"].save(tmp_path / "m")
    assert upload(service, "staged-only", (tmp_path / "m").read_bytes()).status == 201
    check_refusal("/v2", infer(service, "staged-only", pairs(["u"], ["i"])), 409)
    assert infer(service, "staged-only/versions/v1", pairs(["u1"], ["i1"])).status == 200
    failed = "/v1/models/staged-only/versions/v1/status"
    assert service.call("POST", failed, {"status": "failed", "reason": "x"}).status == 200
    for method, below in (("POST", "/infer"), ("GET", ""), ("GET", "/ready")):
        body = pairs(["u1"], ["i1"]) if method == "POST" else None
        answer = service.call(method, f"/v2/models/staged-only/versions/v1{below}", body)
        check_refusal("/v2", answer, 409)


def test_many_rows_at_once_and_no_more(service: ThrowawayService, ranker: str, routed: str) -> None:
    n = 10_000
    users, items = [USERS[i % 3] for i in range(n)], [ITEMS[i % 9] for i in range(n)]
    answer = infer(service, routed, pairs(users, items))
    parameters = answer.body["parameters"]
    assert len(set(parameters["decision_ids"])) == n
    expected = [
        MODELS[arm].predict(*pair)
        for arm, pair in zip(parameters["arms"], zip(users, items, strict=True), strict=True)
    ]
    assert outputs_of(answer)["prediction"]["data"] == expected
    for name in (ranker, routed):
        check_refusal("/v2", infer(service, name, pairs([*users, "u1"], [*items, "i1"])), 413)
        many = {"inputs": [texts("user_id", users)], "parameters": {"k": 11}}
        check_refusal("/v2", infer(service, name, many), 413)
        wide = {"name": "x", "shape": [2, 100_001], "datatype": "BOOL", "data": [True] * 2}
        check_refusal("/v2", infer(service, name, {"inputs": [wide]}), 413)


def test_large_payloads_are_bounded_before_anything_is_drawn(service: ThrowawayService) -> None:
    arms = [{"name": "control", "payload": "x" * 60_000}, {"name": "challenger"}]
    name = running(service, unit="user", arms=arms)
    asked = {"inputs": [texts("unit", [f"u{i}" for i in range(1_000)])]}
    check_refusal("/v2", infer(service, name, asked), 413)
    results = service.call("GET", f"/v1/experiments/{name}/results").body
    assert sum(arm["exposures"] for arm in results["arms"]) == 0
