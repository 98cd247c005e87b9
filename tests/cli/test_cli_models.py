"""`bandit-serve models`, alone on a data directory and beside a service."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import bandit_serve, save_model
from services import ThrowawayService


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "m.safetensors")


def test_a_model_from_registration_to_rollback(data: Path, file: Path) -> None:
    where = ("--data", data)
    first = bandit_serve("models", "register", "m", file, "--metric", "rmse=0.5", "--json", *where)
    assert first.status == 0
    assert (first.document["version"], first.document["status"]) == ("v1", "staged")
    assert first.document["metrics"] == {"rmse": 0.5}
    second = bandit_serve("models", "register", "m", file, "--version", "b", "--status", "training", *where)
    assert second.status == 0
    assert "training" in second.out

    assert bandit_serve("models", "promote", "m", "b", *where).status == 1
    assert bandit_serve("models", "status", "m", "b", "staged", "--reason", "done", *where).status == 0
    assert bandit_serve("models", "promote", "m", "v1", *where).status == 0
    assert bandit_serve("models", "promote", "m", "b", *where).status == 0
    back = bandit_serve("models", "rollback", "m", "--json", *where)
    assert (back.status, back.document["production"]) == (0, "v1")

    shown = bandit_serve("models", "show", "m", "--json", *where).document
    assert {each["version"]: each["status"] for each in shown["versions"]} == {
        "v1": "production",
        "b": "retired",
    }
    assert [each["what"] for each in shown["history"]][-1] == "rollback"
    assert all(each["who"].startswith("cli:") for each in shown["history"])
    listed = bandit_serve("models", "list", "--json", *where).document
    assert listed == {"models": [{"model": "m", "production": "v1", "versions": ["v1", "b"]}]}
    assert "production" in bandit_serve("models", "list", *where).out


def test_what_is_refused_says_why(data: Path, file: Path, tmp_path: Path) -> None:
    where = ("--data", data)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not a model at all")
    refused = bandit_serve("models", "register", "x", foreign, *where)
    assert refused.status == 1
    assert "artifact" in refused.err
    assert bandit_serve("models", "show", "x", *where).status == 1

    for wrong, words in (
        (("models", "register", "a b", file), "not a name"),
        (("models", "register", "x", file, "--metric", "rmse"), "name=number"),
        (("models", "register", "x", file, "--metric", "rmse=nan"), "name=number"),
        (("models", "status", "x", "v1", "loved"), "'loved' is not one of"),
    ):
        ran = bandit_serve(*wrong, *where)
        assert ran.status == 2
        assert words in ran.err
    too_large = bandit_serve("models", "register", "x", foreign, "--max-artifact", "5000000", *where)
    assert too_large.status == 1
    assert bandit_serve("models", "rollback", "x", *where).status == 1


def test_beside_a_service_the_same_registry(file: Path, tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, workers=2) as service:
        assert bandit_serve("models", "register", "m", file, "--data", tmp_path).status == 0
        assert bandit_serve("models", "promote", "m", "v1", "--data", tmp_path).status == 0
        over_http = service.call("GET", "/v1/models/m").body
        here = bandit_serve("models", "show", "m", "--json", "--data", tmp_path).document
        assert over_http == here
        score = service.call("POST", "/v1/models/m/predict", {"user_id": "0", "item_id": "1"})
        assert (score.status, score.body["model_version"]) == (200, "v1")
        assert service.call("GET", "/health/ready").body == {"status": "ready"}
