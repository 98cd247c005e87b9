"""Connections to upstreams: kept alive, shared by all of a process, and never used for what is not allowed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bandit_serve.base.extras import require
from bandit_serve.base.http_address import HttpAddress
from bandit_serve.base.request_tags import current_tags
from bandit_serve.base.spans import child_span
from bandit_serve.errors import BanditServeError, ContentRefused, Overloaded, UpstreamFailed
from bandit_serve.upstreams.headers import HeaderReader
from bandit_serve.upstreams.upstream import AllowedUpstreams, Upstream, not_allowed

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

MAX_ANSWER_BYTES = 2**20
MAX_CONNECTIONS = 64
"""Requests that are under way to one upstream at a time."""
MAX_WAITING = 256
"""Requests that wait for one of these to end, within their time."""
IDLE_S = 4.0
"""Time that an unused connection is kept: less than servers usually keep it, so that none is closed as we send."""
MAX_PLAIN_BYTES = 2**20
"""Size up to which a body is written at once."""

# Statuses with which a service that is well refuses what a request holds.
CONTENT_STATUSES = frozenset({400, 413, 422})


class UpstreamPool:
    """HTTP client of a process. It follows no redirect, keeps no cookie, heeds no proxy variable, retries nothing."""

    def __init__(self, allowed: AllowedUpstreams) -> None:
        self.allowed = allowed
        self.headers = HeaderReader()
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Session of the running loop, made at its first use."""
        if self._session is None:
            # Commands need no HTTP until they ask an upstream, and the library does without.
            aiohttp = require("aiohttp", "server")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "User-Agent": "bandit-serve",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class Endpoint:
    """One upstream as a version asks it. `whose` names the version in sentences, which name no address.

    Errors are `UpstreamFailed` for all that is the upstream's, `ContentRefused` where it refuses a request's content,
    and `Overloaded` for a question that was not asked, or not for its whole time, as too many were under way. Neither
    of these is its failure.
    """

    def __init__(self, pool: UpstreamPool, upstream: Upstream, whose: str) -> None:
        self.upstream = upstream
        self.whose = whose
        self.timeout_s = upstream.timeout_s
        self._pool = pool
        self._address: HttpAddress | None = None
        self._urls: dict[tuple[str, ...], URL] = {}
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._waiting = 0
        self._headers: Mapping[str, str] | None = None
        self._headers_with_body: Mapping[str, str] = {}

    def url(self, *below: str) -> URL:
        """URL to be called: the upstream's own, or one below it. Raises `Conflict` where it is not allowed."""
        if self._address is None:
            self._address = self._pool.allowed.require(self.upstream, self.whose)
        url = self._urls.get(below)
        if url is None:
            text = self._address.below(*below) if below else str(self._address)
            url = self._urls[below] = require("yarl", "server").URL(text, encoded=True)
        return url

    async def read_headers(self) -> None:
        """Reads the values of the headers anew."""
        multi_dict = require("multidict", "server").CIMultiDict
        sources = self.upstream.headers
        values = await self._pool.headers.read(sources, self.whose) if sources else {}
        self._headers = multi_dict(values)
        self._headers_with_body = multi_dict({"Content-Type": "application/json", **values})

    async def get(self, url: URL, timeout_s: float) -> bytes:
        """Content of an address."""
        return await self._ask("GET", url, None, timeout_s)

    async def post(self, url: URL, body: bytes) -> bytes:
        """Answer to a question in JSON, within the upstream's `timeout`, waiting included."""
        return await self._ask("POST", url, body, self.timeout_s)

    async def _ask(self, method: str, url: URL, body: bytes | None, timeout_s: float) -> bytes:
        waits = self._places.locked()
        until_s = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(until_s):
                await self._take_place()
        except TimeoutError:
            raise self._overloaded() from None
        try:
            async with asyncio.timeout_at(until_s):
                return await self._exchange(method, url, body)
        except TimeoutError:
            if waits:
                raise self._overloaded() from None
            raise self.failed(f"gave no answer in {timeout_s * 1000:.0f} ms") from None
        except BanditServeError:
            raise
        except Exception as error:  # of the connection, or of what reads the answer's head
            raise self.failed("can not be reached or broke off").noted(
                " ".join(f"{type(error).__name__}: {error}".split())
            ) from None
        finally:
            self._places.release()

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"More than {MAX_CONNECTIONS} requests are under way to the upstream of {self.whose}."
        )

    async def _take_place(self) -> None:
        if self._places.locked():
            if self._waiting >= MAX_WAITING:
                raise self._overloaded()
            self._waiting += 1
            try:
                await self._places.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._places.acquire()

    async def _exchange(self, method: str, url: URL, body: bytes | None) -> bytes:
        assert self._address is not None
        if not self._pool.allowed.allow(self._address):
            raise not_allowed(self.whose)
        if self._headers is None:
            await self.read_headers()
        with child_span(f"ask {self.whose}", "client", **{"server.address": self._address.host}) as span:
            return await self._send(method, url, body, span.span_id)

    async def _send(self, method: str, url: URL, body: bytes | None, span_id: str | None) -> bytes:
        """Sends a question, with the tags of the request that it is asked for. `span_id` is that of the question."""
        headers = self._headers if body is None else self._headers_with_body
        tags = current_tags()
        if tags is not None:
            asked = tags if span_id is None else tags._replace(span_id=span_id)
            headers = {**(headers or {}), **asked.headers()}
        data: Any = body
        if body is not None and len(body) > MAX_PLAIN_BYTES:
            data = io.BytesIO(body)
        async with self._pool.session.request(
            method, url, data=data, headers=headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise self._refused(response.status, asked=body is not None)
            return await self._content(response)

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self.failed("answered in an encoding that was not asked for")
        if (response.content_length or 0) > MAX_ANSWER_BYTES:
            raise self._too_large()
        content = await response.content.readany()
        while not response.content.at_eof():
            content += await response.content.readany()
            if len(content) > MAX_ANSWER_BYTES:
                raise self._too_large()
        return content

    def _too_large(self) -> UpstreamFailed:
        return self.failed(f"answered with more than {MAX_ANSWER_BYTES} bytes")

    def _refused(self, status: int, *, asked: bool) -> UpstreamFailed | ContentRefused:
        if status in (401, 403):
            # The secret may have been replaced since it was read.
            self._headers = None
        if asked and status in CONTENT_STATUSES:
            return self.content_refused(f"with the status {status}")
        return self.failed(f"answered with the status {status}")

    def content_refused(self, why: str) -> ContentRefused:
        """Error for a request whose content the upstream does not take."""
        return ContentRefused(f"The upstream of {self.whose} refused the request's content, {why}.")

    def failed(self, how: str) -> UpstreamFailed:
        """Error whose sentence is that the upstream `how`."""
        return UpstreamFailed(f"The upstream of {self.whose} {how}.")
