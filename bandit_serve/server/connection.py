"""Connection of a caller: its time-outs, and its end.

This sits on the inside of aiohttp's `RequestHandler`, as the lane does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, cast

from aiohttp import web

from bandit_serve.errors import InvalidInput, TooSlow
from bandit_serve.server.problems import head_of, is_of_the_parser, lines_of, problem_parts, problem_response

if TYPE_CHECKING:
    from bandit_serve.server.connections import Connections


class Connection(web.RequestHandler):
    """HTTP connection with time-outs of its own. While it waits for a request, `start()` sleeps on `_waiter`.

    A `crowded` connection is one too many: its first request is refused, unless it asks for the health, and then it is
    closed.
    """

    __slots__ = (
        "_connections",
        "_half_closed",
        "_head_begun",
        "_head_since_s",
        "_resuming",
        "_unread",
        "_unread_since_s",
        "_wire",
        "crowded",
        "paused",
        "tenant",
    )

    def __init__(self, connections: Connections, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._half_closed = False
        self._head_begun = False
        self._head_since_s = 0.0
        self._resuming = False
        self._unread = 0
        self._unread_since_s = 0.0
        # The parent forgets its transport when it begins to close it.
        self._wire: asyncio.Transport | None = None
        self.crowded = False
        # Whether the answer to a request too many waits.
        self.paused = False
        # Of whom it was used last.
        self.tenant: str | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered or read, not even the beginning of one."""
        waiter = self._waiter
        return (
            waiter is not None and not waiter.done() and not self._messages and not self._request_in_progress
        )

    @property
    def _peer(self) -> str | None:
        """Address at the other end."""
        name = None if self._wire is None else self._wire.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else None

    @property
    def _is_encrypted(self) -> bool:
        return self._wire is not None and self._wire.get_extra_info("ssl_object") is not None

    @property
    def waits(self) -> bool:
        """Whether the connection does nothing before its caller sends or reads more, or that caller's pause ends."""
        request = self._current_request
        return self.idle or self.paused or (request is not None and not request.content.is_eof())

    @property
    def quiet_since_s(self) -> float:
        """Time of the last answer, or of the connection's beginning; seconds of a monotonic clock."""
        return self._next_keepalive_close_time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        if not self._connections.take_in(self):
            self._wire.abort()
            return
        super().connection_made(transport)
        self._head_since_s = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.forget(self)
        self._wire = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._head_since_s = 0.0
        elif data and (self._head_since_s or self.idle):
            self._await_the_rest_of_the_head()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Goes on with a body, in the loop's next iteration where it was paused.

        The parser has the next piece already where a body is compressed. Read at once, piece would follow piece, and
        nobody else would have a turn while a small body inflates to a very large one.
        """
        if not resume_parser or not self._reading_paused:
            super().resume_reading(resume_parser)
        elif not self._resuming:
            self._resuming = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if self._wire is not None:
            super().resume_reading()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio heeds what is returned
        """Answers the requests that came before the caller closed its side, and then closes."""
        self._half_closed = True
        self._end_the_body()
        # `start()` may not have begun to wait yet. With TLS, the transport closes whatever is said here.
        if self.idle or not self._request_count or self._is_encrypted:
            return False
        if not self._messages:
            self._close = True
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        self._head_since_s = 0.0
        finished = await super().finish_response(request, resp, start_time)
        if self._half_closed and not self._messages:
            self._close = True
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers a request that the parser refuses with a problem, as all refusals; logs nothing."""
        if not is_of_the_parser(exc) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        reason = " ".join(str(getattr(exc, "message", exc)).split()).rstrip(".:") or "it can not be read"
        response = problem_response(InvalidInput(f"The request is not valid HTTP: {reason}."))
        response.force_close()
        return response

    def review(
        self, now_s: float, head_patience_s: float, reading_patience_s: float
    ) -> Literal["late", "unread"] | None:
        """Ends a connection whose caller takes too long to send a head or to read an answer; returns which."""
        wire = self._wire
        assert wire is not None
        if self._head_since_s and now_s - self._head_since_s > head_patience_s and self.idle:
            if self._head_begun and not wire.is_closing():
                status, headers, body = problem_parts(TooSlow("The request's head did not arrive in time."))
                wire.write(head_of(status, lines_of({**headers, "Connection": "close"}), len(body)) + body)
            self.force_close()
            return "late"
        unread = wire.get_write_buffer_size()
        if not self._unread or unread < self._unread:
            self._unread_since_s = now_s
        elif now_s - self._unread_since_s > reading_patience_s:
            wire.abort()
            return "unread"
        self._unread = unread
        return None

    def _process_keepalive(self) -> None:
        """Keeps the connection open while a head arrives: that has a time-out of its own."""
        if self._head_since_s:
            self._keepalive_handle = None
        else:
            super()._process_keepalive()

    def _await_the_rest_of_the_head(self) -> None:
        self._head_begun = True
        if not self._head_since_s:
            self._head_since_s = self._loop.time()

    def _end_the_body(self) -> None:
        """Ends a body that stopped half-way with an error, so that its reader does not wait for the rest."""
        request = self._current_request
        body = self._messages[-1][1] if self._messages else request.content if request is not None else None
        if body is not None and not body.is_eof():
            body.set_exception(ConnectionResetError("the caller closed its side within a body"))
            body.feed_eof()
