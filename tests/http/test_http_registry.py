"""Registry and predictions over HTTP, as API.md says, with models that were really trained."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from http_calls import MSGPACK, call_msgpack, check_problem, decide, draft, new_name, running, upload
from services import ThrowawayService
from stores import wait_until

from bandit_serve.models import FactorizationMachine, MatrixFactorization, Popularity

USERS = [f"u{i % 40}" for i in range(1_200)]
ITEMS = [f"i{(i * 7) % 60}" for i in range(1_200)]
RATINGS = (np.random.default_rng(3).integers(1, 11, 1_200) / 2).tolist()
LIMIT = 300_000


@pytest.fixture(scope="module")
def trained() -> list[MatrixFactorization]:
    return [
        MatrixFactorization(n_factors=4, seed=s, n_epochs=3).fit(USERS, ITEMS, RATINGS) for s in (1, 2, 3)
    ]


@pytest.fixture(scope="module")
def artifacts(trained: list[MatrixFactorization], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    saved = []
    for model in [*trained, Popularity().fit(USERS, ITEMS, RATINGS)]:
        model.save(path)
        saved.append(path.read_bytes())
    assert len(set(saved)) == 4
    return saved


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(
        tmp_path_factory.mktemp("data"), "--max-artifact", str(LIMIT), workers=2
    ) as running:
        yield running


@pytest.fixture(scope="module")
def model(service: ThrowawayService, artifacts: list[bytes]) -> str:
    """With v1 retired, v2 in production and v3 staged."""
    name = new_name("model")
    for artifact in artifacts[:3]:
        assert upload(service, name, artifact, {}).status == 201
    for version in ("v1", "v2"):
        assert move(service, name, version, "production").status == 200
    return name


def move(service: ThrowawayService, model: str, version: str, status: str, **more: Any) -> Any:
    return service.call("POST", f"/v1/models/{model}/versions/{version}/status", {"status": status, **more})


def statuses(service: ThrowawayService, model: str) -> dict[str, str]:
    versions = service.call("GET", f"/v1/models/{model}").body["versions"]
    return {version["version"]: version["status"] for version in versions}


def test_a_version_is_registered_listed_and_shown(service: ThrowawayService, artifacts: list[bytes]) -> None:
    name = new_name("model")
    metadata = {
        "version": "2024-05.1_a",
        "metrics": {"rmse": 0.87},
        "metadata": {"trained_on": ["a", {"b": 1}]},
    }
    made = upload(service, name, artifacts[0], metadata)
    assert made.status == 201
    assert {"model", "version", "status", "sha256", "size", "created_at", "metrics", "metadata"} <= set(
        made.body
    )
    assert (made.body["model"], made.body["version"], made.body["status"]) == (name, "2024-05.1_a", "staged")
    assert (made.body["metrics"], made.body["metadata"]) == (metadata["metrics"], metadata["metadata"])
    assert made.body["size"] == len(artifacts[0])
    assert service.call("GET", f"/v1/models/{name}/versions/2024-05.1_a").body == made.body
    shown = service.call("GET", f"/v1/models/{name}").body
    assert (shown["model"], shown["production"], shown["versions"]) == (name, None, [made.body])
    listed = service.call("GET", "/v1/models").body["models"]
    assert {"model": name, "production": None, "versions": ["2024-05.1_a"]} in listed
    check_problem(upload(service, name, artifacts[1], metadata), 409)


def test_versions_name_themselves(service: ThrowawayService, artifacts: list[bytes]) -> None:
    name = new_name("model")
    assert [upload(service, name, artifact).body["version"] for artifact in artifacts[:2]] == ["v1", "v2"]
    assert upload(service, name, artifacts[3], {}).body["version"] == "v3"


@pytest.mark.parametrize(
    ("metadata", "at"),
    [
        (b"{", "metadata"),
        ([], "metadata"),
        ({"versions": "v1"}, "metadata.versions"),
        ({"version": "a b"}, "metadata.version"),
        ({"status": "great"}, "metadata.status"),
        ({"metrics": {"rmse": "low"}}, "metadata.metrics.rmse"),
        ({"metadata": {"n": 2**70}}, "metadata"),
        (b'{"metadata": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "metadata"),
    ],
)
def test_wrong_metadata_is_400(
    service: ThrowawayService, artifacts: list[bytes], metadata: Any, at: str
) -> None:
    name = new_name("model")
    check_problem(upload(service, name, artifacts[0], metadata), 400, at)
    check_problem(service.call("GET", f"/v1/models/{name}"), 404)


def corrupted(artifact: bytes) -> bytes:
    """One tensor's dtype says something else than its bytes."""
    return (
        artifact.replace(b'"F32"', b'"F64"', 1)
        if b'"F32"' in artifact
        else artifact.replace(b'"F64"', b'"F32"', 1)
    )


