"""Model files in the store itself, for installations without a shared disk and models of up to 512 MiB."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from bandit_serve.errors import TooLarge
from bandit_serve.store import scripts
from bandit_serve.store.clock import LogClock
from bandit_serve.store.failures import translate_errors
from bandit_serve.store.keys import Keys
from bandit_serve.store.links import Link, layout_of, open_link
from bandit_serve.store.outages import Outages

CHUNK_BYTES = 2**20
MAX_FILE_BYTES = 512 * 2**20
TIMEOUT_S = 10.0
UNFINISHED_S = 3_600

T = TypeVar("T")


class StoreFiles:
    """Stores each file as a hash of chunks of 1 MiB, at most 512.

    Calls block and turn a loop of their own, so they belong into threads. Each has connections of its own: after an
    outage another server may be the store.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._keys = Keys(namespace, layout_of(url))

    def _call(self, call: Callable[[Link], Awaitable[T]]) -> T:
        async def run() -> T:
            link = open_link(self._url, self._keys, Outages(), LogClock(), timeout_s=TIMEOUT_S, block_s=0.0)
            try:
                with translate_errors():
                    return await call(link)
            finally:
                await link.close()

        return asyncio.run(run())

    def has(self, sha256: str) -> bool:
        """Whether the whole file is there."""
        return self._call(lambda link: self._has(link, sha256))

    async def _has(self, link: Link, sha256: str) -> bool:
        return bool(await link.client.hexists(self._keys.artifact(sha256), "chunks"))

    def send(self, sha256: str, path: Path) -> None:
        """Stores a file. Raises `TooLarge` above 512 MiB, `StoreUnavailable` in an outage.

        The file gets its final key when it is whole. Chunks of a sender that died expire after `UNFINISHED_S`.
        """
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise TooLarge(
                f"A model file of {size} bytes is too large for the store, which takes {MAX_FILE_BYTES}."
            )
        self._call(lambda link: self._send(link, sha256, path))

    async def _send(self, link: Link, sha256: str, path: Path) -> None:
        if await self._has(link, sha256):
            return
        key, client = self._keys.artifact(sha256), link.client
        unfinished = f"{key}:{secrets.token_hex(8)}"
        n = 0
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                await client.hset(unfinished, str(n), chunk)
                await client.expire(unfinished, UNFINISHED_S)
                n += 1
        await scripts.KEEP_FILE.run(link.calls, [unfinished, key], [n])

    def fetch(self, sha256: str, into: BinaryIO) -> bool:
        """Writes the file's bytes to `into`; False where the store does not have it."""
        return self._call(lambda link: self._fetch(link.client, sha256, into))

    async def _fetch(self, client: Any, sha256: str, into: BinaryIO) -> bool:
        key = self._keys.artifact(sha256)
        n = await client.hget(key, "chunks")
        if n is None:
            return False
        for number in range(int(n)):
            into.write(await client.hget(key, str(number)) or b"")
        return True

    def delete(self, sha256: str) -> None:
        self._call(lambda link: link.client.delete(self._keys.artifact(sha256)))
