"""Keeper of the logs, the worker with the lease: snapshots, trimming, ticks, token keys, promotions of winners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bandit_serve.base.troubles import Troubles
from bandit_serve.changes.changes import Changes
from bandit_serve.changes.layers import settle
from bandit_serve.changes.promotion import promote_winner, promotion
from bandit_serve.errors import BanditServeError, StoreUnavailable, in_full
from bandit_serve.experiments.checks import MAX_WINDOW_MS
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.fold import EXPOSURES_FOLD, POLICY_FOLD, REGISTRY_FOLD, RESULTS_FOLD, readable
from bandit_serve.log.owner import name_of
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.log.times import UNTRIMMED_MS
from bandit_serve.log.token import new_key
from bandit_serve.registry.registry import Registry
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.second_folds import SecondFolds, SecondSetAside
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store
from bandit_serve.store.survey import filled
from bandit_serve.upkeep.overdue_chores import OverdueChores
from bandit_serve.upkeep.rests import Rests

log = logging.getLogger(__name__)

LEASE_MS = 10_000
ROUND_S = 1.0
RELIEF_S, TENANT_RELIEF_S = 5.0, 30.0
FULL_SHARE, RELIEVED_SHARE = 0.95, 0.9
"""Shares of the store's memory: above the first, logs are trimmed to their newest snapshot until below the second."""
OVERDUE_ROUNDS = 3
KEPT_SNAPSHOTS = 8


