"""Lane for hot routes. A request that has arrived as a whole is answered without a task of its own.

No task, no request object, no headers looked at but those that matter, and no parsing where its head is known. What is
unusual in any way falls through to the application, which has the same endpoints as ordinary routes. This sits on the
inside of aiohttp's `RequestHandler`, so the versions of aiohttp that it was tested with are pinned, in the extra
`server`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import hdrs, web
from msgspec import UNSET, Struct
from msgspec.structs import replace
from multidict import CIMultiDictProxy

from bandit_serve.base.log_fields import LOG_FIELDS
from bandit_serve.base.request_tags import RequestTags, tagged
from bandit_serve.errors import LimitReached, RateExceeded
from bandit_serve.registry.api_keys import ApiKey
from bandit_serve.server.admission import SEC_FETCH_SITE, Admission
from bandit_serve.server.authentication import Authentication, Needed
from bandit_serve.server.connection import Connection
from bandit_serve.server.connections import Connections
from bandit_serve.server.forwarded import X_HOST
from bandit_serve.server.gate import RequestGate
from bandit_serve.server.heads import END, MAX_NEW, Head, Heads, is_plain, stands_after
from bandit_serve.server.problems import head_of, head_of_reply, lines_of, problem_parts
from bandit_serve.server.route import Route
from bandit_serve.server.service import Service
from bandit_serve.server.tracing import Tracing
from bandit_serve.server.wire import Reply, tags_of, too_large
from bandit_serve.server.wire_form import WireForm, form_of

if TYPE_CHECKING:
    from bandit_serve.server.site import Site

Endpoint = Callable[[str, WireForm, bytes], Reply | Awaitable[Reply]]

EXPERIMENT = "{experiment}"
MAX_PATHS = 10_000
MAX_TOGETHER = 2**16
"""Bytes of answers that are kept back to be written together, before the last of them."""


class Hot(Struct, frozen=True):
    """Hot endpoint: its handler, the name in its path, its counters, its callers' key, and the largest body that it
    takes.
    """

    endpoint: Endpoint
    name: str
    label: str
    needs: Needed
    max_body: int


class Found(Struct, frozen=True):
    """Who answers a request. Its caller's key is looked for unless the service is open."""

    lane: Lane
    hot: Hot
    is_open: bool
    key: ApiKey | None


class Lane:
    """Table of hot paths. Paths of existing experiments are kept after their first request, at most `MAX_PATHS`."""

    def __init__(
        self,
        service: Service,
        admission: Admission,
        authentication: Authentication,
        tracing: Tracing | None = None,
    ) -> None:
        self.service = service
        self.tracing = tracing
        self.tags_of = tags_of if tracing is None else tracing.tags_of
        self.admission = admission
        self.authentication = authentication
        self.gate = service.gate
        self.tenant = service.tenant
        self.sites: Mapping[str, Site] = {}
        """Sites of the tenants that are loaded: requests with their keys go to lanes of their own."""
        self.heads = Heads()
        """Of requests to this lane, and to those of the tenants."""
        self._paths: dict[str, Hot] = {}
        self._patterns: list[tuple[re.Pattern[str], Hot]] = []

    def add(self, route: Route, endpoint: Endpoint, max_body: int) -> None:
        hot = Hot(endpoint, "", route.label, route.needs, max_body)
        if EXPERIMENT not in route.path:
            self._paths[route.path] = hot
            return
        before, _, after = route.path.partition(EXPERIMENT)
        pattern = re.compile(re.escape(before) + r"([A-Za-z0-9._-]+)" + re.escape(after))
        self._patterns.append((pattern, hot))

    def find(self, path: str) -> Hot | None:
        """Hot route of a path without escapes or a query; None for all others."""
        known = self._paths.get(path)
        if known is None and self.service.ready:
            for pattern, hot in self._patterns:
                match = pattern.fullmatch(path)
                if match is not None and match[1] in self.service.node.replica.experiments:
                    known = replace(hot, name=match[1])
                    if len(self._paths) < MAX_PATHS:
                        self._paths[path] = known
                    break
        return known

    def forget(self, experiment: str, uid: int | None) -> None:
        self._paths = {path: hot for path, hot in self._paths.items() if hot.name != experiment}


