"""Reader of all logs of one server, by commands that wait in it for news.

A command that names ten thousand logs takes the client and the server tens of milliseconds. So of many logs those that
had news lately are near: they are read again and again, by commands of their own. All others are far: one command waits
for the first news of any of them, and is sent again only then, or after a long time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bandit_serve.errors import StoreUnavailable
from bandit_serve.log.offset import Offset
from bandit_serve.store import scripts
from bandit_serve.store.connection import renew
from bandit_serve.store.failures import READ_ONLY
from bandit_serve.store.keys import Keys
from bandit_serve.store.news import News
from bandit_serve.store.xread import Xread

FEW = 256
"""Logs that one command reads together."""
NEAR_S = 10.0
"""How long a log stays near after news."""
NEAR_BLOCK_MS = 100
FAR_BLOCK_MS = 5_000
PAUSE_S = 50e-6
"""Least time between two commands, for each log that they name: they take a few percent of a core at most."""
UNBROKEN_S = 2.0


class _FarRead:
    """Command that waits for news of logs after the given offsets, and when it was sent."""

    def __init__(self, after: dict[str, Offset], began_s: float, task: asyncio.Task[dict[str, Any]]) -> None:
        self.after = after
        self.began_s = began_s
        self.task = task


class BlockingReader:
    """Reader over two clients, with one connection each. Methods raise redis-py's errors."""

    def __init__(self, near: Any, far: Any, keys: Keys) -> None:
        self._client = near
        self._far_client = far
        self._keys = keys
        self._near_logs = Xread(near.connection_pool, keys)
        self._far_logs = Xread(far.connection_pool, keys)
        self._near_s: dict[str, float] = {}
        """When there last was news of a log."""
        self._far_owners: set[str] = set()
        self._far: _FarRead | None = None
        self._former: frozenset[str] = frozenset()
        self._former_s = 0.0
        self._due_s = self._far_due_s = 0.0
        self._hurried = asyncio.Event()

    async def close(self) -> None:
        await self._leave_far()
        await self._client.aclose()
        await self._far_client.aclose()

    async def renew(self) -> None:
        await self._leave_far()
        await renew(self._client.connection_pool)
        await renew(self._far_client.connection_pool)

    async def _leave_far(self) -> None:
        if self._far is not None:
            self._far.task.cancel()
            await asyncio.gather(self._far.task, return_exceptions=True)
            self._far = None

    def expect(self, owner: str) -> None:
        """Has the reader pause no longer, as somebody waits for news. They end the wait in the server by themselves."""
        self._hurried.set()

    async def read(self, after: Mapping[str, Offset], count: int, block_ms: int) -> News:
        """Reads up to `count` entries a log after the given offsets; waits up to `block_ms` for the first.

        Of many logs, the far ones are among those that were read when there is news of any, or none came for long.
        """
        if len(after) > FEW:
            return await self._read_many(after, count, block_ms)
        await self._leave_far()
        self._far_owners.clear()
        return News(await self._near_logs.read(after, count, block_ms), list(after))

    async def _read_many(self, after: Mapping[str, Offset], count: int, block_ms: int) -> News:
        loop = asyncio.get_running_loop()
        if self._far is None and loop.time() >= self._far_due_s:
            self._send_far(after, count)
        near = {owner: at for owner, at in after.items() if owner not in self._far_owners}
        await self._wait(near, block_ms)
        found: dict[str, Any] = {}
        if near:
            found = await self._near_logs.read(near, count, min(block_ms, NEAR_BLOCK_MS))
            self._due_s = loop.time() + len(near) * PAUSE_S
        read, unbroken = list(near), frozenset[str]()
        if self._far is not None and self._far.task.done():
            ended, self._far = self._far, None
            news = ended.task.result()
            # One whose place has changed otherwise meanwhile is read again, from there.
            same = [owner for owner, at in ended.after.items() if after.get(owner) == at]
            found |= {owner: news[owner] for owner in news.keys() & set(same)}
            read += same
            if ended.began_s - self._former_s < UNBROKEN_S:
                unbroken = self._former.intersection(same)
            self._former, self._former_s = frozenset(read), loop.time()
            self._far_due_s = loop.time() + len(ended.after) * PAUSE_S
            self._far_owners -= news.keys()
        self._near_s |= dict.fromkeys(found, loop.time())
        return News(found, read, unbroken)

    def _send_far(self, after: Mapping[str, Offset], count: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._near_s = {owner: at_s for owner, at_s in self._near_s.items() if now_s - at_s < NEAR_S}
        far = {owner: at for owner, at in after.items() if owner not in self._near_s}
        self._far_owners = set(far)
        if far:
            task = asyncio.ensure_future(self._far_logs.read(far, count, FAR_BLOCK_MS))
            self._far = _FarRead(far, now_s, task)

    async def _wait(self, near: Mapping[str, Offset], block_ms: int) -> None:
        """Waits until the near logs may be read again, or there is news of far ones, or those are due."""
        now_s = asyncio.get_running_loop().time()
        wait_s = self._due_s - now_s if near else block_ms / 1000
        if self._far is None:
            wait_s = min(wait_s, self._far_due_s - now_s)
        self._hurried.clear()
        if wait_s <= 0.0:
            return
        hurried = asyncio.ensure_future(self._hurried.wait())
        ends = {hurried} if self._far is None else {hurried, self._far.task}
        try:
            await asyncio.wait(ends, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()

    async def find_lost(self, positions: Sequence[tuple[str, Offset]]) -> list[str]:
        keys = [key for owner, _ in positions for key in (self._keys.log(owner), self._keys.trimmed(owner))]
        offsets = [str(offset) for _, offset in positions]
        numbers = await scripts.FIND_LOST.run(self._client, keys, offsets)
        return [positions[number - 1][0] for number in numbers]

    async def identity(self) -> bytes | None:
        """Raises StoreUnavailable where the connection leads to a replica."""
        replication = await self._client.info("replication")
        if replication.get("role") not in ("master", None):
            raise StoreUnavailable("The store is a replica now and takes no writes.", what=READ_ONLY)
        identity: bytes | None = await self._client.get(self._keys.identity)
        return identity