def foreign(artifact: bytes) -> bytes:
    return safetensors.numpy.save({"weight": np.zeros((2, 3), np.float32)})


def of_another_family(artifact: bytes) -> bytes:
    about = {"family": "transformer", "format_version": 1, "parameters": {}}
    return safetensors.numpy.save({"w": np.zeros(2, np.float32)}, {"bandit_serve": json.dumps(about)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda artifact: b"",
        lambda artifact: artifact[:4],
        lambda artifact: artifact[:200],
        lambda artifact: artifact[:-1],
        lambda artifact: artifact + b"\0" * 8,
        lambda artifact: struct.pack("<Q", 2**60) + artifact[8:],
        lambda artifact: b"\x80\x04\x95" + artifact,
        lambda artifact: b"PK\x03\x04" + artifact,
        corrupted,
        foreign,
        of_another_family,
    ],
    ids=[
        "empty",
        "stub",
        "header only",
        "truncated",
        "longer",
        "huge header",
        "pickle",
        "zip",
        "corrupted",
        "foreign",
        "family",
    ],
)
def test_an_artifact_that_is_no_model_is_refused_with_a_sentence(
    service: ThrowawayService, artifacts: list[bytes], spoil: Any
) -> None:
    name = new_name("model")
    problem = check_problem(upload(service, name, spoil(artifacts[0]), {}), 400)
    assert len(problem["detail"]) > 20
    check_problem(service.call("GET", f"/v1/models/{name}"), 404)


def test_an_artifact_above_the_limit_is_413(service: ThrowawayService, artifacts: list[bytes]) -> None:
    check_problem(upload(service, new_name("model"), artifacts[0] + b"\0" * LIMIT), 413)


def test_the_parts_of_an_upload(service: ThrowawayService) -> None:
    path = f"/v1/models/{new_name('model')}/versions"
    check_problem(upload(service, new_name("model"), None, {}), 400, "artifact")
    check_problem(service.call("POST", path, {"version": "v1"}), 415)
    check_problem(service.call("POST", path, b"", {"Content-Type": "multipart/form-data"}), 400)
    for body in (b"", b"--b", b"--b\r\n", b"--b\r\nnonsense", b"--b\r\n\r\nx\r\n--b--\r\n"):
        answer = service.call("POST", path, body, {"Content-Type": "multipart/form-data; boundary=b"})
        check_problem(answer, 400)
    for name in ("a b", ".a", "x" * 129):
        check_problem(
            service.call("POST", f"/v1/models/{name.replace(' ', '%20')}/versions", {}), 400, "model"
        )


MOVES = {
    "training": {"staged", "failed"},
    "staged": {"shadow", "production", "retired", "failed"},
    "shadow": {"staged", "production", "retired", "failed"},
    "production": {"retired", "failed"},
    "retired": {"staged"},
    "failed": set(),
}
WAYS = {
    "training": [],
    "staged": [],
    "shadow": ["shadow"],
    "production": ["production"],
    "retired": ["retired"],
    "failed": ["failed"],
}


