"""A proxy before a store that lets a command through and cuts the connection in the middle of the reply."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from types import TracebackType
from typing import Self

from bandit_serve.store.scripts import APPEND_REWARDS

APPEND = hashlib.sha1(APPEND_REWARDS.source.encode(), usedforsecurity=False).hexdigest().encode()


class Cutter:
    """`cut_next_appends(n)`: of the next n appends of rewards the store's reply ends after none or some bytes."""

    def __init__(self, store_port: int, *, seed: int = 0) -> None:
        self.to_cut = 0
        self.cut_after_append = 0
        self._store_port = store_port
        self._chance = random.Random(seed)
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="cutter")
        self.port = 0

    def cut_next_appends(self, n: int) -> None:
        self.to_cut += n

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
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._store_port)
        cutting = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65_536):
                if self.to_cut and APPEND in data:
                    self.to_cut -= 1
                    cutting.set()
                store_writer.write(data)
                await store_writer.drain()

        async def back() -> None:
            while data := await store_reader.read(65_536):
                if cutting.is_set():
                    self.cut_after_append += 1
                    writer.write(data[: self._chance.randrange(len(data))])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(forward()), asyncio.create_task(back())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, store_writer):
                end.close()
