"""Decisions over HTTP, as API.md says."""

from __future__ import annotations

import re
from typing import Any

import msgpack
import pytest
from http_calls import (
    MSGPACK,
    call_msgpack,
    check_problem,
    decide,
    decide_many,
    draft,
    experiment,
    new_name,
    running,
)
from services import ThrowawayService

DECIDED = {"decision_id", "experiment", "arm", "propensity", "model", "payload"}


@pytest.fixture(scope="module")
def name(service: ThrowawayService) -> str:
    arms = [
        {"name": "control", "payload": {"any": ["json", 1, None]}},
        {"name": "challenger"},
        {"name": "third"},
    ]
    return running(
        service,
        arms=arms,
        policy={"kind": "fixed_split", "shares": {"control": 2, "challenger": 1, "third": 1}},
    )


def test_a_decision_has_the_fields_of_the_contract(service: ThrowawayService, name: str) -> None:
    decided = [decide(service, name, unit=f"u{i}") for i in range(40)]
    assert all(set(each) == DECIDED for each in decided)
    assert {each["experiment"] for each in decided} == {name}
    assert all(each["model"] is None for each in decided)
    assert {each["arm"] for each in decided} == {"control", "challenger", "third"}
    for each in decided:
        assert each["propensity"] == {"control": 0.5, "challenger": 0.25, "third": 0.25}[each["arm"]]
        assert each["payload"] == ({"any": ["json", 1, None]} if each["arm"] == "control" else None)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", each["decision_id"])
    assert len({each["decision_id"] for each in decided}) == len(decided)


def test_nothing_need_be_said_about_a_request(service: ThrowawayService, name: str) -> None:
    path = f"/v1/experiments/{name}/decide"
    assert service.call("POST", path).status == 200
    assert service.call("POST", path, {}).status == 200
    assert service.call("POST", path, {"unit": None, "context": {}, "eligible": None}).status == 200


@pytest.mark.parametrize(
    ("sent", "accept", "answered"),
    [
        ("application/json", None, "application/json"),
        ("application/json; charset=utf-8", None, "application/json; charset=utf-8".partition(";")[0]),
        ("application/json", MSGPACK, MSGPACK),
        ("application/json", "*/*", "application/json"),
        (MSGPACK, None, MSGPACK),
        (MSGPACK, "application/json", "application/json"),
        (MSGPACK, MSGPACK, MSGPACK),
        (MSGPACK, "*/*", MSGPACK),
    ],
)
@pytest.mark.parametrize("way", ["decide", "decide/batch"])
def test_content_types_are_chosen_by_the_caller(
    service: ThrowawayService, name: str, way: str, sent: str, accept: str | None, answered: str
) -> None:
    body: dict[str, Any] = {"unit": "u"} if way == "decide" else {"requests": [{"unit": "u"}, {}]}
    headers = {"Content-Type": sent, **({"Accept": accept} if accept else {})}
    content = msgpack.packb(body) if sent == MSGPACK else body
    answer = service.call("POST", f"/v1/experiments/{name}/{way}", content, headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, answered)
    decoded = msgpack.unpackb(answer.body) if answered == MSGPACK else answer.body
    first = decoded if way == "decide" else decoded["responses"][0]
    assert set(first) == DECIDED


def test_other_content_types_are_refused(service: ThrowawayService, name: str) -> None:
    answer = service.call("POST", f"/v1/experiments/{name}/decide", b"unit=u", {"Content-Type": "text/plain"})
    check_problem(answer, 415)


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"unite": "u"}, "unite"),
        ({"unit": 7}, "unit"),
        ({"unit": ""}, "unit"),
        ({"unit": "x" * 257}, "unit"),
        ({"unit": "é" * 129}, "unit"),
        ({"unit": "a\nb"}, "unit"),
        ({"unit": "a\x7f"}, "unit"),
        ({"unit": "a\x85"}, "unit"),
        ({"eligible": []}, "eligible"),
        ({"eligible": ["nobody"]}, "eligible"),
        ({"eligible": "control"}, "eligible"),
        ({"eligible": [7]}, "eligible[0]"),
        ({"context": {"hour": 3}}, "context"),
        ([], None),
    ],
)
def test_a_wrong_request_is_told_where_it_is_wrong(
    service: ThrowawayService, name: str, body: Any, at: str | None
) -> None:
    check_problem(service.call("POST", f"/v1/experiments/{name}/decide", body), 400, *([at] if at else []))
    check_problem(call_msgpack(service, f"/v1/experiments/{name}/decide", body), 400, *([at] if at else []))


@pytest.mark.parametrize("unit", ["x", "x" * 256, "é" * 128, "日本 語", "a/b?c=d&e#f", '"\\', "🙂" * 64])
@pytest.mark.parametrize("kind", ["user", "request"])
def test_any_outside_name_can_be_a_unit(service: ThrowawayService, kind: str, unit: str) -> None:
    name = running(service, unit=kind)
    assert decide(service, name, unit=unit)["arm"] in ("control", "challenger")
    assert decide_many(service, name, [unit])["propensities"] == [0.5]