@pytest.mark.parametrize("to", sorted(MOVES))
@pytest.mark.parametrize("status", sorted(MOVES))
def test_the_states_of_a_version(
    service: ThrowawayService, artifacts: list[bytes], status: str, to: str
) -> None:
    name = new_name("model")
    begin = "training" if status == "training" else "staged"
    assert upload(service, name, artifacts[0], {"status": begin}).body["status"] == begin
    for step in WAYS[status]:
        assert move(service, name, "v1", step).status == 200
    moved = move(service, name, "v1", to, reason="because")
    if to in MOVES[status]:
        assert (moved.status, moved.body["status"], moved.body["reason"]) == (200, to, "because")
        assert statuses(service, name) == {"v1": to}
    else:
        check_problem(moved, 409)
        assert statuses(service, name) == {"v1": status}


def test_promotion_retires_the_predecessor_and_rollback_brings_it_back(
    service: ThrowawayService, artifacts: list[bytes]
) -> None:
    name = new_name("model")
    check_problem(service.call("POST", f"/v1/models/{name}/rollback"), 404)
    for artifact in artifacts[:3]:
        upload(service, name, artifact)
    check_problem(service.call("POST", f"/v1/models/{name}/rollback"), 409)
    for version in ("v1", "v2", "v3"):
        assert move(service, name, version, "production").status == 200
    assert statuses(service, name) == {"v1": "retired", "v2": "retired", "v3": "production"}
    back = service.call("POST", f"/v1/models/{name}/rollback", {"reason": "worse"})
    assert (back.status, back.body["production"]) == (200, "v2")
    assert statuses(service, name) == {"v1": "retired", "v2": "production", "v3": "retired"}
    assert service.call("POST", f"/v1/models/{name}/rollback").body["production"] == "v1"
    history = service.call("GET", f"/v1/models/{name}").body["history"]
    assert [entry["what"] for entry in history][:3] == ["register"] * 3
    assert "rollback" in {entry["what"] for entry in history}
    assert {"at", "who", "what", "version", "status", "reason"} == set(history[0])


def test_unknown_models_and_versions_are_404(service: ThrowawayService, model: str) -> None:
    ask = {"user_id": "u1", "item_id": "i1"}
    for method, path, body in [
        ("GET", "/v1/models/nobody", None),
        ("GET", f"/v1/models/{model}/versions/v9", None),
        ("PATCH", f"/v1/models/{model}/versions/v9", {}),
        ("POST", f"/v1/models/{model}/versions/v9/load", None),
        ("POST", f"/v1/models/{model}/versions/v9/status", {"status": "production"}),
        ("POST", f"/v1/models/{model}/versions/v9/predict", ask),
        ("POST", "/v1/models/nobody/predict", ask),
        ("POST", "/v1/models/nobody/rollback", {}),
    ]:
        check_problem(service.call(method, path, body), 404)


def test_patch_adds_metrics_and_metadata(service: ThrowawayService, model: str) -> None:
    path = f"/v1/models/{model}/versions/v3"
    service.call("PATCH", path, {"metrics": {"rmse": 0.9}, "metadata": {"a": 1}})
    answer = service.call("PATCH", path, {"metrics": {"mae": 0.7}, "metadata": {"a": 2}})
    assert (answer.status, answer.body["metrics"], answer.body["metadata"]) == (
        200,
        {"rmse": 0.9, "mae": 0.7},
        {"a": 2},
    )
    check_problem(service.call("PATCH", path, {"status": "production"}), 400)
    check_problem(service.call("PATCH", path, {"metrics": {"mae": None}}), 400)
    check_problem(service.call("PATCH", path, {"metadata": {"a": "x" * 70_000}}), 400, "metadata")


