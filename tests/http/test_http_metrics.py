"""Metrics that join a running experiment, over HTTP, from the command line, and in several workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commands import bandit_serve
from http_calls import check_problem, decide, draft, running
from services import ThrowawayService

LATE = {"name": "worth", "kind": "continuous"}


def add(service: ThrowawayService, name: str, metric: dict[str, Any], **headers: str) -> Any:
    return service.call("POST", f"/v1/experiments/{name}/metrics", metric, headers or None)


def reward(service: ThrowawayService, decision: str, value: float, metric: str) -> Any:
    one = {"decision_id": decision, "value": value, "metric": metric}
    return service.call("POST", "/v1/rewards", {"rewards": [one]}).body["verdicts"]


def of(service: ThrowawayService, name: str, metric: str) -> list[dict[str, Any]]:
    results = service.call("GET", f"/v1/experiments/{name}/results").body
    return [arm["metrics"][metric] for arm in results["arms"]]


def test_decisions_since_then_count(service: ThrowawayService) -> None:
    name = running(service)
    before = decide(service, name)
    assert reward(service, before["decision_id"], 1.0, "worth") == ["invalid"]
    assert reward(service, before["decision_id"], 1, "click") == ["accepted"]
    added = add(service, name, LATE | {"cap": 4.0, "reason": "finance"})
    assert added.status == 200, added.body
    assert added.body["metrics"][-1] == LATE | {
        "cap": 4.0,
        "goal": "maximize",
        "role": "secondary",
        "low": None,
        "high": None,
    }
    since = [decide(service, name) for _ in range(5)]
    for value, decision in enumerate(since, 1):
        assert reward(service, decision["decision_id"], value, "worth") == ["accepted"]
        assert reward(service, decision["decision_id"], value, "worth") == ["duplicate"]
    assert reward(service, before["decision_id"], 1.0, "worth") == ["invalid"]
    alone = {"decision_id": before["decision_id"], "value": 1.0, "metric": "worth"}
    problem = check_problem(service.call("POST", "/v1/rewards", alone), 400, "metric")
    assert "when worth joined" in problem["errors"][0]["detail"]
    shown = of(service, name, "worth")
    assert sum(arm["n"] for arm in shown) == 5
    assert sum(arm["n"] * arm["raw_mean"] for arm in shown if arm["n"]) == pytest.approx(15)
    assert sum(arm["n"] * arm["mean"] for arm in shown if arm["n"]) == pytest.approx(14)
    assert all(arm["since"] > "2020" for arm in shown)
    assert sum(arm["n"] for arm in of(service, name, "click")) == 1
    assert "since" not in of(service, name, "click")[0]
    entry = service.call("GET", f"/v1/experiments/{name}/history").body["history"][-1]
    assert (entry["what"], entry["metric"], entry["reason"]) == ("add_metric", "worth", "finance")


def test_events_count_and_are_corrected(service: ThrowawayService) -> None:
    name = running(service)
    decide(service, name)
    assert add(service, name, LATE).status == 200
    decision = decide(service, name)["decision_id"]
    for value, verdict in ((3.0, "accepted"), (2.0, "corrected"), (None, "retracted"), (7.0, "corrected")):
        one = {"decision_id": decision, "value": value, "metric": "worth", "event_id": "order"}
        body = service.call("POST", "/v1/rewards", {"rewards": [one]}).body
        assert body["verdicts"] == [verdict]
    assert [arm["mean"] for arm in of(service, name, "worth") if arm["n"]] == [7.0]


def test_one_of_a_draft_is_there_from_the_start(service: ThrowawayService) -> None:
    name = draft(service)
    assert add(service, name, LATE).status == 200
    service.call("POST", f"/v1/experiments/{name}/start")
    assert reward(service, decide(service, name)["decision_id"], 2.0, "worth") == ["accepted"]
    assert "since" not in of(service, name, "worth")[0]


def test_by_command(service: ThrowawayService) -> None:
    name = running(service)
    ran = bandit_serve(
        "experiments", "add-metric", name, json.dumps(LATE), "--reason", "r", "--data", service.data
    )
    assert ran.status == 0, ran.err
    assert f"{name} has the metric worth." in ran.out
    assert reward(service, decide(service, name)["decision_id"], 2.0, "worth") == ["accepted"]
    refused = bandit_serve("experiments", "add-metric", name, "{", "--data", service.data)
    assert refused.status == 2


def test_what_is_refused(service: ThrowawayService) -> None:
    name = running(service)
    check_problem(add(service, name, {"name": "click", "kind": "count"}), 409)
    check_problem(add(service, name, LATE | {"role": "objective"}), 400, "role")
    check_problem(add(service, name, {"name": "v", "kind": "binary", "cap": 1}), 400, "cap")
    check_problem(add(service, name, {"name": "v", "kind": "count", "quantile": 0.5}), 400, "quantile")
    check_problem(add(service, name, {"name": "no name!", "kind": "count"}), 400, "name")
    check_problem(add(service, name, LATE | {"source": "served"}), 400, "source")
    check_problem(add(service, "nothing", LATE), 404)
    check_problem(add(service, name, LATE, **{"If-Match": '"1"'}), 412)
    for i in range(31):
        assert add(service, name, {"name": f"m{i}", "kind": "count"}).status == 200
    check_problem(add(service, name, LATE), 409)
    assert service.call("POST", f"/v1/experiments/{name}/stop").status == 200
    check_problem(add(service, name, LATE), 409)


def test_rewards_by_unit_count_on_it(service: ThrowawayService) -> None:
    name = running(service, unit="user")
    decide(service, name, unit="early")
    assert add(service, name, LATE).status == 200
    decide(service, name, unit="late")
    for unit in ("early", "late"):
        one = {"experiment": name, "unit": unit, "value": 2.5, "metric": "worth", "event_id": "o"}
        assert service.call("POST", "/v1/rewards", {"rewards": [one]}).body["verdicts"] == ["accepted"]
    shown = of(service, name, "worth")
    assert [arm["mean"] for arm in shown if arm["n"]] == [2.5]
    assert sum(arm["n"] for arm in shown) == 1
