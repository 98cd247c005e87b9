"""Results by segment over HTTP: of declared dimensions, and of fields that are looked up afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from http_calls import call_msgpack, check_problem, draft, reward_many, running
from services import ThrowawayService
from stores import wait_until

CONTEXT = [
    {"name": "hour", "kind": "numeric"},
    {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
    {"name": "city", "kind": "categorical", "buckets": 8},
    {"name": "land", "kind": "categorical", "values": ["de", "fr"]},
]
DEVICES = ["ios", "web", None, "palm"]
SEGMENTS = {"field", "declared", "level", "reason", "values"}
METRIC = {
    "n",
    "mean",
    "std",
    "interval",
    "difference",
    "difference_interval",
    "lift",
    "lift_interval",
    "p_value",
}


def visited(service: ThrowawayService, name: str, n: int = 400) -> list[int]:
    """Arms of n decisions, of which each has a reward; every fourth is of each of `DEVICES`."""
    contexts = [
        {"hour": i % 24, "land": "de"} | ({"device": device} if (device := DEVICES[i % 4]) else {})
        for i in range(n)
    ]
    body = {"units": [f"u{i}" for i in range(n)], "contexts": contexts}
    decided = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body)
    assert decided.status == 200, decided.body
    arms: list[int] = decided.body["arms"]
    values = [float(i % 4 == 0 or arm > 0) for i, arm in enumerate(arms)]
    assert set(reward_many(service, decided.body["decision_ids"], values)) == {"accepted"}
    return arms


def by(service: ThrowawayService, name: str, field: str) -> dict[str, Any]:
    answer = service.call("GET", f"/v1/experiments/{name}/results?by={field}")
    assert answer.status == 200, answer.body
    assert set(answer.body["segments"]) == SEGMENTS
    body: dict[str, Any] = answer.body
    return body


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("policy", ["fixed_split", "thompson", "lin_ts"])
def test_declared_dimensions_and_others_that_are_looked_up(
    service: ThrowawayService, policy: str, unit: str
) -> None:
    name = running(service, context=CONTEXT, dimensions=["device"], policy={"kind": policy}, unit=unit)
    assert service.call("GET", f"/v1/experiments/{name}").body["dimensions"] == ["device"]
    arms = visited(service, name)
    expected = [[sum(arm == k for arm in arms[place::4]) for k in (0, 1)] for place in range(4)]
    expected = [expected[0], expected[1], [a + b for a, b in zip(expected[2], expected[3], strict=True)]]

    def counted(field: str) -> list[list[int]]:
        values = by(service, name, field)["segments"]["values"]
        return [[arm["metrics"]["click"]["n"] for arm in each["arms"]] for each in values]

    wait_until(lambda: counted("device") == expected)
    body = by(service, name, "device")
    segments = body["segments"]
    assert (segments["field"], segments["declared"]) == ("device", True)
    assert "declared before the start" in segments["reason"]
    assert [(each["value"], each["kind"]) for each in segments["values"]] == [
        ("ios", "value"),
        ("web", "value"),
        (None, "unknown"),
    ]
    for each in segments["values"]:
        assert set(each) == {"value", "kind", "arms", "shrunk"}
        assert [arm["name"] for arm in each["arms"]] == ["control", "challenger"]
        assert all(set(arm["metrics"]["click"]) == METRIC for arm in each["arms"])
        assert set(each["shrunk"]) == {"challenger"}
    looked_up = by(service, name, "land")["segments"]
    assert (looked_up["declared"], "looked up afterwards" in looked_up["reason"]) == (False, True)
    totals = [
        [sum(each["arms"][k]["metrics"]["click"]["n"] for each in part["values"]) for k in (0, 1)]
        for part in (segments, looked_up)
    ]
    assert totals[0] == totals[1] == [arm["metrics"]["click"]["n"] for arm in body["arms"]]
    assert looked_up["values"][0]["value"] == "de"
    assert sum(arm["metrics"]["click"]["n"] for arm in looked_up["values"][0]["arms"]) == len(arms)


def test_without_a_field_results_are_as_ever(service: ThrowawayService) -> None:
    name = running(service, context=CONTEXT, dimensions=["device"])
    assert "segments" not in service.call("GET", f"/v1/experiments/{name}/results").body


@pytest.mark.parametrize("field", ["hour", "city", "nothing", "", "a%20b"])
def test_fields_that_are_not_split_by(service: ThrowawayService, field: str) -> None:
    name = draft(service, context=CONTEXT)
    problem = check_problem(service.call("GET", f"/v1/experiments/{name}/results?by={field}"), 400, "by")
    assert "expected a categorical context field with values: device, land" in problem["detail"]


def test_experiments_without_a_context_are_not_split(service: ThrowawayService) -> None:
    problem = check_problem(
        service.call("GET", f"/v1/experiments/{draft(service)}/results?by=device"), 400, "by"
    )
    assert "this experiment has none" in problem["detail"]


def test_drafts_and_experiments_whose_arms_grow(service: ThrowawayService) -> None:
    name = draft(service, context=CONTEXT, dimensions=["device", "land"])
    assert by(service, name, "land")["segments"]["declared"]
    body = service.call("GET", f"/v1/experiments/{name}").body
    kept = {key: body[key] for key in ("id", "arms", "metrics", "context", "policy", "attribution")}
    assert service.call("PUT", f"/v1/experiments/{name}", kept).status == 200
    assert not by(service, name, "land")["segments"]["declared"]
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
    visited(service, name, 100)
    assert service.call("POST", f"/v1/experiments/{name}/arms", {"name": "third"}).status == 200
    visited(service, name, 100)
    for field in ("device", "land"):
        values = by(service, name, field)["segments"]["values"]
        assert [arm["name"] for arm in values[0]["arms"]] == ["control", "challenger", "third"]


def test_dimensions_are_fixed_with_the_start(service: ThrowawayService) -> None:
    name = running(service, context=CONTEXT)
    body = service.call("GET", f"/v1/experiments/{name}").body
    assert "dimensions" not in body
    changed = {key: body[key] for key in ("id", "arms", "metrics", "context", "policy", "attribution")}
    answer = service.call("PUT", f"/v1/experiments/{name}", changed | {"dimensions": ["device"]})
    check_problem(answer, 409)


@pytest.mark.parametrize(
    ("dimensions", "at"),
    [
        (["hour"], "dimensions[0]"),
        (["device", "device"], "dimensions[1]"),
        (["nothing"], "dimensions[0]"),
        (["city"], "dimensions[0]"),
    ],
)
def test_dimensions_that_are_refused(service: ThrowawayService, dimensions: list[str], at: str) -> None:
    body = {
        "id": "refused",
        "arms": [{"name": "a"}],
        "metrics": [{"name": "click", "kind": "binary"}],
        "attribution": {"missing": "ignore"},
        "context": CONTEXT,
        "dimensions": dimensions,
    }
    check_problem(service.call("POST", "/v1/experiments", body), 400, at)


def test_more_sums_than_are_kept_are_refused(service: ThrowawayService) -> None:
    values = [f"v{i}" for i in range(30)]
    body = {
        "id": "large",
        "arms": [{"name": f"a{i}"} for i in range(1_000)],
        "metrics": [{"name": f"m{i}", "kind": "binary"} for i in range(3)],
        "attribution": {"missing": "ignore"},
        "context": [{"name": "device", "kind": "categorical", "values": values}],
        "dimensions": ["device"],
    }
    problem = check_problem(service.call("POST", "/v1/experiments", body), 400, "dimensions")
    assert "at most 65536 segments times metrics times arms, not 66000" in problem["detail"]