def test_load_says_that_it_is_loaded(service: ThrowawayService, model: str) -> None:
    answer = service.call("POST", f"/v1/models/{model}/versions/v3/load")
    assert (answer.status, answer.body["loaded"]) == (200, True)


def test_an_artifact_that_changed_on_disk_is_not_served(
    service: ThrowawayService, artifacts: list[bytes]
) -> None:
    name = new_name("model")
    other = safetensors.numpy.load(artifacts[0])
    biased = {key: value + 0.25 if value.dtype.kind == "f" else value for key, value in other.items()}
    header = json.loads(artifacts[0][8 : 8 + struct.unpack("<Q", artifacts[0][:8])[0]])
    content = safetensors.numpy.save(biased, header["__metadata__"])
    made = upload(service, name, content)
    assert made.status == 201
    stored = Path(service.data) / "artifacts" / f"{made.body['sha256']}.safetensors"
    stored.chmod(0o644)
    spoiled = bytearray(stored.read_bytes())
    spoiled[-1] ^= 1
    stored.write_bytes(spoiled)
    ask = {"user_id": "u1", "item_id": "i1"}
    for _ in range(3):
        answer = service.call("POST", f"/v1/models/{name}/versions/v1/predict", ask)
        assert "missing or damaged" in check_problem(answer, 503)["detail"]


def test_a_prediction_by_the_production_version_and_by_any(
    service: ThrowawayService, model: str, trained: list[MatrixFactorization]
) -> None:
    ask = {"user_id": "u1", "item_id": "i14"}
    for path, version, scorer in [
        (f"/v1/models/{model}/predict", "v2", trained[1]),
        (f"/v1/models/{model}/versions/v3/predict", "v3", trained[2]),
        (f"/v1/models/{model}/versions/v1/predict", "v1", trained[0]),
    ]:
        answer = service.call("POST", path, ask)
        assert answer.status == 200
        assert set(answer.body) - {"confidence"} == {
            "user_id", "item_id", "prediction", "model_id", "model_version", "latency_ms", "cached",
        }  # fmt: skip
        assert answer.body["prediction"] == pytest.approx(scorer.predict("u1", "i14"), abs=1e-9)
        assert (answer.body["model_id"], answer.body["model_version"]) == (model, version)
        assert answer.body["cached"] is False
        assert answer.body["latency_ms"] >= 0


def test_predictions_for_many_items_and_top_k(
    service: ThrowawayService, model: str, trained: list[MatrixFactorization]
) -> None:
    path = f"/v1/models/{model}/predict"
    many = service.call("POST", path, {"user_id": "u3", "item_ids": ["i1", "i2", "nothing"]}).body
    assert many["predictions"] == pytest.approx(
        trained[1].predict_items("u3", ["i1", "i2", "nothing"]).tolist()
    )
    top = service.call("POST", path, {"user_id": "u3", "k": 5, "exclude": ["i1", "i2"]}).body
    expected = trained[1].top_k("u3", 5, ["i1", "i2"])
    assert [item["item_id"] for item in top["items"]] == [item for item, _ in expected]
    assert [item["score"] for item in top["items"]] == pytest.approx([score for _, score in expected])
    assert len(service.call("POST", path, {"user_id": "u3", "k": 1_000}).body["items"]) == 60


