"""Query parameters: a route takes those of its row in the table, and refuses all others."""

from __future__ import annotations

import re

import pytest
from http_calls import check_problem, check_refusal, running
from services import ThrowawayService

from bandit_serve.server.openapi import document
from bandit_serve.server.route import HtmlPage, Route
from bandit_serve.server.routes import ROUTES

API_DESCRIPTION = document(ROUTES)["paths"]


def place(route: Route) -> str:
    return re.sub(r"\{\w+\}", "nothing", route.path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
@pytest.mark.parametrize(
    ("query", "named"),
    [("x=1", "x"), ("x", "x"), ("=1", ""), ("Limit=1", "Limit"), ("%61%62=1", "ab"), ("y" * 99, "y" * 60)],
)
def test_an_unknown_parameter_is_refused_by_its_name(
    service: ThrowawayService, route: Route, query: str, named: str
) -> None:
    body = {} if route.takes is not None else None
    known = [parameter.name for parameter in route.query]
    for before in ("", *(f"{name}=1&" for name in known)):
        refused = service.call(route.method, f"{place(route)}?{before}{query}", body)
        problem = check_refusal(route.path, refused, 400, named)
        assert all(name in problem["detail"] for name in known)


PAGE_VALUES = {"status": "running", "sort": "name"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_every_parameter_that_is_described_is_taken(service: ThrowawayService, route: Route) -> None:
    described = API_DESCRIPTION[route.path][route.method.lower()].get("parameters", [])
    assert {each["name"] for each in described if each["in"] == "query"} == {
        parameter.name for parameter in route.query
    }
    for parameter in route.query:
        value = PAGE_VALUES.get(parameter.name, "1") if route.answers is HtmlPage else "1"
        answer = service.call(
            route.method, f"{place(route)}?{parameter.name}={value}&{parameter.name}={value}"
        )
        if isinstance(answer.body, bytes):
            assert answer.status == 200, "a page"
        else:
            assert parameter.name not in [each["at"] for each in answer.body.get("errors", [])]


def test_a_hot_route_refuses_one_too_and_does_nothing(service: ThrowawayService) -> None:
    name = running(service)
    check_problem(service.call("POST", f"/v1/experiments/{name}/decide?unit=u", {}), 400, "unit")
    stopped = service.call("POST", f"/v1/experiments/{name}/stop?winner=control")
    check_problem(stopped, 400, "winner")
    assert service.call("GET", f"/v1/experiments/{name}").body["status"] == "running"


@pytest.mark.parametrize("query", ["", "?", "?&&"])
def test_an_empty_query_is_none(service: ThrowawayService, query: str) -> None:
    assert service.call("GET", f"/health/live{query}").status == 200
