"""Mirror of the registry in a real MLflow server."""

import os
import pickle
import socket
import subprocess
import sys
import urllib.request
import warnings

import graphs
import onnx
import pytest
from commands import bandit_serve
from http_calls import new_name
from services import ThrowawayService
from stores import wait_until

from bandit_serve.models import MatrixFactorization
from bandit_serve.training.ratings import synthetic_ratings

mlflow = pytest.importorskip("mlflow")

RATINGS = synthetic_ratings(seed=2, n_users=60, n_items=80, n_ratings=1_500)


def healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{place}/mlflow.db",
        "--artifacts-destination",
        str(place / "files"),
    ]
    with open(place / "log", "w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=place,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: healthy(url), 180)
        yield url
    finally:
        # It is the library's server: whether it goes when it is asked to is not ours to test.
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A model of two versions, trained and mirrored by one command."""
    place, model = tmp_path_factory.mktemp("trained"), new_name("films")
    lines = [f"{u},{i},{r},1" for u, i, r in zip(RATINGS.users, RATINGS.items, RATINGS.values, strict=True)]
    (place / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    (place / "run.json").write_text(
        '{"families": {"matrix_factorization": {"n_factors": [4], "n_epochs": [5]}, "bias": {}}, "split": {"folds": 2},'
        ' "search": {"kind": "grid", "jobs": 1, "backend": "sequential"}, "gates": {}}'
    )
    flags = ("--config", place / "run.json", "--model", model, "--data", place / "d", "--tracking", server)
    ran = bandit_serve("train", place / "ratings.csv", *flags)
    assert ran.status == 0, ran.err
    return model, place / "d"


def test_a_run_its_model_and_its_aliases_are_seen(server, trained):
    model, data = trained
    client = mlflow.MlflowClient(tracking_uri=server, registry_uri=server)
    versions = {
        each.tags["bandit_serve.version"]: each for each in client.search_model_versions(f"name='{model}'")
    }
    assert set(versions) == {"v1", "v2"}
    assert versions["v1"].tags["bandit_serve.status"] == "staged"
    run = client.get_run(versions["v1"].run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["n_factors"] == "4"
    assert run.data.metrics["rmse"] > 0
    assert "ndcg_at_10" in run.data.metrics
    assert run.data.tags["bandit_serve.data.source"] == "ratings.csv"
    assert len(run.data.tags["bandit_serve.data.sha256"]) == 64
    assert run.data.tags["bandit_serve.code.version"]
    aliases = client.get_registered_model(model).aliases
    assert aliases == {"challenger": versions["v2"].version}
    assert bandit_serve("models", "promote", model, "v1", "--data", data).status == 0
    ran = bandit_serve("models", "mirror", model, "--tracking", server, "--data", data, "--json")
    assert ran.document == {name: each.version for name, each in versions.items()}
    aliases = client.get_registered_model(model).aliases
    assert aliases == {"champion": versions["v1"].version, "challenger": versions["v2"].version}


def test_an_imported_version_serves(server, trained, tmp_path):
    model, data = trained
    ran = bandit_serve(
        "models",
        "import",
        f"{model}@challenger",
        "--tracking",
        server,
        "--as",
        "imported",
        "--data",
        tmp_path / "d",
        "--json",
    )
    assert ran.status == 0, ran.err
    assert ran.document["metadata"]["mlflow"]["name"] == model
    assert ran.document["metrics"]["ndcg@10"] >= 0
    here = bandit_serve("models", "show", model, "v2", "--data", data, "--json").document
    assert ran.document["sha256"] == here["sha256"]
    with ThrowawayService(tmp_path / "d") as service:
        ask = {"user_id": "u1", "item_id": "i1"}
        assert service.call("POST", "/v1/models/imported/versions/v1/predict", ask).status == 200
    for reference, match in [("a/b/c", "name@alias"), (f"{model}@none", "no"), ("none/1", "no")]:
        ran = bandit_serve("models", "import", reference, "--tracking", server, "--data", tmp_path / "d")
        assert ran.status == 1
        assert match in ran.err


def test_what_is_not_a_model_of_ours_is_refused(server, tmp_path):
    client = mlflow.MlflowClient(tracking_uri=server, registry_uri=server)
    name = new_name("foreign")
    (tmp_path / "model.safetensors").write_bytes(b"not a model at all")
    run = client.create_run(client.create_experiment(name))
    client.log_artifact(run.info.run_id, str(tmp_path / "model.safetensors"), "model")
    client.create_registered_model(name)
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    ran = bandit_serve("models", "import", f"{name}/1", "--tracking", server, "--data", tmp_path / "d")
    assert ran.status == 1
    assert "artifact" in ran.err
    assert bandit_serve("models", "list", "--data", tmp_path / "d", "--json").document["models"] == []


def test_an_onnx_model_of_mlflow_is_imported_served_and_mirrored(server, tmp_path):
    exported, name = graphs.random_forest(), new_name("forest")
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow about itself
        mlflow.log_metric("auc", 0.9)
        mlflow.onnx.log_model(
            onnx.load_from_string(exported.content), name="model", registered_model_name=name
        )
    data = tmp_path / "d"
    ran = bandit_serve("models", "import", f"{name}/1", "--tracking", server, "--data", data, "--json")
    assert ran.status == 0, ran.err
    assert (ran.document["family"], ran.document["metrics"]) == ("onnx", {"auc": 0.9})
    with ThrowawayService(data) as service:
        ask = {"features": exported.features[0]}
        scored = service.call("POST", f"/v1/models/{name}/versions/v1/predict", ask).body
        assert scored["outputs"]["probabilities"] == pytest.approx(exported.probabilities[0], abs=1e-5)
    ran = bandit_serve("models", "mirror", name, "--tracking", server, "--data", data, "--json")
    assert ran.status == 0, ran.err
    client = mlflow.MlflowClient(tracking_uri=server, registry_uri=server)
    run_id = client.get_model_version(name, ran.document["v1"]).run_id
    assert [each.path for each in client.list_artifacts(run_id, "model")] == ["model/model.onnx"]


def test_a_pickled_model_of_mlflow_is_refused_with_what_to_do(server, tmp_path):
    from sklearn.linear_model import LogisticRegression

    name = new_name("pickled")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(LogisticRegression()))
    client = mlflow.MlflowClient(tracking_uri=server, registry_uri=server)
    run = client.create_run(client.create_experiment(name))
    client.log_artifact(run.info.run_id, str(tmp_path / "model.pkl"), "model")
    client.create_registered_model(name)
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    ran = bandit_serve("models", "import", f"{name}/1", "--tracking", server, "--data", tmp_path / "d")
    assert ran.status == 1
    assert "from skl2onnx import to_onnx" in " ".join(ran.err.split())


def test_models_that_did_not_come_from_training_are_mirrored_too(server, tmp_path):
    MatrixFactorization(4, n_epochs=1).fit(RATINGS.users, RATINGS.items, RATINGS.values).save(tmp_path / "m")
    name = new_name("hand")
    assert (
        bandit_serve(
            "models", "register", name, tmp_path / "m", "--metric", "rmse=1.5", "--data", tmp_path / "d"
        ).status
        == 0
    )
    ran = bandit_serve("models", "mirror", name, "--tracking", server, "--data", tmp_path / "d")
    assert f"{name}/1" in ran.out


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    MatrixFactorization(4, n_epochs=1).fit(RATINGS.users, RATINGS.items, RATINGS.values).save(tmp_path / "m")
    assert bandit_serve("models", "register", "m", tmp_path / "m", "--data", tmp_path / "d").status == 0
    ran = bandit_serve("models", "mirror", "m", "--tracking", "http://127.0.0.1:1", "--data", tmp_path / "d")
    assert ran.status == 1
    assert "did not do what was asked" in ran.err
