"""Interleaved lists through a service: each item's decision, its rewards, and which model is preferred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_calls import check_problem, draft, running, upload
from services import ThrowawayService
from stores import wait_until

from bandit_serve.models import Popularity

ITEMS = [f"i{n}" for n in range(12)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    folder: Path = tmp_path_factory.mktemp("interleaved")
    with ThrowawayService(folder) as running_service:
        for version, order in (("up", ITEMS), ("down", ITEMS[::-1])):
            users = [f"u{n}" for n in range(len(order)) for _ in range(n + 1)]
            items = [item for n, item in enumerate(order) for _ in range(n + 1)]
            path = folder / f"{version}.safetensors"
            Popularity().fit(users, items, [5.0] * len(items)).save(path)
            answer = upload(running_service, "films", path.read_bytes(), {"version": version})
            assert answer.status == 201, answer
        yield running_service


def interleaving(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "mode": "interleave",
        "arms": [
            {"name": "control", "model": "films", "version": "up"},
            {"name": "challenger", "model": "films", "version": "down"},
        ],
        "control": "control",
        "unit": "request",
        "policy": {"kind": "fixed_split"},
        "metrics": [{"name": "click", "kind": "binary"}],
        "attribution": {"window": "1s", "missing": "ignore"},
        **changes,
    }


def predict(service: ThrowawayService, name: str, **body: Any) -> Any:
    return service.call("POST", f"/v1/experiments/{name}/predict", {"user_id": "somebody", **body})


def test_each_item_is_a_decision_of_the_arm_that_placed_it(service: ThrowawayService) -> None:
    running(service, **interleaving("lists"))
    answer = predict(service, "lists", k=6)
    assert answer.status == 200, answer
    items = answer.body["items"]
    assert answer.body["decision_id"] is None
    assert len({item["item_id"] for item in items}) == 6
    assert sorted(item["arm"] for item in items) == ["challenger"] * 3 + ["control"] * 3
    assert len({item["decision_id"] for item in items}) == 6
    given = service.call(
        "POST",
        "/v1/rewards",
        {"rewards": [{"decision_id": each["decision_id"], "value": 1} for each in items]},
    )
    assert given.body["verdicts"] == ["accepted"] * 6
    again = service.call("POST", "/v1/rewards", {"decision_id": items[0]["decision_id"], "value": 1})
    assert again.body["verdicts"] == ["duplicate"]


def test_an_arm_without_a_model_is_in_the_way_of_no_request_that_can_not_get_it(
    service: ThrowawayService,
) -> None:
    arms = [{"name": "plain"}, {"name": "model", "model": "films", "version": "up"}]
    name = running(service, arms=arms, control="plain", unit="request", policy={"kind": "fixed_split"})
    body = {"user_id": "somebody", "k": 2}
    check_problem(service.call("POST", f"/v1/experiments/{name}/predict", body), 409)
    for _ in range(5):
        answer = predict(service, name, k=2, eligible=["model"])
        assert (answer.status, answer.body["arm"], len(answer.body["items"])) == (200, "model", 2), answer
    check_problem(
        service.call("POST", f"/v1/experiments/{name}/predict", {**body, "eligible": ["plain"]}), 409
    )
    check_problem(
        service.call("POST", f"/v1/experiments/{name}/predict", {**body, "eligible": ["none"]}), 400
    )
    assert service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "model"}).status == 200
    wait_until(lambda: predict(service, name, k=2).status == 200)
    assert predict(service, name, k=2).body["arm"] == "model"


def test_whoever_is_outside_gets_control_also_where_that_has_no_model(service: ThrowawayService) -> None:
    arms = [{"name": "plain"}, {"name": "model", "model": "films", "version": "up"}]
    audience = {"field": "country", "in": ["de"]}
    name = running(
        service, arms=arms, control="plain", unit="request", audience=audience, policy={"kind": "fixed_split"}
    )
    path = f"/v1/experiments/{name}/predict"
    body = {"user_id": "somebody", "k": 2, "eligible": ["model"], "context": {"country": "fr"}}
    check_problem(service.call("POST", path, body), 409)


def test_results_tell_which_arm_is_preferred(service: ThrowawayService) -> None:
    running(service, **interleaving("clicks", attribution={"window": "50ms", "missing": "ignore"}))
    for _ in range(60):
        items = predict(service, "clicks", k=4).body["items"]
        chosen = next(item for item in items if item["arm"] == "challenger")
        given = service.call("POST", "/v1/rewards", {"decision_id": chosen["decision_id"], "value": 1})
        assert given.status in (200, 410), given
    # Whatever comes next closes the windows of what came before.
    items = predict(service, "clicks", k=4).body["items"]
    results = service.call("GET", "/v1/experiments/clicks/results").body
    told = results["interleaving"]
    assert told["wins"]["control"] == 0
    assert told["wins"]["challenger"] > 20
    assert told["win_rate"] == 1.0
    assert told["interval"][0] > 0.5
    assert told["p_value"] < 0.05
    assert results["winner"] == "challenger"
    assert "preferred" in results["reason"]
    for arm in results["arms"]:
        assert arm["metrics"]["click"]["p_value"] is None
        assert arm["metrics"]["click"]["difference_interval"] is None


def test_what_is_no_request_for_a_list_is_refused(service: ThrowawayService) -> None:
    running(service, **interleaving("refusing"))
    assert service.call("POST", "/v1/experiments/refusing/decide", {}).status == 409
    assert service.call("POST", "/v1/experiments/refusing/decide/batch", {"units": ["a"]}).status == 409
    assert predict(service, "refusing", item_id="i1").body["errors"][0]["at"] == "k"
    assert predict(service, "refusing", k=3, eligible=["control"]).body["errors"][0]["at"] == "eligible"
    assert predict(service, "refusing", k=3, context={"hour": 1}).body["errors"][0]["at"] == "context"
    assert predict(service, "refusing", k=3, unit="\n").body["errors"][0]["at"] == "unit"
    infer = {
        "inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u"]}],
        "parameters": {"k": 3},
    }
    assert service.call("POST", "/v2/models/refusing/infer", infer).status == 404
    batch = service.call(
        "POST",
        "/v1/experiments/refusing/predict/batch",
        {"requests": [{"user_id": "u", "k": 3}, {"user_id": "u", "item_id": "i1"}]},
    )
    assert [len(batch.body["responses"][0]["items"]), batch.body["responses"][1]["status"]] == [3, 400]


@pytest.mark.parametrize("moves", [(), ("start",), ("start", "pause"), ("start", "stop")])
def test_what_interleaves_is_neither_a_flag_nor_a_model(
    service: ThrowawayService, moves: tuple[str, ...]
) -> None:
    name = draft(service, **interleaving("-".join(("neither", *moves))))
    for move in moves:
        assert service.call("POST", f"/v1/experiments/{name}/{move}").status == 200
    context = {"context": {"targetingKey": "u"}}
    flag = service.call("POST", f"/ofrep/v1/evaluate/flags/{name}", context)
    assert (flag.status, flag.body["errorCode"]) == (404, "FLAG_NOT_FOUND")
    assert name not in str(service.call("POST", "/ofrep/v1/evaluate/flags", context).body["flags"])
    infer = {
        "inputs": [
            {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u"]},
            {"name": "item_id", "shape": [1], "datatype": "BYTES", "data": ["i1"]},
        ]
    }
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/ready", None),
        ("POST", "/infer", infer),
        ("POST", "/infer", {"inputs": infer["inputs"][:1], "parameters": {"k": 3}}),
    ):
        answer = service.call(method, f"/v2/models/{name}{path}", body)
        assert answer.status == 404, answer
        assert name in answer.body["error"]
    for ready in (True, False):
        index = service.call("POST", "/v2/repository/index", {"ready": ready}).body
        assert name not in {entry["name"] for entry in index}
        assert "films" in {entry["name"] for entry in index}


def test_without_two_arms_the_list_of_one_is_given_and_nothing_is_logged(service: ThrowawayService) -> None:
    name = running(service, **interleaving("alone"))
    paused = service.call("POST", f"/v1/experiments/{name}/arms/challenger/pause", {"reason": "slow"})
    assert paused.status == 200, paused
    items = predict(service, name, k=3).body["items"]
    assert [item["arm"] for item in items] == ["control"] * 3
    assert [item["decision_id"] for item in items] == [None] * 3
    assert service.call("POST", f"/v1/experiments/{name}/pause").status == 200
    plain = predict(service, name, k=3).body
    assert plain["arm"] == "control"
    assert plain["decision_id"] is None


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        ("unit", {"unit": "user"}),
        ("policy.kind", {"policy": {"kind": "thompson"}}),
        ("policy.shares", {"policy": {"kind": "fixed_split", "shares": {"control": 2, "challenger": 1}}}),
        ("policy.holdout", {"policy": {"kind": "fixed_split", "holdout": 0.1}}),
        ("metrics", {"metrics": [{"name": "click", "kind": "binary", "goal": "minimize"}]}),
        ("metrics", {"metrics": [{"name": "ms", "kind": "continuous"}]}),
        ("metrics", {"metrics": [{"name": "click", "kind": "binary", "covariate": "before"}]}),
        (
            "metrics",
            {
                "metrics": [
                    {"name": "click", "kind": "binary"},
                    {"name": "spent", "kind": "continuous", "covariate": "before"},
                ]
            },
        ),
        (
            "arms[0].model",
            {"arms": [{"name": "a"}, {"name": "b", "model": "films", "version": "up"}], "control": "a"},
        ),
        ("arms", {"arms": [{"name": "control", "model": "films", "version": "up"}]}),
        ("context", {"context": [{"name": "hour", "kind": "numeric"}]}),
    ],
)
def test_what_can_not_be_interleaved_is_refused(
    service: ThrowawayService, at: str, changes: dict[str, Any]
) -> None:
    refused = service.call("POST", "/v1/experiments", interleaving("wrong", **changes))
    assert refused.status == 400, refused
    assert at in [error["at"] for error in refused.body["errors"]]


def test_a_third_arm_can_not_come(service: ThrowawayService) -> None:
    draft(service, **interleaving("two"))
    arm = {"name": "third", "model": "films", "version": "up"}
    assert service.call("POST", "/v1/experiments/two/arms", arm).status == 400


def test_an_experiment_that_allocates_has_none_of_this(service: ThrowawayService) -> None:
    name = draft(service, id="plain", mode="allocate")
    made = service.call("GET", f"/v1/experiments/{name}")
    assert "mode" not in made.body
