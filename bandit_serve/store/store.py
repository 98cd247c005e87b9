"""The store as the rest of the house sees it: logs, snapshots, a lease, workers, keys, and a cache.

Every write is idempotent or compares before it sets, so a caller that never got its answer may try again; nothing
here tries again by itself. What redis-py raises becomes `StoreUnavailable` here.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from bandit_serve.errors import StoreUnavailable
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import REWARD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.log.times import CLOCK_TOLERANCE_MS, COUNTED_MS, EXPOSED_MARK_MS, REPEATED_MS
from bandit_serve.store import scripts
from bandit_serve.store.calls import Calls
from bandit_serve.store.clock import LogClock, even_ns
from bandit_serve.store.connection import open_client, open_tail_client, renew
from bandit_serve.store.facts import StoreFacts, check, inspect
from bandit_serve.store.failures import BUSY, CANNOT_SAVE, CLOCK, FULL, READ_ONLY, SLOW, translate_errors
from bandit_serve.store.keys import Keys
from bandit_serve.store.outages import Outages

SWEPT_AT_ONCE = 500
ASKED_AGAIN_S = 0.2
APPEND_TRIES = 4
CENSUS_MS = 60_000
TAIL_BLOCK_MS = 1_000
AGREEMENT_MS = 30 * 86_400_000
LOADED_MS = 60_000
PIECE_BYTES = 512 * 2**10
PIECES_A_LIFETIME = 16
PIECES_MS = 600_000
IN_PIECES = b"\xc1"
"""No MessagePack begins with it, and so no state."""
# Outages in which it is the right node that answers, so that another connection would lead to the same.
STAYING = (FULL, BUSY, CANNOT_SAVE)


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
        self.outages = Outages()

    async def close(self) -> None:
        await self._client.aclose()
        await self._calls.close()
        await self._tail.aclose()

    async def facts(self) -> StoreFacts:
        facts: StoreFacts = await self._call(lambda: inspect(self._client))
        return facts

    async def check(self) -> StoreFacts:
        """The facts of a store that may be used; `StoreRefused` otherwise."""
        facts = await self.facts()
        check(facts)
        return facts

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            with translate_errors():
                return await call()
        except StoreUnavailable as error:
            await self._renew(error)
            raise

    async def _run(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        return await self._call(lambda: script.run(self._calls, keys, arguments))

    async def _write(self, call: Awaitable[Any]) -> Any:
        """The reply to a write that is tried often enough to know by it whether the store takes writes."""
        try:
            reply = await call
        except StoreUnavailable as error:
            self.outages.failed("write", error)
            raise
        self.outages.passed("write")
        return reply

    async def _renew(self, error: StoreUnavailable) -> None:
        if error.what in STAYING:
            return
        await self._calls.renew()
        for client in (self._client, self._tail):
            await renew(client)

    async def time_ms(self) -> int:
        """The log's time, which `clock` knows again from now on.

        Where a process that has just come can not tell whether the store's clock has jumped or nobody was there for a
        while, it waits for those who may know, or until it may be believed itself.
        """
        clock, keys = self.clock, [self.keys.clock, self.keys.workers]
        while True:
            sent_ns = even_ns()
            arguments = [clock.now_ms(), int(clock.established), CLOCK_TOLERANCE_MS]
            store_ms, shift_ms, holds = await self._run(scripts.READ_CLOCK, keys, arguments)
            log_ms = clock.hear(int(store_ms), int(shift_ms), sent_ns, even_ns(), holds=bool(holds))
            if holds:
                return log_ms
            await asyncio.sleep(ASKED_AGAIN_S)

    async def _append(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        """What a script answers that appends at the log's time; what it does not append, it is asked for again.

        More than once: a store's look at its clock may be older than the one before.
        """
        for _ in range(APPEND_TRIES):
            if not self.clock.known:
                await self.time_ms()
            time = (self.clock.shift_ms, self.clock.now_ms(), CLOCK_TOLERANCE_MS)
            answer = await self._run(script, keys, (*time, *arguments))
            if answer != b"clock":
                return answer
            await self.time_ms()
        raise StoreUnavailable("The store's clock does not agree with this machine's, and jumps.", what=CLOCK)

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
        arguments: list[scripts.Argument] = [rows, row_bytes, checks, COUNTED_MS]
        return bytes(await self._write(self._append(scripts.APPEND_REWARDS, keys, arguments)))

    async def append_change(self, owner: str, revision: int, kind: bytes, event: bytes) -> Offset | None:
        """The entry's offset, or None when `revision` is no longer the head's."""
        keys = [self.keys.log(owner), self.keys.head(owner)]
        arguments: list[scripts.Argument] = [str(revision), kind, event]
        offset = await self._write(self._append(scripts.APPEND_CHANGE, keys, arguments))
        return Offset.parse(offset) if offset else None

    async def set_head(self, owner: str, revision: int) -> None:
        """The revision of the last change that counts, where later ones in the log are left out."""
        await self._call(lambda: self._client.set(self.keys.head(owner), str(revision)))

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
        answer = int(await self._write(self._append(scripts.APPEND_EXPOSURES, keys, arguments)))
        return None if answer < 0 else bool(answer)

    async def append(self, owner: str, kind: bytes, event: bytes) -> Offset:
        appended = self._append(scripts.APPEND, [self.keys.log(owner)], [kind, event])
        return Offset.parse(await self._write(appended))

    async def last_offset(self, owner: str) -> Offset:
        newest = await self._call(lambda: self._client.xrevrange(self.keys.log(owner), count=1))
        return Offset.parse(newest[0][0]) if newest else START

    async def find_lost(self, positions: Sequence[tuple[str, Offset]]) -> list[str]:
        """The owners of logs that hold no entry at these offsets any more, though they were not trimmed that far.

        Asked on the connection of `read_any`, so of the node that is read from.
        """
        keys = [key for owner, _ in positions for key in (self.keys.log(owner), self.keys.trimmed(owner))]
        offsets = [str(offset) for _, offset in positions]
        found = await self._call(lambda: scripts.FIND_LOST.run(self._tail, keys, offsets))
        return [positions[number - 1][0] for number in found]

    async def identity(self) -> bytes | None:
        """What tells this store's data from any other's. Asked on the connection of `read_any`.

        `StoreUnavailable` where that leads to a node that takes no writes because another is the primary.
        """
        replication = await self._call(lambda: self._tail.info("replication"))
        if replication.get("role") not in ("master", None):
            error = StoreUnavailable("The store is a replica now and takes no writes.", what=READ_ONLY)
            await self._renew(error)
            raise error
        found: bytes | None = await self._call(lambda: self._tail.get(self.keys.identity))
        return found

    async def make_identity(self) -> bytes:
        """The store's identity, which the first worker gives to it."""
        made = secrets.token_hex(16)
        await self._write(self._call(lambda: self._client.setnx(self.keys.identity, made)))
        return bytes(await self._call(lambda: self._client.get(self.keys.identity)))

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

    async def find_present(self, owners: Sequence[str]) -> list[str]:
        """Those of which more is there than what stays of a log that was freed."""
        found = []
        for start in range(0, len(owners), SWEPT_AT_ONCE):
            some = owners[start : start + SWEPT_AT_ONCE]
            if await self._count([key for owner in some for key in self._freed(owner)]):
                found += [owner for owner in some if await self._count(self._freed(owner))]
        return found

    async def _count(self, keys: Sequence[str]) -> int:
        return int(await self._call(lambda: self._client.exists(*keys)))

    def _freed(self, owner: str) -> list[str]:
        return [self.keys.log(owner), self.keys.expiries(owner)]

    async def free(self, owner: str, folds: Sequence[str]) -> None:
        """Deletes a log and all that goes with it, for good. Its head stays, so that nobody begins it anew, and its
        trimmed mark, so that a reader who has not heard does not take it for lost.
        """
        await self.trim(owner, await self.last_offset(owner))
        keys = [self.keys.log(owner)]
        for fold in folds:
            offsets = await self.snapshot_offsets(owner, fold)
            keys += [self.keys.snapshot_pieces(owner, fold, str(offset)) for offset in offsets]
            keys.append(self.keys.snapshots(owner, fold))
        index = self.keys.expiries(owner)
        while found := await self._call(lambda: self._client.zrange(index, 0, SWEPT_AT_ONCE - 1)):
            await self._call(lambda: self._client.unlink(*found))
            await self._call(lambda: self._client.zrem(index, *found))
        await self._call(lambda: self._client.unlink(*keys))

    # Snapshots

    async def snapshot_offsets(self, owner: str, fold: str) -> list[Offset]:
        """Where snapshots stand, oldest first."""
        fields = await self._call(lambda: self._client.hkeys(self.keys.snapshots(owner, fold)))
        return sorted(Offset.parse(field) for field in fields)

    async def read_snapshot(self, owner: str, fold: str, offset: Offset | None = None) -> Snapshot | None:
        """The snapshot at `offset`, by default the newest; None where none is whole."""
        if offset is None:
            async for snapshot in self.newest_snapshots(owner, fold):
                return snapshot
            return None
        state = await self._state(owner, fold, str(offset))
        return None if state is None else Snapshot(offset, state)

    async def newest_snapshots(self, owner: str, fold: str, since: Offset = START) -> AsyncIterator[Snapshot]:
        """Those that are whole, the newest first, down to the one at `since`."""
        for offset in reversed(await self.snapshot_offsets(owner, fold)):
            if offset < since:
                return
            snapshot = await self.read_snapshot(owner, fold, offset)
            if snapshot is not None:
                yield snapshot

    async def _state(self, owner: str, fold: str, at: str) -> bytes | None:
        field = await self._call(lambda: self._client.hget(self.keys.snapshots(owner, fold), at))
        if field is None or not field.startswith(IN_PIECES):
            return None if field is None else bytes(field)
        n_pieces, digest = int.from_bytes(field[1:5], "little"), field[5:]
        key = self.keys.snapshot_pieces(owner, fold, at)
        state = b"".join([await self._piece(key, number) for number in range(n_pieces)])
        return state if hashlib.sha256(state).digest() == digest else None

    async def _piece(self, key: str, number: int) -> bytes:
        return await self._call(lambda: self._client.hget(key, str(number))) or b""

    async def write_snapshot(self, owner: str, fold: str, snapshot: Snapshot) -> None:
        """A large one goes in pieces, each a call of its own: in one it would hold up the store, and take longer than
        a call may.
        """
        at, state = str(snapshot.offset), snapshot.state
        pieces = self.keys.snapshot_pieces(owner, fold, at)
        n_pieces = 0
        if len(state) > PIECE_BYTES:
            n_pieces = await self._write_pieces(pieces, state)
            state = IN_PIECES + n_pieces.to_bytes(4, "little") + hashlib.sha256(state).digest()
        keys = [self.keys.snapshots(owner, fold), pieces]
        if not await self._run(scripts.KEEP_SNAPSHOT, keys, [at, n_pieces, state]):
            raise StoreUnavailable(f"The snapshot of {owner} at {at} lost pieces on its way.", what=SLOW)

    async def _write_pieces(self, key: str, state: bytes) -> int:
        await self._call(lambda: self._client.delete(key))
        starts = range(0, len(state), PIECE_BYTES)
        for number, start in enumerate(starts):
            await self._write_piece(key, number, state[start : start + PIECE_BYTES])
        return len(starts)

    async def _write_piece(self, key: str, number: int, piece: bytes) -> None:
        await self._call(lambda: self._client.hset(key, str(number), piece))
        if number % PIECES_A_LIFETIME == 0:
            # Pieces of a snapshot that never becomes whole are not to stay.
            await self._call(lambda: self._client.pexpire(key, PIECES_MS))

    async def drop_snapshots(self, owner: str, fold: str, offsets: Sequence[Offset]) -> None:
        """Drops those of these that are there, but never the newest of the fold."""
        if offsets:
            fields = [str(offset) for offset in offsets]
            keys = [self.keys.snapshots(owner, fold)]
            keys += [self.keys.snapshot_pieces(owner, fold, field) for field in fields]
            await self._run(scripts.DROP_SNAPSHOTS, keys, fields)

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

        async def announce() -> None:
            now_ms = await self.time_ms()
            await self._call(lambda: self._client.zadd(self.keys.workers, {about: now_ms + lifetime_ms}))
            await self._call(lambda: self._client.zremrangebyscore(self.keys.workers, "-inf", now_ms))

        await self._write(announce())

    async def retire(self, about: bytes) -> None:
        await self._call(lambda: self._client.zrem(self.keys.workers, about))

    async def workers(self) -> list[bytes]:
        """What each worker that lives said about itself."""
        now_ms = await self.time_ms()
        return list(await self._call(lambda: self._client.zrangebyscore(self.keys.workers, now_ms, "+inf")))

    async def report(self, owner: str, key: str, incarnation: int, answer: bytes) -> None:
        """A worker's answer to a census."""
        await self._call(lambda: self._client.hset(key, f"{incarnation:016x}", answer))
        await self._call(lambda: self._client.pexpire(key, CENSUS_MS))

    async def reports(self, key: str) -> dict[int, bytes]:
        answers = await self._call(lambda: self._client.hgetall(key))
        return {int(field, 16): answer for field, answer in answers.items()}

    async def write_agreement(self, model: str, version: str, incarnation: int, sums: bytes) -> None:
        key = self.keys.agreement(model, version)
        await self._call(lambda: self._client.hset(key, f"{incarnation:016x}", sums))
        await self._call(lambda: self._client.pexpire(key, AGREEMENT_MS))

    async def agreements(self, model: str, version: str) -> list[bytes]:
        """What each worker that ever scored for a shadow version wrote."""
        found = await self._call(lambda: self._client.hgetall(self.keys.agreement(model, version)))
        return list(found.values())

    async def say_loaded(self, incarnation: int, loaded: bytes) -> None:
        """What a worker has in memory."""
        await self._call(lambda: self._client.hset(self.keys.loaded, f"{incarnation:016x}", loaded))
        await self._call(lambda: self._client.pexpire(self.keys.loaded, LOADED_MS))

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
