"""A page of a list that is sorted by name: `limit` entries `after` a name, as the query asks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from aiohttp import web

from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.server.route import Query

MAX_PAGE = 1_000
PAGE = (
    Query("limit", f"The most entries on a page, from 1 to {MAX_PAGE} (default: all)."),
    Query("after", "Where the page before ended."),
)


def page(request: web.Request, names: Sequence[str]) -> tuple[Sequence[str], dict[str, str]]:
    """The names that are asked for, all without a `limit`; and what the answer has beside them: where it went on after
    them, `after`, unless it did not.
    """
    start = bisect_right(names, request.query["after"]) if "after" in request.query else 0
    limit = request.query.get("limit")
    if limit is None:
        return names[start:], {}
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 5 and 1 <= int(limit) <= MAX_PAGE):
        raise _wrong("limit", f"expected a whole number from 1 to {MAX_PAGE}")
    end = start + int(limit)
    return names[start:end], {"after": names[end - 1]} if end < len(names) else {}


def _wrong(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
