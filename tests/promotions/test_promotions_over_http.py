"""Promotions over HTTP: by itself into production, or stopped where it is worse, each step with its evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve
from http_calls import check_problem, new_name, running
from promoting import begin, ended, make_model, promotion_of, statuses
from services import ThrowawayService
from stores import wait_until
from webhook_receiver import WebhookReceiver

NOT_WORSE = {"offline": "not worse than the current one"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(secret=None) as running:
        yield running
    assert not running.faults


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, receiver: WebhookReceiver
) -> Iterator[ThrowawayService]:
    flags = ("--webhooks", json.dumps([receiver.webhook("promotion")]))
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags, workers=2) as running:
        yield running


def model_of(service: ThrowawayService, folder: Path, *versions: str) -> str:
    model = new_name("promoted")
    make_model(service, folder, model, versions or ("v1", "v2"))
    return model


def test_a_version_that_is_not_worse_reaches_production_by_itself(
    service: ThrowawayService, tmp_path: Path
) -> None:
    model = model_of(service, tmp_path)
    id = begin(service, model, {"offline": "rmse < 0.95 * current.rmse"})
    view = ended(service, model, id)
    assert (view["state"], view["version"], view["former"]) == ("production", "v2", "v1")
    assert [(each["step"], each["passed"]) for each in view["steps"]] == [
        ("offline", True),
        ("production", True),
    ]
    assert view["steps"][0]["evidence"]["metrics"] == {"rmse": 0.8}
    assert view["steps"][0]["evidence"]["current"] == {"rmse": 0.9}
    assert view["next"] is None
    assert statuses(service, model) == {"v1": "retired", "v2": "production"}
    promoted = [
        each
        for each in service.call("GET", f"/v1/models/{model}").body["history"]
        if each["status"] == "production" and each["version"] == "v2"
    ]
    assert [each["who"] for each in promoted] == [f"promotion:{model}/{id}"]
    assert service.call("POST", f"/v1/models/{model}/rollback").body["production"] == "v1"


def test_a_worse_version_is_stopped_offline(service: ThrowawayService, tmp_path: Path) -> None:
    model = model_of(service, tmp_path, "v1", "worse")
    view = ended(service, model, begin(service, model, NOT_WORSE, "worse"))
    assert (view["state"], len(view["steps"]), view["next"]) == ("stopped", 1, None)
    (step,) = view["steps"]
    assert (step["step"], step["passed"]) == ("offline", False)
    assert "worse than the current 0.9" in step["reason"]
    assert statuses(service, model) == {"v1": "production", "worse": "staged"}
    again = begin(service, model, NOT_WORSE, "worse")
    assert again == "p2"
    ended(service, model, again)
    listed = service.call("GET", f"/v1/models/{model}/promotions").body["promotions"]
    assert [each["id"] for each in listed] == ["p2", "p1"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "plan"),
    "unknown": ({"offlin": "rmse < 1"}, "plan.offlin"),
    "no gate": ({"offline": "rmse <"}, "plan.offline"),
    "empty gate": ({"offline": " "}, "plan.offline"),
    "a log without an experiment": ({"offline": "off_policy.lower > 0"}, "plan.experiment"),
    "no such figure": ({"offline": "off_policy.least > 0"}, "plan.offline"),
    "no request": ({"shadow": {"requests": 0, "gate": "errors < 1"}}, "plan.shadow.requests"),
    "no shadow's figure": ({"shadow": {"requests": 9, "gate": "rmse < 1"}}, "plan.shadow.gate"),
    "shadow compares": (
        {"shadow": {"requests": 9, "gate": "not worse than the current one"}},
        "plan.shadow.gate",
    ),
    "no experiment": ({"ramp": {}}, "plan.experiment"),
    "no such experiment": ({"ramp": {}, "experiment": "none"}, "plan.experiment"),
    "no step": ({"ramp": {"steps": []}, "experiment": "none"}, "plan.ramp.steps"),
    "too much": ({"ramp": {"steps": [1.5]}, "experiment": "none"}, "plan.ramp.steps[0]"),
    "no duration": ({"ramp": {"each": "soon"}, "experiment": "none"}, "plan.ramp.each"),
}


@pytest.fixture(scope="module")
def model(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_of(service, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("what", REFUSED)
def test_an_impossible_plan_is_refused_at_its_field(service: ThrowawayService, model: str, what: str) -> None:
    plan, at = REFUSED[what]
    answer = service.call("POST", f"/v1/models/{model}/promotions", {"version": "v2", "plan": plan})
    check_problem(answer, 400, at)
    assert service.call("GET", f"/v1/models/{model}/promotions").body == {"promotions": []}


def test_a_version_that_can_not_be_promoted_is_refused(service: ThrowawayService, tmp_path: Path) -> None:
    model = model_of(service, tmp_path)
    path = f"/v1/models/{model}/promotions"

    def asked(version: str) -> Any:
        return service.call("POST", path, {"version": version, "plan": NOT_WORSE})

    check_problem(asked("v9"), 400, "version")
    check_problem(asked("v1"), 409)
    check_problem(service.call("POST", path, {"plan": NOT_WORSE}), 400, "version")
    other = service.call("POST", "/v1/models/none/promotions", {"version": "v2", "plan": NOT_WORSE})
    check_problem(other, 404)
    moved = f"/v1/models/{model}/versions"
    assert service.call("POST", f"{moved}/v1/status", {"status": "retired"}).status == 200
    check_problem(asked("v1"), 400, "version")
    check_problem(asked("v2"), 400, "version")
    assert service.call("GET", path).body == {"promotions": []}
    check_problem(service.call("GET", f"{path}/p1"), 404)
    check_problem(service.call("POST", f"{path}/p1/cancel"), 404)


def test_a_promotion_that_has_ended_is_not_cancelled(service: ThrowawayService, tmp_path: Path) -> None:
    model = model_of(service, tmp_path)
    id = begin(service, model, NOT_WORSE)
    ended(service, model, id)
    check_problem(service.call("POST", f"/v1/models/{model}/promotions/{id}/cancel"), 409)
    assert promotion_of(service, model, id)["state"] == "production"


def test_each_end_is_told_once(service: ThrowawayService, receiver: WebhookReceiver, tmp_path: Path) -> None:
    model = model_of(service, tmp_path, "v1", "v2", "worse")
    stopped = ended(service, model, begin(service, model, NOT_WORSE, "worse"))
    done = ended(service, model, begin(service, model, NOT_WORSE))
    ids = [f"promotion:{model}:{each['id']}" for each in (stopped, done)]
    wait_until(lambda: set(ids) <= set(receiver.bodies), 60)
    bodies = [receiver.bodies[id] for id in ids]
    assert [each["data"]["state"] for each in bodies] == ["stopped", "production"]
    assert bodies[0]["data"]["step"]["evidence"]["metrics"] == {"rmse": 1.2}
    assert [receiver.tries[id] for id in ids] == [1, 1]


def test_the_command_begins_what_a_file_says(service: ThrowawayService, tmp_path: Path) -> None:
    model = model_of(service, tmp_path)
    plan = tmp_path / "promotion.toml"
    plan.write_text('offline = "rmse < current.rmse"\n')
    where = ("--data", service.data)
    begun = bandit_serve("models", "promote", model, "v2", "--gated", plan, "--json", *where)
    assert begun.status == 0, begun
    assert (begun.document["id"], begun.document["state"]) == ("p1", "offline")
    assert ended(service, model, "p1")["state"] == "production"
    shown = bandit_serve("models", "promotions", model, *where)
    assert shown.status == 0, shown
    assert "offline" in shown.out
    plan.write_text('offline = "rmse < current.rmse"\nshadows = 3\n')
    wrong = bandit_serve("models", "promote", model, "v1", "--gated", plan, *where)
    assert wrong.status == 2, wrong
    assert "shadows" in wrong.err
    assert promotion_of(service, model, "p1")["state"] == "production"


IN_EXPERIMENT: dict[str, tuple[dict[str, Any], str]] = {
    "not rising": ({"steps": [0.5, 0.5]}, "plan.ramp.steps[1]"),
    "no time": ({"each": "0s"}, "plan.ramp.each"),
    "no guardrail": ({"guardrails": ["error"]}, "plan.ramp.guardrails[0]"),
    "measured by nobody": ({"guardrails": ["error=0.1", "cost=0.1"]}, "plan.ramp.guardrails[1]"),
    "the objective": ({"guardrails": ["click=0.1"]}, "plan.ramp.guardrails[0]"),
    "twice": ({"guardrails": ["error=0.1", "error=0.2"]}, "plan.ramp.guardrails[1]"),
    "no margin": ({"guardrails": [{"name": "cost", "kind": "count"}]}, "plan.ramp.guardrails[0].margin"),
    "reported only": (
        {"guardrails": [{"name": "cost", "kind": "count", "margin": {"absolute": 1}, "on_harm": "report"}]},
        "plan.ramp.guardrails[0].on_harm",
    ),
}


@pytest.mark.parametrize("what", IN_EXPERIMENT)
def test_an_impossible_ramp_is_refused_at_its_field(service: ThrowawayService, model: str, what: str) -> None:
    ramp, at = IN_EXPERIMENT[what]
    experiment = running(service, arms=[{"name": "control", "model": model, "version": "v1"}])
    body = {"version": "v2", "plan": {"ramp": ramp, "experiment": experiment}}
    check_problem(service.call("POST", f"/v1/models/{model}/promotions", body), 400, at)
    about = service.call("GET", f"/v1/experiments/{experiment}").body
    assert (len(about["arms"]), len(about["metrics"])) == (1, 1)


def test_an_experiment_that_can_not_take_a_ramp_is_refused(service: ThrowawayService, model: str) -> None:
    arms = [{"name": "control", "model": model, "version": "v1"}]

    def refused(experiment: str) -> str:
        body = {"version": "v2", "plan": {"ramp": {}, "experiment": experiment}}
        answer = service.call("POST", f"/v1/models/{model}/promotions", body)
        return str(check_problem(answer, 400, "plan.experiment")["detail"])

    assert "serves no model" in refused(running(service))
    other = running(service, arms=[{**arms[0], "version": "v2"}])
    assert f"serves {model} v2" in refused(other)
    stopped = running(service, arms=arms)
    assert service.call("POST", f"/v1/experiments/{stopped}/stop", {}).status == 200
    assert "is stopped" in refused(stopped)
    full = running(service, arms=arms, policy={"kind": "thompson", "min_share": 0.8})
    assert "another arm" in refused(full)
    paused = running(service, arms=[*arms, {"name": "next", "model": model, "version": "v2"}])
    assert service.call("POST", f"/v1/experiments/{paused}/arms/next/pause").status == 200
    assert "its arm next is paused" in refused(paused)


def test_a_plan_without_guardrails_takes_the_one_that_the_experiment_has_on_errors(
    service: ThrowawayService, model: str
) -> None:
    loose = {
        "name": "error",
        "kind": "binary",
        "goal": "minimize",
        "role": "guardrail",
        "source": "served",
        "margin": {"absolute": 0.2},
        "on_harm": "pause_arm",
    }
    arms = [{"name": "control", "model": model, "version": "v1"}]
    metrics = [{"name": "click", "kind": "binary"}, loose]
    reported = running(service, arms=arms, metrics=[metrics[0], loose | {"on_harm": "report"}])
    refused = {"version": "v2", "plan": {"ramp": {}, "experiment": reported}}
    check_problem(
        service.call("POST", f"/v1/models/{model}/promotions", refused), 400, "plan.ramp.guardrails"
    )

    experiment = running(service, arms=arms, metrics=metrics)
    plan = {"ramp": {"steps": [0.5], "each": "1h"}, "experiment": experiment}
    begun = service.call("POST", f"/v1/models/{model}/promotions", {"version": "v2", "plan": plan})
    assert begun.status == 202, begun
    assert "guardrails" not in begun.body["plan"]["ramp"]

    def held() -> bool:
        return len(service.call("GET", f"/v1/experiments/{experiment}").body["arms"]) == 2

    wait_until(held)
    about = service.call("GET", f"/v1/experiments/{experiment}").body
    assert [(each["name"], each.get("margin")) for each in about["metrics"]][1:] == [
        ("error", {"absolute": 0.2})
    ]
    cancelled = service.call("POST", f"/v1/models/{model}/promotions/{begun.body['id']}/cancel", {})
    assert cancelled.status == 200
