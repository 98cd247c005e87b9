"""`/openapi.json`: valid, complete, and in step with the routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from api_schemas import API_DESCRIPTION, validator_of
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from services import ThrowawayService

from bandit_serve.server.openapi import statuses
from bandit_serve.server.problems import TITLES
from bandit_serve.server.route import Route
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.wire_form import MSGPACK


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in API_DESCRIPTION["paths"].items()
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
    validate(API_DESCRIPTION, cls=OpenAPIV31SpecValidator)


def test_it_describes_every_route_and_no_other() -> None:
    assert set(operations()) == {(route.method, route.path) for route in ROUTES}


def test_operation_ids_are_unique_and_names_of_functions_in_any_language() -> None:
    ids = [operation["operationId"] for operation in operations().values()]
    assert len({each.lower() for each in ids}) == len(ids)
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", each) for each in ids), ids
    assert {"decide", "predict", "reward", "createExperiment", "getResults"} <= set(ids)


def nodes(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, child in children:
        yield from nodes(child, (*path, step))


def test_generators_of_clients_can_read_it() -> None:
    """What they stumble over: schemas that are no objects, types without names, patterns that only Python has."""
    for path, node in nodes({"paths": API_DESCRIPTION["paths"], "components": API_DESCRIPTION["components"]}):
        *_, holder, last = ("", "", *path)
        if last in ("items", "additionalItems", "prefixItems", "contains", "not"):
            assert isinstance(node, dict | list), path
        if holder == "properties":
            assert isinstance(node, dict), path
            assert node.get("type") != "null", path
        if last == "pattern" and holder != "properties":
            assert "(?" not in node.replace("(?:", ""), path
        if (
            last == "enum"
            and all(isinstance(value, str) for value in node)
            and "dependentSchemas" not in path
        ):
            parent: Any = {"paths": API_DESCRIPTION["paths"], "components": API_DESCRIPTION["components"]}
            for step in path[:-1]:
                parent = parent[step]
            assert parent["type"] == "string", path
        if last == "description":
            assert "\n    " not in str(node), path


def bodies() -> list[tuple[str, dict[str, Any]]]:
    """Every body in JSON that goes in or out with a success, and where it stands."""
    targets = []
    for (method, path), operation in operations().items():
        contents = [("in", operation.get("requestBody", {}).get("content", {}))]
        contents += [(status, each.get("content", {})) for status, each in operation["responses"].items()]
        targets += [
            (f"{method} {path} {where}", content["application/json"])
            for where, content in contents
            if "application/json" in content
        ]
    return targets


def test_every_body_that_is_sent_has_an_example_and_all_examples_fit() -> None:
    fitted = 0
    for where, body in bodies():
        examples = body.get("examples", {})
        assert examples or not where.endswith(" in"), where
        for example in examples.values():
            errors = list(validator_of(body["schema"]).iter_errors(example["value"]))
            assert not errors, (where, errors)
            fitted += 1
    assert fitted > 40


def test_what_is_one_of_several_is_said_as_such() -> None:
    schemas = API_DESCRIPTION["components"]["schemas"]
    for name, forms in {
        "ScoreRequest": ["ScoreItem", "ScoreItems", "ScoreTopK", "ScoreFeatures"],
        "PredictRequest": ["PredictItem", "PredictItems", "PredictTopK", "PredictFeatures"],
        "RewardsRequest": ["Reward", "Retraction", "UnitReward", "UnitRetraction", "Rewards"],
        "DecideBatch": ["DecideRequests", "DecideColumns"],
    }.items():
        assert [each["$ref"].rpartition("/")[2] for each in schemas[name]["oneOf"]] == forms
        assert all(schemas[form]["additionalProperties"] is False for form in forms)
    assert set(schemas["DecidedBatch"]["properties"]["responses"]["items"]) == {"oneOf"}


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    targets = references(API_DESCRIPTION)
    for kind, components in API_DESCRIPTION["components"].items():
        used = {name.rpartition("/")[2] for name in targets if f"/{kind}/" in name}
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
    answer = service.call("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body == {**API_DESCRIPTION, "servers": [{"url": service.url}]}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_a_route_answers_as_described(service: ThrowawayService, route: Route) -> None:
    """For names that do not exist: the statuses, and the content types in and out."""
    path = in_a_path(route.path)
    sent = {"Content-Type": route.media[0]} if route.takes is not None else {}
    body = b"{}" if route.takes is not None else None
    answer = service.call(route.method, path, body, sent)
    assert answer.status in statuses(route)
    described = operations()[route.method, route.path]["responses"][str(answer.status)]
    if "$ref" in described:
        described = API_DESCRIPTION["components"]["responses"][described["$ref"].rpartition("/")[2]]
    assert answer.headers["Content-Type"].partition(";")[0] in described["content"]


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.takes is not None], ids=lambda route: route.label
)
def test_a_route_takes_the_content_types_that_are_described(service: ThrowawayService, route: Route) -> None:
    path = in_a_path(route.path)
    described = operations()[route.method, route.path]["requestBody"]["content"]
    assert (MSGPACK in described) == route.path.startswith("/v1/")
    # What is sent as one of the described types is not refused for its type.
    for media in (MSGPACK, "application/xml"):
        answer = service.call(route.method, path, b"\xc1", {"Content-Type": media})
        # OFREP has a status of its own for what is not JSON.
        is_flag = route.path.startswith("/ofrep/")
        refused = f"not '{media}'" in answer.body["detail"] if is_flag else answer.status == 415
        assert refused == (media not in described), answer
        assert not is_flag or answer.status == 400
    optional = service.call(route.method, path, b"").status not in (400, 415)
    assert optional == route.optional
