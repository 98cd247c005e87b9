"""Catalogue of metrics over HTTP: definitions, and experiments that name them."""

from __future__ import annotations

from typing import Any

import pytest
from http_calls import check_problem, decide, draft, experiment, new_name, running
from services import Answer, ThrowawayService

TEXTS = {"description": "Euros paid, without shipping.", "owner": "finance"}


def put(service: ThrowawayService, name: str, /, **fields: Any) -> Answer:
    return service.call("PUT", f"/v1/metrics/{name}", fields)


def defined(service: ThrowawayService, /, **fields: Any) -> str:
    name = new_name("metric")
    made = put(service, name, **fields)
    assert made.status == 201, made
    return name


def metrics_of(service: ThrowawayService, name: str) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = service.call("GET", f"/v1/experiments/{name}").body["metrics"]
    return metrics


def test_a_definition_from_its_first_to_its_last_change(service: ThrowawayService) -> None:
    name = new_name("metric")
    path = f"/v1/metrics/{name}"
    check_problem(service.call("GET", path), 404)
    check_problem(service.call("DELETE", path), 404)
    made = put(service, name, kind="continuous", cap=500, **TEXTS)
    assert made.status == 201
    assert made.headers["ETag"] == f'"{made.body["revision"]}"'
    assert made.body["updated_by"] == "http:127.0.0.1"
    assert {"name": name, "kind": "continuous", "cap": 500.0, "goal": "maximize", **TEXTS}.items() <= (
        made.body.items()
    )
    again = put(service, name, kind="continuous", cap=500, **TEXTS)
    assert (again.status, again.body) == (200, made.body), "nothing has changed"
    shown = service.call("GET", path)
    assert (shown.status, shown.body) == (200, {**made.body, "experiments": []})
    assert shown.headers["ETag"] == made.headers["ETag"]

    changed = put(service, name, kind="continuous", cap=400)
    assert changed.status == 200
    assert changed.body["revision"] > made.body["revision"]
    assert "owner" not in changed.body
    assert service.call("DELETE", path).status == 204
    check_problem(service.call("GET", path), 404)
    assert put(service, name, kind="continuous", cap=400).status == 201


def test_a_change_heeds_the_etag_that_the_caller_has(service: ThrowawayService) -> None:
    name = new_name("metric")
    path, body = f"/v1/metrics/{name}", {"kind": "count"}
    check_problem(service.call("PUT", path, body, {"If-Match": '"1"'}), 412)
    etag = service.call("PUT", path, body).headers["ETag"]
    newer = service.call("PUT", path, {"kind": "binary"}, {"If-Match": etag})
    assert newer.status == 200
    for stale in (etag, '"x"'):
        check_problem(service.call("PUT", path, body, {"If-Match": stale}), 412)
        check_problem(service.call("DELETE", path, headers={"If-Match": stale}), 412)
    assert service.call("GET", path).body["kind"] == "binary"
    assert service.call("DELETE", path, headers={"If-Match": newer.headers["ETag"]}).status == 204


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({}, ["kind"]),
        ({"kind": "binari"}, ["kind"]),
        ({"kind": "binary", "cap": 1}, ["cap"]),
        ({"kind": "bounded", "low": 5, "high": 1}, ["high"]),
        ({"kind": "count", "quantile": 0.5}, ["quantile"]),
        ({"kind": "count", "source": "served"}, ["source"]),
        ({"kind": "ratio", "numerator": "a", "denominator": "a"}, ["denominator"]),
        ({"kind": "binary", "role": "guardrail", "margin": {"absolute": 1}}, ["role", "margin"]),
        ({"kind": "binary", "name": "other"}, ["name"]),
        ({"kind": "binary", "description": "x" * 4_001}, ["description"]),
        ({"kind": "binary", "owner": "x" * 257}, ["owner"]),
    ],
)
def test_what_is_wrong_is_told_at_its_field(
    service: ThrowawayService, fields: dict[str, Any], at: list[str]
) -> None:
    name = new_name("metric")
    check_problem(put(service, name, **fields), 400, *at)
    check_problem(service.call("GET", f"/v1/metrics/{name}"), 404)


def test_a_name_is_one(service: ThrowawayService) -> None:
    check_problem(service.call("PUT", "/v1/metrics/no%20name", {"kind": "binary"}), 400, "name")


def test_the_longest_description_is_taken(service: ThrowawayService) -> None:
    name = defined(service, kind="binary", description="\U0001f600" * 4_000)
    assert len(service.call("GET", f"/v1/metrics/{name}").body["description"]) == 4_000


def test_pages(service: ThrowawayService) -> None:
    names = sorted(defined(service, kind="binary") for _ in range(3))
    listed = service.call("GET", "/v1/metrics").body
    assert "after" not in listed
    assert [each["name"] for each in listed["metrics"]] == sorted(each["name"] for each in listed["metrics"])
    assert set(names) <= {each["name"] for each in listed["metrics"]}
    met, path = [], "/v1/metrics?limit=2"
    while path:
        page = service.call("GET", path).body
        met += page["metrics"]
        path = f"/v1/metrics?limit=2&after={page['after']}" if "after" in page else ""
    assert met == listed["metrics"]


