"""Proxy in front of stores: its target can be switched, like a virtual address, and its rate bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine

from proxy import Proxy, Streams

CHUNK_BYTES = 16_384


class SwitchingProxy(Proxy):
    """After `lead_to`, new connections go to another store; open ones stay where they are.

    bytes_per_s: the most that all connections together pass in each direction, like one network link.
    """

    def __init__(
        self, store_port: int, *, bytes_per_s: float | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(store_port, tls=tls)
        self._bytes_per_s = bytes_per_s
        self._free_s = {"up": 0.0, "down": 0.0}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lead_to(self, store_port: int) -> None:
        self._store_port = store_port

    def directions(
        self, client: Streams, store: Streams
    ) -> tuple[Coroutine[None, None, None], Coroutine[None, None, None]]:
        return (
            self._pass_on(client.reader, store.writer, "up"),
            self._pass_on(store.reader, client.writer, "down"),
        )

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._wait_for_link(len(data), way)
            writer.write(data)
            await writer.drain()

    async def _wait_for_link(self, n_bytes: int, way: str) -> None:
        """Waits until the chunks of all connections before this one have passed the link."""
        if self._bytes_per_s is None:
            return
        now_s = self._loop.time()
        self._free_s[way] = max(self._free_s[way], now_s) + n_bytes / self._bytes_per_s
        if self._free_s[way] > now_s:
            await asyncio.sleep(self._free_s[way] - now_s)
