"""Dialects of errors: some standards want an error in a form of their own, under their paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from bandit_serve.api.flags import ErrorCode
from bandit_serve.base.printable_text import printable_json
from bandit_serve.errors import NoTargetingKey, Unparsable
from bandit_serve.server.problems import problem_parts, problem_response
from bandit_serve.server.wire import JSON

Dialect = Callable[[web.Request, Exception], web.Response]


def error_response(request: web.Request, error: Exception) -> web.Response:
    """Answer to an exception, in the dialect of the request's path."""
    for prefix, dialect in DIALECTS.items():
        if request.path == prefix or request.path.startswith(f"{prefix}/"):
            return dialect(request, error)
    return problem_response(error)


def _evaluation_failure(request: web.Request, error: Exception) -> web.Response:
    """Problem with the members of OFREP beside its own."""
    status, headers, body = problem_parts(error)
    problem: dict[str, Any] = msgspec.json.decode(body)
    key = request.match_info.get("experiment")
    failure = {} if key is None else {"key": key}
    failure |= {"errorCode": _code(status, error), "errorDetails": problem["detail"]}
    return web.Response(
        status=status, body=printable_json(msgspec.json.encode(failure | problem)), headers=headers
    )


def _code(status: int, error: Exception) -> ErrorCode:
    if isinstance(error, NoTargetingKey):
        return "TARGETING_KEY_MISSING"
    if isinstance(error, Unparsable):
        return "PARSE_ERROR"
    if status == 404:
        return "FLAG_NOT_FOUND"
    return "INVALID_CONTEXT" if status == 400 else "GENERAL"


def _inference_failure(request: web.Request, error: Exception) -> web.Response:
    """Error of Open Inference v2: one sentence."""
    status, headers, body = problem_parts(error)
    sentence = msgspec.json.decode(body)["detail"]
    return web.Response(
        status=status,
        body=printable_json(msgspec.json.encode({"error": sentence})),
        headers=headers | {"Content-Type": JSON},
    )


DIALECTS: dict[str, Dialect] = {"/ofrep": _evaluation_failure, "/v2": _inference_failure}
