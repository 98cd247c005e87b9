"""Rewards by event over HTTP, as API.md says, and results that are those of a ledger."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import Any

import pytest
from http_calls import call_msgpack, check_problem, decide, running
from reward_ledger import RewardLedger
from scale import scaled
from services import Answer, ThrowawayService

from bandit_serve.metrics import KINDS

METRICS = [
    {"name": "click", "kind": "binary", "role": "objective"},
    {"name": "stars", "kind": "bounded", "low": -3, "high": 9},
    {"name": "visits", "kind": "count"},
    {"name": "spend", "kind": "continuous"},
]
TRAITS = [KINDS[metric["kind"]](metric.get("low"), metric.get("high")) for metric in METRICS]


def send(service: ThrowawayService, token: Any, value: Any, **more: Any) -> Answer:
    return service.call("POST", "/v1/rewards", {"decision_id": token, "value": value, **more})


def verdict_of(answer: Answer) -> str:
    assert answer.status == 200, answer
    (verdict,) = answer.body["verdicts"]
    return str(verdict)


@pytest.fixture(scope="module")
def name(service: ThrowawayService) -> str:
    return running(service, metrics=METRICS)


def test_each_verdict_has_its_status(service: ThrowawayService, name: str) -> None:
    token = decide(service, name)["decision_id"]
    order = {"metric": "spend", "event_id": "order-17"}
    sent = [
        (25.0, order, "accepted"),
        (25.0, order, "duplicate"),
        (20.0, order, "corrected"),
        (5, {"metric": "spend", "event_id": "order-18"}, "accepted"),
        (None, order, "retracted"),
        (None, order, "duplicate"),
        (None, {"metric": "spend", "event_id": "never"}, "unmatched"),
        (3, {"metric": "spend"}, "accepted"),
        (3, {"metric": "spend"}, "duplicate"),
    ]
    for value, more, verdict in sent:
        answer = send(service, token, value, **more)
        assert (answer.status, answer.body["verdicts"]) == (200, [verdict]), (value, more)
        counted = (
            verdict in ("accepted", "corrected", "retracted"),
            verdict == "duplicate",
            verdict == "unmatched",
        )
        assert (answer.body["accepted"], answer.body["duplicates"], answer.body["rejected"]) == counted
    conflict = check_problem(send(service, token, 4, metric="spend"), 409)
    assert conflict["type"] == "urn:bandit-serve:problem:reward-conflict"
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    assert sum(arm["metrics"]["spend"]["mean"] or 0 for arm in arms) == 8.0


@pytest.mark.parametrize(("metric", "first", "other"), [("click", 1, 0), ("stars", 1, 2), ("visits", 0, 1)])
def test_another_value_without_an_event_is_a_conflict(
    service: ThrowawayService, name: str, metric: str, first: float, other: float
) -> None:
    token = decide(service, name)["decision_id"]
    assert verdict_of(send(service, token, first, metric=metric)) == "accepted"
    check_problem(send(service, token, other, metric=metric), 409)
    both = [{"decision_id": token, "value": value, "metric": metric} for value in (other, first)]
    answer = service.call("POST", "/v1/rewards", {"rewards": both})
    assert (answer.status, answer.body["verdicts"], answer.body["rejected"]) == (
        200,
        ["conflict", "duplicate"],
        1,
    )
    assert verdict_of(send(service, token, first, metric=metric)) == "duplicate"


@pytest.mark.parametrize(
    "event_id", ["", "a" * 129, "ä" * 65, "a\n", "\x00", "a\x7f", "\u0085", "x" * 100_000]
)
def test_an_id_that_is_none_is_400(service: ThrowawayService, name: str, event_id: str) -> None:
    token = decide(service, name)["decision_id"]
    check_problem(send(service, token, 1, event_id=event_id), 400, "event_id")
    many = service.call(
        "POST",
        "/v1/rewards",
        {"rewards": [{"decision_id": token, "value": 1, "event_id": each} for each in (event_id, "fine")]},
    )
    assert many.body["verdicts"] == ["invalid", "accepted"]


@pytest.mark.parametrize("event_id", ["a", "a" * 128, "ä" * 64, "😀" * 32, " ", "{e}:*", '"\\'])
def test_an_id_is_any_text_of_128_bytes(service: ThrowawayService, name: str, event_id: str) -> None:
    token = decide(service, name)["decision_id"]
    body = {"decision_id": token, "value": 1, "metric": "visits", "event_id": event_id}
    assert verdict_of(service.call("POST", "/v1/rewards", body)) == "accepted"
    assert call_msgpack(service, "/v1/rewards", body).body["verdicts"] == ["duplicate"]
    assert call_msgpack(service, "/v1/rewards", {**body, "value": None}).body["verdicts"] == ["retracted"]


@pytest.mark.parametrize(
    ("more", "at"),
    [
        ({"value": None}, "value"),
        ({"value": None, "event_id": None}, "value"),
        ({"value": 1, "event_id": 7}, "event_id"),
        ({"value": 1, "event_id": ["a"]}, "event_id"),
        ({"value": 2, "event_id": "a"}, "value"),
        ({"value": None, "event_id": "a", "metric": "nothing"}, "metric"),
        ({"event_id": "a"}, "value"),
    ],
)
def test_what_is_wrong_is_told(service: ThrowawayService, name: str, more: dict[str, Any], at: str) -> None:
    body = {"decision_id": decide(service, name)["decision_id"], **more}
    check_problem(service.call("POST", "/v1/rewards", body), 400, at)
    check_problem(call_msgpack(service, "/v1/rewards", body), 400, at)


def test_an_event_id_beside_many_rewards_is_refused(service: ThrowawayService) -> None:
    check_problem(service.call("POST", "/v1/rewards", {"rewards": [], "event_id": "a"}), 400, "rewards")


def test_a_number_that_is_none_takes_nothing_back(service: ThrowawayService, name: str) -> None:
    token = decide(service, name)["decision_id"]
    body = {"decision_id": token, "value": 2.5, "metric": "spend", "event_id": "a"}
    assert call_msgpack(service, "/v1/rewards", body).body["verdicts"] == ["accepted"]
    check_problem(call_msgpack(service, "/v1/rewards", {**body, "value": math.nan}), 400, "value")
    many = call_msgpack(service, "/v1/rewards", {"rewards": [{**body, "value": math.nan}, body]})
    assert many.body["verdicts"] == ["invalid", "duplicate"]


def test_a_sum_that_the_metric_does_not_take_is_400(service: ThrowawayService, name: str) -> None:
    token = decide(service, name)["decision_id"]
    assert verdict_of(send(service, token, 9, metric="stars", event_id="a")) == "accepted"
    problem = check_problem(send(service, token, 1, metric="stars", event_id="b"), 400, "value")
    assert "10,000 events of a decision" in problem["detail"]
    assert verdict_of(send(service, token, -1, metric="stars", event_id="b")) == "accepted"
    check_problem(send(service, token, None, metric="click", event_id="a" * 129), 400, "event_id")


def test_verdicts_are_counted(service: ThrowawayService) -> None:
    name = running(service, metrics=METRICS)
    token = decide(service, name)["decision_id"]

    def counts() -> dict[str, int]:
        counted: dict[str, int] = service.call("GET", "/v1/stats").body["rewards"]
        return counted

    before = counts()
    for value, more in [
        (1, {"event_id": "a"}),
        (0, {"event_id": "a"}),
        (None, {"event_id": "a"}),
        (None, {"event_id": "b"}),
        (1, {}),
        (0, {}),
    ]:
        send(service, token, value, **more)
    changed = {verdict: n - before[verdict] for verdict, n in counts().items() if n != before[verdict]}
    assert changed == {"accepted": 2, "corrected": 1, "retracted": 1, "unmatched": 1, "conflict": 1}
    shown = service.call("GET", "/metrics").body
    text = shown.decode() if isinstance(shown, bytes) else str(shown)
    for verdict in before:
        assert f'bandit_serve_rewards_total{{verdict="{verdict}"}}' in text


def results_of(service: ThrowawayService, name: str) -> list[dict[str, Any]]:
    arms: list[dict[str, Any]] = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    return arms


@pytest.mark.parametrize("unit", ["request", "user"])
def test_results_are_those_of_the_ledger(service: ThrowawayService, unit: str) -> None:
    """Any rewards of any decisions, with and without events, in batches and alone, in both formats."""
    chance = random.Random(unit)
    name = running(service, metrics=METRICS, unit=unit)
    decisions = []
    for i in range(40):
        unit_name = f"u{i % 15}"
        decided = decide(service, name, **({"unit": unit_name} if unit == "user" else {}))
        decisions.append((decided["decision_id"], decided["arm"], unit_name if unit == "user" else i))
    arm_of = {scope: arm for _, arm, scope in reversed(decisions)}
    ledger = RewardLedger(TRAITS)

    def drawn() -> tuple[dict[str, Any], str]:
        token, _, scope = chance.choice(decisions)
        metric = chance.randrange(4)
        event = chance.choice([None, "a", "b", "c"])
        values: list[float] = [
            float(chance.randrange(2)),
            chance.choice([1.0, 2.5, -1.0, chance.uniform(-3, 9)]),
            float(chance.randrange(4)),
            chance.choice([0.1, 0.2, -0.3, chance.uniform(-100, 100)]),
        ]
        value = None if event is not None and chance.random() < 0.25 else values[metric]
        unit_of = scope if unit == "user" else None
        body = {"decision_id": token, "value": value, "metric": METRICS[metric]["name"]}
        return {**body, **({"event_id": event} if event else {})}, ledger.send(
            token, metric, value, event, unit=unit_of
        )

    for _ in range(scaled(60, 400)):
        bodies, expected = zip(*(drawn() for _ in range(chance.choice([1, 1, 5]))), strict=True)
        if len(bodies) == 1:
            answer = service.call("POST", "/v1/rewards", bodies[0])
            assert answer.status == {"conflict": 409, "invalid": 400}.get(expected[0], 200), (
                bodies,
                expected,
            )
            if answer.status == 200:
                assert answer.body["verdicts"] == [*expected]
        elif len({"event_id" in body for body in bodies}) == 1:
            assert call_msgpack(service, "/v1/rewards", {"rewards": bodies}).body["verdicts"] == [*expected]
        else:
            # Events and plain rewards of one request are appended side by side, in no order.
            answers = [call_msgpack(service, "/v1/rewards", {"rewards": [body]}).body for body in bodies]
            assert [verdict for each in answers for verdict in each["verdicts"]] == [*expected]
    scopes = {token: scope for token, _, scope in decisions}
    for metric, described in enumerate(METRICS):
        of_scope: dict[Any, list[float]] = defaultdict(list)
        for token, m in ledger.places:
            if m == metric and not math.isnan(ledger.value(token, m)):
                of_scope[scopes[token]].append(ledger.value(token, m))
        merged = max if TRAITS[metric].takes_max else math.fsum
        of_arm: dict[str, list[float]] = defaultdict(list)
        for scope, values in of_scope.items():
            of_arm[arm_of[scope]].append(merged(values))
        for arm in results_of(service, name):
            values, shown = of_arm[arm["name"]], arm["metrics"][described["name"]]
            assert shown["n"] == len(values), (arm["name"], described)
            if values:
                mean = math.fsum(values) / len(values)
                assert math.isclose(shown["mean"], mean, rel_tol=1e-12, abs_tol=1e-12), described


def test_an_order_that_comes_with_another_decision_of_its_unit_counts_once(service: ThrowawayService) -> None:
    name = running(service, metrics=METRICS, unit="user")
    first, second = (decide(service, name, unit="u1")["decision_id"] for _ in range(2))
    order = {"metric": "spend", "event_id": "order-17"}
    assert verdict_of(send(service, first, 25, **order)) == "accepted"
    assert verdict_of(send(service, second, 25, **order)) == "duplicate"
    assert verdict_of(send(service, second, 20, **order)) == "corrected"
    other = decide(service, name, unit="u2")["decision_id"]
    assert verdict_of(send(service, other, 25, **order)) == "accepted"
    spend = [arm["metrics"]["spend"] for arm in results_of(service, name)]
    assert math.fsum(each["n"] * (each["mean"] or 0) for each in spend) == 45.0
    assert sum(each["n"] for each in spend) == 2


def test_many_at_once_are_answered_in_order(service: ThrowawayService, name: str) -> None:
    one, two = (decide(service, name)["decision_id"] for _ in range(2))
    body = [
        {"decision_id": one, "value": 1, "metric": "visits", "event_id": "a"},
        {"decision_id": two, "value": 1, "metric": "visits"},
        {"decision_id": "forged", "value": 1, "metric": "visits", "event_id": "a"},
        {"decision_id": one, "value": 2, "metric": "visits", "event_id": "b"},
        {"decision_id": one, "value": 2, "metric": "visits", "event_id": "a"},
        {"decision_id": two, "value": 1, "metric": "visits"},
        {"decision_id": one, "value": None, "metric": "visits", "event_id": "b"},
        {"decision_id": one, "value": 0.5, "metric": "visits", "event_id": "c"},
    ]
    answer = service.call("POST", "/v1/rewards", {"rewards": body})
    assert answer.body == {
        "accepted": 5,
        "duplicates": 1,
        "rejected": 2,
        "verdicts": [
            "accepted",
            "accepted",
            "invalid",
            "accepted",
            "corrected",
            "duplicate",
            "retracted",
            "invalid",
        ],
    }


@pytest.mark.parametrize("unit", ["request", "user"])
def test_events_of_decisions_with_context_carry_their_features(service: ThrowawayService, unit: str) -> None:
    name = running(
        service,
        metrics=METRICS,
        unit=unit,
        policy={"kind": "squarecb", "min_share": 0.1},
        context=[{"name": "hour", "kind": "numeric"}],
    )
    tokens = [decide(service, name, unit=f"u{i}", context={"hour": i})["decision_id"] for i in range(12)]
    for i, token in enumerate(tokens):
        assert verdict_of(send(service, token, 0, event_id="a")) == "accepted"
        assert verdict_of(send(service, token, i % 2, event_id="b")) == "accepted"
        assert verdict_of(send(service, token, 2.5, metric="spend", event_id="a")) == "accepted"
        assert verdict_of(send(service, token, 1.5, metric="spend", event_id="a")) == "corrected"
        assert verdict_of(send(service, token, 1, metric="spend")) == "accepted"

    def sums(metric: str) -> tuple[int, float]:
        shown = [arm["metrics"][metric] for arm in results_of(service, name)]
        return sum(each["n"] for each in shown), sum(each["n"] * (each["mean"] or 0) for each in shown)

    assert sums("click") == (12, pytest.approx(6.0))
    assert sums("spend") == (12, pytest.approx(30.0))
    assert "set_aside" not in service.call("GET", f"/v1/experiments/{name}").body
