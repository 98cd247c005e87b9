"""Pages of lists that are sorted by name. A query asks for `limit` entries `after` a name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from msgspec import Meta

from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.server.route import Query

MAX_PAGE = 1_000
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
PAGE = (
    Query("limit", "The most entries on a page (default: all).", Limit),
    Query("after", "Where the page before ended."),
)


def page(request: web.Request, names: Sequence[str]) -> tuple[Sequence[str], dict[str, str]]:
    """Names of the page that a query asks for, all without a `limit`; and the field `after` of its answer.

    `after` is there if more names follow; it is the query for the next page.
    """
    start = bisect_right(names, request.query["after"]) if "after" in request.query else 0
    limit = limit_of(request)
    if limit is None:
        return names[start:], {}
    end = start + limit
    return names[start:end], {"after": names[end - 1]} if end < len(names) else {}


def limit_of(request: web.Request) -> int | None:
    """Reads the query's `limit`, 1 to `MAX_PAGE`; None without one. Raises `InvalidInput`."""
    return count_of(request, "limit", MAX_PAGE)


def count_of(request: web.Request, name: str, most: int) -> int | None:
    """Reads a number of the query, 1 to `most`, which is below 10,000; None without it. Raises `InvalidInput`."""
    count = request.query.get(name)
    if count is None:
        return None
    if not (count.isascii() and count.isdecimal() and len(count) < 5 and 1 <= int(count) <= most):
        detail = f"expected a whole number from 1 to {most}"
        raise InvalidInput(f"{name}: {detail}.", [FieldError(name, detail)])
    return int(count)
