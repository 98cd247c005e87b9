"""`/openapi.json`: the routes, described by the types that validate them (OpenAPI 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bandit_serve import __version__
from bandit_serve.names import NAME_PATTERN
from bandit_serve.server.problems import PROBLEM_TYPE, TITLES, Problem
from bandit_serve.server.route import Entries, Query, Route
from bandit_serve.server.wire import JSON

Schema = dict[str, Any]

ALWAYS_ANSWERED = frozenset({"operations.live"})
NO_CONTENT = 204
OF_ANY_REQUEST = (400, 403)
OF_A_BODY = (400, 408, 413, 415)
ETAG = {"description": "The experiment's revision, for `If-Match`.", "schema": {"type": "string"}}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that the change is based on; 412 when it is not the present one.",
    "schema": {"type": "string"},
}
RETRY_AFTER = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}

_parameter = re.compile(r"\{(\w+)\}")


def document(routes: Iterable[Route]) -> Schema:
    """The whole description, ready to be encoded."""
    routes = tuple(routes)
    schemas, components = _schemas(routes)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bandit-serve",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {_problem_name(status): _problem(status, schemas) for status in sorted(TITLES)},
        },
    }


def statuses(route: Route) -> tuple[int, ...]:
    """Every status that the route answers with, its success (if it is built) first."""
    found = {*OF_ANY_REQUEST, *route.refuses}
    if route.takes is not None:
        found.update(OF_A_BODY)
    if _parameter.search(route.path) and route.answers is not None:
        found.add(404)
    if route.handler not in ALWAYS_ANSWERED:
        found.add(503)
    succeeds = route.answers is not None or route.status == NO_CONTENT
    return (*((route.status,) if succeeds else ()), *sorted(found))


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, Schema], Schema]:
    """The schema of each type that a route names, and the components that they refer to."""
    types: dict[Any, None] = {Problem: None}
    for route in routes:
        types.update(dict.fromkeys(_one_type(kind) for kind in (route.takes, *_alternatives(route)) if kind))
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return dict(zip(types, found, strict=True)), components


def _alternatives(route: Route) -> tuple[Any, ...]:
    answers = route.answers
    return answers if isinstance(answers, tuple) and not isinstance(answers, Entries) else (answers,)


def _one_type(kind: Any) -> Any:
    return kind.one if isinstance(kind, Entries) else kind


def _schema(kind: Any, schemas: dict[Any, Schema]) -> Schema:
    if not isinstance(kind, Entries):
        return schemas[kind]
    entry = {"anyOf": [schemas[kind.one], schemas[Problem]]}
    return {
        "type": "object",
        "properties": {"responses": {"type": "array", "items": entry}},
        "required": ["responses"],
    }


def _operation(route: Route, schemas: dict[Any, Schema]) -> Schema:
    operation: Schema = {
        "operationId": route.handler.replace(".", "_") + "_" + re.sub(r"\W+", "_", route.path).strip("_"),
        "summary": route.summary,
        "tags": [route.handler.partition(".")[0]],
        "responses": {str(status): _response(route, status, schemas) for status in statuses(route)},
    }
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": NAME_PATTERN}}
        for name in _parameter.findall(route.path)
    ]
    parameters += [_query_parameter(query) for query in route.query]
    if 412 in route.refuses:
        parameters.append(IF_MATCH)
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        content = {media: {"schema": schemas[route.takes]} for media in route.media}
        operation["requestBody"] = {"required": not route.optional, "content": content}
    return operation


def _query_parameter(query: Query) -> Schema:
    text: Schema = {"type": "string"}
    return {
        "name": query.name,
        "in": "query",
        "description": query.description,
        "required": query.required,
        "schema": {"type": "array", "items": text} if query.many else text,
    }


def _response(route: Route, status: int, schemas: dict[Any, Schema]) -> Schema:
    if status == NO_CONTENT:
        return {"description": route.summary}
    if status != route.status or route.answers is None:
        return {"$ref": f"#/components/responses/{_problem_name(status)}"}
    if route.answers is str:
        return {"description": route.summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
    found = [_schema(kind, schemas) for kind in _alternatives(route)]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    media = route.media if JSON in route.media else (JSON,)
    response: Schema = {"description": route.summary, "content": {each: {"schema": schema} for each in media}}
    if 412 in route.refuses or route.handler in ("experiments.show", "experiments.create"):
        response["headers"] = {"ETag": ETAG}
    return response


def _problem_name(status: int) -> str:
    return f"Problem{status}"


def _problem(status: int, schemas: dict[Any, Schema]) -> Schema:
    response: Schema = {
        "description": TITLES[status][1],
        "content": {PROBLEM_TYPE: {"schema": schemas[Problem]}},
    }
    if status == 503:
        response["headers"] = {"Retry-After": RETRY_AFTER}
    return response