class LaneProtocol(Connection):
    """Connection with a lane. While it waits, also for the lane's answer, `start()` sleeps on `_waiter`."""

    __slots__ = (
        "_answering",
        "_held",
        "_host",
        "_lane",
        "_last_head",
        "_looking",
        "_more_follows",
        "_n_new",
        "_owed",
        "_tags",
        "_together",
    )

    def __init__(self, lane: Lane, connections: Connections, manager: web.Server, **options: Any) -> None:
        super().__init__(connections, manager, **options)
        self._lane = lane
        # The last `Host` that was found to be ours.
        self._host: str | None = None
        self._answering: asyncio.Future[Reply] | None = None
        self._looking = False
        # Those of the request that is being answered.
        self._tags: RequestTags | None = None
        # The bytes of a body that the parser is owed: 0 between two requests. None where that is not known, as after a
        # head in two pieces: from there on the parser gets everything.
        self._owed: int | None = 0
        # Heads in a row that were not known.
        self._n_new = 0
        # A known head, with the beginning of its body.
        self._held = b""
        # The known head that came last: most callers send it again.
        self._last_head: Head | None = None
        # Whether more requests stand behind the one that is answered, and the answers to those before it.
        self._more_follows = False
        self._together = bytearray()

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._parse(data)
            return
        if self._owed == 0 and data:
            data = self._take_known(data)
            if not data:
                return
        # Parsed and queued, but nobody is woken before we have looked.
        self._waiter = None
        self._parse(data)
        self._waiter = waiter
        if not self._messages:
            if data:
                self._await_the_rest_of_the_head()
        elif self._answering is None and not self._looking:
            self._look()

    def _parse(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        n_messages = len(self._messages)
        super().data_received(data)
        if data and self._owed is not None:
            messages = [message for message, _ in itertools.islice(self._messages, n_messages, None)]
            self._owed, heads = stands_after(data, messages, self._owed)
            known = self._lane.heads
            # Those that waited behind an answer may be known already.
            new = [head for head in heads if known.get(head[0]) is None]
            self._n_new += len(new)
            if self._n_new > MAX_NEW:
                self._owed = None
            for text, message, n_bytes in new:
                if is_plain(message) and self._may_be_known(message.path, message.headers):
                    known.keep(Head(text, message.path, message.headers, form_of(message.headers), n_bytes))

    def _may_be_known(self, path: str, headers: CIMultiDictProxy[str]) -> bool:
        """Whether a hot request with these headers is let in whoever sends it, and is not told apart by tags."""
        if X_HOST in headers or hdrs.FORWARDED in headers or tags_of(headers) is not None:
            return False
        if not self._is_plainly_admitted(headers):
            return False
        found = self._find(path, headers)
        return found is not None and (found.is_open or found.key is not None)

    def _take_known(self, data: bytes) -> bytes:
        """Answers the requests whose heads are known; returns what is left for the parser."""
        if self._answering is not None or self._messages or self._close or self._force_close:
            return data
        if self._held:
            data, self._held = self._held + data, b""
        try:
            return self._answer_known(data)
        finally:
            self._write_together()

    def _answer_known(self, data: bytes) -> bytes:
        lane, at = self._lane, 0
        while at < len(data) and self._answering is None and not self._paused and not self.crowded:
            head = self._last_head
            if head is None or not data.startswith(head.text, at):
                head = lane.heads.get(data[at : data.find(END, at) + len(END)])
                if head is None:
                    break
                self._last_head = head
            end = at + len(head.text)
            stop = end + head.n_bytes
            if stop > len(data):
                # Not for long: `review` gives it to the parser, which has a time-out for it.
                self._held = data[at:]
                return b""
            found = self._find(head.path, head.headers)
            if found is None:
                break
            self._head_since_s = 0.0
            self._request_count += 1
            self._n_new = 0
            # A head with tags of its own is not kept.
            tags = None if lane.tracing is None else lane.tags_of(head.headers)
            # Answers to requests in a pipeline are written together.
            self._more_follows = stop < len(data)
            self._answer(found, head.form, data[end:stop], tags)
            at = stop
        return data[at:]

    def eof_received(self) -> bool:  # type: ignore[override] # as in Connection
        self._give_up_holding()
        return super().eof_received()

    def review(
        self, now_s: float, head_patience_s: float, reading_patience_s: float
    ) -> Literal["late", "unread"] | None:
        self._give_up_holding()
        return super().review(now_s, head_patience_s, reading_patience_s)

    def _give_up_holding(self) -> None:
        """Gives the parser what is there of a request that did not arrive at once."""
        if self._held:
            self._parse(b"")

    def _look(self) -> None:
        """Answers requests at the head of the queue in the lane, and wakes `start()` for the first that is not hot.

        Reading a body or shortening the queue may make the parser go on and call this again, through `data_received`.
        Only the outer call takes requests then, so that answers keep their order.
        """
        self._looking = True
        try:
            while self._messages and self._answering is None and self._parser is not None:
                if not self._take(*self._messages[0]):
                    if self._waiter is not None and not self._waiter.done():
                        self._waiter.set_result(None)
                    return
                if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                    self._resume_reading_if_drained()
        finally:
            self._looking = False

    def _take(self, message: Any, payload: Any) -> bool:
        if not is_plain(message) or not payload.is_eof() or self._paused or self.crowded:
            return False
        found = self._find(message.path, message.headers)
        if found is None or not self._is_plainly_admitted(message.headers):
            return False
        assert self._parser is not None
        self._messages.popleft()
        self._parser.message_consumed()
        headers = message.headers
        tags = self._lane.tags_of(headers)
        self._answer(found, form_of(headers), payload.read_nowait(), tags)
        return True

    def _find(self, path: str, headers: CIMultiDictProxy[str]) -> Found | None:
        """Who answers a request; None where that is the application."""
        lane, key = self._lane, None
        is_open = lane.authentication.is_open
        if not is_open:
            key = lane.authentication.key(headers)
            if key is not None and key.tenant is not UNSET:
                site = lane.sites.get(key.tenant)
                if site is None:
                    return None
                lane, self.tenant = site.lane, key.tenant
        service, hot = lane.service, lane.find(path)
        if hot is None or service.draining or not service.ready:
            return None
        return Found(lane, hot, is_open, key)

    def _answer(self, found: Found, form: WireForm, body: bytes, tags: RequestTags | None) -> None:
        self._tags, tenant = tags, found.lane.tenant
        if tags is None and tenant is None:
            self._ask(found, form, body)
            return
        logged = None if tenant is None else LOG_FIELDS.set({"tenant": tenant})
        with tagged(tags):
            self._ask(found, form, body)
        if logged is not None:
            LOG_FIELDS.reset(logged)

    def _ask(self, found: Found, form: WireForm, body: bytes) -> None:
        """Asks the endpoint, if the caller may."""
        started_s = time.monotonic()
        lane, hot = found.lane, found.hot
        try:
            if not found.is_open:
                lane.authentication.require(hot.needs, found.key)
            if lane.gate is not None:
                lane.gate.admit()
            if len(body) > hot.max_body:
                raise too_large(hot.max_body)
            reply = hot.endpoint(hot.name, form, body)
        except RateExceeded as error:
            self._slow_down(lane, hot, error, started_s)
            return
        except Exception as error:
            self._refuse(lane, hot, error, started_s)
            return
        if isinstance(reply, Reply):
            self._give(lane, hot, reply, started_s)
        else:
            self._begin_to_answer(lane, hot, reply, started_s)

    def _begin_to_answer(self, lane: Lane, hot: Hot, coming: Awaitable[Reply], started_s: float) -> None:
        self._request_in_progress = True
        self._stay_open(started_s)
        self._answering = asyncio.ensure_future(coming)
        self._answering.add_done_callback(partial(self._answer_later, lane, hot, started_s))

    def _slow_down(self, lane: Lane, hot: Hot, error: RateExceeded, started_s: float) -> None:
        """Refuses one request too many, later if there are many of them."""
        assert lane.gate is not None
        pause_s = lane.gate.pause_s()
        if pause_s:
            self._begin_to_answer(lane, hot, self._refusal(lane.gate, error, pause_s), started_s)
        else:
            self._refuse(lane, hot, error, started_s)

    async def _refusal(self, gate: RequestGate, error: RateExceeded, pause_s: float) -> Reply:
        self.paused = True
        try:
            await gate.pause(pause_s)
        finally:
            self.paused = False
        raise error

    def _is_plainly_admitted(self, headers: CIMultiDictProxy[str]) -> bool:
        """Whether the request has one of our host names and no header of a browser; if not, `Admission` decides."""
        if hdrs.ORIGIN in headers or SEC_FETCH_SITE in headers or hdrs.COOKIE in headers:
            return False
        admission = self._lane.admission
        if admission.proxies and self._is_forwarded_for_another(admission, headers):
            return False
        host = headers.get(hdrs.HOST)
        if host != self._host:
            if host is not None and not admission.knows(host):
                return False
            self._host = host
        return True

    def _is_forwarded_for_another(self, admission: Admission, headers: CIMultiDictProxy[str]) -> bool:
        """Whether a proxy that is believed says a host that is not ours."""
        if X_HOST not in headers and hdrs.FORWARDED not in headers:
            return False
        host = admission.proxies.read(self._peer, headers).host
        return host is not None and not admission.knows(host)

    def _answer_later(self, lane: Lane, hot: Hot, started_s: float, coming: asyncio.Future[Reply]) -> None:
        self._answering = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if coming.cancelled():
            self.force_close()
            return
        error = coming.exception()
        if isinstance(error, Exception):
            self._refuse(lane, hot, error, started_s)
        else:
            self._give(lane, hot, coming.result(), started_s)
        if self._messages:
            # The tags of the request that was answered are not those of the next.
            self._loop.call_soon(self._go_on, context=Context())
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._answering is None:
            self._look()
        if self._half_closed and self.idle:
            self.force_close()

    def _refuse(self, lane: Lane, hot: Hot, error: Exception, started_s: float) -> None:
        if isinstance(error, LimitReached) and lane.gate is not None:
            lane.gate.count(error)
        status, headers, body = problem_parts(error)
        if self._tags is not None:
            headers |= self._tags.headers()
        self._end(lane, hot, status, head_of(status, lines_of(headers), len(body)) + body, started_s)

    def _give(self, lane: Lane, hot: Hot, reply: Reply, started_s: float) -> None:
        body = reply.body
        if self._tags is None:
            head = head_of_reply(int(time.time()), reply.content_type, len(body))
        else:
            lines = f"Content-Type: {reply.content_type}\r\n{lines_of(self._tags.headers())}"
            head = head_of(200, lines, len(body))
        self._end(lane, hot, 200, head + body, started_s)

    def _end(self, lane: Lane, hot: Hot, status: int, answer: bytes, started_s: float) -> None:
        """Writes an answer, and counts it."""
        transport = self.transport
        now_s = time.monotonic()
        if transport is not None and not transport.is_closing():
            if self._more_follows or self._together:
                self._together += answer
                if len(self._together) > MAX_TOGETHER:
                    self._write_together()
            else:
                transport.write(answer)
            self._stay_open(now_s)
        lane.service.counters.request(hot.label, status, now_s - started_s)
        if lane.tracing is not None and self._tags is not None:
            lane.tracing.request(self._tags, hot.label, status, now_s - started_s, hot.name)

    def _write_together(self) -> None:
        """Writes the answers that were kept back."""
        self._more_follows = False
        if self._together:
            together, self._together = bytes(self._together), bytearray()
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(together)

    def _process_keepalive(self) -> None:
        if self._answering is None and not self._held:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None
            self._stay_open(time.monotonic())

    def _stay_open(self, now_s: float) -> None:
        """Starts the keep-alive time at `now_s`, by the loop's clock: after it, the connection is closed."""
        close_time = now_s + self._keepalive_timeout
        self._next_keepalive_close_time = close_time
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)
