"""Rewards by unit over HTTP, with two workers: what one decides, the other finds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from consistency_checks import private_store, wait_until_all_serve
from http_calls import call_msgpack, check_problem, running
from logged_values import values_by_unit
from services import Answer, ThrowawayService
from stores import wait_until

METRICS = [
    {"name": "revenue", "kind": "continuous", "role": "objective"},
    {"name": "bought", "kind": "binary"},
    {"name": "visits", "kind": "count"},
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("by-unit"), workers=2) as running:
        wait_until_all_serve(running, 2)
        yield running


@pytest.fixture
def name(service: ThrowawayService) -> str:
    return running(service, metrics=METRICS, unit="user")


def decide(service: ThrowawayService, name: str, unit: str) -> Any:
    return service.call("POST", f"/v1/experiments/{name}/decide", {"unit": unit}).body


def by_unit(name: str, unit: str, value: float | None, event_id: str, **fields: Any) -> dict[str, Any]:
    return {"experiment": name, "unit": unit, "value": value, "event_id": event_id, **fields}


def send(service: ThrowawayService, *rewards: dict[str, Any]) -> list[str]:
    answer = service.call("POST", "/v1/rewards", {"rewards": rewards})
    assert answer.status == 200, answer.body
    verdicts: list[str] = answer.body["verdicts"]
    return verdicts


def values(service: ThrowawayService, name: str, metric: int = 0) -> list[float]:
    with private_store(service) as client:
        logged = values_by_unit(client, name)
    return sorted(value for (_, of_metric), value in logged.items() if of_metric == metric)


def test_what_one_worker_decides_the_other_finds_at_once(service: ThrowawayService, name: str) -> None:
    for i in range(20):
        decide(service, name, f"u{i}")
        answer = service.call("POST", "/v1/rewards", by_unit(name, f"u{i}", 0.1, "o-1"))
        assert (answer.status, answer.body["verdicts"]) == (200, ["accepted"])
    sums = {}
    for i in range(20):
        events = {f"o-{k}": 0.1 * k for k in range(1, 4 + i % 3)}
        sent = [by_unit(name, f"u{i}", value, event_id) for event_id, value in events.items()]
        assert send(service, *sent)[0] == "duplicate"
        sums[i] = math.fsum(events.values())
    assert values(service, name) == sorted(sums.values())
    assert send(service, *(by_unit(name, f"u{i}", 0.3, "o-1") for i in range(10))) == ["corrected"] * 10
    assert send(service, *(by_unit(name, f"u{i}", None, "o-2") for i in range(10))) == ["retracted"] * 10
    assert send(service, *(by_unit(name, f"u{i}", None, "o-2") for i in range(10))) == ["duplicate"] * 10
    for i in range(10):
        sums[i] = math.fsum([0.3, *(0.1 * k for k in range(3, 4 + i % 3))])
    assert values(service, name) == sorted(sums.values())
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    shown = [arm["metrics"]["revenue"] for arm in arms]
    assert sum(arm["n"] for arm in shown) == 20
    total = math.fsum(arm["n"] * arm["mean"] for arm in shown if arm["n"])
    assert total == pytest.approx(math.fsum(sums.values()))


def test_the_same_event_with_a_token_and_by_unit_counts_once(service: ThrowawayService, name: str) -> None:
    tokens = {unit: decide(service, name, unit)["decision_id"] for unit in ("ada", "bob")}
    batch = [
        by_unit(name, "ada", 5.0, "o"),
        {"decision_id": tokens["ada"], "value": 5.0, "event_id": "o"},
        {"decision_id": tokens["bob"], "value": 2.0},
        by_unit(name, "bob", 3.0, "p"),
        by_unit(name, "eve", 1.0, "o"),
        by_unit(name, "ada", 1, "o", metric="bought"),
    ]
    assert send(service, *batch) == ["accepted", "duplicate", "accepted", "accepted", "unmatched", "accepted"]
    assert send(service, by_unit(name, "ada", 6.0, "o")) == ["corrected"]
    assert send(service, {"decision_id": tokens["ada"], "value": 7.0, "event_id": "o"}) == ["corrected"]
    assert values(service, name) == [5.0, 7.0]


def test_a_reward_at_a_time_joins_what_was_in_force_then(service: ThrowawayService, name: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    decide(service, name, "ada")
    sent = by_unit(name, "ada", 1.0, "o")
    assert send(service, {**sent, "at": before.isoformat()}) == ["unmatched"]
    assert send(service, {**sent, "at": datetime.now(UTC).isoformat()}) == ["accepted"]
    long_ago = (before - timedelta(days=400)).isoformat()
    assert send(service, {**sent, "at": long_ago, "event_id": "p"}) == ["late"]
    answer = service.call("POST", "/v1/rewards", {**sent, "at": long_ago, "event_id": "p"})
    check_problem(answer, 410)


def test_an_exposure_that_comes_after_its_reward_is_found(service: ThrowawayService, name: str) -> None:
    in_a_moment = (datetime.now(UTC) + timedelta(seconds=9)).isoformat()
    assert send(service, by_unit(name, "ada", 4.0, "o", at=in_a_moment)) == ["unmatched"]
    decide(service, name, "ada")
    wait_until(lambda: values(service, name) == [4.0])
    assert send(service, by_unit(name, "ada", 4.0, "o")) == ["duplicate"]


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"unit": ""}, "unit"),
        ({"unit": "a\nb"}, "unit"),
        ({"unit": "é" * 129}, "unit"),
        ({"unit": 7}, "unit"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
        ({"event_id": None}, None),
        ({"metric": "clicks"}, "metric"),
        ({"metric": "bought", "value": 0.5}, "value"),
        ({"metric": "visits", "value": -1}, "value"),
        ({"value": "1"}, "value"),
        ({"at": "2999-01-01T00:00:00Z"}, "at"),
        ({"at": "2026-01-01T00:00:00"}, "at"),
        ({"at": "yesterday"}, "at"),
        ({"decision_id": "A" * 92}, None),
        ({"also": 1}, "also"),
    ],
)
def test_what_is_no_reward_by_unit_is_refused(
    service: ThrowawayService, name: str, fields: dict[str, Any], at: str | None
) -> None:
    body = {**by_unit(name, "ada", 1.0, "o"), **fields}
    answer = service.call("POST", "/v1/rewards", body)
    check_problem(answer, 400)
    if at is not None:
        assert answer.body["errors"][0]["at"] == at
    assert send(service, body, by_unit(name, "nobody", 1.0, "o")) == ["invalid", "unmatched"]


@pytest.mark.parametrize("missing", ["experiment", "unit", "value", "event_id"])
def test_what_is_missing_is_named(service: ThrowawayService, name: str, missing: str) -> None:
    body = by_unit(name, "ada", 1.0, "o")
    del body[missing]
    answer = service.call("POST", "/v1/rewards", body)
    check_problem(answer, 400)
    assert send(service, body) == ["invalid"]


def test_an_experiment_that_takes_none(service: ThrowawayService) -> None:
    request = running(service, metrics=METRICS)
    answer = service.call("POST", "/v1/rewards", by_unit(request, "ada", 1.0, "o"))
    check_problem(answer, 400)
    assert answer.body["errors"][0]["at"] == "experiment"
    check_problem(service.call("POST", "/v1/rewards", by_unit("nowhere", "ada", 1.0, "o")), 404)
    assert send(service, by_unit("nowhere", "ada", 1.0, "o"), by_unit(request, "ada", 1.0, "o")) == [
        "unknown",
        "invalid",
    ]


def test_a_stopped_experiment_takes_them_and_a_draft_has_no_exposures(
    service: ThrowawayService, name: str
) -> None:
    decide(service, name, "ada")
    for what, event_id in (("pause", "o"), ("stop", "p")):
        assert service.call("POST", f"/v1/experiments/{name}/{what}").status == 200
        assert send(service, by_unit(name, "ada", 1.0, event_id)) == ["accepted"]
    draft = service.call(
        "POST",
        "/v1/experiments",
        {
            "id": f"{name}-draft",
            "arms": [{"name": "a"}, {"name": "b"}],
            "metrics": METRICS,
            "unit": "user",
            "policy": {"kind": "thompson"},
            "attribution": {"window": "1h", "missing": "ignore"},
        },
    )
    assert draft.status == 201, draft.body
    assert send(service, by_unit(f"{name}-draft", "ada", 1.0, "o")) == ["unmatched"]


def test_messagepack_says_the_same(service: ThrowawayService, name: str) -> None:
    decide(service, name, "ada")
    at = datetime.now(UTC)
    answer: Answer = call_msgpack(service, "/v1/rewards", by_unit(name, "ada", 1.0, "o", at=at.isoformat()))
    assert (answer.status, answer.body["verdicts"]) == (200, ["accepted"])


SERVED = [
    {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"},
    {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
]


def test_metrics_that_the_service_measures_take_none(service: ThrowawayService) -> None:
    made = running(service, metrics=[METRICS[0], *SERVED], unit="user")
    token = decide(service, made, "ada")["decision_id"]
    for metric, value in (("latency_ms", 1e6), ("error", 1)):
        for whose in ({"experiment": made, "unit": "ada"}, {"decision_id": token}):
            reward = {**whose, "metric": metric, "value": value, "event_id": "x"}
            answer = service.call("POST", "/v1/rewards", reward)
            check_problem(answer, 400)
            (error,) = answer.body["errors"]
            assert (error["at"], "revenue" in error["detail"]) == ("metric", True)
            assert send(service, reward) == ["invalid"]


def test_rewards_of_one_event_are_taken_in_their_order(service: ThrowawayService, name: str) -> None:
    tokens = {unit: decide(service, name, unit)["decision_id"] for unit in ("ada", "bob", "eve")}

    def by_token(unit: str, value: float | None, event_id: str) -> dict[str, Any]:
        return {"decision_id": tokens[unit], "value": value, "event_id": event_id}

    sent = [
        (by_unit(name, "ada", 5.0, "e"), "accepted"),
        (by_token("bob", 1.0, "e"), "accepted"),
        (by_token("ada", None, "e"), "retracted"),
        (by_unit(name, "bob", None, "e"), "retracted"),
        (by_unit(name, "eve", 2.0, "e"), "accepted"),
        (by_unit(name, "ada", 7.0, "e"), "corrected"),
        (by_token("ada", 8.0, "e"), "corrected"),
        (by_token("eve", 2.0, "e"), "duplicate"),
        (by_token("bob", 4.0, "e"), "corrected"),
        (by_token("eve", 1, "e") | {"metric": "bought"}, "accepted"),
    ]
    assert send(service, *(reward for reward, _ in sent)) == [verdict for _, verdict in sent]
    with private_store(service) as client:
        values = values_by_unit(client, name)
    assert sorted(value for (_, metric), value in values.items() if metric == 0) == [2.0, 4.0, 8.0]


def test_an_event_that_is_named_by_turns_too_often_is_refused(service: ThrowawayService, name: str) -> None:
    token = decide(service, name, "ada")["decision_id"]
    pair = [by_unit(name, "ada", 1.0, "e"), {"decision_id": token, "value": 1.0, "event_id": "e"}]
    assert set(send(service, *pair * 31)) == {"accepted", "duplicate"}
    answer = service.call("POST", "/v1/rewards", {"rewards": pair * 40})
    check_problem(answer, 400)
    assert answer.body["errors"][0]["at"] == "rewards"
