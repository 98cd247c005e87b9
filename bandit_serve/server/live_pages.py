"""Live pages: what changes on a page is made once for all who look at it, at most once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping

import msgspec

from bandit_serve.errors import BanditServeError, Overloaded, in_full

log = logging.getLogger(__name__)

EVERY_S = 1.0
MAX_CPU = 0.01
"""Part of a core that pages take, if they follow within `LATEST_S` all the same."""
LATEST_S = 2.0
AGAIN_S = 5.0

Parts = Mapping[str, str]
Render = Callable[[], Awaitable[Parts]]
Seen = Callable[[], Hashable]


class FollowedPage:
    """Page that somebody looks at. `event` has all parts as they are, or those that changed since the event before."""

    def __init__(self, seen: Seen, render: Render) -> None:
        self.seen = seen
        self.render = render
        self.number = 0
        self.viewers = 0
        self.failure: str | None = None
        self._parts: dict[str, str] = {}
        self._changed: dict[str, str] = {}
        self._encoded: dict[bool, bytes] = {}
        self._last: Hashable = None
        self._moved = asyncio.Event()
        self._begun = 0
        self._done = 0
        self._reviewed = asyncio.Event()

    async def review(self) -> None:
        """Makes the parts anew if what they are made of has changed."""
        self._begun += 1
        try:
            await self._review()
        finally:
            self._done = self._begun
            self._reviewed.set()
            self._reviewed = asyncio.Event()

    async def newer(self, timeout_s: float) -> None:
        """Returns when the parts are no older than this call, as is the page of who has come, or after `timeout_s`."""
        if self.number and self.failure is None and self.seen() == self._last:
            return
        begun = self._begun
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._done <= begun:
                    await self._reviewed.wait()

    async def _review(self) -> None:
        now = self.seen()
        if self.number and now == self._last and self.failure is None:
            return
        try:
            # Markup is a kind of str that the encoder does not take.
            parts = {name: str.__str__(html) for name, html in (await self.render()).items()}
        except BanditServeError as error:
            self._tell({"failure": str(error)}, str(error))
            return
        self._last = now
        self._tell({**parts, "failure": ""}, None)

    def _tell(self, parts: dict[str, str], failure: str | None) -> None:
        changed = {name: html for name, html in parts.items() if self._parts.get(name) != html}
        self.failure = failure
        if not changed and self.number:
            return
        self._parts |= changed
        self._changed = changed
        self._encoded = {}
        self.number += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def event(self, known: int) -> bytes:
        """Bytes for a viewer that has had the event of the number `known`, 0 for none."""
        whole = known != self.number - 1 or not known
        if whole not in self._encoded:
            content = msgspec.json.encode(self._parts if whole else self._changed)
            self._encoded[whole] = b"id: %d\ndata: %b\n\n" % (self.number, content)
        return self._encoded[whole]

    async def after(self, known: int, timeout_s: float) -> None:
        """Returns when there is an event after that of the number `known`, or after `timeout_s`."""
        if self.number == known:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), timeout_s)


class LivePages:
    """Pages that are followed in this worker, by at most `most` viewers together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._followed: dict[Hashable, FollowedPage] = {}
        self._viewers = 0
        self._wanted = asyncio.Event()

    @contextlib.contextmanager
    def following(self, key: Hashable, seen: Seen, render: Render) -> Iterator[FollowedPage]:
        """Follows the page `key` within a `with` block. Raises `Overloaded` where there are as many as can be."""
        if self._viewers >= self.most:
            raise Overloaded(
                "As many pages are followed here as can be; this one is as it was loaded.", AGAIN_S
            )
        followed = self._followed.get(key)
        if followed is None:
            followed = self._followed[key] = FollowedPage(seen, render)
        followed.viewers += 1
        self._viewers += 1
        self._wanted.set()
        try:
            yield followed
        finally:
            self._viewers -= 1
            followed.viewers -= 1
            if not followed.viewers:
                del self._followed[key]

    async def run(self) -> None:
        """Reviews all followed pages again and again; sleeps while nobody looks."""
        while True:
            if not self._followed:
                self._wanted.clear()
                await self._wanted.wait()
            began_s = time.monotonic()
            for key, followed in list(self._followed.items()):
                try:
                    await followed.review()
                except Exception as error:
                    log.error("a page can not be followed: %s: %s", key, in_full(error), exc_info=error)
                    followed.failure = "error"
            spent_s = time.monotonic() - began_s
            await asyncio.sleep(max(EVERY_S - spent_s, min(spent_s * (1 / MAX_CPU - 1), LATEST_S), 0.05))
