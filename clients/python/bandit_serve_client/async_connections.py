"""Connections that are kept alive, for one event loop."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

from bandit_serve_client.attempts import left_s
from bandit_serve_client.connections import ALL_IN_USE, CHUNK_BYTES, MAX_IDLE_S, has_input
from bandit_serve_client.errors import ClientError, Closed, NoAnswer, NotConnected, TimedOut
from bandit_serve_client.http import Answer, Exchange, Origin, Request


class CountingReader(asyncio.StreamReader):
    """Reader that knows how many bytes have come, those that nobody has asked for included."""

    n_bytes = 0

    def feed_data(self, data: Any) -> None:
        self.n_bytes += len(data)
        super().feed_data(data)


class AsyncConnection:
    """One connection, and since when it is idle (monotonic time)."""

    def __init__(self, origin: Origin, reader: CountingReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._n_read_bytes = 0
        self._exchange = Exchange(origin)
        self.idle_since_s = 0.0

    async def ask(self, request: Request) -> Answer:
        answer = None
        try:
            self._writer.write(self._exchange.send(request))
            await self._writer.drain()
            while answer is None:
                data = await self._reader.read(CHUNK_BYTES)
                self._n_read_bytes += len(data)
                answer = self._exchange.receive(data)
        except OSError as error:
            raise NoAnswer(f"The connection broke: {error}.") from None
        return answer

    def is_reusable(self) -> bool:
        return self._exchange.is_reusable()

    def is_quiet(self) -> bool:
        """Return whether the other side has said nothing since, not even goodbye, which the loop may not have seen."""
        idle_s = time.monotonic() - self.idle_since_s
        if idle_s > MAX_IDLE_S or self._reader.at_eof() or self._writer.is_closing():
            return False
        if self._reader.n_bytes != self._n_read_bytes:
            return False
        return not has_input(self._writer.get_extra_info("socket").fileno())

    def close(self) -> None:
        self._writer.transport.abort()


class AsyncConnections:
    """At most `max_connections` at a time: calls that come later wait for one, in their order."""

    def __init__(
        self,
        origin: Origin,
        *,
        connect_timeout_s: float,
        max_connections: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._origin = origin
        self._connect_timeout_s = connect_timeout_s
        self._context = ssl_context or ssl.create_default_context() if origin.is_tls else None
        self._idle: list[AsyncConnection] = []
        self._places = asyncio.Semaphore(max_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def ask(self, request: Request, until_s: float) -> Answer:
        """Sends a request and awaits its answer until `until_s`, monotonic time.

        Raises `NotConnected`, `NoAnswer`, `TimedOut`, `UnexpectedAnswer` or `Closed`; RuntimeError in another loop than
        that of the first request.
        """
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError("The client belongs to another event loop: make one for each.")
        self._loop = loop
        try:
            async with asyncio.timeout(until_s - time.monotonic()):
                await self._places.acquire()
        except TimeoutError:
            raise TimedOut(ALL_IN_USE) from None
        try:
            connection = self._take_idle() or await self._connect(until_s)
            try:
                async with asyncio.timeout(left_s(until_s)):
                    answer = await connection.ask(request)
            except TimeoutError:
                connection.close()
                raise TimedOut("The call was not answered in time.") from None
            except BaseException:
                connection.close()
                raise
            self._put_back(connection)
            return answer
        finally:
            self._places.release()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        # Transports are closed in the loop's next turn.
        await asyncio.sleep(0)

    def _take_idle(self) -> AsyncConnection | None:
        """Returns the connection that was used last: the others may be closed by the service in the meantime."""
        if self._closed:
            raise Closed("The client is closed.")
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def _put_back(self, connection: AsyncConnection) -> None:
        """Keeps a connection for the next request, and closes those at the bottom that nobody needed for long."""
        if self._closed or not connection.is_reusable():
            connection.close()
            return
        connection.idle_since_s = now_s = time.monotonic()
        while self._idle and now_s - self._idle[0].idle_since_s > MAX_IDLE_S:
            self._idle.pop(0).close()
        self._idle.append(connection)

    async def _connect(self, until_s: float) -> AsyncConnection:
        origin, loop = self._origin, asyncio.get_running_loop()
        name = origin.host if self._context is not None else None
        reader = CountingReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            async with asyncio.timeout(min(self._connect_timeout_s, until_s - time.monotonic())):
                transport, _ = await loop.create_connection(
                    lambda: protocol, origin.host, origin.port, ssl=self._context, server_hostname=name
                )
        except TimeoutError:
            raise NotConnected(f"No connection to {origin} in time.") from None
        except (OSError, ClientError) as error:
            raise NotConnected(f"No connection to {origin}: {error}.") from None
        return AsyncConnection(origin, reader, asyncio.StreamWriter(transport, protocol, reader, loop))
