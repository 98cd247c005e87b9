"""Contract of both clients with the service: every call, its request and its answer against the served description."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bandit_serve_client
import numpy as np
import pytest
from bandit_serve_client import (
    Changed,
    Client,
    Conflict,
    Decision,
    DecisionRequest,
    FixedOnceCreated,
    InvalidRequest,
    NotFound,
    Prediction,
    PredictionRequest,
    Reward,
    SyncClient,
    Unavailable,
    decisions,
    errors,
    experiments,
    models,
    rewards,
)
from bandit_serve_client.experiment_calls import ExperimentCalls
from bandit_serve_client.model_calls import ModelCalls
from bandit_serve_client.reading import json_name
from both_clients import CLIENTS
from described_traffic import Traffic
from services import ThrowawayService
from upstreams import ThrowawayUpstream

import bandit_serve.client
from bandit_serve.models import MatrixFactorization

# Types of answers by the name of their component in the description.
TYPES: dict[str, type] = {
    "AdjustedResult": experiments.AdjustedResult,
    "ArmResult": experiments.ArmResult,
    "Arm": experiments.Arm,
    "Attribution": experiments.Attribution,
    "InterleavingResult": experiments.InterleavingResult,
    "Layer": experiments.Layer,
    "ContextField": experiments.ContextField,
    "Decision": experiments.DecisionSoFar,
    "Decided": decisions.Decision,
    "ExperimentView": experiments.Experiment,
    "FieldProblem": errors.FieldMistake,
    "GuardrailResult": experiments.GuardrailResult,
    "Health": models.Health,
    "HistoryView": experiments.HistoryEntry,
    "Margin": experiments.Margin,
    "Metric": experiments.Metric,
    "MetricResult": experiments.MetricResult,
    "ModelHistoryView": models.ModelHistoryEntry,
    "ModelName": decisions.ModelVersion,
    "ModelSummary": models.ModelSummary,
    "ModelView": models.Model,
    "NextStep": models.NextStep,
    "Predicted": decisions.Prediction,
    "Preview": experiments.Preview,
    "PromotionView": models.Promotion,
    "RampView": experiments.Ramp,
    "Report": experiments.Results,
    "RewardsReport": rewards.RewardsReport,
    "SampleRatio": experiments.SampleRatio,
    "Scored": decisions.Score,
    "ScoredItem": decisions.ScoredItem,
    "SegmentArm": experiments.SegmentArm,
    "SegmentMetric": experiments.SegmentMetric,
    "SegmentReport": experiments.SegmentReport,
    "SegmentResult": experiments.SegmentResult,
    "SetAsideView": experiments.SetAside,
    "Shrunk": experiments.Shrunk,
    "StepView": models.StepTaken,
    "Stopping": experiments.Stopping,
    "Trouble": models.Trouble,
    "VersionView": models.Version,
}
# Types of requests.
ASKED: dict[str, type] = {
    "DecideRequest": decisions.DecisionRequest,
    "PredictRequest": decisions.PredictionRequest,
    "Reward": rewards.Reward,
}
# Routes for other clients.
STANDARDS = ("/v2", "/ofrep")
# Routes that are of no use to a caller of models, and `expose`, which test_client_events.py calls.
LEFT_OUT = {
    "expose",
    "buildImage",
    "checkLive",
    "compareVersions",
    "createKey",
    "defineMetric",
    "getAgreement",
    "getDashboard",
    "getDefinition",
    "getDeployment",
    "getDeploymentLogs",
    "getLoadedBy",
    "getMetrics",
    "getOpenapi",
    "getStats",
    "getResultsHistory",
    "getTimeline",
    "listDefinitions",
    "listDeployments",
    "listKeys",
    "loadVersion",
    "plan",
    "putCovariates",
    "removeDefinition",
    "revokeKey",
    "runDeployment",
    "startCanary",
    "stopDeployment",
}
BUTTON = {
    "id": "button",
    "unit": "user",
    "control": "blue",
    "arms": [{"name": "blue", "payload": {"colour": "#00f"}}, {"name": "green"}],
    "policy": {"kind": "thompson", "min_share": 0.05},
    "metrics": [{"name": "click", "kind": "binary"}, {"name": "seconds", "kind": "continuous"}],
    "attribution": {"window": "1h", "missing": "zero"},
    "context": [{"name": "device", "kind": "categorical", "values": ["ios", "web"]}],
}
RANKER = {
    "id": "ranker",
    "arms": [
        {"name": "old", "model": "films", "version": "v1"},
        {"name": "new", "model": "films", "version": "v2"},
    ],
    "policy": {"kind": "fixed_split"},
    "metrics": [{"name": "rating", "kind": "continuous"}],
}


@pytest.fixture(scope="module")
def traffic(service: ThrowawayService) -> Traffic:
    return Traffic(service.call("GET", "/openapi.json").body)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, service: ThrowawayService, traffic: Traffic) -> Iterator[Any]:
    """A client whose requests and answers are compared with the description."""
    with CLIENTS[request.param](service.url) as made, traffic.checked():
        yield made


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    users, items = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    model = MatrixFactorization(n_factors=2, n_epochs=2, seed=0)
    model.fit([f"u{user}" for user in users], [f"i{item}" for item in items], 1.0 + (users + items) % 5)
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    model.save(path)
    return path


def decide_and_reward(client: Any) -> None:
    button = "button"
    client.experiments.apply(BUTTON)
    client.experiments.start(button)
    assert client.health().status == "ready"
    decision = client.decide(button, unit="u1", context={"device": "web"}, eligible=["blue", "green"])
    assert type(decision) is Decision
    assert decision.arm in ("blue", "green")
    assert decision.payload == ({"colour": "#00f"} if decision.arm == "blue" else None)
    assert 0 < decision.propensity < 1
    assert client.reward(decision.decision_id, 1.0) == "accepted"
    assert client.reward(decision.decision_id, 1.0) == "duplicate"
    assert client.reward(decision.decision_id, 2.5, metric="seconds") == "accepted"
    report = client.rewards(
        [Reward(decision.decision_id, 1.0), Reward("x", 1.0), Reward(decision.decision_id, 1.0, "nothing")]
    )
    assert (report.accepted, report.duplicates, report.rejected) == (0, 1, 2)
    assert report.verdicts == ("duplicate", "invalid", "invalid")
    with pytest.raises(InvalidRequest) as raised:
        client.reward("x", 1.0)
    assert raised.value.type == "urn:bandit-serve:problem:invalid-request"
    again, refused = client.decide_many(
        button, [DecisionRequest("u1"), DecisionRequest("u1", eligible=["no"])]
    )
    assert again.arm == decision.arm
    assert isinstance(refused, InvalidRequest)
    assert "eligible" in refused.detail
    for _ in range(2):
        client.decide_many(button, [DecisionRequest(f"v{i}", {"device": "ios"}) for i in range(10)])
    client.experiments.stop(button)
    client.experiments.delete(button, reason="tried")


def change_an_experiment(client: Any) -> None:
    made = client.experiments.create(BUTTON)
    assert (made.status, made.control) == ("draft", "blue")
    assert made.policy == {"kind": "thompson", "min_share": 0.05}
    assert made.metrics[0].role == "objective"
    with pytest.raises(Conflict):
        client.experiments.create(BUTTON)
    replaced = client.experiments.replace("button", {**BUTTON, "control": "green"}, if_match=made.etag)
    assert replaced.control == "green"
    with pytest.raises(Changed):
        client.experiments.start("button", if_match=made.etag)
    assert client.experiments.start("button", reason="go", if_match=replaced.etag).status == "running"
    late = {"name": "worth", "kind": "continuous", "cap": 50.0}
    assert client.experiments.add_metric("button", late).metrics[-1].cap == 50.0
    added = client.experiments.add_arm("button", {"name": "red", "ramp": {"from": 0.01, "over": "2h"}})
    assert added.ramps["red"].start == 0.01
    assert client.experiments.pause_arm("button", "red").arm_status["red"] == "paused"
    assert client.experiments.resume_arm("button", "red").arm_status["red"] == "active"
    assert client.experiments.remove_arm("button", "red", reason="no").arm_status["red"] == "removed"
    policy = {"kind": "fixed_split", "shares": {"blue": 1, "green": 3}}
    assert client.experiments.change_policy("button", policy).policy == policy
    assert client.experiments.pause("button").status == "paused"
    undrawn = client.decide("button", unit="u")
    assert undrawn.decision_id is None
    assert client.reward(undrawn.decision_id, 1.0) == "unmatched"
    results = client.experiments.results("button")
    assert results.arm("blue").metrics["click"].n == 0
    assert results.srm.verdict == "insufficient"
    with pytest.raises(KeyError):
        results.arm("pink")
    stopped = client.experiments.stop("button", winner="green", reason="done")
    assert (stopped.winner, client.experiments.get("button").winner) == ("green", "green")
    assert "button" in [each.id for each in client.experiments.list()]
    changes = [entry.what for entry in client.experiments.history("button")]
    assert changes[0] == "create"
    assert changes[-1] == "stop"
    assert client.experiments.delete("button") is None
    with pytest.raises(NotFound):
        client.experiments.get("button")


def apply_what_is_missing(client: Any) -> None:
    apply = client.experiments.apply
    assert apply(BUTTON).revision == 1
    assert apply(BUTTON).revision == 1
    longer = {**BUTTON, "attribution": {"window": "2h", "missing": "zero"}}
    assert apply(longer).attribution.window == "2h"
    assert apply(BUTTON).attribution.window == "1h"
    started = client.experiments.start("button")
    assert apply(BUTTON).revision == started.revision
    arms = [*BUTTON["arms"], {"name": "red"}]  # type: ignore[misc]
    policy = {"kind": "top_two_thompson"}
    changed = apply({**BUTTON, "arms": arms, "policy": policy})
    assert changed.arm_status["red"] == "active"
    assert changed.policy == policy
    assert apply(BUTTON).arm_status["red"] == "removed"
    with pytest.raises(FixedOnceCreated, match="attribution"):
        apply(longer)
    with pytest.raises(FixedOnceCreated, match="blue"):
        apply({**BUTTON, "arms": [{"name": "blue", "payload": 1}, {"name": "green"}]})
    client.experiments.stop("button")
    client.experiments.delete("button")


def say_who_is_in_it(client: Any) -> None:
    rule = {"field": "country", "in": ["de"]}
    described = {**BUTTON, "layer": {"name": "page", "share": 0.2}, "audience": rule, "tags": ["a", "b"]}
    made = client.experiments.create({**described, "owner": "us", "description": "what"})
    assert (made.layer.name, made.layer.share, made.audience) == ("page", 0.2, rule)
    assert (made.owner, made.description, made.hypothesis, made.tags) == ("us", "what", None, ("a", "b"))
    assert made.keep_assigned is False
    assert client.experiments.apply(described).owner is None
    client.experiments.start("button")
    apart = client.decide("button", unit="u1", context={"country": "fr"})
    assert (apart.decision_id, apart.reason, apart.propensity) == (None, "audience", 1.0)
    grown = client.experiments.change_layer("button", 1.0, name="page", reason="all of it")
    assert grown.layer.share == 1.0
    assert client.decide("button", unit="u1", context={"country": "de"}).reason is None
    applied = client.experiments.apply({**described, "layer": {"name": "page", "share": 0.5}})
    assert applied.layer.share == 0.5
    assert client.experiments.apply({**described, "layer": {"name": "page", "share": 0.5}}) == applied
    with pytest.raises(FixedOnceCreated, match="audience"):
        client.experiments.apply({**described, "audience": {**rule, "in": ["fr"]}})
    with pytest.raises(FixedOnceCreated, match="layer"):
        client.experiments.apply({**described, "layer": {"name": "search", "share": 0.5}})
    client.experiments.stop("button")
    client.experiments.delete("button")


def register_and_predict(client: Any, artifact: Path) -> None:
    name = f"films-{type(client).__name__}"
    first = client.models.register(name, artifact, metrics={"rmse": 0.9}, metadata={"seed": 0})
    second = client.models.register(name, artifact.read_bytes(), version="v2", status="staged")
    assert (first.version, first.metadata["seed"], first.size) == ("v1", 0, artifact.stat().st_size)
    assert first.sha256 == second.sha256
    assert client.models.promote(name, "v1").status == "production"
    assert client.models.status(name, "v2", "production", reason="better").reason == "better"
    assert client.models.rollback(name, reason="worse").production == "v1"
    assert client.models.status(name, "v2", "staged").status == "staged"
    plan = {"shadow": {"requests": 10_000, "gate": "errors == 0"}}
    begun = client.models.begin_promotion(name, "v2", plan)
    assert (begun.version, begun.former, begun.plan) == ("v2", "v1", plan)
    assert client.models.promotion(name, begun.id).next.step in ("shadow", "production")
    assert client.models.cancel_promotion(name, begun.id, reason="a test").state == "cancelled"
    assert [each.id for each in client.models.promotions(name)] == [begun.id]
    assert client.models.describe(name, "v2", metrics={"rmse": 0.8}).metrics["rmse"] == 0.8
    assert client.models.version(name, "v2").metrics == {"rmse": 0.8}
    assert [each.version for each in client.models.versions(name, metric=["rmse<=0.85"])] == ["v2"]
    assert name in [model.model for model in client.models.list()]
    assert client.models.show(name).history[0].what
    one = client.models.score(name, "u1", item_id="i1")
    assert (one.model_version, one.user_id, one.predictions) == ("v1", "u1", None)
    many = client.models.score(name, "u1", item_ids=["i1", "i2"], version="v2")
    assert many.predictions[0] == one.prediction
    top = client.models.score(name, "u1", k=3, exclude=["i1"])
    assert len(top.items) == 3
    arms = [{**arm, "model": name} for arm in RANKER["arms"]]  # type: ignore[index]
    client.experiments.create({**RANKER, "id": name, "arms": arms})
    client.experiments.start(name)
    predicted = client.predict(name, "u1", item_id="i1")
    assert type(predicted) is Prediction
    assert (predicted.model.id, predicted.prediction) == (name, one.prediction)
    assert client.predict(name, "u1", item_ids=["i1", "i2"]).predictions == many.predictions
    assert client.predict(name, "u1", k=3, exclude=["i1"]).items == top.items
    good, bad = client.predict_many(
        name,
        [
            PredictionRequest(user_id="u1", item_id="i1"),
            PredictionRequest(user_id="u1", k=2, eligible=["no"]),
        ],
    )
    assert good.prediction == one.prediction
    assert isinstance(bad, InvalidRequest)
    client.experiments.stop(name)


@pytest.mark.parametrize("component", TYPES)
def test_types_have_every_field_of_the_description(component: str, traffic: Traffic) -> None:
    schema = traffic.description["components"]["schemas"][component]
    fields = {json_name(field) for field in dataclasses.fields(TYPES[component])}
    assert set(schema["properties"]) - fields == set()
    required = {
        json_name(field)
        for field in dataclasses.fields(TYPES[component])
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    always = set(schema["required"]) if "required" in schema else set()
    assert required - always == set()


@pytest.mark.parametrize("component", ASKED)
def test_requests_can_say_all_that_the_description_takes(component: str, traffic: Traffic) -> None:
    schema = traffic.description["components"]["schemas"][component]
    properties = set(schema.get("properties", {}))
    for alternative in schema.get("oneOf", ()):
        name = alternative["$ref"].rpartition("/")[2]
        properties |= set(traffic.description["components"]["schemas"][name]["properties"])
    fields = {field.name for field in dataclasses.fields(ASKED[component])}
    assert properties
    assert properties - fields == set()


def test_requests_and_answers_are_those_of_the_description(
    client: Any, traffic: Traffic, artifact: Path
) -> None:
    """Every call is made; each request and each answer is valid as it is described."""
    traffic.operations.clear()
    decide_and_reward(client)
    change_an_experiment(client)
    apply_what_is_missing(client)
    say_who_is_in_it(client)
    register_and_predict(client, artifact)
    operations = {
        operation["operationId"]
        for path, methods in traffic.description["paths"].items()
        for operation in methods.values()
        if not path.startswith(STANDARDS)
    }
    assert operations - traffic.operations - LEFT_OUT == set()


def test_what_an_experiment_names_is_what_it_was_when_it_was_started(
    client: Any, service: ThrowawayService
) -> None:
    for kind in ("count", "binary"):
        assert service.call("PUT", "/v1/metrics/shared", {"kind": kind}).status in (200, 201)
        if kind == "count":
            document = {**BUTTON, "id": "naming", "metrics": [{"name": "shared", "role": "objective"}]}
            assert client.experiments.apply(document).metrics[0].kind == "count"
            client.experiments.start("naming")
    standing = client.experiments.get("naming")
    assert client.experiments.apply(document) == standing
    for other in ({"name": "shared", "kind": "binary"}, {"name": "shared", "cap": 3.0}, {"name": "another"}):
        with pytest.raises(FixedOnceCreated):
            client.experiments.apply({**document, "metrics": [other]})
    client.experiments.stop("naming")
    client.experiments.delete("naming")


def public(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("of_loop", "of_threads"),
    [
        (Client, SyncClient),
        (ExperimentCalls, bandit_serve_client.sync_experiment_calls.SyncExperimentCalls),
        (ModelCalls, bandit_serve_client.sync_model_calls.SyncModelCalls),
    ],
)
def test_both_clients_have_the_same_calls(of_loop: type, of_threads: type) -> None:
    assert list(public(of_loop)) == list(public(of_threads))
    assert len(public(of_loop)) > 5


def test_the_service_s_package_has_the_same_names() -> None:
    assert bandit_serve.client.Client is Client
    assert set(bandit_serve.client.__all__) == set(bandit_serve_client.__all__)
    for name in bandit_serve_client.__all__:
        assert getattr(bandit_serve.client, name) is getattr(bandit_serve_client, name)


def test_a_prediction_that_fails_on_all_arms_is_logged_once(tmp_path: Path) -> None:
    """Each failed attempt is a decision with an error: a call that were sent again would log them again."""
    with ThrowawayUpstream() as upstream:
        upstream.mode = "500"
        with (
            ThrowawayService(tmp_path / "data", "--upstreams", upstream.base) as service,
            SyncClient(service.url) as client,
        ):
            for version in "ab":
                client.models.register(
                    "m", version=version, remote={"url": upstream.url, "protocol": "json", "timeout": "2s"}
                )
            client.experiments.create(
                {
                    "id": "failing",
                    "arms": [{"name": name, "model": "m", "version": name} for name in "ab"],
                    "policy": {"kind": "fixed_split"},
                    "attribution": {"missing": "ignore"},
                    "metrics": [
                        {"name": "click", "kind": "binary"},
                        {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
                    ],
                }
            )
            client.experiments.start("failing")
            with pytest.raises(Unavailable):
                client.predict("failing", unit="u", features={"x": 1.0})
            assert len(upstream.asked) == 2
            until_s = time.monotonic() + 10
            while sum(arm.exposures for arm in client.experiments.results("failing").arms) < 2:
                assert time.monotonic() < until_s
                time.sleep(0.05)
            arms = client.experiments.results("failing").arms
            assert [(arm.exposures, arm.metrics["error"].n) for arm in arms] == [(1, 1), (1, 1)]
