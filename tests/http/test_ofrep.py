"""OFREP as the contract has it: experiments as flags, one by one and all at once."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from http_calls import check_refusal, draft, experiment, new_name, running, upload
from services import Answer, ThrowawayService
from stores import wait_until

from bandit_serve.models import MatrixFactorization

FLAGS = "/ofrep/v1/evaluate/flags"
PAYLOADS = [{"name": "control", "payload": {"colour": "grey", "size": 1.0}}, {"name": "challenger"}]


def evaluate(
    service: ThrowawayService, name: str, context: Any, headers: dict[str, str] | None = None
) -> Answer:
    return service.call("POST", f"{FLAGS}/{name}", {"context": context}, headers)


def evaluate_all(service: ThrowawayService, context: Any, headers: dict[str, str] | None = None) -> Answer:
    return service.call("POST", FLAGS, {"context": context}, headers)


def flag_of(answer: Answer, name: str) -> dict[str, Any]:
    assert answer.status == 200, answer
    (flag,) = [flag for flag in answer.body["flags"] if flag["key"] == name]
    assert isinstance(flag, dict)
    return flag


@pytest.fixture(scope="module")
def split(service: ThrowawayService) -> str:
    return running(service, unit="user", arms=PAYLOADS)


@pytest.fixture(scope="module")
def ranked(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    MatrixFactorization(n_factors=2, n_epochs=1, seed=0).fit(["1"], ["a"], [3.0]).save(path)
    assert upload(service, "flag-model", path.read_bytes()).status == 201
    return running(service, unit="user", arms=[{"name": "control", "model": "flag-model", "version": "v1"}])


def test_a_flag_is_a_decision(service: ThrowawayService, split: str) -> None:
    values = {"control": PAYLOADS[0]["payload"], "challenger": "challenger"}
    seen = set()
    for i in range(30):
        answer = evaluate(service, split, {"targetingKey": f"u{i}", "anything": [{"deep": 1}], "n": None})
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        flag = answer.body
        assert set(flag) == {"key", "value", "variant", "reason", "metadata"}
        assert (flag["key"], flag["reason"], flag["value"]) == (split, "SPLIT", values[flag["variant"]])
        metadata = flag["metadata"]
        assert set(metadata) == {"decision_id", "propensity", "experiment"}
        assert (metadata["experiment"], metadata["propensity"]) == (split, 0.5)
        decided = service.call("POST", f"/v1/experiments/{split}/decide", {"unit": f"u{i}"}).body
        assert decided["arm"] == flag["variant"], "the unit is the same, so its arm is"
        rewarded = service.call("POST", "/v1/rewards", {"decision_id": metadata["decision_id"], "value": 1})
        assert rewarded.body["verdicts"] == ["accepted"]
        seen.add(flag["variant"])
    assert seen == set(values)


def test_the_model_of_an_arm_is_named(service: ThrowawayService, ranked: str) -> None:
    flag = evaluate(service, ranked, {"targetingKey": "u"}).body
    assert flag["value"] == flag["variant"] == "control"
    assert (flag["metadata"]["model"], flag["metadata"]["version"]) == ("flag-model", "v1")


@pytest.mark.parametrize("body", [{}, {"context": {}}, {"context": None}, {"context": {"targetingKey": ""}}])
def test_a_unit_is_needed_only_where_users_are_assigned(
    service: ThrowawayService, split: str, body: dict[str, Any]
) -> None:
    refused = service.call("POST", f"{FLAGS}/{split}", body)
    check_refusal(FLAGS, refused, 400)
    assert (refused.body["key"], refused.body["errorCode"]) == (split, "TARGETING_KEY_MISSING")
    assert service.call("POST", f"{FLAGS}/{running(service)}", body).status == 200
    refused = service.call("POST", FLAGS, body)
    check_refusal(f"{FLAGS}", refused, 400)
    assert refused.body["errorCode"] == "TARGETING_KEY_MISSING"
    assert "key" not in refused.body


BROKEN = [b"", b"{", b"nonsense", b'{"context": }', b"\xff", b'{"context":' * 20_000]
WRONG = [
    {"context": 3},
    {"context": []},
    {"context": {"targetingKey": 3}},
    {"context": {"targetingKey": ["u"]}},
    {"context": {"targetingKey": "x" * 257}},
    {"context": {"targetingKey": "a\nb"}},
    {"context": {"targetingKey": "u", **{str(i): i for i in range(1_000)}}},
    [],
]


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_json_is_a_parse_error(
    service: ThrowawayService, split: str, body: bytes, one: bool
) -> None:
    refused = service.call("POST", f"{FLAGS}/{split}" if one else FLAGS, body)
    check_refusal(FLAGS, refused, 400)
    assert refused.body["errorCode"] == "PARSE_ERROR"
    assert refused.body.get("key") == (split if one else None)


@pytest.mark.parametrize(
    "headers", [{"Content-Type": media} for media in ("text/plain", "application/xml", "application/msgpack")]
)
@pytest.mark.parametrize("body", [None, b"", b"x=1", b'{"context": {"targetingKey": "u"}}'])
@pytest.mark.parametrize("one", [True, False])
def test_what_is_not_said_to_be_json_is_a_parse_error(
    service: ThrowawayService, split: str, body: bytes | None, headers: dict[str, str], one: bool
) -> None:
    refused = service.call("POST", f"{FLAGS}/{split}" if one else FLAGS, body, headers)
    check_refusal(FLAGS, refused, 400)
    assert refused.body["errorCode"] == "PARSE_ERROR"
    assert refused.body.get("key") == (split if one else None)


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_a_wrong_context_is_said_to_be_one(
    service: ThrowawayService, split: str, body: Any, one: bool
) -> None:
    refused = service.call("POST", f"{FLAGS}/{split}" if one else FLAGS, body)
    check_refusal(FLAGS, refused, 400)
    assert refused.body["errorCode"] == "INVALID_CONTEXT"


def test_what_is_not_there_or_not_started_is_not_found(service: ThrowawayService) -> None:
    for name in ("nobody", draft(service, unit="user"), "%2e%2e", "a" * 300):
        refused = evaluate(service, name, {"targetingKey": "u"})
        check_refusal(FLAGS, refused, 404)
        assert refused.body["errorCode"] == "FLAG_NOT_FOUND"


def test_too_large_a_body_is_a_general_error(service: ThrowawayService, split: str) -> None:
    refused = evaluate(service, split, {"targetingKey": "u", "more": "x" * 300_000})
    check_refusal(FLAGS, refused, 413)
    assert refused.body["errorCode"] == "GENERAL"


def test_context_goes_to_the_fields_that_are_named(service: ThrowawayService) -> None:
    name = running(
        service,
        unit="user",
        metrics=[{"name": "score", "kind": "bounded", "low": 0, "high": 1}],
        policy={"kind": "lin_ts"},
        context=[
            {"name": "hour", "kind": "numeric"},
            {"name": "device", "kind": "categorical", "values": ["ios"]},
        ],
    )
    full = {"targetingKey": "u", "hour": 3, "device": "ios", "other": {"a": 1}}
    assert evaluate(service, name, full).status == 200
    refused = evaluate(service, name, {**full, "hour": {"of": "day"}})
    check_refusal(FLAGS, refused, 400, "context.hour")
    assert refused.body["errorCode"] == "INVALID_CONTEXT"
    for call in (partial(evaluate, service, name), partial(evaluate_all, service)):
        refused = call({**full, "hour": "3"})
        check_refusal(FLAGS, refused, 400, "context.hour")
        assert refused.body["errorCode"] == "INVALID_CONTEXT"
    for value in (3.5, True, None):
        assert evaluate(service, name, {**full, "hour": value, "device": 3}).status == 200
    keys = {flag["key"] for flag in evaluate_all(service, {"targetingKey": "u", "hour": 3}).body["flags"]}
    assert name not in keys, "a field is missing"
    flag = flag_of(evaluate_all(service, full), name)
    token = flag["metadata"]["decision_id"]
    assert service.call("POST", "/v1/rewards", {"decision_id": token, "value": 0.5}).status == 200


def test_paused_gives_control_and_stopped_the_winner(service: ThrowawayService) -> None:
    name = running(service, unit="user", arms=PAYLOADS)
    for step, body, reason, arm in (
        ("pause", None, "DISABLED", "control"),
        ("stop", {"winner": "challenger"}, "STATIC", "challenger"),
    ):
        assert service.call("POST", f"/v1/experiments/{name}/{step}", body).status == 200
        one = evaluate(service, name, {"targetingKey": "u"}).body
        for flag in (one, flag_of(evaluate_all(service, {"targetingKey": "u"}), name)):
            assert (flag["variant"], flag["reason"]) == (arm, reason)
            assert flag["metadata"] == {"experiment": name, "propensity": 1.0}


def test_all_flags_are_those_of_experiments_that_assign_users(service: ThrowawayService) -> None:
    there = running(service, unit="user")
    not_there = [running(service), draft(service, unit="user")]
    answer = evaluate_all(service, {"targetingKey": "u7"})
    assert set(answer.body) == {"flags", "metadata"}
    assert answer.body["metadata"] == {}
    keys = [flag["key"] for flag in answer.body["flags"]]
    assert there in keys
    assert not set(not_there) & set(keys)
    assert keys == sorted(set(keys))
    one = evaluate(service, there, {"targetingKey": "u7"}).body
    same = flag_of(answer, there)
    assert {**one, "metadata": None} == {**same, "metadata": None}


def test_the_etag_is_of_assignments_and_configurations(service: ThrowawayService) -> None:
    name = running(service, unit="user", arms=PAYLOADS)
    context = {"targetingKey": "u1"}
    first = evaluate_all(service, context)
    again = evaluate_all(service, context)
    etag = first.headers["ETag"]
    assert etag == again.headers["ETag"]
    tokens = [flag_of(each, name)["metadata"]["decision_id"] for each in (first, again)]
    assert len(set(tokens)) == 2, "each has decisions of its own"
    for names in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        unchanged = evaluate_all(service, context, {"If-None-Match": names})
        assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", etag)
    assert evaluate_all(service, context, {"If-None-Match": '"x"'}).status == 200
    others = {evaluate_all(service, {"targetingKey": f"u{i}"}).headers["ETag"] for i in range(2, 20)}
    assert etag in others | {etag}
    assert len(others) > 1, "others are assigned other arms"
    assert service.call("POST", f"/v1/experiments/{name}/pause").status == 200
    changed = evaluate_all(service, context, {"If-None-Match": etag})
    assert changed.status == 200
    assert changed.headers["ETag"] != etag


def test_flags_are_given_anew_before_their_decisions_are_too_late(service: ThrowawayService) -> None:
    """A provider keeps its flags for as long as the answer is 304; half a window later it gets new decisions."""
    name = running(service, unit="user", attribution={"missing": "ignore", "window": "3s"})
    etag = evaluate_all(service, {"targetingKey": "u"}).headers["ETag"]
    answers = []

    def renewed() -> bool:
        answers.append(evaluate_all(service, {"targetingKey": "u"}, {"If-None-Match": etag}))
        return answers[-1].status == 200

    wait_until(renewed)
    token = flag_of(answers[-1], name)["metadata"]["decision_id"]
    rewarded = service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1})
    assert rewarded.body["verdicts"] == ["accepted"]
    assert service.call("POST", f"/v1/experiments/{name}/stop").status == 200


def test_deleted_experiments_are_no_flags(service: ThrowawayService) -> None:
    name = running(service, unit="user")
    assert service.call("POST", f"/v1/experiments/{name}/stop").status == 200
    assert service.call("DELETE", f"/v1/experiments/{name}").status == 204
    assert evaluate(service, name, {"targetingKey": "u"}).body["errorCode"] == "FLAG_NOT_FOUND"
    assert name not in json.dumps(evaluate_all(service, {"targetingKey": "u"}).body)


def test_another_workers_experiment_is_found(tmp_path: Any) -> None:
    with ThrowawayService(tmp_path, workers=2) as service:
        for _ in range(10):
            body = experiment(id=new_name("fresh"), unit="user")
            assert service.call("POST", "/v1/experiments", body).status == 201
            assert service.call("POST", f"/v1/experiments/{body['id']}/start").status == 200
            assert evaluate(service, body["id"], {"targetingKey": "u"}).status == 200