def test_users_and_items_never_seen_are_scored_with_what_is_known(
    service: ThrowawayService, model: str, trained: list[MatrixFactorization]
) -> None:
    path = f"/v1/models/{model}/predict"
    for user, item in [("nobody", "i1"), ("u1", "nothing"), ("nobody", "nothing")]:
        answer = service.call("POST", path, {"user_id": user, "item_id": item})
        assert answer.status == 200
        assert answer.body["prediction"] == pytest.approx(trained[1].predict(user, item))
    assert len(service.call("POST", path, {"user_id": "nobody", "k": 7}).body["items"]) == 7


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, ""),
        ({"item_id": "i"}, "user_id"),
        ({"item_ids": ["i"], "features": {"hour": 3}}, "user_id"),
        ({"user_id": "u"}, ""),
        ({"user_id": "u", "item_id": "i", "k": 3}, ""),
        ({"user_id": "u", "item_ids": []}, "item_ids"),
        ({"user_id": "u", "item_ids": ["a", "b\n"]}, "item_ids[1]"),
        ({"user_id": "u", "item_ids": ["a"] * 10_001}, "item_ids"),
        ({"user_id": "", "item_id": "i"}, "user_id"),
        ({"user_id": "u" * 257, "item_id": "i"}, "user_id"),
        ({"user_id": "u", "item_id": "\x00"}, "item_id"),
        ({"user_id": 7, "item_id": "i"}, "user_id"),
        ({"user_id": "u", "k": 0}, "k"),
        ({"user_id": "u", "k": 2.5}, "k"),
        ({"user_id": "u", "k": 10**30}, None),
        ({"user_id": "u", "item_id": "i", "exclude": ["a"]}, "exclude"),
        ({"user_id": "u", "item_id": "i", "users": 1}, None),
    ],
)
def test_a_wrong_question_is_told_where_it_is_wrong(
    service: ThrowawayService, model: str, body: Any, at: str | None
) -> None:
    wanted = [] if at is None else [at]
    check_problem(service.call("POST", f"/v1/models/{model}/predict", body), 400, *wanted)
    if "k" not in body or body["k"] != 10**30:
        check_problem(call_msgpack(service, f"/v1/models/{model}/versions/v1/predict", body), 400, *wanted)


def test_features_are_refused_by_a_family_that_takes_none(service: ThrowawayService, model: str) -> None:
    body = {"user_id": "u", "item_id": "i", "features": {"hour": 3}}
    check_problem(service.call("POST", f"/v1/models/{model}/predict", body), 400)


def test_features_change_what_a_factorization_machine_answers(
    service: ThrowawayService, tmp_path: Path
) -> None:
    evenings = [{"evening": True, "x0": 1.0}, {"evening": False, "x0": -1.0}] * 100
    users, items = [f"u{i % 7}" for i in range(200)], [f"i{i % 11}" for i in range(200)]
    machine = FactorizationMachine(4, n_epochs=20)
    machine.fit(users, items, [4.0, 2.0] * 100, features=evenings).save(tmp_path / "machine")
    name = new_name("machine")
    upload(service, name, (tmp_path / "machine").read_bytes(), {"status": "staged"})
    ask: dict[str, Any] = {"user_id": "u1", "item_id": "i1"}
    path = f"/v1/models/{name}/versions/v1/predict"
    for features in ({"evening": True}, {"evening": False, "x0": 0.5}, {"evening": "maybe"}, [0.5], {}, None):
        by_name = {"x0": 0.5} if features == [0.5] else features
        answer = service.call("POST", path, {**ask, "features": features}).body
        assert answer["prediction"] == machine.predict("u1", "i1", by_name or None)
        assert answer["confidence"] == machine.confidence("u1", "i1")
        assert not answer["cached"]
    for cached in (False, True):
        tops = []
        for features in ({"evening": True}, {"evening": False}, None):
            ask_for_top = {"user_id": "u1", "k": 3, "features": features}
            answer = service.call("POST", path, ask_for_top).body
            if cached:
                # The other worker leaves a store alone that was slow once.
                wait_until(lambda asked=ask_for_top: service.call("POST", path, asked).body["cached"])  # type: ignore[misc]
            else:
                assert not answer["cached"]
            assert "confidence" not in answer
            tops.append([(item["item_id"], item["score"]) for item in answer["items"]])
        assert tops == [
            machine.top_k("u1", 3, features=own) for own in ({"evening": True}, {"evening": False}, None)
        ]
        assert tops[0] != tops[1]
    many = [f"i{i}" for i in range(5_000)]
    answer = service.call(
        "POST", path, {"user_id": "u1", "item_ids": many, "features": {"evening": True}}
    ).body
    assert answer["predictions"] == machine.predict_items("u1", many, {"evening": True}).tolist()
    for wrong in ({"": 1.0}, {"x": ["a"] * 300}):
        check_problem(service.call("POST", path, {**ask, "features": wrong}), 400)


