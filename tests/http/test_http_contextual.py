"""Contextual experiments over HTTP: contexts are learned from, drawn by, and replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from consistency_checks import assert_states_equal_replay, wait_until_all_serve
from http_calls import call_msgpack, check_problem, experiment, reward_many, running
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.policies import POLICIES

WORKERS = 2
CONTEXT = [
    {"name": "hour", "kind": "numeric"},
    {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
]
KINDS = [kind for kind, policy in POLICIES.items() if policy.contextual]


@pytest.fixture(scope="module")
def store() -> Iterator[ThrowawayStore]:
    with ThrowawayStore() as running_store:
        yield running_store


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, store: ThrowawayStore) -> Iterator[ThrowawayService]:
    directory: Path = tmp_path_factory.mktemp("contextual")
    with ThrowawayService(directory, store=store.url, workers=WORKERS) as started:
        wait_until_all_serve(started, WORKERS)
        yield started


def contextual(service: ThrowawayService, kind: str, missing: str = "ignore", **more: Any) -> str:
    return running(
        service,
        arms=[{"name": "a"}, {"name": "b"}],
        context=CONTEXT,
        policy={"kind": kind, "min_share": 0.05, "refresh": "5ms"},
        attribution={"window": "400ms" if missing == "zero" else "1h", "missing": missing},
        **more,
    )


def visit(service: ThrowawayService, name: str, rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """n decisions with their contexts; arm a is right on ios, arm b on the web."""
    contexts = [
        {"hour": float(rng.integers(24)), "device": str(rng.choice(["ios", "web"]))} for _ in range(n)
    ]
    columns = call_msgpack(
        service,
        f"/v1/experiments/{name}/decide/batch",
        {"units": [f"u{i}" for i in range(n)], "contexts": contexts},
    )
    assert columns.status == 200, columns.body
    body = columns.body
    return [
        {
            "token": token,
            "arm": body["arm_names"][arm],
            "propensity": propensity,
            "device": context["device"],
            "right": body["arm_names"][arm] == ("a" if context["device"] == "ios" else "b"),
        }
        for token, arm, propensity, context in zip(
            body["decision_ids"], body["arms"], body["propensities"], contexts, strict=True
        )
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_for_whom_is_learned_and_replayed(
    service: ThrowawayService, store: ThrowawayStore, kind: str, missing: str
) -> None:
    name, rng = contextual(service, kind, missing), np.random.default_rng(1)
    weights: dict[str, list[float]] = {"a": [], "b": []}
    variances: dict[str, list[float]] = {"a": [], "b": []}
    late: list[bool] = []
    for turn in range(40):
        visits = visit(service, name, rng, 50)
        wins = [rng.random() < (0.9 if each["right"] else 0.1) for each in visits]
        rewarded = [
            (each["token"], float(won))
            for each, won in zip(visits, wins, strict=True)
            if won or missing == "ignore"
        ]
        reward_many(service, [token for token, _ in rewarded], [value for _, value in rewarded])
        for each in visits:
            for arm, seen in weights.items():
                taken, propensity = each["arm"] == arm, each["propensity"]
                seen.append(taken / propensity)
                variances[arm].append(1.0 / (propensity if taken else 1.0 - propensity) - 1.0)
        if turn >= 30:
            late += [each["right"] for each in visits]
        if missing == "zero" and turn in (10, 20, 29):
            wait_until(lambda: service.call("GET", f"/v1/experiments/{name}/results").body["pending"] == 0)
    assert np.mean(late) > 0.75, np.mean(late)
    for arm, seen in weights.items():
        # Of the logged shares: a spread seen in the sample is small in just those samples that lack the rare arm.
        error = np.sum(variances[arm]) ** 0.5 / len(seen)
        assert abs(np.mean(seen) - 1.0) < 5 * error
    with store.client() as client:
        assert_states_equal_replay(client, name, WORKERS)
    results = service.call("GET", f"/v1/experiments/{name}/results").body
    shares = [arm["share"] for arm in results["arms"]]
    assert sum(shares) == pytest.approx(1.0)
    assert all(arm["metrics"]["click"]["interval"] is not None for arm in results["arms"])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_only_messagepack_can_send_are_refused(service: ThrowawayService, number: float) -> None:
    name = contextual(service, "lin_ts")
    path = f"/v1/experiments/{name}/decide"
    for field in ("hour", "unheard-of"):
        answer = call_msgpack(service, path, {"context": {"device": "web", field: number}})
        check_problem(answer, 400, f"context.{field}")
    answers = call_msgpack(service, f"{path}/batch", {"requests": [{"context": {"hour": number}}, {}]})
    assert answers.status == 200
    assert [each.get("status") for each in answers.body["responses"]] == [400, None]


def test_one_decision_with_its_context(service: ThrowawayService) -> None:
    name = contextual(service, "lin_ts")
    path = f"/v1/experiments/{name}/decide"
    for context in ({"hour": 3, "device": "web"}, {"hour": None}, {"device": "unheard-of"}, {}):
        answer = service.call("POST", path, {"unit": "u", "context": context})
        assert answer.status == 200, answer.body
        assert 0.05 <= answer.body["propensity"] <= 0.95
    for context in ({"hours": 3}, {"hour": "three"}):
        assert service.call("POST", path, {"context": context}).status == 200
    stats = [service.call("GET", "/v1/stats").body["experiments"][name]["context"] for _ in range(8)]
    # Any worker may answer, each for itself; the metrics are those of all.
    assert all(set(figures) == {"missing", "unknown", "unexpected", "far"} for figures in stats)

    def counted() -> bool:
        text = service.call("GET", "/metrics").body.decode()
        figures = dict(re.findall(r'bandit_serve_context_values_total\{fault="(\w+)"\} ([\d.]+)', text))
        return (
            float(figures["missing"]) >= 6
            and float(figures["unknown"]) >= 2
            and float(figures["unexpected"]) >= 1
        )

    wait_until(counted)


def test_too_many_features_are_refused(service: ThrowawayService) -> None:
    context = [{"name": f"f{i}", "kind": "categorical", "buckets": 200} for i in range(3)]
    answer = service.call("POST", "/v1/experiments", experiment(context=context, policy={"kind": "lin_ts"}))
    check_problem(answer, 400, "context")


def test_a_contextual_policy_needs_context(service: ThrowawayService) -> None:
    for kind in KINDS:
        answer = service.call("POST", "/v1/experiments", experiment(policy={"kind": kind}))
        check_problem(answer, 400, "context")


def test_a_contextual_policy_does_not_start_from_means(service: ThrowawayService) -> None:
    name = contextual(service, "lin_ts")
    for kind in KINDS:
        policy = {"kind": kind, "pseudo_history": {"n": 10, "mean": 0.5}}
        made = service.call("POST", "/v1/experiments", experiment(context=CONTEXT, policy=policy))
        changed = service.call("PUT", f"/v1/experiments/{name}/policy", policy)
        check_problem(made, 400, "policy.pseudo_history")
        check_problem(changed, 400, "pseudo_history")


def test_a_context_of_a_columnar_batch_may_be_null_as_in_a_single_request(service: ThrowawayService) -> None:
    name = contextual(service, "lin_ts")
    assert (
        service.call("POST", f"/v1/experiments/{name}/decide", {"unit": "u", "context": None}).status == 200
    )
    body = {"units": ["u", "v"], "contexts": [None, {"hour": 1.0, "device": "web"}]}
    answer = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body)
    assert answer.status == 200
    assert len(answer.body["decision_ids"]) == 2
    without = running(service)
    path = f"/v1/experiments/{without}/decide/batch"
    assert call_msgpack(service, path, {"units": ["u", "v"], "contexts": [None, {}]}).status == 200
    check_problem(call_msgpack(service, path, body), 400, "contexts")


@pytest.mark.timeout(60)
def test_the_share_of_an_arm_is_the_mean_over_the_latest_decisions(service: ThrowawayService) -> None:
    name, rng = contextual(service, "lin_ts"), np.random.default_rng(3)

    def shares() -> list[float]:
        body = service.call("GET", f"/v1/experiments/{name}/results").body
        return [arm["share"] for arm in body["arms"]]

    while shares()[1] < 0.7:
        visits = visit(service, name, rng, 200)
        reward_many(
            service, [each["token"] for each in visits], [float(each["arm"] == "b") for each in visits]
        )
    assert sum(shares()) == pytest.approx(1.0)
    assert service.call("POST", f"/v1/experiments/{name}/arms", {"name": "c"}).status == 200
    assert service.call("POST", f"/v1/experiments/{name}/arms/b/pause").status == 200
    assert shares() == [1.0, 0.0, 0.0]
    assert service.call("DELETE", f"/v1/experiments/{name}/arms/b").status == 200
    visit(service, name, rng, 200)
    wait_until(lambda: shares()[2] > 0.0)
    assert shares()[1] == 0.0
    assert sum(shares()) == pytest.approx(1.0)


def test_a_contextual_policy_follows_one_without_and_the_other_way_round(
    service: ThrowawayService, store: ThrowawayStore
) -> None:
    name = running(service, context=CONTEXT, policy={"kind": "thompson", "min_share": 0.05})
    rng = np.random.default_rng(2)
    for kind in ("thompson", "lin_ucb", "thompson", "squarecb", "logistic_ts"):
        policy = {"kind": kind, "min_share": 0.05}
        assert service.call("PUT", f"/v1/experiments/{name}/policy", policy).status == 200
        units = [f"u{i}" for i in range(30)]
        contexts = [{"hour": float(rng.integers(24)), "device": "web"} for _ in units]
        body = {"units": units, "contexts": contexts}
        decided = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body).body
        reward_many(service, decided["decision_ids"], [float(i % 2) for i in range(len(units))])
    with store.client() as client:
        assert_states_equal_replay(client, name, WORKERS)
