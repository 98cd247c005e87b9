"""Description of the API, `/openapi.json` (OpenAPI 3.1), from the routes and the types that validate their bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bandit_serve import __version__
from bandit_serve.base.names import Name
from bandit_serve.server.dialects import Dialect, dialect_of
from bandit_serve.server.examples import examples_of
from bandit_serve.server.problems import TITLES
from bandit_serve.server.route import BatchAnswer, HtmlPage, Query, Route
from bandit_serve.server.schemas import Schema, Schemas
from bandit_serve.server.wire import EITHER
from bandit_serve.server.wire_form import JSON

CREATED = 201
NO_CONTENT = 204
NOT_MODIFIED = 304
OF_ANY_REQUEST = (400, 403)
OF_A_CALLER = (401, 429)
OF_A_BODY = (400, 408, 413, 415)
ETAG = {"description": "The revision, for `If-Match`.", "schema": {"type": "string"}}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that the change is based on; 412 when it is not the present one.",
    "schema": {"type": "string"},
}
VALIDATOR = {"description": "Names this answer, for `If-None-Match`.", "schema": {"type": "string"}}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an answer that the caller has; 304 when nothing is new.",
    "schema": {"type": "string"},
}
KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key that `bandit-serve keys create` made: of the scope that the operation names, or of `admin`. "
    "Until there is a first key, no operation needs one.",
}
RETRY_AFTER = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}

TAGS = {
    "decisions": "Arms for units, and predictions of their models.",
    "rewards": "Outcomes of decisions.",
    "flags": "Experiments as flags, by the OpenFeature Remote Evaluation Protocol (OFREP).",
    "inference": "Models and experiments with tensors, by the Open Inference protocol v2.",
    "experiments": "Experiments, made, changed and read.",
    "definitions": "Catalogue of metrics, which experiments may name.",
    "covariates": "Numbers of units from before an experiment, which make its intervals narrower.",
    "models": "Registry of models and their versions.",
    "keys": "Keys of callers.",
    "operations": "Health, statistics, this description.",
}
ABOUT = (
    "Bodies are JSON or, under `/v1`, MessagePack: `Content-Type` says which comes in, `Accept` which goes out, by "
    "default what came in. Numbers are finite, of double precision. A problem (RFC 9457) says in one sentence what was "
    "expected, and for single fields in `errors`."
)

_parameter = re.compile(r"\{(\w+)\}")


def document(routes: Iterable[Route]) -> Schema:
    """Makes the whole description, ready to be encoded."""
    routes = tuple(routes)
    kinds = [kind for route in routes for kind in _kinds(route) if kind is not None]
    schemas = Schemas([*kinds, *(dialect.kind for dialect in _dialects(routes))])
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bandit-serve",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": tag, "description": text} for tag, text in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": KEY_SCHEME},
            "schemas": schemas.components,
            "responses": {
                f"{dialect.name}{status}": _problem(status, dialect, schemas)
                for dialect in _dialects(routes)
                for status in sorted(TITLES)
            },
        },
    }


def statuses(route: Route) -> tuple[int, ...]:
    """Statuses that the route answers with; first that of success, unless the route is not built."""
    possible = {*OF_ANY_REQUEST, *route.refuses}
    if route.takes is not None:
        possible.update(OF_A_BODY)
    if _parameter.search(route.path) and route.answers is not None:
        possible.add(404)
    if not route.open:
        possible.add(503)
    if route.needs != "nothing":
        possible.update(OF_A_CALLER)
    if route.conditional:
        possible.add(NOT_MODIFIED)
    succeeds = route.answers is not None or route.status == NO_CONTENT
    made = (CREATED,) if route.makes else ()
    return (*((route.status, *made) if succeeds else ()), *sorted(possible))


def _kinds(route: Route) -> list[Any]:
    """Types of the bodies that a route takes and answers with."""
    named = [Name] if _parameter.search(route.path) else []
    return [*named, route.takes, route.plain, *_alternatives(route), *(query.kind for query in route.query)]


def _alternatives(route: Route) -> tuple[Any, ...]:
    answers = route.answers
    if answers is HtmlPage:
        return ()
    return answers if isinstance(answers, tuple) and not isinstance(answers, BatchAnswer) else (answers,)


def _operation(route: Route, schemas: Schemas) -> Schema:
    operation: Schema = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.handler.partition(".")[0]],
        "security": _security(route),
        "responses": {str(status): _response(route, status, schemas) for status in statuses(route)},
    }
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": schemas.of(Name)}
        for name in _parameter.findall(route.path)
    ]
    parameters += [_query_parameter(query, schemas) for query in route.query]
    if 412 in route.refuses:
        parameters.append(IF_MATCH)
    if route.conditional:
        parameters.append(IF_NONE_MATCH)
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        content = {media: _content(media, [route.takes], schemas) for media in route.media}
        if route.plain is not None:
            content |= {media: _content(media, [route.plain], schemas) for media in EITHER}
        content |= {media: {"schema": {"type": "string", "format": "binary"}} for media in route.files}
        operation["requestBody"] = {"required": not route.optional, "content": content}
    return operation


def _security(route: Route) -> list[Schema]:
    """Keys that a route takes: none where it needs none, and any scope where any does."""
    if route.needs == "nothing":
        return []
    return [{"key": [] if route.needs == "any" else [route.needs]}]


def _query_parameter(query: Query, schemas: Schemas) -> Schema:
    one = schemas.of(query.kind)
    return {
        "name": query.name,
        "in": "query",
        "description": query.description,
        "required": query.required,
        "schema": {"type": "array", "items": one} if query.many else one,
    }


def _response(route: Route, status: int, schemas: Schemas) -> Schema:
    if status == NO_CONTENT:
        return {"description": route.summary}
    if status == NOT_MODIFIED:
        return {"description": "Nothing is new.", "headers": {"ETag": VALIDATOR}}
    is_success = status == route.status or (route.makes and status == CREATED)
    if not is_success or route.answers is None:
        return {"$ref": f"#/components/responses/{dialect_of(route.path).name}{status}"}
    if route.answers is HtmlPage:
        return {"description": route.summary, "content": {"text/html": {"schema": {"type": "string"}}}}
    if route.answers is str:
        return {"description": route.summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
    kinds = list(_alternatives(route))
    content = {media: _content(media, kinds, schemas) for media in route.spoken}
    response: Schema = {"description": route.summary, "content": content}
    if 412 in route.refuses or route.etag:
        response["headers"] = {"ETag": ETAG}
    if route.conditional:
        response["headers"] = {"ETag": VALIDATOR}
    return response


def _content(media: str, kinds: list[Any], schemas: Schemas) -> Schema:
    """Content of a body that has one of these types, with examples."""
    alternatives = [schemas.of(kind) for kind in kinds]
    content: Schema = {"schema": alternatives[0] if len(alternatives) == 1 else {"oneOf": alternatives}}
    examples = examples_of(kinds) if media == JSON else {}
    if examples:
        content["examples"] = examples
    return content


def _dialects(routes: Iterable[Route]) -> list[Dialect]:
    """Dialects of the errors of some routes, each once."""
    return list({dialect.name: dialect for dialect in (dialect_of(route.path) for route in routes)}.values())


def _problem(status: int, dialect: Dialect, schemas: Schemas) -> Schema:
    response: Schema = {
        "description": TITLES[status][1],
        "content": {dialect.media: {"schema": schemas.of(dialect.kind)}},
    }
    if status in (429, 503):
        response["headers"] = {"Retry-After": RETRY_AFTER}
    return response