def test_without_a_production_version_there_is_no_prediction(
    service: ThrowawayService, artifacts: list[bytes]
) -> None:
    name = new_name("model")
    upload(service, name, artifacts[0], {"status": "training"})
    ask = {"user_id": "u", "item_id": "i"}
    check_problem(service.call("POST", f"/v1/models/{name}/predict", ask), 409)
    check_problem(service.call("POST", f"/v1/models/{name}/versions/v1/predict", ask), 409)


def test_the_second_top_k_comes_from_a_cache_in_every_worker(service: ThrowawayService, model: str) -> None:
    """Each call is a connection of its own, which either of the two workers takes."""
    path = f"/v1/models/{model}/versions/v3/predict"
    users = (f"u{i}" for i in range(7, 1_000))
    ask: dict[str, Any] = {"k": 4, "exclude": ["i3", "i4"]}

    def every_worker_had_it() -> bool:
        """Of a new question, as one that a store was too slow for is answered anew by each worker."""
        ask["user_id"] = next(users)
        first = service.call("POST", path, ask).body
        assert first["cached"] is False
        again = [service.call("POST", path, {**ask, "exclude": ["i4", "i3", "i4"]}).body for _ in range(30)]
        assert all(each["items"] == first["items"] for each in again)
        return all(each["cached"] for each in again)

    wait_until(every_worker_had_it)
    other = service.call("POST", f"/v1/models/{model}/versions/v1/predict", ask).body
    assert other["cached"] is False, "another version has its own answers"


def test_msgpack_predictions(service: ThrowawayService, model: str) -> None:
    ask = {"user_id": "u1", "item_ids": ["i1", "i2"]}
    path = f"/v1/models/{model}/predict"
    packed = call_msgpack(service, path, ask)
    assert packed.headers["Content-Type"] == MSGPACK
    assert packed.body["predictions"] == service.call("POST", path, ask).body["predictions"]


@pytest.fixture(scope="module")
def ranked(service: ThrowawayService, model: str) -> str:
    arms = [
        {"name": "control", "model": model, "version": "v1", "payload": {"a": 1}},
        {"name": "challenger", "model": model, "version": "v3"},
    ]
    return running(service, arms=arms, unit="user")


def test_an_experiment_predicts_with_its_arms_model(
    service: ThrowawayService, model: str, ranked: str, trained: list[MatrixFactorization]
) -> None:
    scorers = {"control": trained[0], "challenger": trained[2]}
    seen = set()
    for i in range(20):
        user = f"u{i}"
        answer = service.call("POST", f"/v1/experiments/{ranked}/predict", {"user_id": user, "item_id": "i9"})
        assert answer.status == 200
        body = answer.body
        assert set(body) == {
            "decision_id",
            "experiment",
            "arm",
            "propensity",
            "model",
            "payload",
            "prediction",
        }
        assert body["model"] == {"id": model, "version": {"control": "v1", "challenger": "v3"}[body["arm"]]}
        assert body["prediction"] == pytest.approx(scorers[body["arm"]].predict(user, "i9"))
        assert body["arm"] == decide(service, ranked, unit=user)["arm"], "unit defaults to user_id"
        seen.add(body["arm"])
    assert seen == {"control", "challenger"}
    top = service.call(
        "POST", f"/v1/experiments/{ranked}/predict", {"user_id": "u1", "k": 3, "unit": "other"}
    ).body
    assert top["arm"] == decide(service, ranked, unit="other")["arm"]
    assert [item["item_id"] for item in top["items"]] == [i for i, _ in scorers[top["arm"]].top_k("u1", 3)]
    reward = service.call("POST", "/v1/rewards", {"decision_id": top["decision_id"], "value": 1})
    assert reward.body["verdicts"] == ["accepted"]


