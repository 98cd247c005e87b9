"""The lease holder's chores: snapshots, trimming, ticks, token keys, and promotions that an experiment decided."""

from __future__ import annotations

import asyncio
import logging
import time

from bandit_serve import events
from bandit_serve.errors import BanditServeError, Conflict, NotFound, StoreUnavailable
from bandit_serve.experiment import Record
from bandit_serve.log.changes import Changes
from bandit_serve.log.results_log import RESULTS_FOLD, ResultsLog
from bandit_serve.log.tail import POLICY_FOLD, REGISTRY_FOLD
from bandit_serve.models.registry import ModelChanged, Registry
from bandit_serve.replica import Replica
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Snapshot, Store
from bandit_serve.token import Keyring, new_key

log = logging.getLogger(__name__)

LEASE_MS = 10_000
ROUND_S = 1.0
KEPT_SNAPSHOTS = 8
UNTRIMMED_MS = 5_000
"""How old an entry is before it may be trimmed: more than `tail.LAPSE_S`, so a reader that keeps up misses none."""


class Keeper:
    """Runs in every worker; the one that holds the lease does the work.

    Nothing that it does twice does harm, so a lease that changes hands in the middle needs no fence.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        changes: Changes,
        results: ResultsLog,
        *,
        incarnation: int,
        snapshot_every_s: float,
        retention_s: float,
        retention_bytes: int,
        key_rotation_s: float,
    ) -> None:
        self._store = store
        self._replica = replica
        self._changes = changes
        self._results = results
        self._holder = f"{incarnation:016x}"
        self._snapshot_every_s = snapshot_every_s
        self._retention_ms = round(retention_s * 1000)
        self._retention_bytes = retention_bytes
        self._key_rotation_ms = round(key_rotation_s * 1000)
        self._next_snapshots_s = time.monotonic() + snapshot_every_s

    async def run(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                if await self._store.hold_lease(self._holder, LEASE_MS):
                    await self._round()
            except StoreUnavailable:
                continue
            except BanditServeError:
                log.exception("a chore of the lease holder failed")

    async def _round(self) -> None:
        await self._tick()
        for live in list(self._replica.experiments.values()):
            if not self._replica.registry.is_done(promotion(live.record)):
                await self._promote(live.record)
        if time.monotonic() >= self._next_snapshots_s:
            self._next_snapshots_s = time.monotonic() + self._snapshot_every_s
            await self.keep()

    async def _promote(self, record: Record) -> None:
        try:
            await promote_winner(self._changes, record)
        except (Conflict, NotFound) as error:
            log.error("the winner of %s is not promoted: %s", record.experiment.id, error)

    async def _tick(self) -> None:
        """Lets time pass in the logs in which a window is to close and nothing else happens."""
        now_ms = await self._store.time_ms()
        for name, live in list(self._replica.experiments.items()):
            due_ms = live.next_close_ms()
            if due_ms is not None and due_ms <= now_ms:
                await self._store.append(name, events.TICK, b"")

    async def keep(self) -> None:
        """Snapshots of everything, trimmed logs, and token keys that are neither old nor useless."""
        registry = self._replica.registry
        await self._keep_fold(COMMON, REGISTRY_FOLD, Snapshot(registry.offset, registry.state()))
        await self._trim(COMMON, REGISTRY_FOLD)
        for name, live in list(self._replica.experiments.items()):
            snapshot = Snapshot(live.offset, live.state())
            await self._results.snapshot(live)
            await self._keep_fold(name, POLICY_FOLD, snapshot)
            await self._trim(name, POLICY_FOLD, RESULTS_FOLD)
            await self._store.sweep(name)
        await self._rotate_keys()

    async def _keep_fold(self, owner: str, fold: str, newest: Snapshot) -> None:
        """Keeps the newest snapshot, and older ones some way apart for replay and trimming to start from."""
        offsets = await self._store.snapshot_offsets(owner, fold)
        if offsets and offsets[-1] == newest.offset:
            return
        await self._store.write_snapshot(owner, fold, newest)
        apart_ms = self._retention_ms // KEPT_SNAPSHOTS
        # The newest of the old ones stays: a log that grew too large is trimmed to it.
        old = [offset for offset in offsets if offset.time_ms < newest.offset.time_ms - UNTRIMMED_MS]
        dropped, last = [], old[0] if old else None
        for offset in old[1:-1]:
            assert last is not None
            if offset.time_ms - last.time_ms < apart_ms:
                dropped.append(offset)
            else:
                last = offset
        await self._store.drop_snapshots(owner, fold, dropped)

    async def _trim(self, owner: str, fold: str, *others: str) -> None:
        """Forgets the log behind a snapshot of `fold`, which all `others` have reached, too.

        What is older than the retention goes, or all that can when the log is too large.
        """
        now_ms = await self._store.time_ms()
        offsets = await self._store.snapshot_offsets(owner, fold)
        _, size = await self._store.log_size(owner)
        kept_ms = UNTRIMMED_MS if size > self._retention_bytes else max(self._retention_ms, UNTRIMMED_MS)
        old = [offset for offset in offsets if offset.time_ms < now_ms - kept_ms]
        if not old or old[-1] <= await self._store.trimmed(owner):
            return
        gone = await self._store.trim(owner, old[-1], [fold, *others])
        if await self._store.trimmed(owner) < old[-1]:
            return
        await self._store.drop_snapshots(owner, fold, old[:-1])
        log.info("trimmed %d entries of the log of %s, through %s", gone, owner, old[-1])

    async def _rotate_keys(self) -> None:
        now_ms = await self._store.time_ms()
        keyring = await load_keyring(self._store)
        if keyring.needs_new(now_ms, self._key_rotation_ms):
            await self._store.add_token_key((keyring.newest + 1) % 256, new_key(now_ms))
        longest_ms = max(
            (live.experiment.attribution.window_ms for live in self._replica.experiments.values()), default=0
        )
        for key_id in keyring.expired(now_ms, longest_ms):
            await self._store.drop_token_key(key_id)


async def load_keyring(store: Store) -> Keyring:
    """The keys that all workers share; the first worker makes the first one."""
    now_ms = await store.time_ms()
    keys = await store.token_keys()
    if not keys:
        await store.add_token_key(0, new_key(now_ms))
        keys = await store.token_keys()
    return Keyring(keys, now_ms)


def promotion(record: Record) -> str:
    """What names the promotion of an experiment's winner among all that must happen once."""
    return f"{record.experiment.id}:{record.uid}:{record.revision}"


async def promote_winner(changes: Changes, record: Record) -> None:
    """Promotes the winner that an experiment was stopped with, once."""
    if record.status != "stopped" or record.winner is None:
        return
    arm = next(arm for arm in record.experiment.arms if arm.name == record.winner)
    if arm.model is None or arm.version is None:
        return
    model, version = arm.model, arm.version
    because = promotion(record)

    def decide(registry: Registry) -> ModelChanged | None:
        if registry.is_done(because):
            return None
        return registry.promote(
            model,
            version,
            now_ms=record.stopped_ms or record.updated_ms,
            who=f"experiment:{record.experiment.id}",
            reason=f"won {record.experiment.id}",
            because=because,
        )

    await changes.models(decide)
