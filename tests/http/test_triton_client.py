"""Triton's own HTTP client, unmodified: models and experiments are routed by a URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from graphs import arithmetic
from http_calls import new_name, running, upload
from services import ThrowawayService
from tritonclient import http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from bandit_serve.models import MatrixFactorization

USERS, ITEMS = ["u1", "u2"], ["i1", "i2"]
MODELS = {
    version: MatrixFactorization(n_factors=2, n_epochs=2, seed=seed).fit(
        USERS * 2, [*ITEMS, *ITEMS[::-1]], ratings
    )
    for seed, (version, ratings) in enumerate(
        {"v1": [1.0, 5.0, 2.0, 4.0], "v2": [5.0, 1.0, 4.0, 2.0]}.items()
    )
}


@pytest.fixture(scope="module")
def client(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("model")
    for version, model in MODELS.items():
        model.save(path / version)
        assert upload(service, "ranker", (path / version).read_bytes(), {"version": version}).status == 201
    status = "/v1/models/ranker/versions/v1/status"
    assert service.call("POST", status, {"status": "production"}).status == 200
    with http.InferenceServerClient(service.url.removeprefix("http://")) as opened:
        yield opened


@pytest.fixture(scope="module")
def routed(service: ThrowawayService, client: Any) -> str:
    arms = [{"name": version, "model": "ranker", "version": version} for version in MODELS]
    return running(service, arms=arms, control="v1")


def texts(name: str, values: list[str], *, binary: bool = True) -> Any:
    array = np.array(values, object)
    tensor = http.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_it_lists_and_describes(client: Any, routed: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ranker")
    assert client.is_model_ready("ranker", "v2")
    assert client.is_model_ready(routed)
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("ranker", "v9")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    about = client.get_model_metadata("ranker")
    assert [tensor["name"] for tensor in about["inputs"]] == ["user_id", "item_id"]
    assert about["versions"] == ["v1", "v2"]
    index = [(entry["name"], entry["version"]) for entry in client.get_model_repository_index()]
    assert {("ranker", "v1"), ("ranker", "v2"), (routed, "")} <= set(index)


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compressed", [None, "gzip"])
def test_it_infers(
    client: Any, routed: str, binary: bool, encoding: str | None, compressed: str | None
) -> None:
    inputs = [texts("user_id", USERS, binary=binary), texts("item_id", ITEMS, binary=binary)]
    outputs = None if binary else [http.InferRequestedOutput("prediction", binary_data=False)]
    options: dict[str, Any] = {
        "outputs": outputs, "request_id": "r1", "request_compression_algorithm": encoding,
        "response_compression_algorithm": compressed,
    }  # fmt: skip
    for version, model in MODELS.items():
        result = client.infer("ranker", inputs, model_version=version, **options)
        expected = [model.predict(user, item) for user, item in zip(USERS, ITEMS, strict=True)]
        assert result.as_numpy("prediction").tolist() == expected
        response = result.get_response()
        assert (response["model_version"], response["id"]) == (version, "r1")
    assert client.infer("ranker", inputs, **options).get_response()["model_version"] == "v1"
    result = client.infer(routed, inputs, **options)
    parameters = result.get_response()["parameters"]
    arms = parameters["arms"]
    expected = [
        MODELS[arm].predict(*pair) for arm, pair in zip(arms, zip(USERS, ITEMS, strict=True), strict=True)
    ]
    assert result.as_numpy("prediction").tolist() == expected
    assert len(parameters["decision_ids"]) == 2


@pytest.mark.parametrize("binary", [True, False])
def test_it_reads_the_tensors_that_the_metadata_of_a_graph_declare(
    service: ThrowawayService, client: Any, binary: bool
) -> None:
    model = new_name("graph")
    assert upload(service, model, arithmetic()).status == 201
    about = client.get_model_metadata(model, "v1")
    inputs = []
    for each in about["inputs"]:
        array = np.array([[1.5], [2.25]], triton_to_np_dtype(each["datatype"]))
        assert len(each["shape"]) == array.ndim
        given = http.InferInput(each["name"], list(array.shape), each["datatype"])
        given.set_data_from_numpy(array, binary_data=binary)
        inputs.append(given)
    (said,) = about["outputs"]
    assert said == {"name": "score", "datatype": "FP32", "shape": [-1, 1]}
    for outputs in (None, [http.InferRequestedOutput("score", binary_data=binary)]):
        result = client.infer(model, inputs, "v1", outputs=outputs)
        score = result.as_numpy("score")
        assert (score.dtype, score.tolist()) == (np.float32, [[3.0], [4.5]])
        assert result.get_output("score")["datatype"] == "FP32"
        assert result.as_numpy("prediction") is None
    alias = client.infer(
        model, inputs, "v1", outputs=[http.InferRequestedOutput("prediction", binary_data=binary)]
    ).as_numpy("prediction")
    assert (alias.dtype, alias.tolist()) == (np.float64, [3.0, 4.5])
    inputs[1]._name = "wrong"
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model, inputs, "v1")
    assert raised.value.status() == "400"
    assert "'b'" in raised.value.message()
    assert "'wrong'" in raised.value.message()


def test_it_ranks(client: Any) -> None:
    result = client.infer("ranker", [texts("user_id", USERS)], parameters={"k": 2})
    best = [MODELS["v1"].top_k(user, k=2) for user in USERS]
    assert result.as_numpy("item_id").tolist() == [[item.encode() for item, _ in row] for row in best]
    assert result.as_numpy("score").shape == (2, 2)


def test_its_decisions_take_rewards(service: ThrowawayService, client: Any) -> None:
    name = running(service, unit="user", arms=[{"name": "control", "payload": {"a": 1}}, {"name": "b"}])
    result = client.infer(name, [texts("unit", ["u1"])])
    parameters = result.get_response()["parameters"]
    assert result.as_numpy("arm").tolist() == [parameters["arm"].encode()]
    body = {"decision_id": parameters["decision_id"], "value": 1}
    assert service.call("POST", "/v1/rewards", body).body["verdicts"] == ["accepted"]


def test_its_errors_say_what_is_wrong(client: Any) -> None:
    one = [texts("user_id", ["u1"])]
    for call, status, word in (
        (lambda: client.infer("nobody", one), "404", "nobody"),
        (lambda: client.infer("ranker", one, model_version="v9"), "404", "v9"),
        (lambda: client.infer("ranker", one), "400", "item_id"),
        (lambda: client.infer("ranker", [*one, texts("item_id", ITEMS)]), "400", "rows"),
        (
            lambda: client.infer("ranker", one, outputs=[http.InferRequestedOutput("x", class_count=2)]),
            "400",
            "class",
        ),
        (lambda: client.get_model_metadata("nobody"), "404", "nobody"),
        (lambda: client.get_inference_statistics("ranker"), "404", "path"),
        (lambda: client.get_model_config("ranker"), "404", "path"),
        (lambda: client.load_model("ranker"), "404", "path"),
    ):
        with pytest.raises(InferenceServerException) as raised:
            call()
        assert raised.value.status() == status
        assert word in raised.value.message()
