"""Plans over HTTP, and experiments in horizon mode."""

from __future__ import annotations

from typing import Any

import pytest
from http_calls import check_problem, decide_many, draft, experiment, new_name, reward_many, running
from services import ThrowawayService
from stores import wait_until

RATE = {"baseline": {"rate": 0.1}, "effect": {"relative": 0.05}, "traffic": 4_000}


def play(service: ThrowawayService, name: str, n: int) -> None:
    """Makes so many decisions, of which every fourth is worth 1."""
    tokens = decide_many(service, name, [new_name("u") for _ in range(n)])["decision_ids"]
    reward_many(service, tokens, [float(i % 4 == 0) for i in range(n)])


def plan(service: ThrowawayService, body: Any) -> Any:
    answer = service.call("POST", "/v1/plan", body)
    assert answer.status == 200, answer
    return answer.body


def test_samples_and_days_of_all_tests(service: ThrowawayService) -> None:
    found = plan(service, RATE)
    assert set(found) == {"baseline", "traffic", "alpha", "power", "arms", "fixed", "anytime", "horizon"}
    assert found["fixed"]["effect"] == pytest.approx({"absolute": 0.005, "relative": 0.05})
    assert found["fixed"]["days"] == pytest.approx(found["fixed"]["n"] / 4_000)
    assert 1.65 <= found["anytime"]["n"] / found["fixed"]["n"] <= 1.73
    assert found["anytime"]["mean_n"] / found["fixed"]["n"] == pytest.approx(1.12, abs=0.01)
    assert found["horizon"]["n"] / found["fixed"]["n"] == pytest.approx(1.03, abs=0.01)
    with_cuped = plan(service, {**RATE, "correlation": 0.8, "arms": 2, "alpha": 0.05, "power": 0.8})
    assert with_cuped["cuped"]["n"] == pytest.approx(0.36 * found["fixed"]["n"], abs=1)
    absolute = plan(service, {**RATE, "effect": {"absolute": 0.005}})
    assert absolute["fixed"]["n"] == found["fixed"]["n"]


def test_what_days_can_find(service: ThrowawayService) -> None:
    found = plan(service, {"baseline": {"mean": 700, "sd": 5}, "days": 10, "traffic": 100})
    assert {found[test]["n"] for test in ("fixed", "anytime", "horizon")} == {1_000}
    again = plan(
        service,
        {"baseline": {"mean": 700, "sd": 5}, "effect": {"absolute": found["fixed"]["effect"]["absolute"]}},
    )
    assert again["fixed"]["n"] == pytest.approx(1_000, abs=1)
    assert again["fixed"]["days"] is None


def test_an_experiments_own_log_has_the_baseline(service: ThrowawayService) -> None:
    name = running(service, policy={"kind": "fixed_split"}, attribution={"missing": "ignore", "window": "1h"})
    ask = {"experiment": name, "effect": {"relative": 0.1}, "traffic": 1_000}
    check_problem(service.call("POST", "/v1/plan", ask), 409)
    play(service, name, 400)
    found = plan(service, ask)
    assert found["experiment"] == name
    assert found["analysed"] == 400
    assert 0.1 < found["baseline"]["rate"] < 0.4
    assert found["anytime"]["expected_samples"] == 5_000
    assert found["fixed"]["n_to_go"] == found["fixed"]["n"] - 400
    assert found["fixed"]["days_to_go"] == pytest.approx(found["fixed"]["n_to_go"] / 1_000)
    check_problem(service.call("POST", "/v1/plan", ask | {"metric": "nothing"}), 400)
    check_problem(service.call("POST", "/v1/plan", ask | {"experiment": "nobody"}), 404)


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, ["baseline", "effect"]),
        (RATE | {"days": 3}, ["effect"]),
        (RATE | {"baseline": {"mean": 1}}, ["baseline"]),
        (RATE | {"baseline": {"rate": 0.1, "sd": 1}}, ["baseline"]),
        (RATE | {"baseline": {"rate": 1}}, ["baseline.rate"]),
        (RATE | {"effect": {}}, ["effect"]),
        (RATE | {"effect": {"absolute": 0}}, ["effect.absolute"]),
        (RATE | {"effect": {"relative": 20}}, ["effect.relative"]),
        (RATE | {"effect": {"relative": 1e-30}}, ["effect"]),
        (RATE | {"metric": "click"}, ["metric"]),
        (RATE | {"arms": 1}, ["arms"]),
        ({"baseline": {"rate": 0.1}, "days": 3}, ["traffic"]),
        ({"baseline": {"rate": 0.1}, "days": 0.001, "traffic": 10}, ["days"]),
    ],
)
def test_mistakes_are_told_at_their_fields(
    service: ThrowawayService, body: dict[str, Any], places: list[str]
) -> None:
    problem = check_problem(service.call("POST", "/v1/plan", body), 400)
    assert sorted(error["at"] for error in problem["errors"]) == places


