"""Route of canaries, which needs no engine: an arm with a guardrail, once, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from http_calls import check_problem, running
from promoting import make_model
from services import Answer, ThrowawayService


def test_a_canary_is_an_arm_with_a_guardrail_once(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path / "data") as service:
        make_model(service, tmp_path, "m")
        experiment = running(service, arms=[{"name": "control", "model": "m", "version": "v1"}])

        def canary(guardrail: str) -> Answer:
            body = {"model": "m", "version": "v2", "experiment": experiment, "guardrail": guardrail}
            return service.call("POST", "/v1/deployments/canary", body)

        def about() -> Any:
            return service.call("GET", f"/v1/experiments/{experiment}").body

        check_problem(canary("error"), 400, "guardrail")
        check_problem(canary("cost=1"), 400, "guardrail")
        check_problem(canary("click=0.1"), 409)
        assert len(about()["arms"]) == 1
        made = canary("error=0.05")
        assert (made.status, made.body["arm"], made.body["paused"]) == (201, "canary-v2", False)
        revision = about()["revision"]
        assert canary("error=0.05").body == made.body
        assert about()["revision"] == revision
        assert [metric["name"] for metric in about()["metrics"]] == ["click", "error"]


LOOSE = {
    "name": "error",
    "kind": "binary",
    "goal": "minimize",
    "role": "guardrail",
    "source": "served",
    "margin": {"absolute": 0.2},
    "on_harm": "pause_arm",
}


def test_without_a_guardrail_the_one_that_the_experiment_has_on_errors_watches(
    service: ThrowawayService, tmp_path: Path
) -> None:
    make_model(service, tmp_path, "m")
    arms = [{"name": "control", "model": "m", "version": "v1"}]
    metrics = [{"name": "click", "kind": "binary"}, LOOSE]
    for own, margin in ((metrics, 0.2), (metrics[:1], 0.05)):
        experiment = running(service, arms=arms, metrics=own)
        body = {"model": "m", "version": "v2", "experiment": experiment}
        made = service.call("POST", "/v1/deployments/canary", body)
        assert (made.status, made.body["guardrail"]) == (201, "error")
        error = service.call("GET", f"/v1/experiments/{experiment}").body["metrics"][1]
        assert (error["name"], error["margin"]) == ("error", {"absolute": margin})
        check_problem(
            service.call(
                "POST", "/v1/deployments/canary", body | {"guardrail": "error=0.01", "arm": "other"}
            ),
            409,
        )
