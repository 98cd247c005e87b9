"""ONNX versions over HTTP: graphs of real libraries give what the libraries give, and hostile files are refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import graphs
import numpy as np
import onnx
import pytest
from commands import bandit_serve
from http_calls import check_problem, decide, new_name, running, upload
from onnx import TensorProto, helper
from services import Answer, ThrowawayService
from stores import wait_until

from bandit_serve.models import Popularity

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=2) as running_service:
        yield running_service


def registered(service: ThrowawayService, *contents: bytes, metadata: Any = None) -> str:
    """New model with a version v1, v2, … for each content."""
    model = new_name("model")
    for content in contents:
        made = upload(service, model, content, {"metadata": metadata or {}})
        assert made.status == 201, made
    return model


def arms(model: str, *versions: str) -> list[dict[str, Any]]:
    return [{"name": f"arm-{version}", "model": model, "version": version} for version in versions]


def move(service: ThrowawayService, model: str, version: str, status: str) -> Answer:
    return service.call("POST", f"/v1/models/{model}/versions/{version}/status", {"status": status})


def ask(service: ThrowawayService, model: str, features: Any, version: str = "v1") -> Answer:
    return service.call("POST", f"/v1/models/{model}/versions/{version}/predict", {"features": features})


def probabilities(outputs: dict[str, Any]) -> list[float]:
    """Scores by class, however the exporter names and shapes them."""
    scores = outputs.get("probabilities", outputs.get("output_probability"))
    return list(scores.values()) if isinstance(scores, dict) else scores


@pytest.fixture(scope="module", params=graphs.CLASSIFIERS)
def exported(request: pytest.FixtureRequest) -> graphs.Exported:
    return graphs.CLASSIFIERS[request.param]()


@pytest.fixture(scope="module")
def model(service: ThrowawayService, exported: graphs.Exported) -> str:
    return registered(service, exported.content, exported.content)


def test_a_version_scores_as_its_library(
    service: ThrowawayService, exported: graphs.Exported, model: str
) -> None:
    for i, features in enumerate(exported.features[:10]):
        body = ask(service, model, features).body
        assert set(body) == {"model_id", "model_version", "latency_ms", "cached", "outputs"}
        assert body["outputs"].get("label", body["outputs"].get("output_label")) == exported.labels[i]
        np.testing.assert_allclose(
            probabilities(body["outputs"]), exported.probabilities[i], atol=TOLERANCE, rtol=0
        )


def test_an_experiment_and_its_batches_score_as_the_library(
    service: ThrowawayService, exported: graphs.Exported, model: str
) -> None:
    name = running(service, unit="user", arms=arms(model, "v1", "v2"))
    requests = [{"unit": f"u{i}", "features": features} for i, features in enumerate(exported.features)]
    answer = service.call("POST", f"/v1/experiments/{name}/predict/batch", {"requests": requests})
    assert answer.status == 200
    responses = answer.body["responses"]
    single = service.call("POST", f"/v1/experiments/{name}/predict", requests[0]).body
    assert single["outputs"] == responses[0]["outputs"]
    given = [probabilities(response["outputs"]) for response in responses]
    np.testing.assert_allclose(given, exported.probabilities, atol=TOLERANCE, rtol=0)
    assert {response["arm"] for response in responses} == {"arm-v1", "arm-v2"}
    for request, response in zip(requests, responses, strict=True):
        assert response["arm"] == decide(service, name, unit=request["unit"])["arm"]
    verdict = service.call("POST", "/v1/rewards", {"decision_id": single["decision_id"], "value": 1})
    assert verdict.body["verdicts"] == ["accepted"]


def test_the_record_says_what_a_graph_takes_and_gives(service: ThrowawayService) -> None:
    model = registered(service, graphs.text_pipeline().content)
    view = service.call("GET", f"/v1/models/{model}/versions/v1").body
    assert view["family"] == "onnx"
    signature = view["signature"]
    assert [(each["name"], each["dtype"], each["shape"]) for each in signature["inputs"]] == [
        ("country", "str", [1]),
        ("device", "str", [1]),
        ("income", "float32", [1]),
        ("age", "int64", [1]),
    ]
    assert [each["name"] for each in signature["outputs"]] == ["label", "probabilities"]
    assert signature["nbytes"] > 0
    found = service.call("GET", f"/v1/models/{model}/versions?family=onnx").body
    assert found["total"] == 1


def test_scores_by_class_in_a_mapping(service: ThrowawayService) -> None:
    exported = graphs.random_forest(zipmap=True)
    model = registered(service, exported.content)
    scores = ask(service, model, exported.features[0]).body["outputs"]["output_probability"]
    assert list(scores) == ["0", "1"]
    np.testing.assert_allclose(list(scores.values()), exported.probabilities[0], atol=TOLERANCE, rtol=0)


def test_the_one_number_of_a_regression_is_the_prediction(service: ThrowawayService) -> None:
    model = registered(service, graphs.arithmetic())
    body = ask(service, model, {"a": 2.5, "b": 4}).body
    assert (body["prediction"], "outputs" in body) == (6.5, False)


def test_columns_have_the_names_that_the_metadata_gives(service: ThrowawayService) -> None:
    exported = graphs.random_forest()
    names = [f"n{i}" for i in range(graphs.N_FEATURES)]
    model = registered(service, exported.content, metadata={"features": names})
    in_order = ask(service, model, exported.features[0]).body["outputs"]
    named = dict(reversed(list(zip(names, exported.features[0], strict=True))))
    assert ask(service, model, named).body["outputs"] == in_order
    check_problem(ask(service, model, {**named, "n7": "x"}), 400, "features.n7")
    for wrong in (names[:-1], [*names[:-1], "n0"], "n0", [*names[:-1], 7]):
        refused = upload(service, new_name("model"), exported.content, {"metadata": {"features": wrong}})
        check_problem(refused, 400, "metadata.features")


def test_mistakes_in_features_are_named_whatever_arm_is_drawn(service: ThrowawayService) -> None:
    good = graphs.text_pipeline().features[0]
    model = registered(service, graphs.text_pipeline().content, graphs.arithmetic())
    name = running(service, arms=arms(model, "v1", "v2"))
    both = {**good, "a": 1, "b": 2}
    path = f"/v1/experiments/{name}/predict"
    for eligible in (["arm-v1"], ["arm-v2"], None):
        body = {"unit": "u", "eligible": eligible}
        assert service.call("POST", path, {**body, "features": both}).status == 200
        for features, at in (
            ({**both, "country": 7}, ["features.country"]),
            ({**both, "age": 7.5, "income": "x"}, ["features.income", "features.age"]),
            ({**both, "age": True}, ["features.age"]),
            ({**both, "age": 1e17}, ["features.age"]),
            ({**both, "income": 1e39}, ["features.income"]),
            ({**both, "a": ["x"]}, ["features.a"]),
            (good, ["features.a", "features.b"]),
            ({}, ["features.country", "features.device", "features.income", "features.age"]),
            ([1.0, 2.0], ["features"]),
        ):
            check_problem(service.call("POST", path, {**body, "features": features}), 400, *at)
        check_problem(service.call("POST", path, {**body, "features": both, "k": 3}), 400, "k")
        items = {**body, "features": both, "item_ids": ["i"]}
        check_problem(service.call("POST", path, items), 400, "item_ids")
    results = service.call("GET", f"/v1/experiments/{name}").body
    assert results["status"] == "running"


def test_a_graph_and_a_family_in_one_experiment(service: ThrowawayService, tmp_path: Path) -> None:
    Popularity().fit(["u", "v"], ["i", "i"], [1.0, 1.0]).save(tmp_path / "m")
    model = registered(
        service, (tmp_path / "m").read_bytes(), graphs.arithmetic(), graphs.text_pipeline().content
    )
    name = running(service, arms=arms(model, "v1", "v2", "v3"))
    path = f"/v1/experiments/{name}/predict"
    features = {**graphs.text_pipeline().features[0], "a": 2, "b": 3}
    whole = {"user_id": "u", "item_id": "i", "features": features}
    for arm, field in (("v1", {"prediction": 2.0}), ("v2", {"prediction": 5.0}), ("v3", {"outputs": ANY})):
        answer = service.call("POST", path, {**whole, "eligible": [f"arm-{arm}"]}).body
        assert {key: answer[key] for key in field} == field
        for lack, at in (("user_id", "user_id"), ("item_id", ""), ("features", "features.a")):
            body = {**whole, "unit": "u", "eligible": [f"arm-{arm}"]}
            del body[lack]
            problem = check_problem(service.call("POST", path, body), 400)
            assert problem["errors"][0]["at"] == at


def test_lists_are_as_long_as_the_columns(service: ThrowawayService) -> None:
    model = registered(service, graphs.random_forest().content)
    for length in (0, 19, 21):
        check_problem(ask(service, model, [0.5] * length), 400, "features")
    check_problem(ask(service, model, None), 400, "features")
    check_problem(ask(service, model, [1e39, *[0.5] * 19]), 400, "features.x0")


def test_a_unit_is_needed_where_units_are_assigned_and_no_user(service: ThrowawayService) -> None:
    model = registered(service, graphs.arithmetic())
    name = running(service, unit="user", arms=arms(model, "v1"))
    body = {"features": {"a": 1, "b": 2}}
    path = f"/v1/experiments/{name}/predict"
    check_problem(service.call("POST", path, body), 400, "unit")
    assert service.call("POST", path, {**body, "unit": "u"}).body["prediction"] == 3.0
    assert service.call("POST", path, {**body, "user_id": "u"}).body["prediction"] == 3.0


def test_a_shadow_agrees_in_its_outputs(service: ThrowawayService) -> None:
    live, shadow = graphs.random_forest(), graphs.xgboost()
    model = registered(service, live.content, shadow.content)
    assert move(service, model, "v1", "production").status == 200
    assert move(service, model, "v2", "shadow").status == 200
    for features in live.features:
        body = {"features": features}
        assert service.call("POST", f"/v1/models/{model}/predict", body).status == 200
    path = f"/v1/models/{model}/versions/v2/agreement"
    n = len(live.features)
    wait_until(lambda: service.call("GET", path).body["requests"] == n)
    body = service.call("GET", path).body
    differences = shadow.probabilities - live.probabilities
    assert (body["scores"], body["failed"], body["dropped"]) == (2 * n, 0, 0)
    assert body["mean_absolute_difference"] == pytest.approx(np.abs(differences).mean(), abs=TOLERANCE)
    assert body["rms_difference"] == pytest.approx(np.sqrt((differences**2).mean()), abs=TOLERANCE)
    assert body["mean_latency_ms"] > 0


def test_a_score_that_is_not_finite_is_refused_and_another_arm_answers(service: ThrowawayService) -> None:
    model = registered(service, graphs.arithmetic("Div"), graphs.arithmetic("Sum"))
    check_problem(ask(service, model, {"a": 1, "b": 0}), 400)
    assert ask(service, model, {"a": 1, "b": 2}).body["prediction"] == 0.5
    name = running(service, arms=arms(model, "v1", "v2"), unit="request")
    requests = [{"features": {"a": 1, "b": 0}}] * 40
    answer = service.call("POST", f"/v1/experiments/{name}/predict/batch", {"requests": requests}).body
    assert {(each["arm"], each["prediction"]) for each in answer["responses"]} == {("arm-v2", 1.0)}


def test_extreme_numbers_of_one_caller_take_no_arm_from_others(service: ThrowawayService) -> None:
    model = registered(service, graphs.arithmetic("Sum"), graphs.arithmetic("Sum"))
    name = running(service, arms=arms(model, "v1", "v2"))
    path = f"/v1/experiments/{name}/predict"
    plain, extreme = {"features": {"a": 1, "b": 2}}, {"features": {"a": 3.4e38, "b": 3.4e38}}
    for _ in range(20):
        assert service.call("POST", path, plain).body["prediction"] == 3.0
        check_problem(service.call("POST", path, extreme), 400, "features")
    for _ in range(10):
        check_problem(service.call("POST", path, extreme), 400, "features")
    served = {service.call("POST", path, plain).body["arm"] for _ in range(40)}
    assert served == {"arm-v1", "arm-v2"}


def test_a_row_that_fails_spoils_no_other_of_its_run(service: ThrowawayService) -> None:
    model = registered(service, graphs.arithmetic("Div"))
    name = running(service, arms=arms(model, "v1"))
    requests = [{"unit": f"u{i}", "features": {"a": i, "b": i % 3}} for i in range(30)]
    answer = service.call("POST", f"/v1/experiments/{name}/predict/batch", {"requests": requests}).body
    for i, each in enumerate(answer["responses"]):
        if i % 3:
            assert each["prediction"] == pytest.approx(i / (i % 3))
        else:
            assert each["status"] == 400


def test_the_file_of_an_arm_is_damaged_and_the_others_serve(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path) as service:
        model = registered(service, graphs.arithmetic("Sum"), graphs.arithmetic("Sub"))
        name = running(service, arms=arms(model, "v1", "v2"), unit="request")
        body = {"features": {"a": 5, "b": 3}}
        path = f"/v1/experiments/{name}/predict"
        assert {service.call("POST", path, body).body["prediction"] for _ in range(30)} == {8.0, 2.0}
        service.kill()
        sha256 = service_file(tmp_path, b"Sub")
        whole = sha256.read_bytes()
        sha256.unlink()
        sha256.write_bytes(whole.replace(b"Sub", b"Mul"))
        service.start()
        assert {service.call("POST", path, body).body["prediction"] for _ in range(30)} == {8.0}
        assert (
            "missing or damaged" in check_problem(ask(service, model, body["features"], "v2"), 503)["detail"]
        )
        ready = service.call("GET", "/health/ready").body
        assert (ready["status"], ready["reasons"][0]["what"]) == ("degraded", "model_missing")
        sha256.write_bytes(whole)
        wait_until(
            lambda: {service.call("POST", path, body).body["prediction"] for _ in range(30)} == {8.0, 2.0}, 20
        )


def service_file(data: Path, mark: bytes) -> Path:
    """Stored file that has this text in it."""
    (match,) = [path for path in (data / "artifacts").iterdir() if mark in path.read_bytes()]
    match.chmod(0o600)
    return match


def external(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    node = helper.make_node("Add", ["a", "w"], ["score"])
    return graphs.graph(
        [node], {"a": (1, [None, 4])}, {"score": (1, [None, 4])}, [tensor]
    ).SerializeToString()


def in_a_subgraph(model: onnx.NodeProto, depth: int = 1) -> bytes:
    """Graph with this node in a branch of an `If`, so many levels down."""
    output = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
    branch = helper.make_graph([model], "branch", [], [output])
    for level in range(depth):
        chosen = helper.make_node(
            "If", ["c"], ["score"], then_branch=branch, else_branch=branch, name=str(level)
        )
        branch = helper.make_graph([chosen], "branch", [], [output])
    return graphs.graph(
        [chosen], {"c": (TensorProto.BOOL, [1])}, {"score": (TensorProto.FLOAT, [None, 1])}
    ).SerializeToString()


def huge_dims() -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**20], raw_data=b"\0" * 16)
    node = helper.make_node("Add", ["a", "w"], ["score"])
    return graphs.graph(
        [node], {"a": (1, [None, 4])}, {"score": (1, [None, 4])}, [tensor]
    ).SerializeToString()


def custom(domain: str) -> bytes:
    node = helper.make_node("ReadFile", ["a"], ["score"], domain=domain)
    opsets = [*graphs.OPSET, helper.make_opsetid(domain, 1)]
    return graphs.graph(
        [node], {"a": (1, [None, 1])}, {"score": (1, [None, 1])}, opset_imports=opsets
    ).SerializeToString()


def zipped(**entries: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, entry in entries.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), entry)
    return content.getvalue()


def shaped(inputs: dict[str, Any]) -> bytes:
    return graphs.graph(
        [helper.make_node("Identity", [next(iter(inputs))], ["score"])], inputs, {"score": (1, [None, 1])}
    ).SerializeToString()


HOSTILE = {
    "empty graph": (b"\x08\x08\x3a\x00", "does not take the graph: Missing opset"),
    "truncated": (graphs.arithmetic()[:-9], "damaged"),
    "external": (external("weights.bin"), "other files"),
    "external path": (external("../../etc/passwd"), "other files"),
    "custom domain": (custom("com.example"), "com.example"),
    "contributed domain": (custom("com.microsoft"), "com.microsoft"),
    "custom in a branch": (in_a_subgraph(helper.make_node("X", [], ["score"], domain="evil")), "evil"),
    "deep": (in_a_subgraph(helper.make_node("Constant", [], ["score"], value_float=1.0), 12), None),
    "unknown operator": (
        graphs.graph(
            [helper.make_node("NoSuch", ["a"], ["score"])], {"a": (1, [None, 1])}, {"score": (1, [None, 1])}
        ).SerializeToString(),
        "NoSuch",
    ),
    "huge dims": (huge_dims(), "more elements"),
    "zeros": (b"\0" * 10_000_000, None),
    "zeros after a graph": (graphs.arithmetic() + b"\0" * 1_000_000, "damaged"),
    "zip bomb": (zipped(bomb=b"\0" * 50_000_000), "zip"),
    "open columns": (shaped({"a": (1, [None, None])}), "columns"),
    "fixed rows": (shaped({"a": (1, [7, 2])}), "rows"),
    "two matrices": (shaped({"a": (1, [None, 2]), "b": (1, [None, 2])}), "one column"),
    "half floats": (shaped({"a": (TensorProto.FLOAT16, [None, 2])}), "tensor(float16)"),
    "an image": (shaped({"a": (1, [None, 3, 4, 4])}), "[None, d]"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_and_leaves_nothing(service: ThrowawayService, case: str) -> None:
    content, words = HOSTILE[case]
    before = sorted(path.name for path in (service.data / "artifacts").iterdir())
    name = new_name("model")
    problem = check_problem(upload(service, name, content, {}), 400)
    assert words is None or words in problem["detail"]
    assert str(service.data) not in problem["detail"]
    assert sorted(path.name for path in (service.data / "artifacts").iterdir()) == before
    check_problem(service.call("GET", f"/v1/models/{name}"), 404)


def test_a_pickle_is_refused_with_the_call_that_exports_it(service: ThrowawayService) -> None:
    from sklearn.linear_model import LogisticRegression

    content = pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    problem = check_problem(upload(service, new_name("model"), content, {}), 400)
    assert "from skl2onnx import to_onnx" in problem["detail"]


def test_the_command_registers_a_graph_and_refuses_a_folder(
    service: ThrowawayService, tmp_path: Path
) -> None:
    name = new_name("model")
    file = tmp_path / "model.onnx"
    file.write_bytes(graphs.arithmetic())
    ran = bandit_serve("models", "register", name, str(file), "--json", "--data", service.data)
    assert ran.document["family"] == "onnx"
    assert ask(service, name, {"a": 1, "b": 1}).body["prediction"] == 2.0
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}")
    refused = bandit_serve("models", "register", name, folder, "--data", service.data)
    assert refused.status == 1
    assert "models import" in " ".join(refused.err.split())
    shown = bandit_serve("models", "show", name, "v1", "--data", service.data)
    assert "a (float32), b (float32)" in shown.out


def test_without_the_extra_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of that name that can not be imported stands for the library that is not installed."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "onnxruntime.py").write_text(
        "raise ModuleNotFoundError('No module named onnxruntime')"
    )
    paths = [str(tmp_path / "shim"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    (tmp_path / "model.onnx").write_bytes(graphs.arithmetic())
    with ThrowawayService(tmp_path / "data") as service:
        problem = check_problem(upload(service, "m", graphs.arithmetic(), {}), 501)
        assert "pip install 'bandit-serve[onnx]'" in problem["detail"]
    ran = bandit_serve("models", "register", "m", tmp_path / "model.onnx", "--data", tmp_path / "data")
    assert ran.status == 2
    assert "pip install 'bandit-serve[onnx]'" in " ".join(ran.err.split())
