"""Steps of promotions with traffic: shadow and ramp, their evidence, and the way back from each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_calls import call_msgpack, check_problem, new_name, running
from promoting import at_step, begin, ended, make_model, promotion_of, statuses
from services import ThrowawayService
from stores import wait_until
from upstreams import ThrowawayUpstream

EACH = "1s"
RAMP = {"steps": [0.05, 0.5], "each": EACH}
ASK = {"user_id": "1", "item_id": "1"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThrowawayUpstream]:
    with ThrowawayUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, upstream: ThrowawayUpstream
) -> Iterator[ThrowawayService]:
    data = tmp_path_factory.mktemp("data")
    with ThrowawayService(data, "--upstreams", upstream.base, workers=2) as started:
        yield started


def served(service: ThrowawayService, folder: Path, **changes: Any) -> tuple[str, str]:
    """Model with v1 in production and v2 staged, and a running experiment whose control serves v1."""
    model = new_name("ramped")
    make_model(service, folder, model)
    arms = [{"name": "control", "model": model, "version": "v1"}]
    return model, running(service, arms=arms, **changes)


def visit(
    service: ThrowawayService, experiment: str, chance: random.Random, rates: Callable[[str], float]
) -> None:
    """Decides 500 times, and rewards each decision at the rate of its arm."""
    units = [f"u{chance.randrange(10**9)}" for _ in range(500)]
    decided = call_msgpack(service, f"/v1/experiments/{experiment}/decide/batch", {"units": units}).body
    pairs = zip(decided["decision_ids"], decided["arms"], strict=True)
    rewards = [
        {"decision_id": token, "value": float(chance.random() < rates(decided["arm_names"][arm]))}
        for token, arm in pairs
    ]
    assert call_msgpack(service, "/v1/rewards", {"rewards": rewards}).status == 200


def visit_until_ended(
    service: ThrowawayService, model: str, id: str, experiment: str, rates: Callable[[str], float]
) -> dict[str, Any]:
    chance = random.Random(model)

    def is_over() -> bool:
        visit(service, experiment, chance, rates)
        return promotion_of(service, model, id)["state"] in ("production", "stopped")

    wait_until(is_over, 120)
    return promotion_of(service, model, id)


def predict(service: ThrowawayService, model: str, n: int) -> None:
    for number in range(n):
        asked = service.call("POST", f"/v1/models/{model}/predict", ASK | {"user_id": str(number % 3)})
        assert asked.status == 200, asked


@pytest.mark.timeout(240)
def test_a_better_version_goes_through_all_steps(service: ThrowawayService, tmp_path: Path) -> None:
    model, experiment = served(service, tmp_path)
    plan = {
        "offline": "rmse <= current.rmse",
        "shadow": {"requests": 20, "gate": "errors == 0 and latency_ms < 10000 and dropped == 0"},
        "ramp": RAMP,
        "experiment": experiment,
    }
    id = begin(service, model, plan)
    view = at_step(service, model, id, "shadow")
    assert (view["state"], view["next"]["step"], view["next"]["share"]) == ("shadow", "ramp", 0.05)
    assert statuses(service, model)["v2"] == "shadow"
    check_problem(
        service.call("POST", f"/v1/models/{model}/promotions", {"version": "v2", "plan": plan}), 409
    )
    predict(service, model, 25)
    view = at_step(service, model, id, "ramp")
    shadowed = view["steps"][1]
    assert shadowed["passed"] is True
    assert shadowed["evidence"]["requests"] >= 20
    assert statuses(service, model)["v2"] == "staged"
    arm = f"{id}-{model}-v2"
    wait_until(lambda: arm in service.call("GET", f"/v1/experiments/{experiment}").body["arm_status"], 60)
    about = service.call("GET", f"/v1/experiments/{experiment}").body
    assert about["held"][arm] in (0.05, 0.5)
    assert [metric["name"] for metric in about["metrics"]] == ["click", "error"]
    view = visit_until_ended(service, model, id, experiment, lambda arm: 0.5)
    assert view["state"] == "production", view
    assert [each["step"] for each in view["steps"]] == ["offline", "shadow", "ramp", "ramp", "production"]
    assert all(each["passed"] for each in view["steps"])
    first, second = view["steps"][2:4]
    assert (first["share"], second["share"]) == (0.05, 0.5)
    for step in (first, second):
        evidence = step["evidence"]
        assert evidence["exposures"] >= 1
        assert evidence["srm"]["verdict"] in ("ok", "insufficient")
        assert evidence["harms"] == []
    assert statuses(service, model) == {"v1": "retired", "v2": "production"}
    wait_until(lambda: "held" not in service.call("GET", f"/v1/experiments/{experiment}").body, 60)
    about = service.call("GET", f"/v1/experiments/{experiment}").body
    assert about["arm_status"] == {"control": "active", arm: "active"}


@pytest.mark.timeout(240)
def test_a_worse_version_is_stopped_on_the_ramp(service: ThrowawayService, tmp_path: Path) -> None:
    model, experiment = served(service, tmp_path)
    plan = {"ramp": {"steps": [0.5], "each": "60s"}, "experiment": experiment}
    id = begin(service, model, plan)
    view = visit_until_ended(service, model, id, experiment, lambda arm: 0.9 if arm == "control" else 0.1)
    assert view["state"] == "stopped", view
    (step,) = view["steps"]
    assert (step["step"], step["passed"]) == ("ramp", False)
    assert "click of" in step["reason"]
    assert step["evidence"]["difference_interval"][1] < 0.0
    assert statuses(service, model) == {"v1": "production", "v2": "staged"}
    arm = f"{id}-{model}-v2"

    def status() -> str:
        return str(service.call("GET", f"/v1/experiments/{experiment}").body["arm_status"][arm])

    wait_until(lambda: status() == "removed", 60)
    history = service.call("GET", f"/v1/experiments/{experiment}/history").body["history"]
    assert [each["what"] for each in history if each["who"] == f"promotion:{model}/{id}"] == [
        "add_arm",
        "remove_arm",
    ]


@pytest.mark.timeout(240)
def test_a_slow_version_is_stopped_at_shadow(
    service: ThrowawayService, upstream: ThrowawayUpstream, tmp_path: Path
) -> None:
    model = new_name("slow")
    make_model(service, tmp_path, model, ("v1",))
    upstream.delay_s = 0.15
    remote = {"url": upstream.url, "protocol": "json", "timeout": "2s"}
    made = service.call("POST", f"/v1/models/{model}/versions", {"version": "v2", "remote": remote})
    assert made.status == 201, made
    id = begin(service, model, {"shadow": {"requests": 5, "gate": "latency_ms <= 50"}})
    at_step(service, model, id, "shadow")

    def is_over() -> bool:
        predict(service, model, 5)
        return bool(promotion_of(service, model, id)["state"] == "stopped")

    wait_until(is_over, 60)
    (step,) = promotion_of(service, model, id)["steps"]
    assert step["passed"] is False
    assert step["evidence"]["latency_ms"] > 50
    assert "latency_ms" in step["reason"]
    assert statuses(service, model) == {"v1": "production", "v2": "staged"}


@pytest.mark.timeout(240)
def test_a_version_that_fails_is_stopped_by_its_guardrail(
    service: ThrowawayService, upstream: ThrowawayUpstream, tmp_path: Path
) -> None:
    upstream.reset()
    model = new_name("failing")
    make_model(service, tmp_path, model, ("v1",))
    remote = {"url": upstream.url, "protocol": "json", "timeout": "2s"}
    made = service.call("POST", f"/v1/models/{model}/versions", {"version": "v2", "remote": remote})
    assert made.status == 201, made
    experiment = running(service, arms=[{"name": "control", "model": model, "version": "v1"}])
    plan = {"ramp": {"steps": [0.5], "each": "1h", "guardrails": ["error=0.05"]}, "experiment": experiment}
    id = begin(service, model, plan)
    arm = f"{id}-{model}-v2"
    wait_until(lambda: arm in arms(service, experiment), 60)
    upstream.mode = "500"

    def is_over() -> bool:
        for _ in range(10):
            service.call("POST", f"/v1/experiments/{experiment}/predict", ASK)
        return bool(promotion_of(service, model, id)["state"] == "stopped")

    wait_until(is_over, 120)
    upstream.reset()
    (step,) = promotion_of(service, model, id)["steps"]
    assert step["passed"] is False
    assert [harm["metric"] for harm in step["evidence"]["harms"]] == ["error"]
    assert "predictions" in step["reason"]
    assert statuses(service, model) == {"v1": "production", "v2": "staged"}
    wait_until(lambda: arms(service, experiment)[arm] == "removed", 60)


@pytest.mark.timeout(240)
def test_a_promotion_is_cancelled_at_each_step(service: ThrowawayService, tmp_path: Path) -> None:
    model, experiment = served(service, tmp_path)
    shadow = {"requests": 10_000, "gate": "errors == 0"}
    for step, plan in (
        ("shadow", {"shadow": shadow}),
        ("ramp", {"ramp": {"steps": [0.2], "each": "1h"}, "experiment": experiment}),
    ):
        id = begin(service, model, plan)
        at_step(service, model, id, step)
        arm = f"{id}-{model}-v2"
        if step == "ramp":
            wait_until(lambda arm=arm: arm in arms(service, experiment), 60)
        path = f"/v1/models/{model}/promotions/{id}/cancel"
        cancelled = service.call("POST", path, {"reason": "v3 comes instead"})
        assert cancelled.status == 200, cancelled
        assert (cancelled.body["state"], cancelled.body["next"]) == ("cancelled", None)
        assert "v3 comes instead" in cancelled.body["reason"]
        assert statuses(service, model) == {"v1": "production", "v2": "staged"}
        if step == "ramp":
            wait_until(lambda arm=arm: arms(service, experiment)[arm] == "removed", 60)


def arms(service: ThrowawayService, experiment: str) -> dict[str, str]:
    found: dict[str, str] = service.call("GET", f"/v1/experiments/{experiment}").body["arm_status"]
    return found


@pytest.mark.timeout(240)
def test_the_log_of_an_experiment_says_what_a_version_would_have_earned(
    service: ThrowawayService, tmp_path: Path
) -> None:
    """The version has an arm already: the gate asks for the lower end against the version in production."""
    model = new_name("earned")
    make_model(service, tmp_path, model)
    both = [{"name": version, "model": model, "version": version} for version in ("v1", "v2")]
    experiment = running(service, arms=both)
    chance = random.Random(5)
    for _ in range(4):
        visit(service, experiment, chance, lambda arm: 0.2 if arm == "v1" else 0.7)
    plan = {"offline": "off_policy.lower > current.off_policy.upper", "experiment": experiment}
    view = ended(service, model, begin(service, model, plan))
    assert view["state"] == "production", view
    found = view["steps"][0]["evidence"]["off_policy"]["versions"]
    assert found["v2"]["value"] == pytest.approx(0.7, abs=0.1)
    assert found["v1"]["value"] == pytest.approx(0.2, abs=0.1)
    back = service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "staged"})
    assert back.status == 200
    back_plan = {"offline": "off_policy.gain_lower > 0", "experiment": experiment}
    refused = service.call("POST", f"/v1/models/{model}/promotions", {"version": "v1", "plan": back_plan})
    check_problem(refused, 400, "plan.experiment")
    turned = [
        {"name": "now", "model": model, "version": "v2"},
        {"name": "then", "model": model, "version": "v1"},
    ]
    experiment = running(service, arms=turned)
    for _ in range(4):
        visit(service, experiment, chance, lambda arm: 0.7 if arm == "now" else 0.2)
    back_plan = {"offline": "off_policy.gain_lower > 0", "experiment": experiment}
    view = ended(service, model, begin(service, model, back_plan, "v1"))
    assert view["state"] == "stopped", view
    assert statuses(service, model) == {"v1": "staged", "v2": "production"}
