"""Route: a row of the table in `app.py`, from which routing and `/openapi.json` are made."""

from __future__ import annotations

from typing import Any, NamedTuple

from bandit_serve.server.wire import JSON, MSGPACK

JSON_ONLY = (JSON,)
EITHER = (JSON, MSGPACK)
MULTIPART = ("multipart/form-data",)


class BatchAnswer(NamedTuple):
    """Answer to a batch: `{"responses": [ … ]}`, each of type `one` or a problem, in order."""

    one: type


class Query(NamedTuple):
    """A parameter that may stand in the query: `kind` is the type of its value, or of each where there are `many`."""

    name: str
    description: str
    kind: Any = str
    required: bool = False
    many: bool = False


class Route(NamedTuple):
    """`handler` is `group.method`, `takes` the body's type in any of `media`, without which the route takes none.

    `answers` is the type of the answer's body, or a tuple of alternatives; a `str` goes out as plain text.
    `refuses` are statuses beyond those that every route of its shape has; 412 says that it heeds `If-Match`.
    Parameters in the query other than those of `query` are refused. `operation` is its name in `/openapi.json`, and so
    that of a function in clients that are made from it.
    An `open` one is answered before the first state is loaded, and on a connection too many; 503 is then in `refuses`
    if it is an answer at all. `etag` says that the answer has an `ETag`; one that refuses with 412 has it anyway.
    A `hot` one is answered by the lane (`lane.py`) when the whole request is there: its handler is a function of the
    name in the path, the headers and the body. `max_body` is what it needs for the most that `takes` allows, in bytes,
    where that is less than the setting of that name.
    """

    method: str
    path: str
    handler: str
    summary: str
    takes: type | None = None
    answers: Any = None
    media: tuple[str, ...] = JSON_ONLY
    optional: bool = False
    status: int = 200
    refuses: tuple[int, ...] = ()
    hot: bool = False
    max_body: int | None = None
    query: tuple[Query, ...] = ()
    operation: str = ""
    open: bool = False
    etag: bool = False

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"
