"""One worker's parts, put together: memory, the log, deciding, rewarding, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Coroutine, Sequence

import msgspec

from bandit_serve.api.decisions import ModelName
from bandit_serve.base.clock import now_ms, rfc3339
from bandit_serve.base.troubles import Trouble, Troubles
from bandit_serve.changes.changes import Changes
from bandit_serve.changes.experiments import ExperimentChanges
from bandit_serve.changes.models import ModelChanges
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.decisions.flush import Flusher
from bandit_serve.decisions.refresh import Refresher
from bandit_serve.decisions.shadows import Shadows
from bandit_serve.errors import BanditServeError, ModelLost, StoreUnavailable, in_full
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.offset import Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.token import Keyring
from bandit_serve.registry.artifact_store import open_artifacts
from bandit_serve.registry.loaded import LoadedModels, Reference
from bandit_serve.registry.top_k_cache import TopKCache
from bandit_serve.replication.acknowledgements import say_heard
from bandit_serve.replication.census import WorkerCard
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.local_snapshots import LocalSnapshots
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.tail import GATHER_S, Tail
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.server.metrics import Counters
from bandit_serve.server.tasks import Tasks
from bandit_serve.settings import Settings
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store
from bandit_serve.upkeep.keeper import Keeper
from bandit_serve.upkeep.local_keeper import LocalKeeper

log = logging.getLogger(__name__)

# Each is a write, too: whether the store takes any is known by it when no caller writes.
HEARTBEAT_S = 1.0
HEARTBEAT_AGAIN_S = 0.25
HEARTBEAT_LIFETIME_MS = 10_000
KEYS_EVERY_S = 30.0
STARTED_WITHOUT_STORE = "started_without_store"
SWEEP_EVERY_S = 3_600.0
LEAST_FREE_BYTES = 64 * 2**20
CLOCK_OFF_MS = 1_000.0


class Service:
    """`load` before the first request, `start` what runs in the background, `stop` in the end."""

    def __init__(self, settings: Settings, store: Store, counters: Counters) -> None:
        self.settings = settings
        self.counters = counters
        self.store = store
        self.incarnation = secrets.randbits(64)
        self.card = WorkerCard(
            self.incarnation, os.getpid(), socket.gethostname(), time.time_ns() // 1_000_000
        )
        self.draining = False
        self.ready = False
        self.troubles = Troubles()
        self._outages: set[str] = set()
        store.outages.on_change(self._say_outages)
        self.replica = Replica()
        self.tail = Tail(store, self.replica)
        self.changes = Changes(store, self.replica, self.tail)
        self.results = ResultsLog(store, self.replica)
        self.local = LocalSnapshots(settings.data_dir, settings.namespace)
        self.artifacts = open_artifacts(settings, store.url)
        self.models = LoadedModels(self.artifacts, max_bytes=settings.model_memory, troubles=self.troubles)
        parts = (store, self.replica, self.tail, self.changes, self.models)
        self.experiment_changes = ExperimentChanges(*parts)
        self.model_changes = ModelChanges(*parts)
        self.top_k = TopKCache(store, lifetime_s=settings.seconds("top_k_lifetime"))
        self.shadows = Shadows(store, self.replica, self.models, self.incarnation)
        self.decisions: Decisions
        self.rewards: Rewards
        self.flusher: Flusher
        self.tasks = Tasks(self.troubles)
        self.keeper: Keeper | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._records: dict[str, Record | None] = {}
        self._clock_off = False

    @property
    def reasons(self) -> list[Trouble]:
        """Why this worker is degraded; empty where it is not."""
        return list(self.troubles)

    @property
    def degraded(self) -> bool:
        return bool(self.troubles)

    async def load(self) -> None:
        """Checks the store and reads the state; `StoreUnavailable` while it is away, `StoreRefused` if unfit."""
        await self.store.check()
        keyring = await load_keyring(self.store)
        await self.tail.load()
        await self._begin_with(keyring)

    async def load_without_store(self) -> bool:
        """Reads the state from the files of this host while the store is away; False where there are none."""
        found = await asyncio.to_thread(self.local.read)
        if found is None:
            return False
        self.tail.start_from(found)
        newest_ms = max(offset.time_ms for offset, _ in found.states.values())
        self.troubles.begin(
            STARTED_WITHOUT_STORE,
            f"This worker has not reached the store yet and decides from the snapshot of {rfc3339(newest_ms)}.",
        )
        await self._begin_with(Keyring(found.token_keys, now_ms()))
        return True

    async def _begin_with(self, keyring: Keyring) -> None:
        self.decisions = Decisions(
            self.replica,
            self.models,
            self.top_k,
            self.incarnation,
            keyring,
            shadows=self.shadows,
            keep_pairs=self.settings.keeps_pairs,
            clock=self.store.clock.now_ms,
        )
        self.rewards = Rewards(self.store, self.replica, self.tail, keyring)
        self.flusher = Flusher(self.store, self.decisions.exposures, self.incarnation)
        self._keep_live_models()
        self._follow_quickly_enough()
        self.replica.on_change(self._changed)
        self.replica.on_set_aside(self._set_aside)
        self.replica.on_deleted(self._deleted)
        for name in self.replica.aside:
            self._set_aside(name)
        await self._load_models(self.models.live)
        self.ready = True

    def start(self) -> None:
        settings = self.settings
        keeper = Keeper(
            self.store,
            self.replica,
            self.changes,
            self.results,
            incarnation=self.incarnation,
            snapshot_every_s=settings.seconds("snapshot_every"),
            retention_s=settings.seconds("retention_time"),
            retention_bytes=settings.retention_bytes,
            key_rotation_s=settings.seconds("key_rotation"),
            troubles=self.troubles,
        )
        self.keeper = keeper
        local_keeper = LocalKeeper(
            self.local,
            self.store,
            self.replica,
            self.tail,
            self.troubles,
            snapshot_every_s=settings.seconds("snapshot_every"),
        )
        self.replica.on_census(self._answer_census)
        self.replica.on_configured(self._say_heard)
        refresher = Refresher(self.decisions.deciders, self.replica, self.store.clock.now_ms)
        self.replica.on_change(refresher.moved)
        self.tasks.vital(self.tail.run)
        self.tasks.vital(self.flusher.run)
        self.tasks.repeated("refresher", refresher.run)
        self.tasks.repeated("keeper", keeper.run)
        self.tasks.repeated("snapshots", keeper.keep_regularly)
        self.tasks.repeated("local_snapshots", local_keeper.run)
        self.tasks.repeated("heartbeat", self._heartbeat)
        self.tasks.repeated("renewal_of_keys", self._renew_keys)
        self.tasks.repeated("shadows", self.shadows.run)
        self.tasks.repeated("look_for_files", self._keep_files)
        self.tasks.repeated("sweep_of_files", self._sweep_files)

    async def stop(self) -> None:
        """Flushes what was decided, waits for appends under way, and takes leave."""
        try:
            async with asyncio.timeout(self.settings.seconds("store_timeout") * 2):
                await self.rewards.drain()
                await self.flusher.flush()
                await self.store.retire(msgspec.msgpack.encode(self.card))
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("left without the last flush: %s", in_full(error))
        await self.tasks.end()
        self.local.close()
        await self.store.close()

    def publish_counters(self) -> None:
        """What other parts count for themselves, for the next scrape."""
        deciders = list(self.decisions.deciders.values()) if self.ready else []
        self.counters.set("exposures_lost", self.decisions.exposures_lost if self.ready else 0)
        self.counters.set("ejections", sum(decider.ejections.count for decider in deciders))
        self.counters.set("ejected_arms", sum(len(decider.ejected) for decider in deciders))
        features = [decider.features for decider in deciders if decider.features is not None]
        self.counters.set("context_missing", sum(sum(each.missing.values()) for each in features))
        self.counters.set("context_unknown", sum(sum(each.unknown.values()) for each in features))
        self.counters.set("context_unexpected", sum(each.unexpected for each in features))
        self.counters.set("top_k_hits", self.top_k.hits)
        self.counters.set("top_k_misses", self.top_k.misses)
        self.counters.set("task_failures", self.tasks.failures)
        self.counters.set("store_away", float(bool(self._outages)))
        self.counters.set("chores_failed", 0 if self.keeper is None else self.keeper.failed)

    def _changed(self, owner: str) -> None:
        """Rewards and exposures, which are most of a log, change no record and so nothing that is live."""
        if owner == COMMON:
            record = None
            if COMMON not in self.replica.aside:
                self.troubles.end("registry")
        else:
            record = self.replica.experiments[owner].record
            self.troubles.end("set_aside", owner)
        if record is None or self._records.get(owner) is not record:
            self._records[owner] = record
            before = self.models.live
            self._keep_live_models()
            if self.ready and self.models.live - before:
                self._answer(self._load_models(self.models.live))
            self._follow_quickly_enough()

    def _set_aside(self, owner: str, error: Exception | None = None) -> None:
        self._records.pop(owner, None)
        aside = self.replica.aside[owner]
        if aside.given_up:
            self.troubles.end("set_aside", owner)
        elif owner == COMMON:
            detail = f"{aside.reason} at {aside.offset}; see bandit-serve repair {COMMON}."
            self.troubles.begin("registry", detail, error=error)
        else:
            at = "" if aside.offset is None else f" at {aside.offset}"
            detail = f"{aside.reason}{at}; see bandit-serve repair {owner}."
            self.troubles.begin("set_aside", detail, owner, error=error)
        self._keep_live_models()

    def _deleted(self, experiment: str, uid: int | None) -> None:
        self._records.pop(experiment, None)
        self.troubles.forget(experiment)
        self._keep_live_models()
        self._follow_quickly_enough()

    def _follow_quickly_enough(self) -> None:
        """Evidence that is older than `refresh` when it is read would make shares follow more slowly than that."""
        quickest_ms = min(
            (
                experiment.experiment.policy.refresh_ms
                for experiment in self.replica.experiments.values()
                if experiment.record.status == "running"
            ),
            default=math.inf,
        )
        self.tail.gather_s = min(GATHER_S, quickest_ms / 2000)

    def _keep_live_models(self) -> None:
        live = [
            (arm.model, arm.version)
            for record in self.replica.records().values()
            if record.status in ("running", "paused")
            for arm, status in zip(record.experiment.arms, record.arm_statuses.values(), strict=True)
            if status != "removed" and arm.model is not None and arm.version is not None
        ]
        live += [
            (model.name, model.production)
            for model in self.replica.registry.models.values()
            if model.production is not None
        ]
        self.models.keep_live(frozenset(live))

    async def _load_models(self, references: Collection[Reference]) -> None:
        """So that the first request for an arm finds its model in memory; an arm whose model is lost is left out."""
        for reference in references:
            try:
                await self.models.load(self.replica.registry.version(*reference))
            except ModelLost:
                for decider in self.decisions.deciders.values():
                    decider.leave_out(ModelName(*reference))
            except BanditServeError as error:
                log.warning("%s", in_full(error))
            except Exception:
                log.exception("the model %s %s can not be loaded", *reference)

    async def _keep_files(self) -> None:
        """Looks again for the files of models that are lost, and draws the arms of those that are back; and how much
        room there is for others.
        """
        while True:
            self._say_how_full()
            lost = self.models.lost
            await asyncio.sleep(HEARTBEAT_S)
            if self.models.lost:
                await self._load_models(self.models.lost)
            for reference in lost - self.models.lost:
                for decider in self.decisions.deciders.values():
                    decider.readmit(ModelName(*reference))

    def _say_how_full(self) -> None:
        try:
            free = shutil.disk_usage(self.settings.data_dir).free
        except OSError:  # the directory has gone: uploads will say so
            return
        if free < LEAST_FREE_BYTES:
            detail = f"The disk of the data directory has {free >> 20} MiB left: uploads may find no room."
            self.troubles.begin("disk_full", detail)
        else:
            self.troubles.end("disk_full")

    async def _sweep_files(self) -> None:
        while True:
            try:
                await self.model_changes.sweep()
            except (BanditServeError, OSError) as error:
                log.warning("what uploads left is not swept: %s", in_full(error))
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _heartbeat(self) -> None:
        card = msgspec.msgpack.encode(self.card)
        while True:
            # Not only when a scrape comes to this worker: any worker answers for all.
            self.publish_counters()
            try:
                await self.store.announce(card, HEARTBEAT_LIFETIME_MS)
                if self.tail.available:
                    self.troubles.end(STARTED_WITHOUT_STORE)
                loaded = msgspec.msgpack.encode(self.models.contents())
                await self.store.report_loaded(self.incarnation, loaded)
                self._compare_clocks()
                await asyncio.sleep(HEARTBEAT_S)
            except StoreUnavailable:
                await asyncio.sleep(HEARTBEAT_AGAIN_S)

    def _say_outages(self, now: Sequence[StoreUnavailable]) -> None:
        begun = {error.what: str(error) for error in now}
        for what in self._outages - begun.keys():
            self.troubles.end(what)
        for what, detail in begun.items():
            self.troubles.begin(what, detail)
        if self._outages and not begun:
            log.warning("the store is back")
        self._outages = set(begun)

    def _compare_clocks(self) -> None:
        """Says where clocks are apart; nothing that is counted depends on this machine's."""
        clock = self.store.clock
        self.counters.set("clock_offset_s", clock.offset_ms / 1000)
        apart = clocks_apart(clock.offset_ms, clock.shift_ms, already=self._clock_off)
        self._clock_off = apart is not None
        if apart is None:
            self.troubles.end("clock_off")
        else:
            self.troubles.begin("clock_off", apart)

    async def _renew_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                self.decisions.keyring = self.rewards.keyring = await load_keyring(self.store)
            except StoreUnavailable:
                continue

    def _say_heard(self, owner: str, offset: Offset) -> None:
        self._answer(say_heard(self.store, owner, offset, self.incarnation))

    def _answer_census(self, owner: str, census: events.Census) -> None:
        live = self.replica.experiments.get(name_of(owner))
        digest = b"set aside" if live is None else live.digest().encode()
        self._answer(self.store.write_answer(census.key, self.incarnation, digest))

    def _answer(self, answer: Coroutine[None, None, None]) -> None:
        """Answers those who wait for this worker, beside everything else."""

        async def send() -> None:
            try:
                await answer
            except StoreUnavailable as error:
                log.warning("an answer to the other workers was not sent: %s", in_full(error))

        task = asyncio.create_task(send())
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


def clocks_apart(offset_ms: float, shift_ms: int, *, already: bool) -> str | None:
    """What is to be said of the clocks; None where there is nothing, and `already` ends at half of where it begins."""
    said = []
    if abs(offset_ms) > (CLOCK_OFF_MS / 2 if already else CLOCK_OFF_MS):
        where = "ahead of" if offset_ms > 0 else "behind"
        said.append(f"This machine's clock is {abs(offset_ms) / 1000:.1f} s {where} the store's.")
    if shift_ms:
        jumped = "ahead" if shift_ms < 0 else "back"
        said.append(
            f"The store's clock has jumped {jumped}, and the logs go on without that, {abs(shift_ms) / 1000:.1f} s "
            f"{'ahead of' if shift_ms > 0 else 'behind'} it."
        )
    return " ".join(said) or None
