"""Problems (RFC 9457): the one place that maps exceptions to status codes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import UNSET, Struct, UnsetType

from bandit_serve import errors
from bandit_serve.base.printable_text import printable_json

log = logging.getLogger(__name__)

LOGGED_AGAIN_S = 10.0
MAX_LOGGED = 1_000
PROBLEM_TYPE = "application/problem+json"
# A sentence may name what a caller sent, which may be long.
MAX_DETAIL = 1_000

STATUS: Mapping[type[Exception], int] = {
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.InvalidInput: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.Late: 410,
    errors.PreconditionFailed: 412,
    errors.LimitReached: 429,
    errors.StateFault: 500,
    errors.LogLost: 500,
    errors.SwitchedOff: 501,
    errors.NotInstalled: 501,
    errors.Unavailable: 503,
}
TITLES: Mapping[int, tuple[str, str]] = {
    400: ("invalid-request", "The request is not valid"),
    401: ("unauthenticated", "A key is needed"),
    403: ("forbidden", "Forbidden"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("request-timeout", "The request did not arrive in time"),
    409: ("conflict", "Conflict with the present state"),
    410: ("late", "Too late"),
    412: ("precondition-failed", "Changed since it was read"),
    413: ("too-large", "Too large"),
    415: ("unsupported-media-type", "Unsupported content type"),
    429: ("too-many-requests", "Too many requests"),
    500: ("internal-error", "Internal error"),
    501: ("not-built", "Not built, installed or turned on here"),
    503: ("unavailable", "Try again later"),
}
# Errors whose type is not that of their status.
TYPES: Mapping[type[Exception], tuple[str, str]] = {
    errors.RewardConflict: ("reward-conflict", "Another reward was counted"),
    errors.LimitReached: ("limit-reached", "A limit of the caller is reached"),
    errors.NotBegun: ("not-begun", "Try again later; nothing was begun"),
}


_logged_s: dict[str, float] = {}


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
    """Answer to an exception. An unexpected exception is logged, and its text is not in the answer."""
    if isinstance(error, web.HTTPException):
        return _problem(error.status, _http_detail(error))
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            if status == 500:
                _say(error)
            fields = getattr(error, "errors", ())
            mistakes = [FieldProblem(_clipped(each.at), _clipped(each.detail)) for each in fields]
            return _problem(status, _clipped(str(error)), mistakes, TYPES.get(type(error)))
    if is_of_the_parser(error):
        return _problem(400, "The body can not be read: its encoding is broken.")
    log.error("an unexpected error", exc_info=error)
    return _problem(500, "An unexpected error; the service's log has it.")


def _say(error: Exception) -> None:
    """Logs an error of our own; the same sentence at most once in `LOGGED_AGAIN_S`, as a batch may repeat it."""
    sentence, now_s = str(error), time.monotonic()
    if now_s - _logged_s.get(sentence, -math.inf) < LOGGED_AGAIN_S:
        return
    if len(_logged_s) >= MAX_LOGGED:
        _logged_s.clear()
    _logged_s[sentence] = now_s
    log.error("an error of our own: %s", sentence, exc_info=error)


def _problem(
    status: int,
    detail: str,
    fields: list[FieldProblem] | None = None,
    own_type: tuple[str, str] | None = None,
) -> Problem:
    slug, title = own_type or TITLES.get(status, ("error", "An error"))
    return Problem(f"urn:bandit-serve:problem:{slug}", title, status, detail, fields or UNSET)


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]} …"


def _http_detail(error: web.HTTPException) -> str:
    if error.status == 404:
        return "There is nothing at this path."
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"This path takes {', '.join(sorted(error.allowed_methods))}, not {error.method}."
    if error.status == 413:
        return "The request's body is larger than this service accepts."
    return f"{error.reason}."


def problem_parts(error: Exception) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to an exception."""
    body = problem(error)
    headers = {"Content-Type": PROBLEM_TYPE}
    if isinstance(error, errors.Unavailable | errors.LimitReached):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif body.status == 503:
        headers["Retry-After"] = "1"
    if body.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return body.status, headers, printable_json(msgspec.json.encode(body))


def head_of(status: int, lines: str, n_bytes: int) -> bytes:
    """Head of an answer of `n_bytes` with the further header `lines`, for writers that pass by the application."""
    head = f"{_first_line(status)}{lines}Content-Length: {n_bytes}\r\n{_last_lines(int(time.time()))}"
    return head.encode("latin-1")


@lru_cache(1024)
def head_of_reply(_now_s: int, content_type: str, n_bytes: int) -> bytes:
    """Head of an answer with status 200 in this second of Unix time; those of one second are made once a length."""
    return head_of(200, f"Content-Type: {content_type}\r\n", n_bytes)


@lru_cache(64)
def _first_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


@lru_cache(1)
def _last_lines(now_s: int) -> str:
    return f"Date: {formatdate(now_s, usegmt=True)}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"


def lines_of(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def problem_response(error: Exception) -> web.Response:
    status, headers, body = problem_parts(error)
    return web.Response(status=status, body=body, headers=headers)


def as_entry(error: errors.BanditServeError) -> dict[str, Any]:
    """Problem as an entry of a batch's answer."""
    entry: dict[str, Any] = msgspec.to_builtins(problem(error))
    return entry


def is_of_the_parser(error: BaseException | None) -> bool:
    """Whether the error says that the bytes were no valid HTTP."""
    return isinstance(error, HttpProcessingError | web.RequestPayloadError)
