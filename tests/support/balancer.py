"""Balancer in front of services: each new connection goes to the next one that accepts it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from proxy import Proxy, Streams

CHUNK_BYTES = 65_536


class Balancer(Proxy):
    """Balancer of TCP connections over the `ports` of services, in turns; `ports` may change at any time."""

    def __init__(self, *ports: int) -> None:
        super().__init__(0)
        self.ports = list(ports)
        self._turn = 0

    async def reach(self) -> Streams:
        self._turn += 1
        first = self._turn % len(self.ports)
        # Others have turns while this one tries.
        for port in [*self.ports[first:], *self.ports[:first]]:
            try:
                return Streams(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:
                # It leaves; the next one answers.
                continue
        raise ConnectionRefusedError("no service accepts")

    def directions(
        self, client: Streams, store: Streams
    ) -> tuple[Coroutine[None, None, None], Coroutine[None, None, None]]:
        return pass_on(client.reader, store.writer), pass_on(store.reader, client.writer)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
