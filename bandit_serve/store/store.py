"""Store as the rest of the service uses it: logs, snapshots, leases, workers, token keys and a cache.

Every write is idempotent or compares before it sets, so a caller whose reply was lost may try again. Nothing here tries
again by itself. All methods raise `StoreUnavailable` in an outage.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bandit_serve.errors import StoreUnavailable
from bandit_serve.log.entry import Entry
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

SWEEP_BATCH_KEYS = 500
CLOCK_RETRY_S = 0.2
MAX_APPEND_TRIES = 4
CENSUS_MS = 60_000
TAIL_BLOCK_MS = 1_000
AGREEMENT_MS = 30 * 86_400_000
LOADED_MS = 60_000
PIECE_BYTES = 512 * 2**10
PIECES_A_LIFETIME = 16
PIECES_MS = 600_000
IN_PIECES = b"\xc1"
"""First byte of a snapshot in pieces: no MessagePack begins with it, so no state does."""
# In these outages the right node answers: a new connection would lead to the same one.
SAME_NODE_OUTAGES = (FULL, BUSY, CANNOT_SAVE)


class CountedRows(NamedTuple):
    """Rows of rewards as counting.lua takes them, and the keys that count them.

    data: `row_bytes` a row; checks: 18 bytes a row, which refer to `bitmaps` and `values`.
    """

    data: bytes
    row_bytes: int
    checks: bytes
    bitmaps: Sequence[str]
    values: Sequence[str]

    @property
    def n_keys(self) -> int:
        return len(self.bitmaps) + len(self.values)

    @property
    def arguments(self) -> tuple[scripts.Argument, ...]:
        return (self.data, self.row_bytes, self.checks, len(self.bitmaps), len(self.values), COUNTED_MS)


class Store:
    """Client of one store. Scripts, other commands and the blocking tail have connections of their own."""

    def __init__(self, url: str, *, namespace: str = "bandit_serve", timeout_s: float = 1.0) -> None:
        self.url = url
        self.keys = Keys(namespace)
        self.clock = LogClock()
        # Any: redis-py types every reply as bytes or str; with our options all are bytes.
        self._client: Any = open_client(url, timeout_s=timeout_s)
        self._calls = Calls(url, timeout_s=timeout_s)
        self._tail: Any = open_tail_client(url, block_s=TAIL_BLOCK_MS / 1000, timeout_s=timeout_s)
        self.outages = Outages()

    async def close(self) -> None:
        await self._client.aclose()
        await self._calls.close()
        await self._tail.aclose()

    async def facts(self) -> StoreFacts:
        """Reads the store's facts, as `facts.inspect`."""
        facts: StoreFacts = await self._call(lambda: inspect(self._client))
        return facts

    async def check(self) -> StoreFacts:
        """Returns the store's facts; raises `StoreRefused` where it must not be used."""
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
        """Awaits a write and records in `outages` whether it succeeded. Only for writes that are made all the time."""
        try:
            reply = await call
        except StoreUnavailable as error:
            self.outages.failed("write", error)
            raise
        self.outages.passed("write")
        return reply

    async def _renew(self, error: StoreUnavailable) -> None:
        if error.what in SAME_NODE_OUTAGES:
            return
        await self._calls.renew()
        for client in (self._client, self._tail):
            await renew(client)

    async def time_ms(self) -> int:
        """Reads log time from the store and adjusts `clock` to it.

        A new process can not tell a jump of the store's clock from a time without any workers. It then asks again until
        a worker that knows has answered, or until its own clock may be trusted.
        """
        clock, keys = self.clock, [self.keys.clock, self.keys.workers]
        while True:
            sent_ns = even_ns()
            arguments = [clock.now_ms(), int(clock.established), CLOCK_TOLERANCE_MS]
            store_ms, shift_ms, holds = await self._run(scripts.READ_CLOCK, keys, arguments)
            log_ms = clock.adjust(int(store_ms), int(shift_ms), sent_ns, even_ns(), holds=bool(holds))
            if holds:
                return log_ms
            await asyncio.sleep(CLOCK_RETRY_S)

    async def _append(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        """Runs a script that appends at log time; returns its reply.

        The script refuses while the store's clock and ours differ. Then log time is read and the script runs again, at
        most `MAX_APPEND_TRIES` times in all, because the store's clock may change once more in between.
        """
        for _ in range(MAX_APPEND_TRIES):
            if not self.clock.known:
                await self.time_ms()
            time = (self.clock.shift_ms, self.clock.now_ms(), CLOCK_TOLERANCE_MS)
            reply = await self._run(script, keys, (*time, *arguments))
            if reply != b"clock":
                return reply
            await self.time_ms()
        raise StoreUnavailable(
            "The store's clock does not agree with this machine's, and keeps changing.", what=CLOCK
        )

    async def sweep(self, owner: str) -> None:
        """Deletes bitmaps and marks that an experiment's log does not need any more."""
        index, now_ms = self.keys.expiries(owner), await self.time_ms()
        while True:
            due = await self._call(
                lambda: self._client.zrangebyscore(index, "-inf", f"({now_ms}", start=0, num=SWEEP_BATCH_KEYS)
            )
            if not due:
                return
            keys = [key.decode() for key in due]
            if not await self._run(scripts.SWEEP, [index, *keys], [now_ms]):
                return

    # The log

    async def append_rewards(self, owner: str, rows: CountedRows) -> bytes:
        """Appends the rewards that are neither late nor in the log already, in one entry.

        Returns one letter a row: `a`ccepted, `d`uplicate, `x` for a conflict, `l`ate, or `e` for a row that
        `append_events` has to take, without an event.
        """
        keys = [self.keys.log(owner), self.keys.expiries(owner), *rows.bitmaps, *rows.values]
        return bytes(await self._write(self._append(scripts.APPEND_REWARDS, keys, rows.arguments)))

    async def append_events(
        self, owner: str, rows: CountedRows, hashes: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> bytes:
        """Appends what decisions' values become by events, in one entry.

        `hashes` are the keys that hold the events, `arguments` those that append_events.lua has of its own. Returns one
        letter a row: `a`ccepted, `d`uplicate, `c`orrected, `r`etracted, `x` for a conflict, `l`ate, `u`nmatched or
        `i`nvalid.
        """
        keys = [self.keys.log(owner), self.keys.expiries(owner), *rows.bitmaps, *rows.values, *hashes]
        return bytes(
            await self._write(self._append(scripts.APPEND_EVENTS, keys, (*rows.arguments, *arguments)))
        )

    async def write_marks(self, marks: Mapping[str, bytes], lifetime_ms: int) -> None:
        """Sets strings of one experiment, by key, for `lifetime_ms`."""

        async def write() -> None:
            commands = self._client.pipeline(transaction=False)
            for key, mark in marks.items():
                commands.set(key, mark, px=lifetime_ms)
            await commands.execute()

        await self._call(write)

    async def read_marks(self, keys: Sequence[str]) -> list[bytes | None]:
        """Strings of one experiment, one for each key; None where there is none."""
        marks: list[bytes | None] = await self._call(lambda: self._client.mget(keys)) if keys else []
        return marks

    async def append_change(self, owner: str, revision: int, kind: bytes, event: bytes) -> Offset | None:
        """Appends a configuration change. Returns its offset, or None when the head's revision is not `revision`."""
        keys = [self.keys.log(owner), self.keys.head(owner)]
        arguments: list[scripts.Argument] = [str(revision), kind, event]
        offset = await self._write(self._append(scripts.APPEND_CHANGE, keys, arguments))
        return Offset.parse(offset) if offset else None

    async def set_head(self, owner: str, revision: int) -> None:
        """Sets the revision of the head back after a repair that leaves later changes out."""
        await self._call(lambda: self._client.set(self.keys.head(owner), str(revision)))

    async def append_exposures(
        self,
        owner: str,
        incarnation: int,
        first: int,
        count: int,
        event: bytes,
        tried_ms: int | None = None,
        rewards: Sequence[bytes] = (),
    ) -> bool | None:
        """Appends `count` exposures of a worker, numbered from `first`, and with them entries of rewards.

        rewards: values of entries of kind `r`, of metrics that no client sends: they count once, as the exposures do.
        tried_ms: log time of the first try, if this is a retry. Returns True if they were appended and False if an
        earlier try has done so. Returns None, and appends nothing, if the first try is too long ago to know.
        """
        keys = [self.keys.log(owner), self.keys.exposed(owner, incarnation), self.keys.expiries(owner)]
        tried = -1 if tried_ms is None else tried_ms
        numbers = (EXPOSED_MARK_MS, REPEATED_MS, tried)
        arguments: tuple[scripts.Argument, ...] = (first, count, event, *numbers, *rewards)
        result = int(await self._write(self._append(scripts.APPEND_EXPOSURES, keys, arguments)))
        return None if result < 0 else bool(result)

    async def append_demanded(
        self, owner: str, bitmaps: Sequence[str], checks: bytes, exposures: Sequence[bytes]
    ) -> bytes:
        """Appends the exposures on demand that are neither late nor in the log already, an entry each.

        `checks` holds 12 bytes an exposure (append_demanded.lua), `bitmaps` the keys that they refer to. Returns one
        letter each: `a`ccepted, `d`uplicate or `l`ate.
        """
        keys = [self.keys.log(owner), self.keys.expiries(owner), *bitmaps]
        arguments: list[scripts.Argument] = [COUNTED_MS, checks, *exposures]
        return bytes(await self._write(self._append(scripts.APPEND_DEMANDED, keys, arguments)))

    async def append(self, owner: str, kind: bytes, event: bytes) -> Offset:
        """Appends one event; returns its offset. A retry after a lost reply appends it twice."""
        appended = self._append(scripts.APPEND, [self.keys.log(owner)], [kind, event])
        return Offset.parse(await self._write(appended))

    async def last_offset(self, owner: str) -> Offset:
        """Offset of the newest entry; `START` for an empty log."""
        newest = await self._call(lambda: self._client.xrevrange(self.keys.log(owner), count=1))
        return Offset.parse(newest[0][0]) if newest else START

    async def find_lost(self, positions: Sequence[tuple[str, Offset]]) -> list[str]:
        """Returns the owners of logs that have lost their entry at the given offset without being trimmed that far.

        Uses the connection of `read_any`, and so asks the node that is read from.
        """
        keys = [key for owner, _ in positions for key in (self.keys.log(owner), self.keys.trimmed(owner))]
        offsets = [str(offset) for _, offset in positions]
        numbers = await self._call(lambda: scripts.FIND_LOST.run(self._tail, keys, offsets))
        return [positions[number - 1][0] for number in numbers]

    async def identity(self) -> bytes | None:
        """Reads the random number that identifies this store's data, on the connection of `read_any`; None before the
        first worker has set one.

        Raises `StoreUnavailable` where that connection leads to a replica.
        """
        replication = await self._call(lambda: self._tail.info("replication"))
        if replication.get("role") not in ("master", None):
            error = StoreUnavailable("The store is a replica now and takes no writes.", what=READ_ONLY)
            await self._renew(error)
            raise error
        identity: bytes | None = await self._call(lambda: self._tail.get(self.keys.identity))
        return identity

    async def make_identity(self) -> bytes:
        """Returns the store's identity; sets one where there is none yet."""
        made = secrets.token_hex(16)
        await self._write(self._call(lambda: self._client.setnx(self.keys.identity, made)))
        return bytes(await self._call(lambda: self._client.get(self.keys.identity)))

    async def read(self, owner: str, after: Offset, count: int) -> list[Entry]:
        """Reads at most `count` entries after an offset."""
        items = await self._call(
            lambda: self._client.xrange(self.keys.log(owner), min=str(after.next), count=count)
        )
        return _entries(items)

    async def read_any(
        self, after: Mapping[str, Offset], count: int, block_ms: int = TAIL_BLOCK_MS
    ) -> dict[str, list[Entry]]:
        """Reads up to `count` entries a log after the given offsets; waits up to `block_ms` for the first."""
        streams: dict[Any, Any] = {self.keys.log(owner): str(offset) for owner, offset in after.items()}
        reply = await self._call(lambda: self._tail.xread(streams, count=count, block=block_ms))
        owners = {self.keys.log(owner).encode(): owner for owner in after}
        pairs = reply.items() if isinstance(reply, dict) else reply
        return {owners[stream]: _entries(entries) for stream, entries in pairs}

    async def log_size(self, owner: str) -> tuple[int, int]:
        """Number of entries of a log, and its size in bytes, estimated by the store."""
        key = self.keys.log(owner)
        length = await self._call(lambda: self._client.xlen(key))
        size = await self._call(lambda: self._client.memory_usage(key, samples=100))
        return int(length), int(size or 0)

    async def find_present(self, owners: Sequence[str]) -> list[str]:
        """Returns the owners whose log or expiries exist: they were not freed yet, or were written to again."""
        present = []
        for start in range(0, len(owners), SWEEP_BATCH_KEYS):
            some = owners[start : start + SWEEP_BATCH_KEYS]
            if await self._count([key for owner in some for key in self._freed(owner)]):
                present += [owner for owner in some if await self._count(self._freed(owner))]
        return present

    async def _count(self, keys: Sequence[str]) -> int:
        return int(await self._call(lambda: self._client.exists(*keys)))

    def _freed(self, owner: str) -> list[str]:
        return [self.keys.log(owner), self.keys.expiries(owner)]

    async def free(self, owner: str, folds: Sequence[str]) -> None:
        """Deletes a log for good, with its snapshots, bitmaps and marks.

        Two small keys stay: the head, so that nobody begins the log again, and the trimmed mark, so that a reader that
        does not know of the deletion does not take the log for lost.
        """
        await self.trim(owner, await self.last_offset(owner))
        keys = [self.keys.log(owner)]
        for fold in folds:
            offsets = await self.snapshot_offsets(owner, fold)
            keys += [self.keys.snapshot_pieces(owner, fold, str(offset)) for offset in offsets]
            keys.append(self.keys.snapshots(owner, fold))
        index = self.keys.expiries(owner)
        while some := await self._call(lambda: self._client.zrange(index, 0, SWEEP_BATCH_KEYS - 1)):
            await self._call(lambda: self._client.unlink(*some))
            await self._call(lambda: self._client.zrem(index, *some))
        await self._call(lambda: self._client.unlink(*keys))

    # Snapshots

    async def snapshot_offsets(self, owner: str, fold: str) -> list[Offset]:
        """Offsets of the snapshots of a fold, oldest first."""
        fields = await self._call(lambda: self._client.hkeys(self.keys.snapshots(owner, fold)))
        return sorted(Offset.parse(field) for field in fields)

    async def read_snapshot(self, owner: str, fold: str, offset: Offset | None = None) -> Snapshot | None:
        """Reads the snapshot at `offset`, by default the newest that is whole; None where there is none."""
        if offset is None:
            async for snapshot in self.newest_snapshots(owner, fold):
                return snapshot
            return None
        state = await self._state(owner, fold, str(offset))
        return None if state is None else Snapshot(offset, state)

    async def newest_snapshots(self, owner: str, fold: str, since: Offset = START) -> AsyncIterator[Snapshot]:
        """Reads the snapshots that are whole, newest first, down to the one at `since`."""
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
        """Writes a snapshot; one of more than `PIECE_BYTES` goes in pieces, each in a call of its own.

        In one call it would block the store, and take longer than a call's timeout.
        """
        at, state = str(snapshot.offset), snapshot.state
        pieces = self.keys.snapshot_pieces(owner, fold, at)
        n_pieces = 0
        if len(state) > PIECE_BYTES:
            n_pieces = await self._write_pieces(pieces, state)
            state = IN_PIECES + n_pieces.to_bytes(4, "little") + hashlib.sha256(state).digest()
        keys = [self.keys.snapshots(owner, fold), pieces]
        if not await self._run(scripts.KEEP_SNAPSHOT, keys, [at, n_pieces, state]):
            raise StoreUnavailable(
                f"The snapshot of {owner} at {at} was not written: pieces are missing.", what=SLOW
            )

    async def _write_pieces(self, key: str, state: bytes) -> int:
        await self._call(lambda: self._client.delete(key))
        starts = range(0, len(state), PIECE_BYTES)
        for number, start in enumerate(starts):
            await self._write_piece(key, number, state[start : start + PIECE_BYTES])
        return len(starts)

    async def _write_piece(self, key: str, number: int, piece: bytes) -> None:
        await self._call(lambda: self._client.hset(key, str(number), piece))
        if number % PIECES_A_LIFETIME == 0:
            # Pieces of a snapshot that never becomes whole must not stay.
            await self._call(lambda: self._client.pexpire(key, PIECES_MS))

    async def drop_snapshots(self, owner: str, fold: str, offsets: Sequence[Offset]) -> None:
        """Drops the snapshots at these offsets, but never the newest of the fold."""
        if offsets:
            fields = [str(offset) for offset in offsets]
            keys = [self.keys.snapshots(owner, fold)]
            keys += [self.keys.snapshot_pieces(owner, fold, field) for field in fields]
            await self._run(scripts.DROP_SNAPSHOTS, keys, fields)

    async def trim(self, owner: str, through: Offset, folds: Sequence[str] = ()) -> int:
        """Deletes a log's entries up to and with an offset; returns how many were deleted.

        Deletes none where one of the `folds` has no snapshot at that offset or later, or the log is trimmed as far
        already.
        """
        keys = [self.keys.log(owner), self.keys.trimmed(owner)]
        keys += [self.keys.snapshots(owner, fold) for fold in folds]
        return int(await self._run(scripts.TRIM, keys, [str(through), str(through.next)]))

    async def trimmed(self, owner: str) -> Offset:
        """Offset of the last entry that was trimmed; `START` where none was."""
        offset = await self._call(lambda: self._client.get(self.keys.trimmed(owner)))
        return Offset.parse(offset) if offset else START

    # Workers

    async def hold_lease(self, holder: str, lifetime_ms: int) -> bool:
        """Takes or renews the lease for `lifetime_ms`; returns whether `holder` has it."""
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.lease], [holder, lifetime_ms]))

    async def hold_learner(self, model: str, holder: str, lifetime_ms: int) -> bool:
        """Takes or renews the lease for learning for a model, as `hold_lease`."""
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.learner(model)], [holder, lifetime_ms]))

    async def announce(self, about: bytes, lifetime_ms: int) -> None:
        """Announces for `lifetime_ms` that a worker is live; `about` is its encoded description."""

        async def announce() -> None:
            now_ms = await self.time_ms()
            await self._call(lambda: self._client.zadd(self.keys.workers, {about: now_ms + lifetime_ms}))
            await self._call(lambda: self._client.zremrangebyscore(self.keys.workers, "-inf", now_ms))

        await self._write(announce())

    async def retire(self, about: bytes) -> None:
        """Ends an announcement."""
        await self._call(lambda: self._client.zrem(self.keys.workers, about))

    async def workers(self) -> list[bytes]:
        """Encoded descriptions of the live workers."""
        now_ms = await self.time_ms()
        return list(await self._call(lambda: self._client.zrangebyscore(self.keys.workers, now_ms, "+inf")))

    async def write_answer(self, key: str, incarnation: int, answer: bytes) -> None:
        """Writes a worker's answer to a census, or its acknowledgement of a change, under `key`."""
        await self._call(lambda: self._client.hset(key, f"{incarnation:016x}", answer))
        await self._call(lambda: self._client.pexpire(key, CENSUS_MS))

    async def answers(self, key: str) -> dict[int, bytes]:
        """Answers under `key`, by incarnation."""
        answers = await self._call(lambda: self._client.hgetall(key))
        return {int(field, 16): answer for field, answer in answers.items()}

    async def write_agreement(self, model: str, version: str, incarnation: int, sums: bytes) -> None:
        """Writes a worker's sums for a shadow version, in place of its former ones."""
        key = self.keys.agreement(model, version)
        await self._call(lambda: self._client.hset(key, f"{incarnation:016x}", sums))
        await self._call(lambda: self._client.pexpire(key, AGREEMENT_MS))

    async def agreements(self, model: str, version: str) -> list[bytes]:
        """Sums for a shadow version, of each worker that ever scored for it."""
        sums = await self._call(lambda: self._client.hgetall(self.keys.agreement(model, version)))
        return list(sums.values())

    async def report_loaded(self, incarnation: int, loaded: bytes) -> None:
        """Reports the models that a worker has in memory."""
        await self._call(lambda: self._client.hset(self.keys.loaded, f"{incarnation:016x}", loaded))
        await self._call(lambda: self._client.pexpire(self.keys.loaded, LOADED_MS))

    async def loaded(self) -> dict[int, bytes]:
        """Reports of loaded models, by incarnation."""
        reports = await self._call(lambda: self._client.hgetall(self.keys.loaded))
        return {int(field, 16): value for field, value in reports.items()}

    # Token keys

    async def token_keys(self) -> dict[int, bytes]:
        """Keys that sign decision tokens, by id."""
        keys = await self._call(lambda: self._client.hgetall(self.keys.token_keys))
        return {int(field): value for field, value in keys.items()}

    async def add_token_key(self, key_id: int, value: bytes) -> bool:
        """Adds a key; False when another worker has added one under the same id, which then is valid."""
        return bool(await self._call(lambda: self._client.hsetnx(self.keys.token_keys, str(key_id), value)))

    async def drop_token_key(self, key_id: int) -> None:
        await self._call(lambda: self._client.hdel(self.keys.token_keys, str(key_id)))

    # The cache

    async def cached(self, digest: str) -> bytes | None:
        """Encoded top-k answer; None if it is not cached."""
        answer: bytes | None = await self._call(lambda: self._client.get(self.keys.top_k(digest)))
        return answer

    async def cache(self, digest: str, value: bytes, lifetime_ms: int) -> None:
        """Caches an encoded top-k answer."""
        await self._call(lambda: self._client.set(self.keys.top_k(digest), value, px=lifetime_ms))


def _entries(items: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Entry]:
    return [Entry(Offset.parse(at), *next(iter(fields.items()))) for at, fields in items]
