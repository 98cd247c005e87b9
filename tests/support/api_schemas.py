"""API description for tests: validation of values against its schemas, and values that are close to a valid one."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import msgspec
from jsonschema import Draft202012Validator

from bandit_serve.server.openapi import document
from bandit_serve.server.routes import ROUTES

API_DESCRIPTION: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(ROUTES)))
COMPONENTS: dict[str, Any] = API_DESCRIPTION["components"]["schemas"]

# Values close to bounds, of other types, and of similar spelling.
NUMBERS = [-1, 0, 1, 2, -0.5, 0.5, 1e-13, 1.5, 513, 1_001, 10**9, 10**13, 2**53, 2**53 + 2, 1e80, -1e80, 1e81]
TEXTS = [
    "",
    "x",
    "a b",
    "ä",
    "ä" * 200,
    "x" * 129,
    "x" * 257,
    "a\u0007",
    "0ms",
    "1ms",
    "90d",
    "91d",
    "7d ",
    "-1s",
]
OTHERS = [None, True, False, [], {}, [1.0], ["x"], ["x", "x"], {"x": 1}, {"x": "y"}, [None], [{}]]


def plain(node: Any) -> Any:
    """Copies a schema with patterns for Python's `re`, where `$` also matches before a final newline."""
    if isinstance(node, list):
        return [plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: value[:-1] + r"\Z"
        if key == "pattern" and isinstance(value, str) and value.endswith("$")
        else plain(value)
        for key, value in node.items()
    }


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """Validator of the component `name`."""
    return validator_of({"$ref": f"#/components/schemas/{name}"})


def validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**plain(schema), "components": plain(API_DESCRIPTION["components"])})


def fits(name: str, value: Any) -> bool:
    return bool(validator(name).is_valid(value))


def schema_of(method: str, path: str) -> str | None:
    """Name of the component for a route's JSON body; None without a body."""
    body = API_DESCRIPTION["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    reference = body.get("application/json", {}).get("schema", {}).get("$ref")
    return None if reference is None else str(reference.rpartition("/")[2])


def resolved(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Lists the alternatives of a schema, with references followed."""
    if "$ref" in schema:
        return resolved(COMPONENTS[schema["$ref"].rpartition("/")[2]])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return [each for one in schema[word] for each in resolved(one)]
    return [schema]


def words(schema: dict[str, Any]) -> list[Any]:
    """Values that the schema enumerates."""
    return [value for each in resolved(schema) for value in each.get("enum", [])]


def places(
    value: Any, schemas: list[dict[str, Any]], path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    """Yields the path of each part of `value`, with the schemas for it."""
    yield path, schemas
    if isinstance(value, dict):
        for name, child in value.items():
            nested = [
                schema["properties"][name] for schema in schemas if name in schema.get("properties", {})
            ]
            nested += [
                schema["additionalProperties"]
                for schema in schemas
                if isinstance(schema.get("additionalProperties"), dict)
                and name not in schema.get("properties", {})
            ]
            yield from places(child, [each for one in nested for each in resolved(one)], (*path, name))
    elif isinstance(value, list):
        nested = [schema["items"] for schema in schemas if isinstance(schema.get("items"), dict)]
        for i, child in enumerate(value):
            yield from places(child, [each for one in nested for each in resolved(one)], (*path, i))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    """Copies `value` with another value at a path."""
    if not path:
        return to
    copied = copy.deepcopy(value)
    holder = copied
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = to
    return copied


def without(value: Any, path: tuple[Any, ...]) -> Any:
    copied = copy.deepcopy(value)
    holder = copied
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return copied


def near(name: str, value: Any) -> Iterator[Any]:
    """Yields variants of `value`, of the component `name`, that differ in one place; some are valid."""
    for path, schemas in places(value, resolved(COMPONENTS[name])):
        if path:
            yield without(value, path)
        here: Any = functools.reduce(lambda node, step: node[step], path, value)
        for other in [*words({"anyOf": schemas}), *NUMBERS, *TEXTS, *OTHERS]:
            yield changed(value, path, other)
        if isinstance(here, list) and here:
            yield changed(value, path, [*here, here[0]])
        if isinstance(here, dict):
            yield changed(value, (*path, "unheard-of"), 1)
            for field, schema in {
                k: v for each in schemas for k, v in each.get("properties", {}).items()
            }.items():
                if field not in here:
                    for other in [*words(schema), None, 0, 0.5, 1, 2, "x", True, [], {}, ["x"], {"x": 1}]:
                        yield changed(value, (*path, field), other)
