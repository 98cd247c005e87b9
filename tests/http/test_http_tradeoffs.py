"""Experiments whose policy goes by several metrics, over HTTP: declared, learned from, and shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from commands import bandit_serve
from http_calls import call_msgpack, check_problem, decide_many, experiment, running
from services import ThrowawayService
from stores import wait_until

METRICS = [
    {"name": "click", "kind": "binary", "role": "objective"},
    {"name": "latency_ms", "kind": "continuous", "goal": "minimize"},
]
AT_MOST = {
    "metrics": METRICS,
    "policy": {"kind": "thompson", "refresh": "10ms"},
    "constraints": [{"metric": "latency_ms", "at_most": 250.0}],
}
SLOW, QUICK = 300.0, 100.0


def results(service: ThrowawayService, name: str) -> dict[str, Any]:
    answer = service.call("GET", f"/v1/experiments/{name}/results")
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.body
    return body


def teach(service: ThrowawayService, name: str, n: int = 2_000) -> None:
    """Sends rewards of both metrics: the challenger is clicked on five times as often, and is slow."""
    random = np.random.default_rng(5)
    decided = decide_many(service, name, [f"u{i}" for i in range(n)])
    challenged = np.array([decided["arm_names"][arm] == "challenger" for arm in decided["arms"]])
    clicks = random.random(n) < np.where(challenged, 0.5, 0.1)
    latencies = np.where(challenged, SLOW, QUICK) + random.normal(0.0, 10.0, n)
    rewards = [
        {"decision_id": token, "metric": metric, "value": value}
        for token, click, latency in zip(
            decided["decision_ids"], clicks.tolist(), latencies.tolist(), strict=True
        )
        for metric, value in (("click", int(click)), ("latency_ms", latency))
    ]
    answer = call_msgpack(service, "/v1/rewards", {"rewards": rewards})
    assert answer.status == 200, answer
    assert set(answer.body["verdicts"]) == {"accepted"}


def test_traffic_keeps_the_constraint_and_results_say_so(service: ThrowawayService) -> None:
    name = running(service, **AT_MOST)
    nothing = results(service, name)["tradeoff"]["constraints"][0]
    assert nothing == {
        "metric": "latency_ms",
        "at_most": 250.0,
        "mean": None,
        "se": None,
        "met": None,
        "price": None,
    }
    teach(service, name)

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = results(service, name)["tradeoff"]
        return found

    wait_until(lambda: abs((shown()["constraints"][0]["mean"] or 0.0) - 250.0) < 2.0)
    tradeoff, arms = shown(), {arm["name"]: arm for arm in results(service, name)["arms"]}
    constraint = tradeoff["constraints"][0]
    assert arms["challenger"]["share"] == pytest.approx(0.75, abs=0.03)
    assert constraint["price"] == pytest.approx(0.4 / 200.0, rel=0.2)
    assert 0.0 < constraint["se"] < 2.0
    assert constraint["met"] == (constraint["mean"] <= 250.0)
    assert tradeoff["weights"] == {"click": 1.0}
    assert tradeoff["value"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.1, abs=0.05)
    decided = service.call("POST", f"/v1/experiments/{name}/decide", {}).body
    assert decided["propensity"] == pytest.approx(arms[decided["arm"]]["share"], abs=0.03)
    printed = bandit_serve("experiments", "results", name, "--data", str(service.data))
    assert "latency_ms at most 250.0" in " ".join(printed.out.split())
    replayed = bandit_serve("replay", name, "--data", str(service.data))
    assert replayed.status == 0, replayed


def test_weights_trade_one_metric_for_another(service: ThrowawayService) -> None:
    weights = {"latency_ms": -0.01}
    name = running(service, metrics=METRICS, policy={"kind": "thompson"}, weights=weights)
    assert service.call("GET", f"/v1/experiments/{name}").body["weights"] == weights
    teach(service, name)
    wait_until(lambda: results(service, name)["arms"][0]["share"] > 0.9)
    tradeoff = results(service, name)["tradeoff"]
    assert tradeoff["weights"] == {"click": 1.0, "latency_ms": -0.01}
    assert tradeoff["constraints"] == []
    assert tradeoff["values"]["control"] == pytest.approx(0.1 - 1.0, abs=0.05)
    assert tradeoff["values"]["challenger"] == pytest.approx(0.5 - 3.0, abs=0.05)


def test_a_constraint_that_can_not_be_kept_has_no_price(service: ThrowawayService) -> None:
    name = running(service, **{**AT_MOST, "constraints": [{"metric": "latency_ms", "at_most": 50.0}]})
    teach(service, name)
    wait_until(lambda: results(service, name)["arms"][0]["share"] > 0.9)
    constraint = results(service, name)["tradeoff"]["constraints"][0]
    assert (constraint["met"], constraint["price"]) == (False, None)


def test_other_policies_are_refused_at_their_field(service: ThrowawayService) -> None:
    body = experiment(**{**AT_MOST, "policy": {"kind": "ucb1"}})
    problem = check_problem(service.call("POST", "/v1/experiments", body), 400, "policy.kind")
    assert "thompson" in problem["errors"][0]["detail"]
    name = running(service, **AT_MOST)
    changed = service.call("PUT", f"/v1/experiments/{name}/policy", {"kind": "exp3"})
    assert changed.status == 400, changed
    assert "thompson" in changed.body["errors"][0]["detail"]


def test_experiments_of_one_metric_show_nothing_of_it(service: ThrowawayService) -> None:
    name = running(service)
    assert "tradeoff" not in results(service, name)
    assert "constraints" not in service.call("GET", f"/v1/experiments/{name}").body