def test_only_the_eligible_are_chosen_with_their_own_probability(
    service: ThrowawayService, name: str
) -> None:
    decided = [decide(service, name, eligible=["control", "third"]) for _ in range(40)]
    assert {each["arm"] for each in decided} == {"control", "third"}
    assert {(each["arm"], round(each["propensity"], 12)) for each in decided} == {
        ("control", round(2 / 3, 12)),
        ("third", round(1 / 3, 12)),
    }
    assert decide(service, name, eligible=["third", "third"])["propensity"] == 1.0


def test_an_unknown_experiment_is_404(service: ThrowawayService) -> None:
    for way, body in (("decide", {}), ("predict", {"user_id": "u", "item_id": "i"})):
        check_problem(service.call("POST", f"/v1/experiments/nobody/{way}", body), 404)
    check_problem(service.call("POST", "/v1/experiments/nobody/decide/batch", {"requests": [{}]}), 404)


def test_a_draft_is_409(service: ThrowawayService) -> None:
    name = draft(service)
    check_problem(service.call("POST", f"/v1/experiments/{name}/decide", {}), 409)
    check_problem(service.call("POST", f"/v1/experiments/{name}/decide/batch", {"requests": [{}]}), 409)
    check_problem(service.call("POST", f"/v1/experiments/{name}/decide/batch", {"units": ["u"]}), 409)


def test_paused_everyone_gets_control_and_nothing_is_logged(service: ThrowawayService) -> None:
    name = running(service, control="challenger")
    decide(service, name)
    assert service.call("POST", f"/v1/experiments/{name}/pause").body["status"] == "paused"
    for _ in range(10):
        decision = decide(service, name, unit="u")
        assert (decision["decision_id"], decision["arm"], decision["propensity"]) == (None, "challenger", 1.0)
    columns = decide_many(service, name, ["a", "b"])
    assert (columns["decision_ids"], columns["propensities"]) == ([None, None], [1.0, 1.0])
    assert [columns["arm_names"][arm] for arm in columns["arms"]] == ["challenger", "challenger"]
    assert service.call("POST", f"/v1/experiments/{name}/start").body["status"] == "running"
    assert decide(service, name)["decision_id"] is not None


@pytest.mark.parametrize(("stop", "arm"), [({"winner": "challenger"}, "challenger"), ({}, "control")])
def test_stopped_everyone_gets_the_winner_or_else_control(
    service: ThrowawayService, stop: dict[str, str], arm: str
) -> None:
    name = running(service)
    stopped = service.call("POST", f"/v1/experiments/{name}/stop", stop)
    assert (stopped.status, stopped.body["status"], stopped.body["winner"]) == (
        200,
        "stopped",
        stop.get("winner"),
    )
    decision = decide(service, name)
    assert (decision["decision_id"], decision["arm"], decision["propensity"]) == (None, arm, 1.0)


def test_a_batch_answers_each_entry_in_order(service: ThrowawayService, name: str) -> None:
    requests = [{"unit": "a"}, {"eligible": ["third"]}, {"eligible": ["nobody"]}, {"unit": "a\n"}, {}]
    answer = service.call("POST", f"/v1/experiments/{name}/decide/batch", {"requests": requests})
    assert answer.status == 200
    responses = answer.body["responses"]
    assert [set(each) == DECIDED for each in responses] == [True, True, False, False, True]
    assert responses[1]["arm"] == "third"
    assert responses[2]["status"] == 400
    assert responses[2]["errors"][0]["at"] == "eligible"
    assert responses[3]["errors"][0]["at"] == "unit"


@pytest.mark.parametrize("sent", ["application/json", MSGPACK])
def test_the_columnar_form(service: ThrowawayService, name: str, sent: str) -> None:
    body = {"units": [f"u{i}" for i in range(100)]}
    path = f"/v1/experiments/{name}/decide/batch"
    batch = (call_msgpack(service, path, body) if sent == MSGPACK else service.call("POST", path, body)).body
    assert set(batch) == {"decision_ids", "arms", "propensities", "arm_names"}
    assert batch["arm_names"] == ["control", "challenger", "third"]
    assert len(set(batch["decision_ids"])) == len(batch["arms"]) == len(batch["propensities"]) == 100
    assert all(batch["propensities"][i] == [0.5, 0.25, 0.25][arm] for i, arm in enumerate(batch["arms"]))
    assert set(batch["arms"]) == {0, 1, 2}


