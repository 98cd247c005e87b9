"""Rewards over HTTP, as API.md says."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from http_calls import call_msgpack, check_problem, decide, decide_many, reward_many, running
from services import Answer, ThrowawayService
from stores import wait_until

REPORT = {"accepted", "duplicates", "rejected", "verdicts"}


def reward(service: ThrowawayService, token: Any, value: Any, **more: Any) -> Answer:
    return service.call("POST", "/v1/rewards", {"decision_id": token, "value": value, **more})


def counted(service: ThrowawayService, name: str, metric: str = "click") -> list[int]:
    """Each arm's n."""
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    return [arm["metrics"][metric]["n"] for arm in arms]


@pytest.fixture(scope="module")
def name(service: ThrowawayService) -> str:
    metrics = [
        {"name": "click", "kind": "binary", "role": "objective"},
        {"name": "stars", "kind": "bounded", "low": 1, "high": 5},
        {"name": "visits", "kind": "count"},
        {"name": "spend", "kind": "continuous", "goal": "minimize"},
    ]
    return running(service, metrics=metrics)


def test_one_reward_counts_once(service: ThrowawayService, name: str) -> None:
    token = decide(service, name)["decision_id"]
    first = reward(service, token, 1.0)
    assert (first.status, set(first.body)) == (200, REPORT)
    assert first.body == {"accepted": 1, "duplicates": 0, "rejected": 0, "verdicts": ["accepted"]}
    again = reward(service, token, 1)
    assert (again.status, again.body) == (
        200,
        {"accepted": 0, "duplicates": 1, "rejected": 0, "verdicts": ["duplicate"]},
    )


def test_messagepack_and_json_say_the_same(service: ThrowawayService, name: str) -> None:
    token = decide(service, name)["decision_id"]
    answer = call_msgpack(service, "/v1/rewards", {"decision_id": token, "value": 1})
    assert answer.body["verdicts"] == ["accepted"]
    answer = call_msgpack(
        service, "/v1/rewards", {"decision_id": token, "value": 1.0}, accept="application/json"
    )
    assert (answer.headers["Content-Type"], answer.body["verdicts"]) == ("application/json", ["duplicate"])


def test_each_metric_counts_once_for_a_decision(service: ThrowawayService, name: str) -> None:
    before = {metric: sum(counted(service, name, metric)) for metric in ("click", "stars", "visits", "spend")}
    token = decide(service, name)["decision_id"]
    given = [("click", 1), ("stars", 4.5), ("visits", 7), ("spend", -12.25)]
    for metric, value in given:
        assert reward(service, token, value, metric=metric).body["verdicts"] == ["accepted"]
        assert reward(service, token, value, metric=metric).body["verdicts"] == ["duplicate"]
    assert reward(service, token, 1).body["verdicts"] == ["duplicate"], "without a name it is the objective"
    after = {metric: sum(counted(service, name, metric)) for metric in before}
    assert after == {metric: n + 1 for metric, n in before.items()}


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("click", 0.5),
        ("click", -1),
        ("click", 2),
        ("stars", 0.99),
        ("stars", 5.01),
        ("visits", 1.5),
        ("visits", -1),
        ("spend", 1e100),
        ("spend", -1e308),
    ],
)
def test_a_value_that_the_metric_does_not_take_is_400(
    service: ThrowawayService, name: str, metric: str, value: float
) -> None:
    token = decide(service, name)["decision_id"]
    check_problem(reward(service, token, value, metric=metric), 400, "value")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(service: ThrowawayService, name: str, value: float) -> None:
    token = decide(service, name)["decision_id"]
    body = {"decision_id": token, "value": value, "metric": "spend"}
    check_problem(call_msgpack(service, "/v1/rewards", body), 400, "value")
    many = call_msgpack(service, "/v1/rewards", {"rewards": [body]})
    assert (many.status, many.body["verdicts"]) == (200, ["invalid"])
    content = f'{{"decision_id": "{token}", "value": 1e999}}'.encode()
    check_problem(service.call("POST", "/v1/rewards", content), 400, "value")


def test_an_unknown_metric_is_400(service: ThrowawayService, name: str) -> None:
    token = decide(service, name)["decision_id"]
    check_problem(reward(service, token, 1, metric="nothing"), 400, "metric")


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, "decision_id"),
        ({"decision_id": "x"}, "value"),
        ({"value": 1}, "decision_id"),
        ({"decision_id": None, "value": 1}, "decision_id"),
        ({"decision_id": "x", "value": "1"}, "value"),
        ({"decision_id": "x", "value": [True]}, "value"),
        ({"decision_id": 7, "value": 1}, "decision_id"),
        ({"decision_id": "x" * 5000, "value": 1}, "decision_id"),
        ({"decision_id": "x", "value": 1, "metrics": "click"}, None),
        ({"rewards": [], "value": 1}, "rewards"),
        ({"rewards": [], "more": 1}, "more"),
        ({"rewards": {}}, "rewards"),
        ([], None),
    ],
)
def test_a_wrong_request_is_told_where_it_is_wrong(
    service: ThrowawayService, body: Any, at: str | None
) -> None:
    wanted = [] if at is None else [at]
    check_problem(service.call("POST", "/v1/rewards", body), 400, *wanted)
    check_problem(call_msgpack(service, "/v1/rewards", body), 400, *wanted)


@pytest.mark.parametrize("token", ["", "x", "A" * 92, "💥", "a b", "../../etc/passwd"])
def test_a_token_that_is_not_ours_is_400(service: ThrowawayService, token: str) -> None:
    check_problem(reward(service, token, 1), 400)


