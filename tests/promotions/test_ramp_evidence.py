"""Ramps that can be judged, and are passed by what was judged: not by time alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_calls import check_problem, decide_many, new_name, reward_many, running
from promoting import at_step, begin, ended, make_model, promotion_of
from services import ThrowawayService
from stores import wait_until

ENDS = ("production", "stopped")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture(scope="module")
def model(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Model of which nothing is promoted."""
    name = new_name("ramped")
    make_model(service, tmp_path_factory.mktemp("models"), name)
    return name


def serving(service: ThrowawayService, model: str, *others: dict[str, Any], **changes: Any) -> str:
    """Running experiment whose control serves v1."""
    return running(service, arms=[{"name": "control", "model": model, "version": "v1"}, *others], **changes)


def refused(
    service: ThrowawayService, model: str, experiment: str, at: str = "plan.experiment", **ramp: Any
) -> str:
    body = {"version": "v2", "plan": {"ramp": ramp, "experiment": experiment}}
    answer = service.call("POST", f"/v1/models/{model}/promotions", body)
    return str(check_problem(answer, 400, at)["detail"])


def arms(service: ThrowawayService, experiment: str) -> dict[str, str]:
    found: dict[str, str] = service.call("GET", f"/v1/experiments/{experiment}").body["arm_status"]
    return found


def test_a_policy_without_a_floor_is_refused(service: ThrowawayService, model: str) -> None:
    unfloored = serving(service, model, policy={"kind": "thompson", "min_share": 0.0})
    assert "without a floor no interval is valid" in refused(service, model, unfloored)


@pytest.mark.timeout(240)
def test_a_ramp_stops_where_its_policy_loses_its_floor(service: ThrowawayService, tmp_path: Path) -> None:
    model = new_name("floorless")
    make_model(service, tmp_path, model)
    experiment = serving(service, model, policy={"kind": "thompson", "min_share": 0.05})
    id = begin(service, model, {"ramp": {"steps": [0.5], "each": "1h"}, "experiment": experiment})
    wait_until(lambda: f"{id}-{model}-v2" in arms(service, experiment), 60)
    changed = service.call(
        "PUT", f"/v1/experiments/{experiment}/policy", {"kind": "thompson", "min_share": 0.0}
    )
    assert changed.status == 200, changed
    view = ended(service, model, id)
    assert view["state"] == "stopped", view
    assert "has no floor" in view["reason"]


@pytest.mark.timeout(240)
def test_a_step_waits_until_windows_have_closed_and_says_what_was_judged(
    service: ThrowawayService, tmp_path: Path
) -> None:
    model, chance = new_name("closing"), random.Random(8)
    make_model(service, tmp_path, model)
    experiment = serving(service, model, attribution={"missing": "zero", "window": "3s"})
    id = begin(service, model, {"ramp": {"steps": [0.5], "each": "1s"}, "experiment": experiment})
    at_step(service, model, id, "ramp")
    wait_until(lambda: f"{id}-{model}-v2" in arms(service, experiment), 60)

    def is_over() -> bool:
        decided = decide_many(service, experiment, [f"u{chance.randrange(10**9)}" for _ in range(2)])
        reward_many(service, decided["decision_ids"], [float(chance.random() < 0.5) for _ in range(2)])
        return promotion_of(service, model, id)["state"] in ENDS

    wait_until(is_over, 120)
    view = promotion_of(service, model, id)
    assert view["state"] == "production", view
    step = view["steps"][0]
    evidence, reason = step["evidence"], step["reason"]
    assert evidence["n"] > 0
    assert evidence["control_n"] > 0
    assert evidence["guardrails"] == []
    assert "no guardrail was measured" in reason
    assert ("got the traffic that was logged" in reason) == (evidence["srm"]["verdict"] == "ok")
    assert ("could not be compared yet" in reason) == (evidence["difference_interval"] is None)


@pytest.mark.timeout(240)
def test_decisions_without_a_value_pass_no_step(service: ThrowawayService, tmp_path: Path) -> None:
    """Decided, but never rewarded: the step goes on, however long, until there is something to judge."""
    model, chance = new_name("silent"), random.Random(9)
    make_model(service, tmp_path, model)
    experiment = serving(service, model)
    id = begin(service, model, {"ramp": {"steps": [0.5], "each": "10ms"}, "experiment": experiment})
    arm = f"{id}-{model}-v2"
    wait_until(lambda: arm in arms(service, experiment), 60)
    tokens = decide_many(service, experiment, [f"u{chance.randrange(10**9)}" for _ in range(50)])
    other = new_name("witness")
    make_model(service, tmp_path, other)
    # Promotions are attended to side by side, so that the first was looked at while this one went its way.
    beside = serving(service, other)
    second = begin(service, other, {"ramp": {"steps": [0.5], "each": "1s"}, "experiment": beside})
    wait_until(lambda: f"{second}-{other}-v2" in arms(service, beside), 60)

    def is_over() -> bool:
        decided = decide_many(service, beside, [f"u{chance.randrange(10**9)}" for _ in range(10)])
        reward_many(service, decided["decision_ids"], [1.0] * 10)
        return promotion_of(service, other, second)["state"] in ENDS

    wait_until(is_over, 120)
    assert promotion_of(service, model, id)["state"] == "ramp"
    reward_many(service, tokens["decision_ids"], [1.0] * 50)
    assert ended(service, model, id)["state"] == "production"
