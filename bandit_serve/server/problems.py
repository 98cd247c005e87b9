"""The one place where exceptions become status codes (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import UNSET, Struct, UnsetType

from bandit_serve import errors
from bandit_serve.printable import printable_json

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"

STATUS: Mapping[type[Exception], int] = {
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.InvalidInput: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Late: 410,
    errors.PreconditionFailed: 412,
    errors.LogLost: 500,
    errors.NotBuilt: 501,
    errors.Unavailable: 503,
}
TITLES: Mapping[int, tuple[str, str]] = {
    400: ("invalid-request", "The request is not valid"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("request-timeout", "The request's body did not arrive in time"),
    409: ("conflict", "The present state does not allow it"),
    410: ("late", "Too late"),
    412: ("precondition-failed", "It has changed since it was read"),
    413: ("too-large", "Too large"),
    415: ("unsupported-media-type", "This content type is not spoken here"),
    500: ("internal-error", "An error on our side"),
    501: ("not-built", "Not built yet"),
    503: ("unavailable", "Try again later"),
}


class FieldProblem(Struct, frozen=True):
    at: str
    detail: str


class Problem(Struct, frozen=True):
    """RFC 9457. `errors` are there when single fields are wrong."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | UnsetType = UNSET


def problem(error: Exception) -> Problem:
    """What a caller is told of an exception. One that we did not foresee is logged, and told without its text."""
    if isinstance(error, web.HTTPException):
        return _problem(error.status, _http_detail(error))
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            fields = getattr(error, "errors", ())
            return _problem(status, str(error), [FieldProblem(each.at, each.detail) for each in fields])
    if isinstance(error, TimeoutError):
        return _problem(408, "The request's body did not arrive in time.")
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        return _problem(400, "The body can not be read: its encoding is broken.")
    if isinstance(error, ConnectionResetError):
        return _problem(400, "The connection was lost before the whole body had come.")
    log.error("an unforeseen error", exc_info=error)
    return _problem(500, "An unforeseen error; it is in the service's log.")


def _problem(status: int, detail: str, fields: list[FieldProblem] | None = None) -> Problem:
    slug, title = TITLES.get(status, ("error", "An error"))
    return Problem(f"urn:bandit-serve:problem:{slug}", title, status, detail, fields or UNSET)


def _http_detail(error: web.HTTPException) -> str:
    if error.status == 404:
        return "There is nothing at this path."
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"This path takes {', '.join(sorted(error.allowed_methods))}, not {error.method}."
    if error.status == 413:
        return "The request's body is larger than this service accepts."
    return f"{error.reason}."


def problem_parts(error: Exception) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer that tells of an exception."""
    found = problem(error)
    headers = {"Content-Type": PROBLEM_TYPE}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    elif found.status == 503:
        headers["Retry-After"] = "1"
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return found.status, headers, printable_json(msgspec.json.encode(found))


def problem_response(error: Exception) -> web.Response:
    status, headers, body = problem_parts(error)
    return web.Response(status=status, body=body, headers=headers)


def as_entry(error: errors.BanditServeError) -> dict[str, Any]:
    """A problem as an entry of a batch."""
    entry: dict[str, Any] = msgspec.to_builtins(problem(error))
    return entry
