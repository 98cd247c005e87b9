"""The store as the rest of the house sees it: logs, snapshots, a lease, workers, keys, and a cache.

Every write is idempotent or compares before it sets, so a caller that never got its answer may try again; nothing
here tries again by itself. What redis-py raises becomes `StoreUnavailable` here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bandit_serve.errors import StoreUnavailable
from bandit_serve.events import REWARD
from bandit_serve.store import scripts
from bandit_serve.store.calls import Calls
from bandit_serve.store.clock import TOLERANCE_MS, LogClock, even_ns
from bandit_serve.store.connection import open_client, open_tail_client
from bandit_serve.store.facts import StoreFacts, check, inspect
from bandit_serve.store.failures import translate_errors
from bandit_serve.store.keys import COMMON, Keys
from bandit_serve.store.offset import START, Offset

GRACE_MS = 60_000
EXPOSED_MARK_MS = 7 * 86_400_000
"""How long, by the log's time, a worker's mark outlives what it last appended."""
REPEATED_MS = EXPOSED_MARK_MS - GRACE_MS
"""How long a worker may try the same exposures again: less, so that the mark of the first try is there to tell."""
SWEPT_AT_ONCE = 500
ASKED_AGAIN_S = 0.2
CENSUS_MS = 60_000
TAIL_BLOCK_MS = 1_000
AGREEMENT_MS = 30 * 86_400_000
LOADED_MS = 60_000


class Entry(NamedTuple):
    offset: Offset
    kind: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    offset: Offset
    state: bytes


class Store:
    """Connections for scripts, for other commands, and one for the blocking tail."""

    def __init__(self, url: str, *, namespace: str = "bandit_serve", timeout_s: float = 1.0) -> None:
        self.url = url
        self.keys = Keys(namespace)
        self.clock = LogClock()
        # Any: redis-py types every reply as bytes or str, and ours are bytes.
        self._client: Any = open_client(url, timeout_s=timeout_s)
        self._calls = Calls(url, timeout_s=timeout_s)
        self._tail: Any = open_tail_client(url, block_s=TAIL_BLOCK_MS / 1000, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._client.aclose()
        await self._calls.close()
        await self._tail.aclose()

    async def facts(self) -> StoreFacts:
        return await inspect(self._client)

    async def check(self) -> StoreFacts:
        """The facts of a store that may be used; `StoreRefused` otherwise."""
        facts = await self.facts()
        check(facts)
        return facts

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        with translate_errors():
            return await call()

    async def _run(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        with translate_errors():
            return await script.run(self._calls, keys, arguments)

    async def time_ms(self) -> int:
        """The log's time, which `clock` knows again from now on.

        Where a process that has just come can not tell whether the store's clock has jumped or nobody was there for a
        while, it waits for those who may know, or until it may be believed itself.
        """
        clock, keys = self.clock, [self.keys.clock, self.keys.workers]
        while True:
            sent_ns = even_ns()
            arguments = [clock.now_ms(), int(clock.established), TOLERANCE_MS]
            store_ms, shift_ms, holds = await self._run(scripts.READ_CLOCK, keys, arguments)
            log_ms = clock.hear(int(store_ms), int(shift_ms), sent_ns, even_ns(), holds=bool(holds))
            if holds:
                return log_ms
            await asyncio.sleep(ASKED_AGAIN_S)

    async def _append(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        """What a script answers that appends at the log's time; what it does not append, it is asked for once more."""
        for _ in range(2):
            if not self.clock.known:
                await self.time_ms()
            time = (self.clock.shift_ms, self.clock.now_ms(), TOLERANCE_MS)
            answer = await self._run(script, keys, (*time, *arguments))
            if answer != b"clock":
                return answer
            await self.time_ms()
        raise StoreUnavailable("The store's clock does not agree with this machine's, and jumps.")

    async def sweep(self, owner: str) -> None:
        """Deletes what an experiment's log does not need any more: bitmaps and marks of its past."""
        index, now_ms = self.keys.expiries(owner), await self.time_ms()
        while True:
            found = await self._call(
                lambda: self._client.zrangebyscore(index, "-inf", f"({now_ms}", start=0, num=SWEPT_AT_ONCE)
            )
            if not found:
                return
            keys = [key.decode() for key in found]
            if not await self._run(scripts.SWEEP, [index, *keys], [now_ms]):
                return

    # The log

    async def append_rewards(
        self, owner: str, bitmaps: Sequence[str], rows: bytes, checks: bytes, row_bytes: int = REWARD.itemsize
    ) -> bytes:
        """One letter a row: `a`ccepted, `d`uplicate, `l`ate. `checks` are 12 bytes a row (append_rewards.lua)."""
        keys = [self.keys.log(owner), self.keys.expiries(owner), *bitmaps]
        return bytes(await self._append(scripts.APPEND_REWARDS, keys, [rows, row_bytes, checks, GRACE_MS]))

    async def append_change(self, owner: str, revision: int, kind: bytes, event: bytes) -> Offset | None:
        """The entry's offset, or None when `revision` is no longer the head's."""
        keys = [self.keys.log(owner), self.keys.head(owner)]
        offset = await self._append(scripts.APPEND_CHANGE, keys, [str(revision), kind, event])
        return Offset.parse(offset) if offset else None

    async def append_exposures(
        self,
        owner: str,
        incarnation: int,
        first: int,
        count: int,
        event: bytes,
        tried_ms: int | None = None,
    ) -> bool | None:
        """False when an earlier try had already appended them; None, and nothing is appended, when the first try, at
        `tried_ms` of the log's time, is so long ago that this is not known any more.
        """
        keys = [self.keys.log(owner), self.keys.exposed(owner, incarnation), self.keys.expiries(owner)]
        tried = -1 if tried_ms is None else tried_ms
        arguments = (first, count, event, EXPOSED_MARK_MS, REPEATED_MS, tried)
        answer = int(await self._append(scripts.APPEND_EXPOSURES, keys, arguments))
        return None if answer < 0 else bool(answer)

    async def append(self, owner: str, kind: bytes, event: bytes) -> Offset:
        return Offset.parse(await self._append(scripts.APPEND, [self.keys.log(owner)], [kind, event]))

    async def last_offset(self, owner: str) -> Offset:
        newest = await self._call(lambda: self._client.xrevrange(self.keys.log(owner), count=1))
        return Offset.parse(newest[0][0]) if newest else START

    async def holds(self, owner: str, offset: Offset) -> bool:
        """Whether the log has an entry at an offset."""
        key = self.keys.log(owner)
        return bool(await self._call(lambda: self._client.xrange(key, str(offset), str(offset))))

    async def read(self, owner: str, after: Offset, count: int) -> list[Entry]:
        """At most `count` entries after an offset."""
        found = await self._call(
            lambda: self._client.xrange(self.keys.log(owner), min=str(after.next), count=count)
        )
        return _entries(found)

    async def read_any(
        self, after: Mapping[str, Offset], count: int, block_ms: int = TAIL_BLOCK_MS
    ) -> dict[str, list[Entry]]:
        """What came after the given offsets; waits until something does, at most `block_ms`."""
        streams: dict[Any, Any] = {self.keys.log(owner): str(offset) for owner, offset in after.items()}
        found = await self._call(lambda: self._tail.xread(streams, count=count, block=block_ms))
        owners = {self.keys.log(owner).encode(): owner for owner in after}
        pairs = found.items() if isinstance(found, dict) else found
        return {owners[stream]: _entries(entries) for stream, entries in pairs}

    async def log_size(self, owner: str) -> tuple[int, int]:
        """Entries and bytes of a log."""
        key = self.keys.log(owner)
        length = await self._call(lambda: self._client.xlen(key))
        size = await self._call(lambda: self._client.memory_usage(key, samples=100))
        return int(length), int(size or 0)

    # Snapshots

    async def snapshot_offsets(self, owner: str, fold: str) -> list[Offset]:
        """Where snapshots stand, oldest first."""
        fields = await self._call(lambda: self._client.hkeys(self.keys.snapshots(owner, fold)))
        return sorted(Offset.parse(field) for field in fields)

    async def read_snapshot(self, owner: str, fold: str, offset: Offset | None = None) -> Snapshot | None:
        """The snapshot at `offset`, by default the newest."""
        if offset is None:
            offsets = await self.snapshot_offsets(owner, fold)
            if not offsets:
                return None
            offset = offsets[-1]
        at = str(offset)
        state = await self._call(lambda: self._client.hget(self.keys.snapshots(owner, fold), at))
        return Snapshot(offset, bytes(state)) if state is not None else None

    async def write_snapshot(self, owner: str, fold: str, snapshot: Snapshot) -> None:
        at = str(snapshot.offset)
        await self._call(lambda: self._client.hset(self.keys.snapshots(owner, fold), at, snapshot.state))

    async def drop_snapshots(self, owner: str, fold: str, offsets: Sequence[Offset]) -> None:
        """Drops those of these that are there, but never the newest of the fold."""
        if offsets:
            fields = [str(offset) for offset in offsets]
            await self._run(scripts.DROP_SNAPSHOTS, [self.keys.snapshots(owner, fold)], fields)

    async def trim(self, owner: str, through: Offset, folds: Sequence[str] = ()) -> int:
        """Forgets the log up to and with an offset; returns how many entries went.

        None go where the log is trimmed as far already, or where one of the `folds` could not go on from there.
        """
        keys = [self.keys.log(owner), self.keys.trimmed(owner)]
        keys += [self.keys.snapshots(owner, fold) for fold in folds]
        return int(await self._run(scripts.TRIM, keys, [str(through), str(through.next)]))

    async def trimmed(self, owner: str) -> Offset:
        """The last offset that the log has forgotten."""
        offset = await self._call(lambda: self._client.get(self.keys.trimmed(owner)))
        return Offset.parse(offset) if offset else START

    # Workers

    async def hold_lease(self, holder: str, lifetime_ms: int) -> bool:
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.lease], [holder, lifetime_ms]))

    async def hold_learner(self, model: str, holder: str, lifetime_ms: int) -> bool:
        """Whether `holder` is the one that learns for a model, for `lifetime_ms` from now."""
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.learner(model)], [holder, lifetime_ms]))

    async def announce(self, about: bytes, lifetime_ms: int) -> None:
        """Says that a worker lives, for `lifetime_ms` from now."""
        now_ms = await self.time_ms()
        with translate_errors():
            await self._client.zadd(self.keys.workers, {about: now_ms + lifetime_ms})
            await self._client.zremrangebyscore(self.keys.workers, "-inf", now_ms)

    async def retire(self, about: bytes) -> None:
        await self._call(lambda: self._client.zrem(self.keys.workers, about))

    async def workers(self) -> list[bytes]:
        """What each worker that lives said about itself."""
        now_ms = await self.time_ms()
        return list(await self._call(lambda: self._client.zrangebyscore(self.keys.workers, now_ms, "+inf")))

    async def report(self, owner: str, key: str, incarnation: int, answer: bytes) -> None:
        """A worker's answer to a census."""
        with translate_errors():
            await self._client.hset(key, f"{incarnation:016x}", answer)
            await self._client.pexpire(key, CENSUS_MS)

    async def reports(self, key: str) -> dict[int, bytes]:
        answers = await self._call(lambda: self._client.hgetall(key))
        return {int(field, 16): answer for field, answer in answers.items()}

    async def write_agreement(self, model: str, version: str, incarnation: int, sums: bytes) -> None:
        key = self.keys.agreement(model, version)
        with translate_errors():
            await self._client.hset(key, f"{incarnation:016x}", sums)
            await self._client.pexpire(key, AGREEMENT_MS)

    async def agreements(self, model: str, version: str) -> list[bytes]:
        """What each worker that ever scored for a shadow version wrote."""
        found = await self._call(lambda: self._client.hgetall(self.keys.agreement(model, version)))
        return list(found.values())

    async def say_loaded(self, incarnation: int, loaded: bytes) -> None:
        """What a worker has in memory."""
        with translate_errors():
            await self._client.hset(self.keys.loaded, f"{incarnation:016x}", loaded)
            await self._client.pexpire(self.keys.loaded, LOADED_MS)

    async def loaded(self) -> dict[int, bytes]:
        found = await self._call(lambda: self._client.hgetall(self.keys.loaded))
        return {int(field, 16): value for field, value in found.items()}

    # Token keys

    async def token_keys(self) -> dict[int, bytes]:
        keys = await self._call(lambda: self._client.hgetall(self.keys.token_keys))
        return {int(field): value for field, value in keys.items()}

    async def add_token_key(self, key_id: int, value: bytes) -> bool:
        """False when another worker was first; then its key is the one."""
        return bool(await self._call(lambda: self._client.hsetnx(self.keys.token_keys, str(key_id), value)))

    async def drop_token_key(self, key_id: int) -> None:
        await self._call(lambda: self._client.hdel(self.keys.token_keys, str(key_id)))

    # The cache

    async def cached(self, digest: str) -> bytes | None:
        found: bytes | None = await self._call(lambda: self._client.get(self.keys.top_k(digest)))
        return found

    async def cache(self, digest: str, value: bytes, lifetime_ms: int) -> None:
        await self._call(lambda: self._client.set(self.keys.top_k(digest), value, px=lifetime_ms))


def _entries(found: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Entry]:
    return [Entry(Offset.parse(at), *next(iter(fields.items()))) for at, fields in found]


__all__ = ["COMMON", "Entry", "Snapshot", "Store"]
