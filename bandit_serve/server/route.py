"""Route: a row of the tables in `routes/`, from which routing and `/openapi.json` are made."""

from __future__ import annotations

from typing import Any, NamedTuple

from bandit_serve.server.authentication import Needed
from bandit_serve.server.wire import EITHER
from bandit_serve.server.wire_form import JSON, MSGPACK

JSON_ONLY = (JSON,)
MULTIPART = ("multipart/form-data",)
FORM = "application/x-www-form-urlencoded"
# A reason has a thousand characters, of which each may be written as six.
REASON_BYTES = 16 * 1024
# 1,000 arms by name, and a context.
DECIDE_BYTES = 256 * 1024


class HtmlPage:
    """Answer that is a page for people, in HTML."""


class BatchAnswer(NamedTuple):
    """Answer to a batch: `{"responses": [ … ]}`, each of type `one` or a problem, in order."""

    one: type


class Query(NamedTuple):
    """Query parameter. `kind` is the type of its value, or of each of its values where it may be repeated (`many`)."""

    name: str
    description: str
    kind: Any = str
    required: bool = False
    many: bool = False


class Route(NamedTuple):
    """Row of the table of routes: a method and a path, and all that is checked or described for them.

    `handler` is `group.method`. `needs` says which key its caller needs, once there are keys. `takes` is the type of
    the body, in any of `media`; None for a route without a body. `answers` is the type of the answer's body, in any of
    `spoken`, or a tuple of alternatives; a `str` is sent as plain text. `refuses` lists statuses beyond those of every
    route of this shape; 412 says that the route heeds `If-Match`. Query parameters that are not in `query` are refused.
    `operation` is the `operationId`, so generated clients have a function of that name. An `open` route is answered
    before the state is loaded, and on a crowded connection; 503 is in its `refuses` if it ever answers so. `etag` says
    that the answer has an `ETag`; a route that refuses with 412 always has one. A `conditional` route answers 304 where
    `If-None-Match` names the `ETag` of its answer. A `hot` route is answered by the lane (`lane.py`) when the whole
    request has arrived. Its handler is a function of the name in the path, the forms and the body. `max_body`, in
    bytes, is the size of the largest body that `takes` allows, where that is less than the setting `max_body`. `plain`
    is the type of a body in JSON or MessagePack that the route takes beside its `media`; `files` are the content types
    of files that it takes beside them. A route that `makes` what its path names answers 201 where that was not there.
    """

    method: str
    path: str
    handler: str
    summary: str
    needs: Needed
    takes: type | None = None
    answers: Any = None
    media: tuple[str, ...] = EITHER
    optional: bool = False
    status: int = 200
    refuses: tuple[int, ...] = ()
    hot: bool = False
    max_body: int | None = None
    query: tuple[Query, ...] = ()
    operation: str = ""
    open: bool = False
    etag: bool = False
    plain: type | None = None
    files: tuple[str, ...] = ()
    conditional: bool = False
    makes: bool = False

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def spoken(self) -> tuple[str, ...]:
        """Content types of its answers."""
        return EITHER if self.media == MULTIPART else self.media

    @property
    def negotiates(self) -> bool:
        """Whether the request says in which form the answer is."""
        return MSGPACK in self.spoken and self.answers is not HtmlPage
