"""Errors of the client, from one root."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 200
NOT_BEGUN = "urn:bandit-serve:problem:not-begun"
"""Type of the 503 of a worker that is not ready, or has no room."""


class ClientError(Exception):
    """Root of the errors. Each says in one sentence what happened."""


class NotConnected(ClientError):
    """No connection could be made: the service has seen nothing of the call."""


class NoAnswer(ClientError):
    """The connection broke after the call was sent: the service may have carried it out, or not."""


class TimedOut(ClientError):
    """The time of the call was over before its answer was complete."""


class UnexpectedAnswer(ClientError):
    """The answer is none of the contract's: something else than bandit-serve may listen there."""


class Unsendable(ClientError, ValueError):
    """A value of the call has no form in JSON, such as a NaN."""


class Closed(ClientError):
    """The client is closed."""


class FixedOnceCreated(ClientError):
    """A described experiment differs from the created one in a field that can not be changed."""


@dataclass(frozen=True, slots=True)
class FieldMistake:
    """Mistake in one field of a request; `at` is its path, such as `arms[1].weight`."""

    at: str
    detail: str


class Problem(ClientError):
    """Answer of the service that says no (RFC 9457).

    `type` is stable, `detail` is a sentence, `errors` name the fields that are wrong, and `retry_after` is in seconds,
    None where the service asks for no pause.
    """

    def __init__(
        self,
        status: int,
        *,
        type: str = "about:blank",
        title: str = "",
        detail: str = "",
        errors: tuple[FieldMistake, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class InvalidRequest(Problem):
    """400: the request is not valid."""


class Unauthorized(Problem):
    """401: no key, or one that is wrong, expired or revoked."""


class Forbidden(Problem):
    """403: the key's scope is too small."""


class NotFound(Problem):
    """404: there is no such experiment, model, version or arm."""


class Conflict(Problem):
    """409: not in the present state; for a reward, another value was counted before."""


class Late(Problem):
    """410: the decision's attribution window has closed."""


class Changed(Problem):
    """412: changed since the `etag` was read."""


class TooManyRequests(Problem):
    """429: a quota is used up."""


class Unavailable(Problem):
    """502, 503, 504: not now; nothing was counted, or a retry is a duplicate.

    `is_not_begun` says that the service refused the call before its work began, so that nothing was decided.
    """

    @property
    def is_not_begun(self) -> bool:
        return self.status == 503 and self.type == NOT_BEGUN


KINDS: dict[int, type[Problem]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Late,
    412: Changed,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def problem_of(status: int, content: bytes, retry_after: str | None = None) -> Problem:
    """Makes the error of an answer's status and content, which need not be a problem document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {"detail": content[:MAX_SHOWN].decode(errors="replace")}
    return KINDS.get(status, Problem)(
        status,
        type=str(document.get("type", "about:blank")),
        title=str(document.get("title", "")),
        detail=str(document.get("detail", "")),
        errors=_mistakes(document.get("errors")),
        retry_after=_seconds(retry_after),
    )


def _mistakes(errors: Any) -> tuple[FieldMistake, ...]:
    if not isinstance(errors, list):
        return ()
    entries = [each for each in errors if isinstance(each, dict)]
    return tuple(FieldMistake(str(each.get("at", "")), str(each.get("detail", ""))) for each in entries)


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header; its other form, a date, is not one of this service's."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return None
    return float(retry_after)