def test_an_experiment_of_families_needs_a_user_whatever_arm_is_drawn(
    service: ThrowawayService, ranked: str
) -> None:
    for eligible in (["control"], ["challenger"], None):
        for body in ({"item_id": "i1"}, {"unit": "u1", "item_id": "i1"}, {"unit": "u1", "k": 2}):
            asked = {**body, "eligible": eligible}
            answer = service.call("POST", f"/v1/experiments/{ranked}/predict", asked)
            check_problem(answer, 400, "user_id")


def test_a_batch_of_predictions(service: ThrowawayService, ranked: str) -> None:
    requests = [
        {"user_id": "u1", "item_id": "i1"},
        {"user_id": "u2", "item_ids": ["i1", "i2"]},
        {"user_id": "u3"},
        {"user_id": "u4", "k": 2},
        {"user_id": "u5", "item_id": "i1", "eligible": ["challenger"]},
    ]
    path = f"/v1/experiments/{ranked}/predict/batch"
    for answer in (
        service.call("POST", path, {"requests": requests}),
        call_msgpack(service, path, {"requests": requests}),
    ):
        assert answer.status == 200
        responses = answer.body["responses"]
        assert [response.get("status", 200) for response in responses] == [200, 200, 400, 200, 200]
        assert isinstance(responses[0]["prediction"], float)
        assert len(responses[1]["predictions"]) == len(responses[3]["items"]) == 2
        assert responses[4]["arm"] == "challenger"
    check_problem(service.call("POST", path, {"requests": [requests[0]] * 10_001}), 400, "requests")
    check_problem(service.call("POST", path, {}), 400)


def test_stopping_with_a_winner_promotes_its_version(
    service: ThrowawayService, artifacts: list[bytes]
) -> None:
    name = new_name("model")
    for artifact in artifacts[:2]:
        upload(service, name, artifact)
    move(service, name, "v1", "production")
    arms = [{"name": f"a{v}", "model": name, "version": f"v{v}"} for v in (1, 2)]
    experiment = running(service, arms=arms)
    stopped = service.call("POST", f"/v1/experiments/{experiment}/stop", {"winner": "a2", "reason": "it won"})
    assert (stopped.status, stopped.body["winner"]) == (200, "a2")
    wait_until(lambda: statuses(service, name) == {"v1": "retired", "v2": "production"})
    ask = {"user_id": "u1", "item_id": "i1"}
    wait_until(lambda: service.call("POST", f"/v1/models/{name}/predict", ask).body["model_version"] == "v2")
    paused = service.call("POST", f"/v1/experiments/{experiment}/predict", ask).body
    assert (paused["arm"], paused["decision_id"], paused["propensity"]) == ("a2", None, 1.0)


def test_a_version_that_can_not_serve_does_not_start_or_win(
    service: ThrowawayService, artifacts: list[bytes]
) -> None:
    name = new_name("model")
    upload(service, name, artifacts[0])
    upload(service, name, artifacts[1], {"status": "training"})
    arms = [{"name": f"a{v}", "model": name, "version": f"v{v}"} for v in (1, 2)]
    experiment = draft(service, arms=arms)
    check_problem(service.call("POST", f"/v1/experiments/{experiment}/start"), 409)
    move(service, name, "v2", "staged")
    assert service.call("POST", f"/v1/experiments/{experiment}/start").status == 200
    move(service, name, "v2", "failed")
    check_problem(service.call("POST", f"/v1/experiments/{experiment}/stop", {"winner": "a2"}), 409)
    assert service.call("GET", f"/v1/experiments/{experiment}").body["status"] == "running"