def test_the_columnar_form_agrees_with_the_others_on_sticky_units(service: ThrowawayService) -> None:
    sticky = running(service, unit="user")
    units = [f"u{i}" for i in range(50)]
    columns = decide_many(service, sticky, units)
    responses = service.call(
        "POST", f"/v1/experiments/{sticky}/decide/batch", {"requests": [{"unit": unit} for unit in units]}
    ).body["responses"]
    by_column = [columns["arm_names"][arm] for arm in columns["arms"]]
    assert (
        by_column
        == [each["arm"] for each in responses]
        == [decide(service, sticky, unit=u)["arm"] for u in units]
    )
    assert set(by_column) == {"control", "challenger"}


def test_a_sticky_experiment_needs_a_unit(service: ThrowawayService) -> None:
    sticky = running(service, unit="user")
    check_problem(service.call("POST", f"/v1/experiments/{sticky}/decide", {}), 400, "unit")
    answer = service.call("POST", f"/v1/experiments/{sticky}/decide/batch", {"requests": [{}, {"unit": "u"}]})
    assert [each.get("status", 200) for each in answer.body["responses"]] == [400, 200]


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, ""),
        ({"requests": [{}], "units": ["u"]}, ""),
        ({"units": ["a", "b\n"]}, "units"),
        ({"units": ["a", 7]}, "units[1]"),
        ({"requests": {}}, "requests"),
        ({"units": ["u"], "contexts": [{"hour": 1}]}, "contexts"),
        ({"units": ["u"], "more": 1}, "more"),
    ],
)
def test_a_wrong_batch_is_refused_whole(
    service: ThrowawayService, name: str, body: Any, at: str | None
) -> None:
    for answer in (
        service.call("POST", f"/v1/experiments/{name}/decide/batch", body),
        call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body),
    ):
        check_problem(answer, 400, *([] if at is None else [at]))


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("way", ["decide", "predict"])
def test_an_entry_that_is_not_valid_costs_the_others_nothing(
    service: ThrowawayService, name: str, form: str, way: str
) -> None:
    good = {"unit": "u1"} if way == "decide" else {"user_id": "u1", "item_id": "i"}
    bad: list[Any] = [{**good, "unit": 7}, [], {**good, "more": 1}, {**good, "eligible": "control"}]
    path, body = f"/v1/experiments/{name}/{way}/batch", {"requests": [good, *bad, good]}
    answer = service.call("POST", path, body) if form == "json" else call_msgpack(service, path, body)
    assert answer.status == 200
    first, *refused, last = answer.body["responses"]
    assert [entry["status"] for entry in refused] == [400] * len(bad)
    assert [entry["errors"][0]["at"] for entry in refused] == ["unit", "", "more", "eligible"]
    # These arms have no models to predict with.
    assert first.get("status", 200) == last.get("status", 200) == (200 if way == "decide" else 409)


def test_a_batch_has_at_most_ten_thousand_entries(service: ThrowawayService, name: str) -> None:
    path = f"/v1/experiments/{name}/decide/batch"
    assert len(service.call("POST", path, {"requests": [{}] * 10_000}).body["responses"]) == 10_000
    check_problem(service.call("POST", path, {"requests": [{}] * 10_001}), 400, "requests")
    check_problem(service.call("POST", path, {"units": ["u"] * 10_001}), 400, "units")
    assert service.call("POST", path, {"requests": []}).body == {"responses": []}


def test_an_empty_columnar_batch_leaves_the_log_readable(service: ThrowawayService) -> None:
    name = running(service)
    assert decide_many(service, name, ["u"])["arms"] != []
    empty = {"decision_ids": [], "arms": [], "propensities": [], "arm_names": ["control", "challenger"]}
    assert service.call("POST", f"/v1/experiments/{name}/decide/batch", {"units": []}).body == empty
    decide(service, name)
    assert service.call("GET", f"/v1/experiments/{name}/results").status == 200


def test_predicting_needs_a_model(service: ThrowawayService, name: str) -> None:
    body = {"user_id": "u", "item_id": "i"}
    check_problem(service.call("POST", f"/v1/experiments/{name}/predict", body), 409)
    missing = {"user_id": "u"}
    check_problem(service.call("POST", f"/v1/experiments/{name}/predict", missing), 400)


def test_an_arm_without_a_share_is_chosen_only_when_it_is_alone(service: ThrowawayService) -> None:
    name = running(service, policy={"kind": "fixed_split", "shares": {"control": 1, "challenger": 0}})
    assert {decide(service, name)["arm"] for _ in range(20)} == {"control"}
    decision = decide(service, name, eligible=["challenger"])
    assert (decision["arm"], decision["propensity"]) == ("challenger", 1.0)


def test_a_lone_arm_gets_everything(service: ThrowawayService) -> None:
    name = running(service, arms=[{"name": "only"}], policy={"kind": "thompson"})
    assert decide(service, name)["propensity"] == 1.0


def test_names_that_we_give_end_where_they_end(service: ThrowawayService) -> None:
    body = experiment(id=new_name() + "\n")
    check_problem(service.call("POST", "/v1/experiments", body), 400, "id")
