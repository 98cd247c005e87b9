"""Tags of the request that is being answered: its `X-Request-ID`, and its place in a trace (W3C Trace Context).

They are answered, handed on to upstreams, and written into the log. A tag that is malformed is not taken, as the
recommendation says (section 3.2.2.3): a request is never refused for it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

REQUEST_ID, TRACEPARENT, TRACESTATE = "X-Request-ID", "traceparent", "tracestate"
MAX_TRACESTATE = 512

_request_id = re.compile(r"[!-~]{1,128}")
# A later version may have more behind the flags; ff is none.
_traceparent = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_tracestate = re.compile(rf"[ -~]{{1,{MAX_TRACESTATE}}}")


class RequestTags(NamedTuple):
    """Tags of a request. `span_id` is this service's own, `parent_id` its caller's; `tracestate` is handed on as it
    came.
    """

    request_id: str | None
    trace_id: str | None
    span_id: str | None
    flags: str
    tracestate: str | None
    parent_id: str | None = None

    @property
    def sampled(self) -> bool:
        """Whether somebody records this trace."""
        return self.trace_id is not None and bool(int(self.flags, 16) & 1)

    def headers(self) -> dict[str, str]:
        """Headers that an answer has, and a question to an upstream."""
        headers = {} if self.request_id is None else {REQUEST_ID: self.request_id}
        if self.trace_id is not None:
            headers[TRACEPARENT] = f"00-{self.trace_id}-{self.span_id}-{self.flags}"
            if self.tracestate is not None:
                headers[TRACESTATE] = self.tracestate
        return headers


def request_tags(
    request_id: str | None, traceparent: str | None, tracestate: str | None
) -> RequestTags | None:
    """Tags of the values of a request's headers; None where no value is a tag."""
    if request_id is not None and _request_id.fullmatch(request_id) is None:
        request_id = None
    match = None if traceparent is None else _traceparent.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[5] is not None):
        return None if request_id is None else RequestTags(request_id, None, None, "00", None)
    if tracestate is not None and _tracestate.fullmatch(tracestate) is None:
        tracestate = None
    return RequestTags(request_id, match[2], secrets.token_hex(8), match[4], tracestate, match[3])


_current: ContextVar[RequestTags | None] = ContextVar("request_tags", default=None)
current_tags = _current.get
"""Tags of the request that the running code answers, or None."""


@contextmanager
def tagged(tags: RequestTags | None) -> Iterator[None]:
    """Makes `tags` those of the request that the block answers."""
    if tags is None:
        yield
        return
    token = _current.set(tags)
    try:
        yield
    finally:
        _current.reset(token)
