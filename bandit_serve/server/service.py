"""One worker's parts, put together: memory, the log, deciding, rewarding, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine

import msgspec

from bandit_serve import events
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.decisions.flush import Flusher
from bandit_serve.decisions.refresh import Refresher
from bandit_serve.decisions.shadows import Shadows
from bandit_serve.errors import BanditServeError, LogLost, StoreUnavailable
from bandit_serve.experiment import Record
from bandit_serve.log.artifacts import open_artifacts
from bandit_serve.log.census import WorkerCard
from bandit_serve.log.changes import Changes
from bandit_serve.log.experiment_changes import ExperimentChanges
from bandit_serve.log.heard import say_heard
from bandit_serve.log.keeper import Keeper, load_keyring
from bandit_serve.log.model_changes import ModelChanges
from bandit_serve.log.results_log import ResultsLog
from bandit_serve.log.tail import GATHER_S, Tail
from bandit_serve.models.loaded import LoadedModels
from bandit_serve.models.top_k_cache import TopKCache
from bandit_serve.replica import Replica
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.server.ending import end
from bandit_serve.server.metrics import Counters
from bandit_serve.settings import Settings
from bandit_serve.store.keys import COMMON
from bandit_serve.store.offset import Offset
from bandit_serve.store.store import Store
from bandit_serve.troubles import Trouble, Troubles

log = logging.getLogger(__name__)

HEARTBEAT_S = 3.0
HEARTBEAT_LIFETIME_MS = 10_000
KEYS_EVERY_S = 30.0
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
        self.replica = Replica()
        self.tail = Tail(store, self.replica)
        self.changes = Changes(store, self.replica, self.tail)
        self.results = ResultsLog(store)
        self.artifacts = open_artifacts(settings, store.url)
        self.models = LoadedModels(self.artifacts, max_bytes=settings.model_memory)
        parts = (store, self.replica, self.tail, self.changes, self.models)
        self.experiment_changes = ExperimentChanges(*parts)
        self.model_changes = ModelChanges(*parts)
        self.top_k = TopKCache(store, lifetime_s=settings.seconds("top_k_lifetime"))
        self.shadows = Shadows(store, self.replica, self.models, self.incarnation)
        self.decisions: Decisions
        self.rewards: Rewards
        self.flusher: Flusher
        self._tasks: list[asyncio.Task[None]] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._records: dict[str, Record | None] = {}
        self._clock_off = False

    @property
    def reasons(self) -> list[Trouble]:
        """Why this worker is degraded; empty where it is not."""
        away = [] if self.tail.available else [Trouble("store_away", detail="The store does not answer.")]
        return [*away, *self.troubles]

    @property
    def degraded(self) -> bool:
        return bool(self.troubles) or not self.tail.available

    async def load(self) -> None:
        """Checks the store and reads the state; `StoreUnavailable` while it is away, `StoreRefused` if unfit."""
        await self.store.check()
        keyring = await load_keyring(self.store)
        await self.tail.load()
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
        self.flusher = Flusher(self.store, self.decisions.deciders, self.incarnation)
        self._keep_live_models()
        self._follow_quickly_enough()
        self.replica.on_change(self._changed)
        await self._load_live_models()
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
        )
        self.replica.on_census(self._answer_census)
        self.replica.on_configured(self._say_heard)
        refresher = Refresher(self.decisions.deciders, self.store.clock.now_ms)
        self.replica.on_change(refresher.moved)
        runs: list[Callable[[], Coroutine[None, None, None]]] = [
            self.tail.run,
            self.flusher.run,
            refresher.run,
            keeper.run,
            self._heartbeat,
            self._renew_keys,
            self.shadows.run,
        ]
        for run in runs:
            task = asyncio.create_task(run())
            task.add_done_callback(_report_death)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Flushes what was decided, waits for appends under way, and takes leave."""
        try:
            async with asyncio.timeout(self.settings.seconds("store_timeout") * 2):
                await self.rewards.drain()
                await self.flusher.flush()
                await self.store.retire(msgspec.msgpack.encode(self.card))
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("left without the last flush: %s", error)
        for task in self._tasks:
            task.remove_done_callback(_report_death)
        await end(self._tasks)
        await self.store.close()

    def publish_counters(self) -> None:
        """What other parts count for themselves, for the next scrape."""
        deciders = list(self.decisions.deciders.values()) if self.ready else []
        self.counters.set("exposures_lost", sum(decider.exposures.lost for decider in deciders))
        self.counters.set("ejections", sum(decider.ejections.count for decider in deciders))
        self.counters.set("ejected_arms", sum(len(decider.ejected) for decider in deciders))
        features = [decider.features for decider in deciders if decider.features is not None]
        self.counters.set("context_missing", sum(sum(each.missing.values()) for each in features))
        self.counters.set("context_unknown", sum(sum(each.unknown.values()) for each in features))
        self.counters.set("context_unexpected", sum(each.unexpected for each in features))
        self.counters.set("top_k_hits", self.top_k.hits)
        self.counters.set("top_k_misses", self.top_k.misses)
        self.counters.set("store_away", float(self.degraded))

    def _changed(self, owner: str) -> None:
        """Rewards and exposures, which are most of a log, change no record and so nothing that is live."""
        record = None if owner == COMMON else self.replica.experiments[owner].record
        if record is None or self._records.get(owner) is not record:
            self._records[owner] = record
            before = self.models.live
            self._keep_live_models()
            if self.ready and self.models.live - before:
                self._answer(self._load_live_models())
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
            for experiment in self.replica.experiments.values()
            if experiment.record.status in ("running", "paused")
            for arm, status in zip(
                experiment.experiment.arms, experiment.record.arm_statuses.values(), strict=True
            )
            if status != "removed" and arm.model is not None and arm.version is not None
        ]
        live += [
            (model.name, model.production)
            for model in self.replica.registry.models.values()
            if model.production is not None
        ]
        self.models.keep_live(frozenset(live))

    async def _load_live_models(self) -> None:
        """So that the first request for an arm finds its model in memory."""
        for reference in self.models.live:
            version = self.replica.registry.version(*reference)
            try:
                await self.models.load(version)
            except BanditServeError as error:
                log.warning("%s", error)

    async def _heartbeat(self) -> None:
        card = msgspec.msgpack.encode(self.card)
        while True:
            # Not only when a scrape comes to this worker: any worker answers for all.
            self.publish_counters()
            with contextlib.suppress(StoreUnavailable):
                await self.store.announce(card, HEARTBEAT_LIFETIME_MS)
                loaded = msgspec.msgpack.encode(self.models.contents())
                await self.store.say_loaded(self.incarnation, loaded)
            self._compare_clocks()
            await asyncio.sleep(HEARTBEAT_S)

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
        digest = self.replica.experiments[owner].digest().encode()
        self._answer(self.store.report(owner, census.key, self.incarnation, digest))

    def _answer(self, answer: Coroutine[None, None, None]) -> None:
        """Answers those who wait for this worker, beside everything else."""

        async def send() -> None:
            try:
                await answer
            except StoreUnavailable as error:
                log.warning("an answer to the other workers was not sent: %s", error)

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


def _report_death(task: asyncio.Task[None]) -> None:
    """A background task that ends on its own is a bug: without it the worker would only seem to work.

    Except where the worker knows what the log does not: another takes its place, and begins with the log.
    """
    if task.cancelled():
        return
    if isinstance(task.exception(), LogLost):
        log.critical("%s The worker leaves, and its successor starts from what there is.", task.exception())
        signal.raise_signal(signal.SIGTERM)
    else:
        log.critical("a background task ended; the worker leaves", exc_info=task.exception())
        os._exit(70)
