"""Reader of all logs of a cluster: one command a bucket, one write a master, and pauses where nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from bandit_serve.errors import BanditServeError, StoreUnavailable
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset
from bandit_serve.store import scripts
from bandit_serve.store.cluster import Cluster
from bandit_serve.store.failures import translate
from bandit_serve.store.keys import COMMON, Keys
from bandit_serve.store.news import News, raw_entries_of
from bandit_serve.store.outages import Outages

MIN_PAUSE_S = 0.005
MAX_PAUSE_S = 0.5
PAUSE_A_LOG_S = 250e-6
"""What that becomes for each log that is followed, if it is more: reading 10,000 costs some 60 ms of two processes."""
MAX_COMMON_PAUSE_S = 0.05
"""Longest pause of the common log, whose news are what everybody waits for: experiments, statuses, keys."""
MAX_TENANT_COMMON_PAUSE_S = 0.25
"""The same of a tenant: there may be many, and most of them are idle."""
AWAY_PAUSE_S = 0.2


class _Bucket:
    """Logs with one hash tag, and when they are read next: at once after news, and ever later without."""

    def __init__(self, tag: str, max_pause_s: float) -> None:
        self.tag = tag
        self.owners: list[str] = []
        self.due_s = 0.0
        self.max_pause_s = max_pause_s
        self._pause_s = 0.0

    def hurry(self) -> None:
        self.due_s = self._pause_s = 0.0

    def was_read(self, now_s: float, *, news: bool) -> None:
        self._pause_s = 0.0 if news else min(max(2 * self._pause_s, MIN_PAUSE_S), self.max_pause_s)
        self.due_s = now_s + self._pause_s

    def was_away(self, now_s: float) -> None:
        self._pause_s, self.due_s = 0.0, now_s + AWAY_PAUSE_S


class BucketReader:
    """Reader of a cluster's logs.

    An outage of some shards is recorded in `outages`, and the logs of all others are read. One `beside` that of the
    service reads the logs of a tenant.
    """

    def __init__(self, cluster: Cluster, keys: Keys, outages: Outages, *, beside: bool = False) -> None:
        self._cluster = cluster
        self._keys = keys
        self._outages = outages
        self._max_common_pause_s = MAX_TENANT_COMMON_PAUSE_S if beside else MAX_COMMON_PAUSE_S
        self._buckets: dict[str, _Bucket] = {}
        self._known: Mapping[str, Any] = {}
        self._hurried = asyncio.Event()
        self._identity: bytes | None = None

    def expect(self, owner: str) -> None:
        """Has a log read at once, because somebody waits for it."""
        bucket = self._buckets.get(self._keys.layout.tag(owner))
        if bucket is not None:
            bucket.hurry()
            self._hurried.set()

    async def read(self, after: Mapping[str, Offset], count: int, block_ms: int) -> News:
        """Reads up to `count` entries a log of the buckets that are due; waits up to `block_ms` until one is.

        Raises StoreUnavailable where no shard can be read.
        """
        self._group(after)
        due = await self._due(block_ms / 1000)
        replies = await self._cluster.execute_all([self._command(bucket, after, count) for bucket in due])
        entries: dict[str, list[Entry]] = {}
        read: list[str] = []
        for bucket, reply in zip(due, replies, strict=True):
            found = self._taken(bucket, reply, after)
            if found is not None:
                entries |= found
                read += bucket.owners
        self._raise_if_all_are_away()
        return News(entries, read)

    def _group(self, after: Mapping[str, Offset]) -> None:
        if after.keys() == self._known.keys():
            return
        self._known = dict(after)
        for bucket in self._buckets.values():
            bucket.owners = []
        for owner in after:
            tag = self._keys.layout.tag(owner)
            if tag not in self._buckets:
                self._buckets[tag] = _Bucket(tag, self._max_common_pause_s if tag == COMMON else MAX_PAUSE_S)
            bucket = self._buckets[tag]
            bucket.owners.append(owner)
            bucket.hurry()
            if tag != COMMON:
                bucket.max_pause_s = max(MAX_PAUSE_S, len(after) * PAUSE_A_LOG_S)

    async def _due(self, limit_s: float) -> list[_Bucket]:
        loop = asyncio.get_running_loop()
        self._hurried.clear()
        buckets = [bucket for bucket in self._buckets.values() if bucket.owners]
        next_s = min((bucket.due_s for bucket in buckets), default=loop.time() + limit_s)
        wait_s = min(next_s - loop.time(), limit_s)
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await self._hurried.wait()
            except TimeoutError:
                pass
        now_s = loop.time()
        return [bucket for bucket in buckets if bucket.due_s <= now_s]

    def _command(self, bucket: _Bucket, after: Mapping[str, Offset], count: int) -> tuple[Any, ...]:
        keys = [self._keys.log(owner) for owner in bucket.owners]
        offsets = [str(after[owner]) for owner in bucket.owners]
        return ("XREAD", "COUNT", count, "STREAMS", *keys, *offsets)

    def _taken(
        self, bucket: _Bucket, reply: Any, after: Mapping[str, Offset]
    ) -> dict[str, list[Entry]] | None:
        """New entries of a bucket by owner; None where it could not be read."""
        now_s = asyncio.get_running_loop().time()
        if isinstance(reply, Exception):
            self._outages.failed("read", _outage(reply), bucket.tag)
            bucket.was_away(now_s)
            return None
        self._outages.passed("read", bucket.tag)
        bucket.was_read(now_s, news=bool(reply))
        owners = {self._keys.log(owner).encode(): owner for owner in bucket.owners} if reply else {}
        return {owners[stream]: raw_entries_of(entries) for stream, entries in reply or ()}

    def _raise_if_all_are_away(self) -> None:
        errors = [
            self._outages.present("read", bucket.tag) for bucket in self._buckets.values() if bucket.owners
        ]
        if errors and all(errors):
            assert errors[0] is not None
            raise StoreUnavailable(str(errors[0]), what=errors[0].what) from errors[0]

    async def find_lost(self, positions: Sequence[tuple[str, Offset]]) -> list[str]:
        """Passes over the logs of buckets that are away: whoever reads them again asks for them before."""
        keys, tag = self._keys, self._keys.layout.tag
        at = {owner: offset for owner, offset in positions if not self._outages.present("read", tag(owner))}
        groups = keys.layout.together(at)
        commands = [
            scripts.FIND_LOST.command(
                [key for owner in owners for key in (keys.log(owner), keys.trimmed(owner))],
                [str(at[owner]) for owner in owners],
            )
            for owners in groups
        ]
        replies = await self._cluster.execute_all(commands)
        lost: list[str] = []
        away: StoreUnavailable | None = None
        for owners, command, reply in zip(groups, commands, replies, strict=True):
            if isinstance(reply, NoScriptError):
                reply = await self._cluster.execute_command("EVAL", scripts.FIND_LOST.source, *command[2:])
            if isinstance(reply, Exception):
                away = _outage(reply)
                self._outages.failed("read", away, tag(owners[0]))
            else:
                lost += [owners[number - 1] for number in reply]
        if away is not None:
            raise away
        return lost

    async def identity(self) -> bytes | None:
        """The last known one while the shard of the common keys is away, so that all others are read."""
        try:
            identity: bytes | None = await self._cluster.execute_command("GET", self._keys.identity)
        except (RedisError, TimeoutError) as error:
            if self._identity is None:
                raise
            self._outages.failed("read", _outage(error), COMMON)
            return self._identity
        self._identity = identity
        return identity


def _outage(error: Exception) -> StoreUnavailable:
    """Our error for one that a command got. Raises it where it means no outage, but a bug."""
    translated: BanditServeError | None = error if isinstance(error, BanditServeError) else translate(error)
    if not isinstance(translated, StoreUnavailable):
        raise error
    return translated