def test_many_rewards_get_a_verdict_each_in_order(service: ThrowawayService, name: str) -> None:
    one, two, three = (decide(service, name)["decision_id"] for _ in range(3))
    rewards = [
        {"decision_id": one, "value": 1},
        {"decision_id": "forged", "value": 1},
        {"decision_id": one, "value": 1},
        {"decision_id": two, "value": 0.5},
        {"decision_id": three, "value": 3, "metric": "visits"},
        {"decision_id": three, "value": 3, "metric": "nothing"},
    ]
    answer = service.call("POST", "/v1/rewards", {"rewards": rewards})
    assert answer.status == 200
    assert answer.body == {
        "accepted": 2,
        "duplicates": 1,
        "rejected": 3,
        "verdicts": ["accepted", "invalid", "duplicate", "invalid", "accepted", "invalid"],
    }


def test_rewards_of_several_experiments_come_together(service: ThrowawayService) -> None:
    names = [running(service) for _ in range(3)]
    tokens = [decide(service, name)["decision_id"] for name in names for _ in range(4)]
    assert reward_many(service, tokens, [1.0] * 12) == ["accepted"] * 12
    assert [sum(counted(service, name)) for name in names] == [4, 4, 4]


def test_at_most_ten_thousand_rewards(service: ThrowawayService) -> None:
    name = running(service)
    tokens = decide_many(service, name, [f"u{i}" for i in range(10_000)])["decision_ids"]
    assert reward_many(service, tokens, [1.0] * 10_000) == ["accepted"] * 10_000
    assert reward_many(service, tokens, [1.0] * 10_000) == ["duplicate"] * 10_000
    assert sum(counted(service, name)) == 10_000
    entry = {"decision_id": "x", "value": 1}
    check_problem(service.call("POST", "/v1/rewards", {"rewards": [entry] * 10_001}), 400, "rewards")
    empty = {"accepted": 0, "duplicates": 0, "rejected": 0, "verdicts": []}
    assert service.call("POST", "/v1/rewards", {"rewards": []}).body == empty


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_an_entry_that_is_not_valid_costs_the_others_nothing(
    service: ThrowawayService, name: str, form: str
) -> None:
    first, last = (decide(service, name)["decision_id"] for _ in range(2))
    good = {"decision_id": first, "value": 1}
    bad = [{"decision_id": first}, {**good, "value": []}, 7, {**good, "at": 2}]
    body = {"rewards": [*bad, good, *bad, {"decision_id": last, "value": 1}]}
    answer = (
        service.call("POST", "/v1/rewards", body)
        if form == "json"
        else call_msgpack(service, "/v1/rewards", body)
    )
    assert answer.status == 200
    assert answer.body["verdicts"] == [*["invalid"] * 4, "accepted", *["invalid"] * 4, "accepted"]
    assert (answer.body["accepted"], answer.body["rejected"]) == (2, 8)


def test_after_its_window_a_reward_is_late(service: ThrowawayService) -> None:
    window_s = 0.3
    name = running(service, attribution={"window": "300ms", "missing": "ignore"})
    token, other = (decide(service, name)["decision_id"] for _ in range(2))
    decided_s = time.monotonic()
    assert reward(service, token, 1).body["verdicts"] == ["accepted"]
    wait_until(lambda: time.monotonic() > decided_s + window_s + 0.01)
    check_problem(reward(service, token, 1), 410)
    check_problem(reward(service, other, 1), 410)
    both = service.call(
        "POST", "/v1/rewards", {"rewards": [{"decision_id": t, "value": 1} for t in (token, other)]}
    )
    assert (both.status, both.body["verdicts"], both.body["rejected"]) == (200, ["late", "late"], 2)
    assert sum(counted(service, name)) == 1


def test_a_repeated_reward_counts_once_within_and_after_the_window(service: ThrowawayService) -> None:
    """After half a window it is a duplicate, after one and one and a half it is late; none of them counts."""
    window_s = 0.6
    for missing in ("ignore", "zero"):
        name = running(service, attribution={"window": "600ms", "missing": missing})
        tokens = [decide(service, name)["decision_id"] for _ in range(20)]
        decided_s = time.monotonic()
        assert reward_many(service, tokens, [1.0] * 20) == ["accepted"] * 20
        seen = []
        for windows in (0.5, 1.05, 1.5):
            wait_until(lambda until_s=decided_s + windows * window_s: time.monotonic() > until_s)
            seen.append(set(reward_many(service, tokens, [1.0] * 20)))
        assert seen == [{"duplicate"}, {"late"}, {"late"}]
        wait_until(lambda name=name: sum(counted(service, name)) == 20)
        results = service.call("GET", f"/v1/experiments/{name}/results").body
        assert results["pending"] == 0
        assert all(arm["metrics"]["click"]["mean"] in (None, 1.0) for arm in results["arms"])


def test_decisions_before_a_pause_and_a_stop_are_still_rewarded(service: ThrowawayService) -> None:
    name = running(service)
    before_pause, before_stop = (decide(service, name)["decision_id"] for _ in range(2))
    service.call("POST", f"/v1/experiments/{name}/pause")
    assert reward(service, before_pause, 1).body["verdicts"] == ["accepted"]
    service.call("POST", f"/v1/experiments/{name}/stop")
    assert reward(service, before_stop, 1).body["verdicts"] == ["accepted"]
    assert sum(counted(service, name)) == 2
