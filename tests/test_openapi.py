"""`/openapi.json`: valid, complete, and in step with what the routes do."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from services import ThrowawayService

from bandit_serve.server.app import ROUTES
from bandit_serve.server.openapi import document, statuses
from bandit_serve.server.problems import TITLES
from bandit_serve.server.route import EITHER, Route

DESCRIBED = msgspec.json.decode(msgspec.json.encode(document(ROUTES)))


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in DESCRIBED["paths"].items()
        for method, operation in methods.items()
    }


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    return set().union(*(references(child) for child in node)) if isinstance(node, list) else set()


def in_a_path(path: str) -> str:
    return re.sub(r"\{\w+\}", "nothing-of-this-name", path)


def test_it_is_valid_openapi() -> None:
    validate(DESCRIBED, cls=OpenAPIV31SpecValidator)


def test_it_describes_every_route_and_no_other() -> None:
    assert set(operations()) == {(route.method, route.path) for route in ROUTES}


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for operation in operations().values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    found = references(DESCRIBED)
    for kind, components in DESCRIBED["components"].items():
        used = {name.rpartition("/")[2] for name in found if f"/{kind}/" in name}
        if kind == "schemas":
            assert used == set(components)
        else:
            assert used <= set(components)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_every_status_is_described(route: Route) -> None:
    described = operations()[route.method, route.path]["responses"]
    assert [int(status) for status in described] == list(statuses(route))
    assert all(status in TITLES for status in statuses(route) if status >= 400)


def test_the_service_serves_it(service: ThrowawayService) -> None:
    found = service.call("GET", "/openapi.json")
    assert (found.status, found.headers["Content-Type"]) == (200, "application/json")
    assert found.body == DESCRIBED


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_a_route_answers_as_described(service: ThrowawayService, route: Route) -> None:
    """For names that do not exist: the statuses, and the content types in and out."""
    path = in_a_path(route.path)
    sent = {"Content-Type": route.media[0]} if route.takes is not None else {}
    body = b"{}" if route.takes is not None else None
    found = service.call(route.method, path, body, sent)
    assert found.status in statuses(route)
    described = operations()[route.method, route.path]["responses"][str(found.status)]
    if "$ref" in described:
        described = DESCRIBED["components"]["responses"][described["$ref"].rpartition("/")[2]]
    assert found.headers["Content-Type"].partition(";")[0] in described["content"]


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.takes is not None], ids=lambda route: route.label
)
def test_a_route_takes_the_content_types_that_are_described(service: ThrowawayService, route: Route) -> None:
    path = in_a_path(route.path)
    takes_msgpack = (
        service.call(route.method, path, b"\x80", {"Content-Type": "application/msgpack"}).status != 415
    )
    assert takes_msgpack == (route.media == EITHER)
    assert service.call(route.method, path, b"x", {"Content-Type": "application/xml"}).status == 415
    optional = service.call(route.method, path, b"").status not in (400, 415)
    assert optional == route.optional
