"""Base of proxies in front of a store: a thread with an event loop, and a connection to the store for each client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import NamedTuple, Self


class Streams(NamedTuple):
    """Streams of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Proxy:
    """Closes both connections when one of the two `directions` ends, or when the store can not be reached.

    tls: what the proxy shows its clients, where they come over TLS; the store is reached without.
    """

    def __init__(self, store_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._tls = tls
        self._store_port = store_port
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="proxy")

    def directions(
        self, client: Streams, store: Streams
    ) -> tuple[Coroutine[None, None, None], Coroutine[None, None, None]]:
        """Coroutines that forward from the client to the store, and back."""
        raise NotImplementedError

    async def reach(self) -> Streams:
        """Connection to the store for a new client."""
        return Streams(*await asyncio.open_connection("127.0.0.1", self._store_port))

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Connections stay open and nothing is read, sent or answered within the block."""
        goes_on = threading.Event()
        self._loop.call_soon_threadsafe(goes_on.wait)
        try:
            yield
        finally:
            goes_on.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            store = await self.reach()
        except OSError:
            writer.close()
            return
        tasks = [asyncio.create_task(way) for way in self.directions(Streams(reader, writer), store)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, store.writer):
                end.close()