def results_of(service: ThrowawayService, name: str) -> Any:
    return service.call("GET", f"/v1/experiments/{name}/results").body


def test_what_is_no_mean_has_no_plan(service: ThrowawayService) -> None:
    metrics = [
        {"name": "m", "kind": "count", "role": "objective"},
        {"name": "d", "kind": "count"},
        {"name": "ratio", "kind": "ratio", "numerator": "m", "denominator": "d"},
        {"name": "p90", "kind": "continuous", "quantile": 0.9},
    ]
    name = draft(service, metrics=metrics, unit="user")
    for metric in ("ratio", "p90"):
        asked = {"experiment": name, "metric": metric, "effect": {"relative": 0.1}}
        problem = check_problem(service.call("POST", "/v1/plan", asked), 400)
        assert [error["at"] for error in problem["errors"]] == ["metric"]


HORIZON = {"mode": "horizon", "expected_samples": 1_000, "looks": 4}


def test_a_horizon_shows_its_looks_and_takes_no_more_arms(service: ThrowawayService) -> None:
    name = running(
        service,
        policy={"kind": "fixed_split"},
        attribution={"missing": "ignore", "window": "1h"},
        stopping=HORIZON,
    )
    shown = service.call("GET", f"/v1/experiments/{name}").body["stopping"]
    assert shown.items() >= HORIZON.items()
    assert "mode" not in service.call("GET", f"/v1/experiments/{draft(service)}").body["stopping"]
    for n, sentence in ((200, "the first look is at 250 of 1,000"), (100, "the next is at 500 of 1,000")):
        play(service, name, n)
        # A look is at what the log says: an exposure may come to it after its reward.
        wait_until(lambda sentence=sentence: sentence in results_of(service, name)["reason"])
        results = results_of(service, name)
        row = results["arms"][1]["metrics"]["click"]
        assert (row["difference_interval"] is None) == (n == 200)
    added = service.call("POST", f"/v1/experiments/{name}/arms", {"name": "third"})
    assert "on its way to a fixed end" in check_problem(added, 409)["detail"]
    moving = service.call("PUT", f"/v1/experiments/{name}/policy", {"kind": "thompson"})
    assert check_problem(moving, 400)["errors"][0]["at"] == "stopping.mode"
    other = draft(service, policy={"kind": "fixed_split"}, stopping=HORIZON)
    assert service.call("POST", f"/v1/experiments/{other}/arms", {"name": "third"}).status == 200


def test_a_horizon_needs_its_end(service: ThrowawayService) -> None:
    body = experiment(id=new_name(), policy={"kind": "thompson"}, stopping={"mode": "horizon"})
    problem = check_problem(service.call("POST", "/v1/experiments", body), 400)
    assert {error["at"] for error in problem["errors"]} == {"stopping.expected_samples", "stopping.mode"}