def test_an_experiment_takes_the_definition_of_now_and_keeps_it(service: ThrowawayService) -> None:
    paid, worth = defined(service, kind="binary", **TEXTS), defined(service, kind="continuous", cap=10)
    guard = {"name": worth, "role": "guardrail", "margin": {"relative": 0.1}}
    name = running(service, metrics=[{"name": paid}, guard])
    whole = metrics_of(service, name)
    assert whole[0] == {
        "name": paid,
        "kind": "binary",
        "goal": "maximize",
        "role": "objective",
        "low": None,
        "high": None,
    }
    assert (whole[1]["cap"], whole[1]["role"], whole[1]["margin"]) == (10.0, "guardrail", {"relative": 0.1})

    assert put(service, worth, kind="continuous", cap=20).status == 200
    assert service.call("DELETE", f"/v1/metrics/{paid}").status == 204
    assert metrics_of(service, name) == whole, "what runs stays as it is"
    decision = decide(service, name)["decision_id"]
    rewards = [{"decision_id": decision, "value": 15, "metric": worth}, {"decision_id": decision, "value": 1}]
    assert service.call("POST", "/v1/rewards", {"rewards": rewards}).body["accepted"] == 2
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    assert [arm["metrics"][worth]["mean"] for arm in arms if arm["metrics"][worth]["n"]] == [10.0]

    newer = draft(service, metrics=[{"name": "own", "kind": "binary"}, {"name": worth}])
    assert metrics_of(service, newer)[1]["cap"] == 20.0
    own = draft(service, metrics=[{"name": worth, "kind": "binary"}])
    uses = service.call("GET", f"/v1/metrics/{worth}").body["experiments"]
    assert {each["experiment"]: (each["status"], each["is_current"]) for each in uses} == {
        name: ("running", False),
        newer: ("draft", True),
        own: ("draft", False),
    }
    assert [each["experiment"] for each in uses] == sorted([name, newer, own])


def test_a_draft_that_is_replaced_and_a_metric_that_is_added_may_name_one(service: ThrowawayService) -> None:
    stars = defined(service, kind="bounded", low=1, high=5)
    name = draft(service)
    body = experiment(metrics=[{"name": "click", "kind": "binary"}, {"name": stars}]) | {"id": name}
    assert service.call("PUT", f"/v1/experiments/{name}", body).status == 200
    assert metrics_of(service, name)[1]["high"] == 5.0
    other = running(service)
    path = f"/v1/experiments/{other}/metrics"
    added = service.call("POST", path, {"name": stars, "reason": "asked for"})
    assert added.status == 200, added
    assert metrics_of(service, other)[1] == {**metrics_of(service, name)[1], "role": "secondary"}
    check_problem(service.call("POST", path, {"name": stars}), 409)
    check_problem(service.call("POST", path, {"name": "not-defined"}), 400, "kind")
    check_problem(service.call("POST", path, {"name": stars, "low": 0, "cap": 3}), 400, "low", "cap")


def test_what_a_name_leaves_out_is_told_with_all_other_mistakes(service: ThrowawayService) -> None:
    paid = defined(service, kind="binary")
    metrics = [{"name": paid}, {"name": "not-defined"}, {"name": paid, "cap": 3}]
    problem = check_problem(
        service.call("POST", "/v1/experiments", experiment(metrics=metrics, unit="x")), 400
    )
    errors = {each["at"]: each["detail"] for each in problem["errors"]}
    assert set(errors) == {"metrics[1].kind", "metrics[2].cap", "metrics[2].name", "unit"}
    assert "define the metric with PUT /v1/metrics/{name}" in errors["metrics[1].kind"]
    assert "leave it out" in errors["metrics[2].cap"]


def test_the_mistakes_are_those_of_the_filled_document(service: ThrowawayService) -> None:
    """What is defined may still not be what this experiment can have."""
    ratio = defined(service, kind="ratio", numerator="clicks", denominator="views")
    paid = defined(service, kind="binary")
    body = experiment(metrics=[{"name": paid}, {"name": ratio}], attribution={})
    answer = service.call("POST", "/v1/experiments", body)
    check_problem(
        answer,
        400,
        "metrics[1].numerator",
        "metrics[1].denominator",
        "metrics[1].kind",
        "attribution.missing",
    )


def test_a_repeated_key_is_refused_in_what_names_a_metric_too(service: ThrowawayService) -> None:
    paid = defined(service, kind="binary")
    body = (
        f'{{"id": "{new_name()}", "arms": [{{"name": "a"}}], "arms": [{{"name": "b"}}], '
        f'"metrics": [{{"name": "{paid}"}}], "attribution": {{"missing": "zero"}}}}'
    )
    problem = check_problem(service.call("POST", "/v1/experiments", body.encode()), 400)
    assert "arms" in {each["at"] for each in problem["errors"]}


def test_it_is_there_after_a_restart_and_in_every_worker(tmp_path: Any) -> None:
    with ThrowawayService(tmp_path / "data", workers=2) as service:
        paid = defined(service, kind="binary", **TEXTS)
        before = service.call("GET", f"/v1/metrics/{paid}").body
        # A change is there for whoever asks next, in any worker.
        for i in range(1, 9):
            assert put(service, paid, kind="continuous", cap=i).status == 200
            assert metrics_of(service, draft(service, metrics=[{"name": paid}]))[0]["cap"] == i
        service.stop()
        service.start()
        after = service.call("GET", f"/v1/metrics/{paid}").body
        assert (after["cap"], len(after["experiments"])) == (8.0, 8)
        assert after["revision"] == before["revision"] + 8
        assert [each["is_current"] for each in after["experiments"]].count(True) == 1
