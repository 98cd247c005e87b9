"""Store as the rest of the service uses it: logs, snapshots, leases, workers, token keys and a cache.

Every write is idempotent or compares before it sets, so a caller whose reply was lost may try again. Nothing here tries
again by itself. All methods raise `StoreUnavailable` in an outage.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from bandit_serve.errors import StoreRefused, StoreUnavailable
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import REGISTRY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.log.times import CLOCK_TOLERANCE_MS, COUNTED_MS, EXPOSED_MARK_MS, REPEATED_MS
from bandit_serve.store import scripts
from bandit_serve.store.calls import RunsCommands
from bandit_serve.store.clock import LogClock, even_ns
from bandit_serve.store.confirmed import Confirmed
from bandit_serve.store.failures import BUSY, CANNOT_SAVE, CLOCK, FULL, SLOW, translate_errors
from bandit_serve.store.keys import COMMON, OF_TENANT, Keys, common_keys_of_tenants
from bandit_serve.store.layout import check_layout
from bandit_serve.store.links import Link, layout_of, open_link
from bandit_serve.store.news import News, entries_of, raw_entries_of
from bandit_serve.store.outages import Outages
from bandit_serve.store.survey import Survey, check_all

SWEEP_BATCH_KEYS = 500
SCANNED_KEYS = 5_000
MAX_BEGINNING_ENTRIES, MAX_BEGINNING_BYTES = 100, 64 * 2**10
"""Of one log in `Store.read_beginnings`: of a hundred logs at once that is a few megabytes."""
CLOCK_RETRY_S = 0.2
MAX_APPEND_TRIES = 4
CENSUS_MS = 60_000
TAIL_BLOCK_MS = 1_000
TENANT_BLOCK_MS = 5_000
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


class LearnerReport(NamedTuple):
    """Log time that a process has still to learn, and the log time at which it said so."""

    behind_ms: int
    at_ms: int


class Beginning(NamedTuple):
    """Newest snapshot of a fold, None without one, and all entries behind it.

    The log is trimmed through `trimmed`, which is not past the snapshot.
    """

    trimmed: Offset
    snapshot: Snapshot | None
    entries: list[Entry]


class Store:
    """Client of one store, of any kind.

    replicas: how many must confirm an append before it counts as done; with fewer it raises `StoreUnavailable`, and is
    there all the same, so that its repetition is a duplicate.

    One that is `beside` another, for a tenant of the same service, shares all connections but that of the tail, and the
    clock. It waits longer in its tail, as every wait that ends costs something, and ends when the other does.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "bandit_serve",
        timeout_s: float = 1.0,
        replicas: int = 0,
        beside: Store | None = None,
    ) -> None:
        self.url = url
        self.clock: LogClock = LogClock() if beside is None else beside.clock
        self.outages = Outages()
        self._block_ms = TAIL_BLOCK_MS if beside is None else TENANT_BLOCK_MS
        self.keys = Keys(namespace, layout_of(url))
        self._link: Link = open_link(
            url,
            self.keys,
            self.outages,
            self.clock,
            timeout_s=timeout_s,
            block_s=self._block_ms / 1000,
            beside=None if beside is None else beside._link,
        )
        self._client: Any = self._link.client
        self._replicas = replicas
        self._calls: RunsCommands = self._link.calls
        self._appends = Confirmed(self._calls, replicas, timeout_s) if replicas else self._calls
        self.on_append: Callable[[float], None] = _ignore
        """Gets the seconds that each append took, or the try to append."""

    async def close(self) -> None:
        await self._link.close()

    async def facts(self) -> Survey:
        """Reads the facts of all shards of the store."""
        survey: Survey = await self._call(lambda: self._link.survey(self._replicas))
        return survey

    async def check(self) -> Survey:
        """As `check_facts`; raises StoreRefused where a restore did not finish, too."""
        survey = await self.check_facts()
        if await self.restoring() is not None:
            raise StoreRefused(
                "A restore into this store has not finished: run `bandit-serve restore` with that backup again."
            )
        return survey

    async def check_facts(self) -> Survey:
        """Returns the store's facts, and marks an empty cluster as one of ours.

        Raises `StoreRefused` where the store must not be used.
        """
        survey = await self.facts()
        check_all(survey)
        await self._call(lambda: check_layout(self._client, self.keys))
        return survey

    async def restoring(self) -> bytes | None:
        """Backup that is being written into this store, or was when the restore died; None where there is none."""
        restoring: bytes | None = await self._call(lambda: self._client.get(self.keys.restoring))
        return restoring

    async def begin_restoring(self, backup: bytes) -> bytes:
        """Closes the store to services until `end_restoring`; returns the backup for which it is closed."""
        await self._call(lambda: self._client.setnx(self.keys.restoring, backup))
        return await self.restoring() or b""

    async def end_restoring(self) -> None:
        """Opens the store to services."""
        await self._call(lambda: self._client.delete(self.keys.restoring))

    async def is_used(self) -> bool:
        """Whether the namespace has, or had, a service."""
        return await self.has_data() or bool(await self._count([self.keys.workers]))

    async def has_data(self) -> bool:
        """Whether the namespace has anything that stays: that of a service, or of one of its tenants."""
        keys = self.keys
        of_registry = (keys.log(COMMON), keys.head(COMMON), keys.snapshots(COMMON, REGISTRY_FOLD))
        return bool(await self._count([keys.identity, keys.token_keys, *of_registry]))

    async def tenants(self) -> list[str]:
        """Tenants that have, or had, a part of this service. Looks at every key of a server."""
        calls = await self._call(self._link.to_common)
        pattern = common_keys_of_tenants(self.keys.namespace)
        cursor, found = b"0", set[str]()
        while True:
            scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_KEYS)
            cursor, keys = await self._call(partial(calls.execute_command, *scan))
            found |= {key.decode().partition(OF_TENANT)[2].partition(":")[0] for key in keys}
            if cursor == b"0":
                return sorted(found)

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        began_s = time.monotonic()
        try:
            with translate_errors():
                return await call()
        except StoreUnavailable as error:
            if error.what not in SAME_NODE_OUTAGES:
                await self._link.renew(began_s)
            raise

    async def _run(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        return await self._call(lambda: script.run(self._calls, keys, arguments))

    async def run(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        """Runs a script for another module of this package; returns its reply."""
        return await self._run(script, keys, arguments)

    async def _write(self, owner: str, call: Awaitable[Any]) -> Any:
        """Awaits a write and records in `outages` whether it succeeded. Only for writes that are made all the time."""
        where = self._link.where(owner)
        try:
            reply = await call
        except StoreUnavailable as error:
            self.outages.failed("write", error, where)
            raise
        self.outages.passed("write", where)
        return reply

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

    async def begin_at(self, log_ms: int) -> None:
        """Has log time begin at `log_ms`, Unix time, or at the store's own time where that is later."""
        shift_ms = max(0, log_ms - await self._call(lambda: self._link.server_ms(self.keys.clock)))
        clock = {"shift": shift_ms, "mark": log_ms}
        await self._call(lambda: self._client.hset(self.keys.clock, mapping=clock))

    async def _append(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        """Runs a script that appends at log time; returns its reply.

        The script refuses while the store's clock and ours differ. Then log time is read and the script runs again, at
        most `MAX_APPEND_TRIES` times in all, because the store's clock may change once more in between.
        """
        began_s = time.perf_counter()
        try:
            return await self._append_at_log_time(script, keys, arguments)
        finally:
            self.on_append(time.perf_counter() - began_s)

    async def _append_at_log_time(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> Any:
        for _ in range(MAX_APPEND_TRIES):
            if not self.clock.known:
                await self.time_ms()
            times = (self._link.shift_ms(keys[0]), self.clock.now_ms(), CLOCK_TOLERANCE_MS)
            reply = await self._call(partial(script.run, self._appends, keys, (*times, *arguments)))
            if reply != b"clock":
                return reply
            await self.time_ms()
            await self._call(lambda: self._link.compare_clocks(keys[0]))
        raise StoreUnavailable(
            "The store's clock does not agree with this machine's, and keeps changing.", what=CLOCK
        )

    async def _confirm(self, owner: str) -> None:
        """Returns when replicas have all that was written for an owner, which a repeated append does not say."""
        if self._replicas:
            head = [self.keys.head(owner)]
            await self._write(owner, self._call(lambda: scripts.CONFIRM.run(self._appends, head, [])))

    async def sweep(self, owner: str) -> float:
        """Deletes bitmaps and marks that an experiment's log does not need any more.

        Returns the log time from which there is more to delete, if nothing comes; infinity if nothing will be.
        """
        index, now_ms = self.keys.expiries(owner), await self.time_ms()
        while True:
            due = await self._call(
                lambda: self._client.zrangebyscore(index, "-inf", f"({now_ms}", start=0, num=SWEEP_BATCH_KEYS)
            )
            keys = [key.decode() for key in due]
            if not keys or not await self._run(scripts.SWEEP, [index, *keys], [now_ms]):
                break
        first = await self._call(lambda: self._client.zrange(index, 0, 0, withscores=True))
        return float(first[0][1]) + 1.0 if first else math.inf

    # The log

    async def append_rewards(self, owner: str, rows: CountedRows) -> bytes:
        """Appends the rewards that are neither late nor in the log already, in one entry.

        Returns one letter a row: `a`ccepted, `d`uplicate, `x` for a conflict, `l`ate, or `e` for a row that
        `append_events` has to take, without an event.
        """
        keys = [self.keys.log(owner), self.keys.expiries(owner), *rows.bitmaps, *rows.values]
        letters = bytes(await self._write(owner, self._append(scripts.APPEND_REWARDS, keys, rows.arguments)))
        return await self._confirmed_letters(owner, letters)

    async def _confirmed_letters(self, owner: str, letters: bytes) -> bytes:
        """Verdicts, once replicas have what the duplicates among them were counted by."""
        if b"d" in letters and not any(letter in b"acr" for letter in letters):
            await self._confirm(owner)
        return letters

    async def append_events(
        self, owner: str, rows: CountedRows, hashes: Sequence[str], arguments: Sequence[scripts.Argument]
    ) -> bytes:
        """Appends what decisions' values become by events, in one entry.

        `hashes` are the keys that hold the events, `arguments` those that append_events.lua has of its own. Returns one
        letter a row: `a`ccepted, `d`uplicate, `c`orrected, `r`etracted, `x` for a conflict, `l`ate, `u`nmatched or
        `i`nvalid.
        """
        keys = [self.keys.log(owner), self.keys.expiries(owner), *rows.bitmaps, *rows.values, *hashes]
        appended = self._append(scripts.APPEND_EVENTS, keys, (*rows.arguments, *arguments))
        return await self._confirmed_letters(owner, bytes(await self._write(owner, appended)))

    async def write_marks(self, marks: Mapping[str, bytes], lifetime_ms: int) -> None:
        """Sets strings of one experiment, by key, for `lifetime_ms`."""
        if marks:
            await self._run(scripts.SET_STRINGS, list(marks), [lifetime_ms, *marks.values()])

    async def read_marks(self, keys: Sequence[str]) -> list[bytes | None]:
        """Strings of one experiment, one for each key; None where there is none."""
        marks: list[bytes | None] = await self._call(lambda: self._client.mget(keys)) if keys else []
        return marks

    async def append_change(self, owner: str, revision: int, kind: bytes, event: bytes) -> Offset | None:
        """Appends a configuration change. Returns its offset, or None when the head's revision is not `revision`."""
        keys = [self.keys.log(owner), self.keys.head(owner)]
        arguments: list[scripts.Argument] = [str(revision), kind, event]
        offset = await self._write(owner, self._append(scripts.APPEND_CHANGE, keys, arguments))
        return Offset.parse(offset) if offset else None

    async def head(self, owner: str) -> str | None:
        """Revision of a log's head, as it is written; None for a log that never had one."""
        head = await self._call(lambda: self._client.get(self.keys.head(owner)))
        return None if head is None else head.decode()

    async def scan_scores(self, key: str, cursor: int, count: int) -> tuple[int, list[tuple[bytes, float]]]:
        """Scans some members of a sorted set, with their scores; the cursor is 0 at the beginning, and at the end."""
        cursor, scored = await self._call(lambda: self._client.zscan(key, cursor, count=count))
        return int(cursor), [(member, float(score)) for member, score in scored]

    async def forget_scores(self, key: str, below: int) -> None:
        """Removes the members of a sorted set whose scores are below a number."""
        await self._call(lambda: self._client.zremrangebyscore(key, "-inf", f"({below}"))

    async def endless_scores(self, key: str) -> list[str]:
        """Members of a sorted set whose scores are infinite."""
        members = await self._call(lambda: self._client.zrangebyscore(key, "+inf", "+inf"))
        return [member.decode() for member in members]

    async def set_score(self, key: str, member: str, score: int) -> None:
        """Sets the score of a member that is there."""
        await self._call(lambda: self._client.zadd(key, {member: score}, xx=True))

    async def set_scores(self, key: str, scores: Mapping[str, float]) -> None:
        """Sets the scores of members, which are added where they are not there."""
        await self._call(lambda: self._client.zadd(key, dict(scores)))

    async def set_fields(self, key: str, fields: Mapping[str, bytes]) -> None:
        """Sets fields of a hash."""
        await self._call(lambda: self._client.hset(key, mapping=dict(fields)))

    async def count_fields(self, key: str) -> int:
        """Number of fields of a hash."""
        return int(await self._call(lambda: self._client.hlen(key)))

    async def scan_fields(self, key: str, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Scans some fields of a hash, each with its value behind it, as `scan_scores`."""
        cursor, fields = await self._call(lambda: self._client.hscan(key, cursor, count=count))
        return int(cursor), [each for pair in fields.items() for each in pair]

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
        result = int(await self._write(owner, self._append(scripts.APPEND_EXPOSURES, keys, arguments)))
        if result == 0:
            await self._confirm(owner)
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
        appended = self._append(scripts.APPEND_DEMANDED, keys, arguments)
        return await self._confirmed_letters(owner, bytes(await self._write(owner, appended)))

    async def append(self, owner: str, kind: bytes, event: bytes) -> Offset:
        """Appends one event; returns its offset. A retry after a lost reply appends it twice."""
        appended = self._append(scripts.APPEND, [self.keys.log(owner)], [kind, event])
        return Offset.parse(await self._write(owner, appended))

    async def last_offset(self, owner: str) -> Offset:
        """Offset of the newest entry; `START` for an empty log."""
        newest = await self._call(lambda: self._client.xrevrange(self.keys.log(owner), count=1))
        return Offset.parse(newest[0][0]) if newest else START

    async def find_lost(self, positions: Sequence[tuple[str, Offset]]) -> list[str]:
        """Returns the owners of logs that have lost their entry at the given offset without being trimmed that far.

        Asks the servers that are read from.
        """
        lost: list[str] = await self._call(lambda: self._link.reader.find_lost(positions))
        return lost

    async def identity(self) -> bytes | None:
        """Reads the random number that identifies this store's data, from the server that is read from; None before the
        first worker has set one.

        Raises `StoreUnavailable` where that server is a replica.
        """
        identity: bytes | None = await self._call(self._link.reader.identity)
        return identity

    async def make_identity(self) -> bytes:
        """Returns the store's identity; sets one where there is none yet."""
        made = secrets.token_hex(16)
        set_once = self._call(lambda: self._appends.execute_command("SETNX", self.keys.identity, made))
        await self._write(COMMON, set_once)
        return bytes(await self._call(lambda: self._client.get(self.keys.identity)))

    async def read(self, owner: str, after: Offset, count: int) -> list[Entry]:
        """Reads at most `count` entries after an offset."""
        items = await self._call(
            lambda: self._client.xrange(self.keys.log(owner), min=str(after.next), count=count)
        )
        return entries_of(items)

    async def read_beginnings(self, owners: Sequence[str], fold: str) -> dict[str, Beginning]:
        """Reads what the folds of these logs begin with, in one go.

        Those are left out for which it is not a single small answer, or whose part of the store is away.
        """
        keys, limits = self.keys, (MAX_BEGINNING_ENTRIES, MAX_BEGINNING_BYTES)
        asked = [(keys.log(owner), keys.trimmed(owner), keys.snapshots(owner, fold)) for owner in owners]
        commands = [scripts.READ_BEGINNING.command(of, limits) for of in asked]
        replies = await self._call(lambda: self._calls.execute_all(commands))
        found: dict[str, Beginning] = {}
        for owner, of, reply in zip(owners, asked, replies, strict=True):
            if isinstance(reply, NoScriptError):
                reply = await self._run(scripts.READ_BEGINNING, of, limits)
            if isinstance(reply, list) and reply:
                trimmed, at, state, items = reply
                snapshot = Snapshot(Offset.parse(at), state) if state else None
                found[owner] = Beginning(Offset.parse(trimmed), snapshot, raw_entries_of(items))
        return found

    async def read_any(self, after: Mapping[str, Offset], count: int, block_ms: int | None = None) -> News:
        """Reads up to `count` entries a log after the given offsets; waits up to `block_ms` for the first.

        Of a cluster some logs may be left out: those of shards that are away, and those that are not due yet.
        """
        block_ms = self._block_ms if block_ms is None else block_ms
        news: News = await self._call(lambda: self._link.reader.read(after, count, block_ms))
        return news

    def expect(self, owner: str) -> None:
        """Has `read_any` read a log at once, because somebody waits for its news."""
        self._link.reader.expect(owner)

    async def log_size(self, owner: str) -> tuple[int, int]:
        """Number of entries of a log, and its size in bytes, estimated by the store."""
        key = self.keys.log(owner)
        length = await self._call(lambda: self._client.xlen(key))
        size = await self._call(lambda: self._client.memory_usage(key, samples=100))
        return int(length), int(size or 0)

    async def measure_log(self, owner: str, fold: str) -> tuple[int, Offset | None, Offset | None]:
        """Size of a log in bytes, estimated; offsets of its first entry and of the first that no snapshot has."""
        keys = [self.keys.log(owner), self.keys.snapshots(owner, fold)]
        nbytes, oldest, uncovered = await self._run(scripts.MEASURE_LOG, keys, [])
        return (
            int(nbytes),
            Offset.parse(oldest) if oldest else None,
            Offset.parse(uncovered) if uncovered else None,
        )

    async def write_measurements(self, measurements: bytes, lifetime_ms: int) -> None:
        await self._call(lambda: self._client.set(self.keys.measurements, measurements, px=lifetime_ms))

    async def measurements(self) -> bytes | None:
        """Measurements that were written last, while they live."""
        written: bytes | None = await self._call(lambda: self._client.get(self.keys.measurements))
        return written

    async def report_learner(self, model: str, behind_ms: int) -> None:
        """Reports how much log time the process that learns for a model has still to learn."""
        report = f"{behind_ms} {await self.time_ms()}"
        await self._call(lambda: self._client.hset(self.keys.learner_reports, model, report))

    async def learner_reports(self) -> dict[str, LearnerReport]:
        """Last report of each process that learns, by model."""
        reports = await self._call(lambda: self._client.hgetall(self.keys.learner_reports))
        return {model.decode(): LearnerReport(*map(int, text.split())) for model, text in reports.items()}

    async def find_present(self, owners: Sequence[str]) -> list[str]:
        """Returns the owners whose log or expiries exist: they were not freed yet, or were written to again."""
        present = []
        for start in range(0, len(owners), SWEEP_BATCH_KEYS):
            some = owners[start : start + SWEEP_BATCH_KEYS]
            for group in self.keys.layout.together(some):
                if await self._count([key for owner in group for key in self._freed(owner)]):
                    present += [owner for owner in group if await self._count(self._freed(owner))]
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

    async def trimmed_of(self, owners: Sequence[str]) -> dict[str, Offset]:
        """As `trimmed`, of those owners where something was trimmed."""
        found: dict[str, Offset] = {}
        for group in self.keys.layout.together(owners):
            for start in range(0, len(group), SWEEP_BATCH_KEYS):
                some = group[start : start + SWEEP_BATCH_KEYS]
                marks = await self._call(
                    partial(self._client.mget, [self.keys.trimmed(each) for each in some])
                )
                found |= {each: Offset.parse(at) for each, at in zip(some, marks, strict=True) if at}
        return found

    # Workers

    async def hold_lease(self, holder: str, lifetime_ms: int) -> bool:
        """Takes or renews the lease for `lifetime_ms`; returns whether `holder` has it."""
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.lease], [holder, lifetime_ms]))

    async def drop_lease(self, holder: str) -> None:
        """Gives the lease back, if `holder` has it."""
        await self._run(scripts.DROP_LEASE, [self.keys.lease], [holder])

    async def hold_learner(self, model: str, holder: str, lifetime_ms: int) -> bool:
        """Takes or renews the lease for learning for a model, as `hold_lease`."""
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.learner(model)], [holder, lifetime_ms]))

    async def hold_trainer(self, model: str, holder: str, lifetime_ms: int) -> bool:
        """Takes or renews the lease for training a model again, as `hold_lease`."""
        return bool(await self._run(scripts.HOLD_LEASE, [self.keys.trainer(model)], [holder, lifetime_ms]))

    async def drop_trainer(self, model: str, holder: str) -> None:
        """Gives the lease for training a model again back, if `holder` has it."""
        await self._run(scripts.DROP_LEASE, [self.keys.trainer(model)], [holder])

    async def announce(self, about: bytes, lifetime_ms: int) -> None:
        """Announces for `lifetime_ms` that a worker is live; `about` is its encoded description."""

        async def announce() -> None:
            now_ms = await self.time_ms()
            until_ms, workers = now_ms + lifetime_ms, self.keys.workers
            # As the appends are, so that they are known to work, or not, while nobody sends anything.
            await self._call(lambda: self._appends.execute_command("ZADD", workers, until_ms, about))
            await self._call(lambda: self._client.zremrangebyscore(self.keys.workers, "-inf", now_ms))

        await self._write(COMMON, announce())

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

    async def agreement_sums(self, model: str, version: str) -> tuple[dict[bytes, bytes], int]:
        """Sums for a shadow version by worker, and for how long they are kept on, in ms."""
        key = self.keys.agreement(model, version)
        sums = await self._call(lambda: self._client.hgetall(key))
        return sums, max(int(await self._call(lambda: self._client.pttl(key))), 0)

    async def write_agreement_sums(
        self, model: str, version: str, sums: Mapping[bytes, bytes], lifetime_ms: int
    ) -> None:
        """Writes sums of workers of before."""
        key = self.keys.agreement(model, version)
        await self._call(lambda: self._client.hset(key, mapping=dict(sums)))
        await self._call(lambda: self._client.pexpire(key, lifetime_ms))

    async def agreements(self, model: str, version: str) -> list[bytes]:
        """Sums for a shadow version, of each worker that ever scored for it."""
        sums = await self._call(lambda: self._client.hgetall(self.keys.agreement(model, version)))
        return list(sums.values())

    async def report_loaded(self, incarnation: int, loaded: bytes) -> None:
        """Reports the models that a worker has in memory. By it, too, appends are known to work, or not."""

        async def report() -> None:
            command = ("HSET", self.keys.loaded, f"{incarnation:016x}", loaded)
            await self._call(lambda: self._appends.execute_command(*command))
            await self._call(lambda: self._client.pexpire(self.keys.loaded, LOADED_MS))

        await self._write(COMMON, report())

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
        command = ("HSETNX", self.keys.token_keys, str(key_id), value)
        return bool(await self._call(lambda: self._appends.execute_command(*command)))

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


def _ignore(append_s: float) -> None:
    pass