class Keeper:
    """Runs in every worker, but only the one that holds the lease works; `leads` says so where another keeper asks.

    Every chore may be done twice without harm, so no fencing is needed when the lease changes hands during one.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        changes: Changes,
        results: SecondFolds[Any],
        exposures: SecondFolds[Any],
        *,
        incarnation: int,
        snapshot_every_s: float,
        retention_s: float,
        retention_bytes: int,
        key_rotation_s: float,
        troubles: Troubles,
        log_bytes: int | None = None,
        leads: Callable[[], bool] | None = None,
    ) -> None:
        self._store = store
        self._replica = replica
        self._changes = changes
        self._results = results
        self._exposures = exposures
        self._holder = f"{incarnation:016x}"
        self._snapshot_every_s = snapshot_every_s
        self._retention_ms = round(retention_s * 1000)
        self._retention_bytes = retention_bytes
        self._log_bytes = log_bytes
        self._leads = leads
        self._key_rotation_ms = round(key_rotation_s * 1000)
        self._leading = False
        self._relieving = False
        self._troubles = troubles
        self._overdue = OverdueChores(replica, self._troubles, OVERDUE_ROUNDS * snapshot_every_s)
        self._rests = Rests(snapshot_every_s * 1000)
        self._moved = set(replica.experiments)
        self._closes_ms: dict[str, int] = {}
        self._won: set[str] = set()
        replica.on_change(self._moved.add)
        replica.on_deleted(lambda name, uid: self._forget(name))
        self.failed = 0
        """Number of chores that have failed."""

    @property
    def leading(self) -> bool:
        """Whether this worker held the lease when it asked last."""
        return self._leading

    async def run(self) -> None:
        """Tries to hold the lease, and with it appends ticks and promotes winners, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                self._leading = await self._hold()
                if self._leading:
                    await self._round()
            except StoreUnavailable:
                continue
            except BanditServeError:
                log.exception("a chore of the lease holder failed")

    async def _hold(self) -> bool:
        if self._leads is not None:
            return self._leads()
        return await self._store.hold_lease(self._holder, LEASE_MS)

    @property
    def _largest_log(self) -> int:
        """Bytes that a log may have: an equal part of `log_bytes`, where all together may have no more than that."""
        if self._log_bytes is None:
            return self._retention_bytes
        return min(self._retention_bytes, self._log_bytes // max(1, len(self._replica.experiments)))

    async def keep_regularly(self) -> None:
        """Snapshots, trims and rotates keys while `run` holds the lease: a task of its own, because it may be slow."""
        next_s = time.monotonic() + self._snapshot_every_s
        relief_s = 0.0
        while True:
            await asyncio.sleep(ROUND_S)
            if not self._leading:
                self._overdue.forget()
                self._rests.clear()
                continue
            now_s = time.monotonic()
            with contextlib.suppress(StoreUnavailable):
                if now_s >= relief_s:
                    relief_s = now_s + (RELIEF_S if self._leads is None else TENANT_RELIEF_S)
                    self._relieving = await self._is_full()
                if now_s >= next_s or self._relieving:
                    next_s = now_s + self._snapshot_every_s
                    await self.keep()
            self._relieving = False
            self._overdue.look()

    async def _is_full(self, share: float = FULL_SHARE) -> bool:
        survey = await self._store.facts()
        return filled(survey.fullest.facts) > share

    async def _round(self) -> None:
        await self._tick()
        for name in list(self._won):
            with self._replica.island(name):
                await self._promote(name)

    def _look_at_moved(self) -> None:
        """Notes of the experiments whose logs have moved when their windows close, and who has won."""
        moved = list(self._moved)
        self._moved.clear()
        for name in moved:
            self._forget(name)
            live = self._replica.experiments.get(name)
            if live is None:
                continue
            with self._replica.island(name):
                due_ms = live.next_close_ms()
                if due_ms is not None:
                    self._closes_ms[name] = due_ms
                if live.record.winner is not None:
                    self._won.add(name)

    def _forget(self, name: str) -> None:
        self._closes_ms.pop(name, None)
        self._won.discard(name)

    async def _promote(self, name: str) -> None:
        live = self._replica.experiments.get(name)
        if live is None or self._replica.registry.is_done(promotion(live.record)):
            self._won.discard(name)
            return
        try:
            await promote_winner(self._changes, live.record)
        except BanditServeError as error:
            if isinstance(error, StoreUnavailable):
                raise
            log.error("the winner of %s is not promoted: %s", name, in_full(error))
        else:
            self._won.discard(name)

    async def _tick(self) -> None:
        """Appends a tick to each log in which a window should close, so that its fold learns the time."""
        self._look_at_moved()
        # Beside another keeper, log time is known by that one's beats.
        clock = self._store.clock
        is_known = self._leads is not None and clock.known
        now_ms = clock.now_ms() if is_known else await self._store.time_ms()
        for name in [name for name, due_ms in self._closes_ms.items() if due_ms <= now_ms]:
            with self._replica.island(name):
                live = self._replica.experiments.get(name)
                if live is not None:
                    await self._store.append(live.owner, events.TICK, b"")

    async def keep(self) -> None:
        """Rotates token keys, settles layers, writes snapshots and trims the logs of the registry and each experiment.

        Each is a chore of its own: a failed one does not end the others, unless the store does not answer at all.
        """
        await self._attempt("the token keys", self._rotate_keys)
        if COMMON not in self._replica.aside:
            await self._attempt("the registry", self._keep_registry)
        await self._attempt("deleted experiments", self._free_deleted)
        await self._attempt("the layers", self._settle_layers)
        now_ms = await self._store.time_ms()
        for name in await self._in_order():
            if self._relieving or not self._rests_at(name, now_ms):
                await self._attempt(name, partial(self._keep_experiment, name, now_ms))

    def _rests_at(self, name: str, now_ms: int) -> bool:
        """Whether an experiment is kept already, so that nothing of it is overdue."""
        live = self._replica.experiments.get(name)
        rests = live is not None and self._rests.lasts(live, self._n_omissions(live), now_ms)
        if rests:
            self._overdue.done("snapshot_overdue", name)
            self._overdue.done("trim_overdue", name)
        return rests

    def _n_omissions(self, live: LiveExperiment) -> int:
        return len(self._replica.registry.repairs.omissions.get(live.owner, ()))

    async def _in_order(self) -> list[str]:
        """Names of the experiments; in a full store, those with the largest logs first, as they free the most."""
        names = list(self._replica.experiments)
        if not self._relieving:
            return names
        owner = self._replica.registry.owner
        sizes = {name: (await self._store.log_size(owner(name)))[1] for name in names}
        return sorted(names, key=lambda name: -sizes[name])

    async def _attempt(self, whose: str, chore: Callable[[], Awaitable[None]]) -> None:
        """Does one chore and counts its failure. Raises `StoreUnavailable` where the store does not answer at all."""
        try:
            await chore()
        except StoreUnavailable as error:
            log.warning("a chore for %s failed: %s", whose, error)
            self.failed += 1
            await self._store.time_ms()
        except Exception:
            log.exception("a chore for %s failed", whose)
            self.failed += 1
        if self._relieving:
            # If enough is free now, the other logs keep what their retention says.
            self._relieving = await self._is_full(RELIEVED_SHARE)

    async def _keep_registry(self) -> None:
        registry = self._replica.registry
        snapshot = Snapshot(registry.offset, registry.state())
        try:
            await asyncio.to_thread(readable, Registry.from_state, *snapshot)
            await self._keep_fold(COMMON, REGISTRY_FOLD, snapshot)
            self._overdue.done("snapshot_overdue", COMMON)
        finally:
            await self._trim(COMMON, REGISTRY_FOLD)

    async def _free_deleted(self) -> None:
        """Frees the keys of deleted experiments, once every worker must know of the deletion.

        It is repeated for a log that a worker which did not know has written to since.
        """
        before_ms = await self._store.time_ms() - UNTRIMMED_MS
        gone = [owner for owner, at_ms in self._replica.registry.repairs.deleted() if at_ms < before_ms]
        for owner in await self._store.find_present(gone):
            await self._store.free(owner, (POLICY_FOLD, RESULTS_FOLD, EXPOSURES_FOLD))

    async def _settle_layers(self) -> None:
        if COMMON not in self._replica.aside:
            await settle(self._changes, self._replica, await self._store.time_ms())

    async def _keep_experiment(self, name: str, now_ms: int) -> None:
        """Writes an experiment's snapshots and trims its log, even if a snapshot fails, as that frees memory."""
        if name not in self._replica.experiments:
            return
        self._rests.forget(name)
        live = await self._replica.at_rest(name)
        n_omissions = self._n_omissions(live)
        second: dict[str, SecondFolds[Any]] = {RESULTS_FOLD: self._results}
        if live.experiment.unit == "user":
            second[EXPOSURES_FOLD] = self._exposures
        try:
            offset, pack = live.offset, live.capture()
            made = [
                await self._keep_second(live, folds, f"{kind}_set_aside") for kind, folds in second.items()
            ]
            state = await asyncio.to_thread(lambda: readable(LiveExperiment.from_state, offset, pack()))
            await self._keep_fold(live.owner, POLICY_FOLD, Snapshot(offset, state))
            self._overdue.done("snapshot_overdue", name)
        finally:
            trims_ms = await self._trim(live.owner, POLICY_FOLD, *second)
            sweeps_ms = await self._store.sweep(live.owner)
        if all(made):
            self._rests.begin(live, offset, n_omissions, min(trims_ms, sweeps_ms), now_ms)

    async def _keep_second(self, live: LiveExperiment, folds: SecondFolds[Any], trouble: str) -> bool:
        """Writes a snapshot of a second fold. If it can not be made, `trouble` begins, and the policy's goes on.

        Returns whether it was made.
        """
        name = live.experiment.id
        try:
            await folds.snapshot(live)
        except SecondSetAside as error:
            self._troubles.begin(trouble, str(error), name)
            return False
        self._troubles.end(trouble, name)
        return True

    async def _keep_fold(self, owner: str, fold: str, newest: Snapshot) -> None:
        """Writes the newest snapshot and thins out older ones, which replay and trimming start from."""
        offsets = await self._store.snapshot_offsets(owner, fold)
        # After a repair, one at the same offset may hold another state.
        if offsets and offsets[-1] == newest.offset and owner not in self._replica.registry.repairs.omissions:
            return
        await self._store.write_snapshot(owner, fold, newest)
        apart_ms = self._retention_ms // KEPT_SNAPSHOTS
        # The newest of the old ones stays, because a log that is too large is trimmed to it.
        old = [offset for offset in offsets if offset.time_ms < newest.offset.time_ms - UNTRIMMED_MS]
        dropped, last = [], old[0] if old else None
        for offset in old[1:-1]:
            assert last is not None
            if offset.time_ms - last.time_ms < apart_ms:
                dropped.append(offset)
            else:
                last = offset
        await self._store.drop_snapshots(owner, fold, dropped)

    async def _trim(self, owner: str, fold: str, *others: str) -> float:
        """Trims the log to a snapshot of `fold` that all `others` have reached, too.

        Entries older than the retention go; when the log is too large or the store full, all that a snapshot covers.
        Returns the log time from which there is more to trim, if nothing comes; infinity if nothing will be.
        """
        now_ms = await self._store.time_ms()
        offsets = await self._store.snapshot_offsets(owner, fold)
        _, size = await self._store.log_size(owner)
        too_large = size > self._largest_log or self._relieving
        kept_ms = UNTRIMMED_MS if too_large else max(self._retention_ms, UNTRIMMED_MS)
        trimmed = await self._store.trimmed(owner)
        old = [offset for offset in offsets if offset.time_ms < now_ms - kept_ms]
        if old and old[-1] > trimmed:
            gone = await self._store.trim(owner, old[-1], [fold, *others])
            trimmed = await self._store.trimmed(owner)
            if trimmed < old[-1]:
                return now_ms
            await self._store.drop_snapshots(owner, fold, old[:-1])
            log.info("trimmed %d entries of the log of %s, through %s", gone, owner, old[-1])
        self._overdue.done("trim_overdue", name_of(owner))
        return min((each.time_ms + kept_ms + 1 for each in offsets if each > trimmed), default=math.inf)

    async def _rotate_keys(self) -> None:
        now_ms = await self._store.time_ms()
        keyring = await load_keyring(self._store)
        if keyring.needs_new(now_ms, self._key_rotation_ms):
            await self._store.add_token_key((keyring.newest + 1) % 256, new_key(now_ms))
        aside = [each.record for each in self._replica.aside.values() if not each.given_up]
        records = [*(live.record for live in self._replica.experiments.values()), *aside]
        windows_ms = [
            MAX_WINDOW_MS if record is None else record.experiment.attribution.window_ms for record in records
        ]
        if len(records) < len(self._replica.registry.experiments):
            windows_ms.append(MAX_WINDOW_MS)  # for an experiment that is being read or was only announced
        for key_id in keyring.expired(now_ms, max(windows_ms, default=0)):
            await self._store.drop_token_key(key_id)
