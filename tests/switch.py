"""A proxy before stores whose target can be switched, as a virtual address is, and whose rate can be bounded."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

CHUNK_BYTES = 16_384


class Switch:
    """`lead_to` another store: connections that are there stay where they are, new ones go to it.

    With `bytes_per_s` all connections together pass no more than that in each direction, as one link does.
    """

    def __init__(self, store_port: int, *, bytes_per_s: float | None = None) -> None:
        self.port = 0
        self._store_port = store_port
        self._bytes_per_s = bytes_per_s
        self._free_s = {"up": 0.0, "down": 0.0}
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="switch")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lead_to(self, store_port: int) -> None:
        self._store_port = store_port

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait(10)
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
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._store_port)
        except OSError:
            writer.close()
            return
        tasks = [
            asyncio.create_task(self._pass_on(reader, store_writer, "up")),
            asyncio.create_task(self._pass_on(store_reader, writer, "down")),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, store_writer):
                end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._wait_for_link(len(data), way)
            writer.write(data)
            await writer.drain()

    async def _wait_for_link(self, n_bytes: int, way: str) -> None:
        """Chunks of all connections go over the link one after another."""
        if self._bytes_per_s is None:
            return
        now_s = self._loop.time()
        self._free_s[way] = max(self._free_s[way], now_s) + n_bytes / self._bytes_per_s
        if self._free_s[way] > now_s:
            await asyncio.sleep(self._free_s[way] - now_s)
