"""Dialects of errors: some standards want an error in a form of their own, under their paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from msgspec import UNSET

from bandit_serve.api.flags import ErrorCode
from bandit_serve.base.printable_text import printable_json
from bandit_serve.errors import NoTargetingKey, Unparsable
from bandit_serve.server.problems import PROBLEM_TYPE, Problem, problem_parts
from bandit_serve.server.wire_form import JSON


class EvaluationFailure(Problem, frozen=True, kw_only=True):
    """Problem with the members of OFREP. `key` is the flag's, where one was asked for."""

    key: str | msgspec.UnsetType = UNSET
    errorCode: ErrorCode
    errorDetails: str


class InferenceError(msgspec.Struct, frozen=True):
    """Error of Open Inference v2: one sentence."""

    error: str


class Dialect(NamedTuple):
    """Form of the errors under a path: its name, content type and type, and how one is made of a problem."""

    name: str
    media: str
    kind: type
    say: Callable[[web.Request, Exception, Problem], Any]


def error_response(request: web.Request, error: Exception) -> web.Response:
    """Answer to an exception, in the dialect of the request's path."""
    status, headers, body = problem_parts(error)
    dialect = dialect_of(request.path)
    if dialect is not PROBLEMS:
        said = dialect.say(request, error, msgspec.json.decode(body, type=Problem))
        body = printable_json(msgspec.json.encode(said))
        headers["Content-Type"] = dialect.media
    return web.Response(status=status, body=body, headers=headers)


def dialect_of(path: str) -> Dialect:
    first = path.partition("/")[2].partition("/")[0]
    return DIALECTS.get(first, PROBLEMS)


def _evaluation_failure(request: web.Request, error: Exception, problem: Problem) -> EvaluationFailure:
    key = request.match_info.get("experiment", UNSET)
    members = msgspec.structs.asdict(problem)
    code = _code(problem.status, error)
    return EvaluationFailure(**members, key=key, errorCode=code, errorDetails=problem.detail)


def _code(status: int, error: Exception) -> ErrorCode:
    if isinstance(error, NoTargetingKey):
        return "TARGETING_KEY_MISSING"
    if isinstance(error, Unparsable):
        return "PARSE_ERROR"
    if status == 404:
        return "FLAG_NOT_FOUND"
    return "INVALID_CONTEXT" if status == 400 else "GENERAL"


def _inference_error(request: web.Request, error: Exception, problem: Problem) -> InferenceError:
    return InferenceError(problem.detail)


PROBLEMS = Dialect("Problem", PROBLEM_TYPE, Problem, lambda request, error, problem: problem)
DIALECTS = {
    "ofrep": Dialect("EvaluationFailure", PROBLEM_TYPE, EvaluationFailure, _evaluation_failure),
    "v2": Dialect("InferenceError", JSON, InferenceError, _inference_error),
}
"""By the first part of a path."""
