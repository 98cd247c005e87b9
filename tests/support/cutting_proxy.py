"""Proxy in front of a store that passes a command on and cuts the connection in the middle of the reply."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Coroutine

from proxy import Proxy, Streams

from bandit_serve.store.scripts import APPEND_REWARDS

APPEND = hashlib.sha1(APPEND_REWARDS.source.encode(), usedforsecurity=False).hexdigest().encode()


class CuttingProxy(Proxy):
    """Cuts the store's reply to the next n appends of rewards after `cut_next_appends(n)`, at a random byte."""

    def __init__(self, store_port: int, *, seed: int = 0) -> None:
        super().__init__(store_port)
        self.to_cut = 0
        self.cut_after_append = 0
        self._chance = random.Random(seed)

    def cut_next_appends(self, n: int) -> None:
        self.to_cut += n

    def directions(
        self, client: Streams, store: Streams
    ) -> tuple[Coroutine[None, None, None], Coroutine[None, None, None]]:
        cutting = asyncio.Event()

        async def forward() -> None:
            while data := await client.reader.read(65_536):
                if self.to_cut and APPEND in data:
                    self.to_cut -= 1
                    cutting.set()
                store.writer.write(data)
                await store.writer.drain()

        async def back() -> None:
            while data := await store.reader.read(65_536):
                if cutting.is_set():
                    self.cut_after_append += 1
                    client.writer.write(data[: self._chance.randrange(len(data))])
                    await client.writer.drain()
                    return
                client.writer.write(data)
                await client.writer.drain()

        return forward(), back()
