"""Places of mistakes: `at` names the field of the body that was sent, on every route."""

from __future__ import annotations

from typing import Any

import pytest
from http_calls import call_msgpack, check_problem, check_refusal, decide, draft, new_name, running, upload
from services import ThrowawayService

COVARIATES = [{"name": "m", "kind": "continuous", "covariate": "before"}]
TIME = "2026-01-01T00:00:00Z"
POLICIES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "epsilon_greedy", "epsilon": 2}, "epsilon"),
    ({"kind": "fixed_split", "shares": {"nobody": 1}}, "shares"),
    ({"kind": "thompson", "holdout": 2}, "holdout"),
    ({"kind": "thompson", "min_share": 0.6}, "min_share"),
    ({"kind": "thompson", "epsilon": 0.1}, "epsilon"),
    ({"kind": "thompson", "prior": {"beta": -1}}, "prior.beta"),
    ({"kind": "thompson", "pseudo_history": {"n": -1, "mean": 0}}, "pseudo_history.n"),
    ({"kind": "thompson", "half_life": "0s"}, "half_life"),
    ({"kind": "thomson"}, "kind"),
    ({"kind": "lin_ts"}, "context"),
]


@pytest.mark.parametrize(("policy", "at"), POLICIES)
@pytest.mark.parametrize("started", [False, True])
def test_of_a_policy(service: ThrowawayService, policy: dict[str, Any], at: str, started: bool) -> None:
    name = running(service) if started else draft(service)
    problem = check_problem(service.call("PUT", f"/v1/experiments/{name}/policy", policy), 400, at)
    assert problem["detail"].startswith(f"{at}: ")


@pytest.mark.parametrize(
    ("arm", "at"),
    [
        ({"name": "new", "payload": 2**70}, "payload"),
        ({"name": "new", "model": "m"}, ""),
        ({"name": "new", "model": "m", "version": "v"}, "version"),
        ({"name": "new", "payload": "x" * 70_000}, "payload"),
        ({"name": "a b"}, "name"),
    ],
)
def test_of_an_arm(service: ThrowawayService, arm: dict[str, Any], at: str) -> None:
    check_problem(service.call("POST", f"/v1/experiments/{draft(service)}/arms", arm), 400, at)


@pytest.mark.parametrize(
    ("columns", "at"),
    [
        ({"unit": ["u"], "covariates": {"after": [1]}}, "covariates.after"),
        ({"unit": ["u"], "covariates": {"unit": [1]}}, "covariates.unit"),
        ({"unit": ["u"], "covariates": {"before": [1e13]}}, "covariates.before[0]"),
        ({"unit": ["u"], "covariates": {"before": [1, 2]}}, "covariates.before"),
        ({"unit": ["u", "u"], "covariates": {"before": [1, 2]}}, "unit"),
    ],
)
def test_of_covariates_by_unit(service: ThrowawayService, columns: dict[str, Any], at: str) -> None:
    name = draft(service, unit="user", metrics=COVARIATES)
    check_problem(service.call("PUT", f"/v1/experiments/{name}/covariates", columns), 400, at)


def test_of_covariates_in_a_table(service: ThrowawayService) -> None:
    """A table has its columns at its top."""
    name, media = draft(service, unit="user", metrics=COVARIATES), {"Content-Type": "text/csv"}
    answer = service.call("PUT", f"/v1/experiments/{name}/covariates", b"unit,after\nu,1\n", media)
    check_problem(answer, 400, "after")


def test_of_covariates_of_a_decision(service: ThrowawayService) -> None:
    plain = [{"name": "m", "kind": "continuous"}]
    for metrics, at in ((COVARIATES, "covariates.after"), (plain, "covariates")):
        name, body = running(service, unit="user", metrics=metrics), {"unit": "u", "covariates": {"after": 1}}
        path = f"/v1/experiments/{name}/decide"
        check_problem(service.call("POST", path, body), 400, at)
        check_problem(call_msgpack(service, path, body), 400, at)
        batch = service.call("POST", f"{path}/batch", {"requests": [body]}).body["responses"]
        assert [error["at"] for error in batch[0]["errors"]] == [at]


def test_of_contexts_in_columns(service: ThrowawayService) -> None:
    for metrics in (COVARIATES, [{"name": "m", "kind": "continuous"}]):
        name = running(service, unit="user", metrics=metrics)
        body = {"units": ["u", "v"], "contexts": [{}, {"hour": 1}]}
        check_problem(service.call("POST", f"/v1/experiments/{name}/decide/batch", body), 400, "contexts")


REWARDS: list[tuple[dict[str, Any], str]] = [
    ({"decision_id": "TOKEN", "at": TIME}, "at"),
    ({"decision_id": "TOKEN", "experiment": "e"}, "experiment"),
    ({"decision_id": "TOKEN", "experiment": "e", "unit": "u", "event_id": "o"}, "decision_id"),
    ({"experiment": "e", "event_id": "o"}, "decision_id"),
    ({"unit": "u", "event_id": "o"}, "experiment"),
    ({"experiment": "e", "unit": "u"}, "event_id"),
    ({}, "decision_id"),
]


@pytest.mark.parametrize(("reward", "at"), REWARDS)
def test_of_a_reward(service: ThrowawayService, reward: dict[str, Any], at: str) -> None:
    name = running(service, unit="user")
    token = decide(service, name, unit="u")["decision_id"]
    body = {name: token if value == "TOKEN" else value for name, value in reward.items()} | {"value": 1}
    check_problem(service.call("POST", "/v1/rewards", body), 400, at)
    check_problem(call_msgpack(service, "/v1/rewards", body), 400, at)
    many = service.call("POST", "/v1/rewards", {"rewards": [body, {"decision_id": token, "value": 1}]})
    assert many.body["verdicts"] == ["invalid", "accepted"]


@pytest.mark.parametrize("key", ["a\nb", "\x7f", "x" * 257])
def test_of_a_flag(service: ThrowawayService, key: str) -> None:
    for unit in ("user", "request"):
        for path in (f"/ofrep/v1/evaluate/flags/{running(service, unit=unit)}", "/ofrep/v1/evaluate/flags"):
            answer = service.call("POST", path, {"context": {"targetingKey": key}})
            assert answer.body["errorCode"] == "INVALID_CONTEXT"
            check_refusal(path, answer, 400, "context.targetingKey")


def test_of_the_metadata_of_an_upload(service: ThrowawayService) -> None:
    """They are a part of the upload; as the body of a remote version they are all of it."""
    remote = {"remote": {"url": "http://127.0.0.1:1/", "protocol": "json"}}
    name = new_name("model")
    check_problem(service.call("POST", f"/v1/models/{name}/versions", remote), 400, "remote.url")
    check_problem(upload(service, name, None, remote), 400, "metadata.remote.url")
