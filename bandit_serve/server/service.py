"""Service of one worker: decisions and rewards over its node, and their background tasks."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from typing import NamedTuple

import msgspec

from bandit_serve.base.build import build
from bandit_serve.base.clock import now_ms, rfc3339
from bandit_serve.base.troubles import Trouble
from bandit_serve.base.turns import Turn
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.decisions.flush import Flusher
from bandit_serve.decisions.membership import held_out_units
from bandit_serve.decisions.refresh import Refresher
from bandit_serve.decisions.shadows import Shadows
from bandit_serve.errors import BanditServeError, StoreUnavailable, in_full
from bandit_serve.experiments.spec import Record
from bandit_serve.log.times import KEYS_READ_MS
from bandit_serve.log.token import Keyring
from bandit_serve.node import Node
from bandit_serve.notices.courier import Courier
from bandit_serve.notices.finder import Finder
from bandit_serve.notices.teller import Teller
from bandit_serve.notices.watch import Watch
from bandit_serve.promotions.promoter import Promoter
from bandit_serve.replication.census import WorkerCard
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.local_snapshots import LocalSnapshots
from bandit_serve.replication.tail import GATHER_S
from bandit_serve.rewards.by_unit import RewardsByUnit
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.server.faults import Faults
from bandit_serve.server.gate import RequestGate
from bandit_serve.server.heartbeat import STARTED_WITHOUT_STORE, Heartbeat
from bandit_serve.server.live_models import LiveModels
from bandit_serve.server.live_pages import LivePages
from bandit_serve.server.metrics import Counters
from bandit_serve.server.process_usage import count_open_files, process_usage
from bandit_serve.server.replies import Replies
from bandit_serve.server.simulations import Simulations
from bandit_serve.server.tasks import Leave, Tasks
from bandit_serve.store.keys import COMMON
from bandit_serve.store.outbox import Outbox
from bandit_serve.upkeep.keeper import Keeper
from bandit_serve.upkeep.local_keeper import LocalKeeper
from bandit_serve.upkeep.measurements import Measurer
from bandit_serve.upkeep.overseer import Overseer

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 3_600.0
# One in so many connections may be a page that is followed.
PART_OF_CONNECTIONS = 8
COUNT_FILES_EVERY_S = 5.0


class Tenancy(NamedTuple):
    """Whose a tenant's service is, the service that it is part of, its limits, and what to do when it can not go on."""

    tenant: str
    root: Service
    gate: RequestGate
    leave: Leave


class Service:
    """Parts of one worker. Call `load` before the first request, then `start` for the background tasks; `stop` at the
    end.

    A tenant has a service of its own, beside that of the worker, its `root`, which announces both.
    """

    def __init__(self, node: Node, counters: Counters, tenancy: Tenancy | None = None) -> None:
        self.node = node
        self.tenant = None if tenancy is None else tenancy.tenant
        self.root: Service = self if tenancy is None else tenancy.root
        self.gate = None if tenancy is None else tenancy.gate
        self.tenants: dict[str, Service] = {}
        """Services of the tenants whose state is loaded; none but the worker's own has any."""
        self.settings = node.settings
        self.counters = counters
        self.incarnation = secrets.randbits(64)
        self.card: WorkerCard = _new_card(self.incarnation) if tenancy is None else tenancy.root.card
        self.draining = False
        self.ready = False
        self.local = LocalSnapshots(self.settings.data_dir, self.settings.namespace)
        node.store.on_append = counters.append
        self.shadows = Shadows(node.store, node.replica, node.models, self.incarnation)
        self.tasks = Tasks(node.troubles, None if tenancy is None else tenancy.leave)
        self.simulations: Simulations = Simulations() if tenancy is None else tenancy.root.simulations
        self.live_pages = LivePages(max(1, self.settings.max_connections // PART_OF_CONNECTIONS))
        self.keeper: Keeper | None = None
        self.overseer: Overseer | None = None
        self.courier: Courier | None = None
        self.measurer: Measurer | None = None
        self.decisions: Decisions
        self.rewards: Rewards
        self.rewards_by_unit: RewardsByUnit
        self.flusher: Flusher
        self._live_models: LiveModels
        self._faults = Faults(node.troubles, node.replica, node.store.outages)
        self._replies = Replies(node.store, node.replica, self.card.incarnation)
        self._records: dict[str, Record | None] = {}
        self._refresh_ms: dict[str, int] = {}
        self._cpu_s = 0.0

    def admit_batch(self, n_entries: int) -> None:
        """Raises `TooLarge` for a batch of more entries than the tenant may send at once."""
        if self.gate is not None:
            self.gate.admit_batch(n_entries)

    def leads(self) -> bool:
        """Whether this worker held the lease when it asked last."""
        return self.keeper is not None and self.keeper.leading

    @property
    def reasons(self) -> list[Trouble]:
        """Reasons why this worker is degraded; empty if it is not."""
        return list(self.node.troubles)

    @property
    def degraded(self) -> bool:
        return bool(self.node.troubles)

    async def load(self) -> None:
        """Checks the store and loads the state. Raises `StoreUnavailable` in an outage, `StoreRefused` for an unfit
        store.
        """
        await self.node.store.check()
        keyring = await load_keyring(self.node.store)
        await self.node.tail.load()
        await self._begin_with(keyring)

    async def load_without_store(self) -> bool:
        """Loads the state from this host's files during an outage; False where there are none."""
        kept = await asyncio.to_thread(self.local.read)
        if kept is None:
            return False
        self.node.tail.start_from(kept)
        newest_ms = max(offset.time_ms for offset, _ in kept.states.values())
        self.node.troubles.begin(
            STARTED_WITHOUT_STORE,
            f"This worker has not reached the store yet and decides from the snapshot of {rfc3339(newest_ms)}.",
        )
        await self._begin_with(Keyring(kept.token_keys, now_ms()))
        return True

    async def _begin_with(self, keyring: Keyring) -> None:
        store, replica, models = self.node.store, self.node.replica, self.node.models
        self.decisions = Decisions(
            replica,
            models,
            self.incarnation,
            keyring,
            shadows=self.shadows,
            keep_pairs=self.settings.keeps_pairs,
            keep_units=self.settings.keep_units,
            held_out=held_out_units(self.settings.namespace, self.settings.service_holdout),
            clock=store.clock.now_ms,
            at_once=False,
        )
        turn = Turn()
        for _ in self.decisions.begin():
            if turn.over:
                await turn.give_way()
        self.rewards = Rewards(store, replica, self.node.tail, keyring)
        self.flusher = Flusher(store, self.decisions.exposures, self.incarnation, self.decisions.begun)
        self.rewards_by_unit = RewardsByUnit(
            store,
            replica,
            self.node.tail,
            self.node.exposures,
            self.rewards.appender_of,
            self.flusher.flush,
        )
        self._live_models = LiveModels(replica, models, self.decisions.deciders)
        self._follow_quickly_enough(*replica.experiments)
        self._faults.listen()
        replica.on_change(self._folded)
        replica.on_set_aside(self._set_aside)
        replica.on_deleted(self._deleted)
        await self._live_models.load()
        self.ready = True

    def start(self) -> None:
        node, settings, tasks = self.node, self.settings, self.tasks
        snapshot_every_s = settings.seconds("snapshot_every")
        self.keeper = keeper = Keeper(
            node.store,
            node.replica,
            node.changes,
            node.results,
            node.exposures,
            incarnation=self.incarnation,
            snapshot_every_s=snapshot_every_s,
            retention_s=settings.seconds("retention_time"),
            retention_bytes=settings.retention_bytes,
            key_rotation_s=settings.seconds("key_rotation"),
            troubles=node.troubles,
            log_bytes=node.limits.log_bytes,
            leads=None if self.root is self else self.root.leads,
        )
        local_keeper = LocalKeeper(
            self.local, node.store, node.replica, node.tail, node.troubles, snapshot_every_s=snapshot_every_s
        )
        self.overseer = overseer = Overseer(
            node.store,
            node.replica,
            node.results,
            node.automatic_changes,
            node.troubles,
            leads=self.leads,
        )
        node.replica.on_change(overseer.moved)
        if settings.webhooks:
            self._tell_webhooks(keeper)
        self._replies.listen()
        refresher = Refresher(self.decisions.deciders, node.replica, node.store.clock.now_ms)
        node.replica.on_change(refresher.moved)
        tasks.vital(node.tail.run)
        tasks.vital(self.flusher.run)
        tasks.repeated("refresher", refresher.run)
        tasks.repeated("keeper", keeper.run)
        tasks.repeated("snapshots", keeper.keep_regularly)
        tasks.repeated("overseer", overseer.run)
        tasks.repeated("promotions", Promoter(node, self.leads).run)
        self.measurer = Measurer(node.store, node.replica, leads=self.leads)
        tasks.repeated("measurements", self.measurer.run)
        tasks.repeated("local_snapshots", local_keeper.run)
        tasks.repeated("unmatched_rewards", self.rewards_by_unit.run)
        heartbeat = Heartbeat(node, self.card, self.counters, self.publish_counters)
        if self.root is self:
            tasks.repeated("heartbeat", heartbeat.run)
            tasks.repeated("count_of_files", self._count_files)
            tasks.repeated("look_at_disk", lambda: self._faults.look_at_disk(settings.data_dir))
        else:
            tasks.repeated("heartbeat", heartbeat.run_beside)
        tasks.repeated("renewal_of_keys", self._renew_keys)
        tasks.repeated("shadows", self.shadows.run)
        tasks.repeated("look_for_files", self._live_models.look_for_lost)
        tasks.repeated("sweep_of_files", self._sweep_files)
        tasks.repeated("live_pages", self.live_pages.run)

    def _tell_webhooks(self, keeper: Keeper) -> None:
        """Starts what finds notices for webhooks, and what delivers them while this worker has the lease."""
        node, webhooks, now_ms = self.node, self.settings.told_webhooks, self.node.store.clock.now_ms
        teller, outbox = Teller.of(node.store, webhooks, self.tenant), Outbox(node.store)
        finder = Finder(node.replica, node.results, teller, lambda: keeper.leading, now_ms)
        watch = Watch(node.troubles, node.replica, self._ejected, teller, self.card.host, now_ms)
        self.courier = Courier(outbox, webhooks, node.upstreams, lambda: keeper.leading, now_ms)
        node.replica.on_change(finder.moved)
        self.tasks.repeated("notices_of_logs", finder.run)
        self.tasks.repeated("notices_of_worker", watch.run)
        self.tasks.repeated("webhooks", self.courier.run)

    def _ejected(self) -> dict[str, list[str]]:
        """Arms that this worker leaves out now, by experiment."""
        deciders = self.decisions.deciders.items()
        return {name: list(decider.ejected) for name, decider in deciders if decider.ejected}

    async def stop(self) -> None:
        """Flushes the decisions, waits for appends under way, and ends this worker's announcement."""
        try:
            async with asyncio.timeout(self.settings.seconds("store_timeout") * 2):
                await self.rewards.drain()
                await self.flusher.flush()
                if self.root is self:
                    await self.node.store.retire(msgspec.msgpack.encode(self.card))
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("left without the last flush: %s", in_full(error))
        await self.tasks.end()
        await self.node.models.close()
        await self.node.upstreams.close()
        self.local.close()
        await self.node.store.close()

    def publish_counters(self) -> None:
        """Copies counts that other parts keep into the shared counters, for the next scrape."""
        if self.root is self:
            usage = process_usage()
            self.counters.add("cpu_s", usage.cpu_s - self._cpu_s)
            self._cpu_s = usage.cpu_s
            self.counters.set("resident_bytes", usage.resident_bytes)
        self.counters.set("tail_lag_s", self.node.tail.lag_s if self.ready else 0.0)
        deciders = list(self.decisions.deciders.values()) if self.ready else []
        self.counters.set("exposures_lost", self.decisions.exposures_lost if self.ready else 0)
        self.counters.set("exposures_dropped", sum(fold.dropped for fold in self.node.exposures.in_memory()))
        self.counters.set("unmatched_dropped", self.rewards_by_unit.unmatched.dropped if self.ready else 0)
        ejecting = [decider for decider in deciders if decider.ejections.count]
        self.counters.set("ejections", sum(decider.ejections.count for decider in ejecting))
        self.counters.set("content_refusals", self.decisions.content_refusals if self.ready else 0)
        self.counters.set("ejected_arms", sum(len(decider.ejected) for decider in ejecting))
        features = [decider.features for decider in deciders if decider.features is not None]
        self.counters.set("context_missing", sum(sum(each.missing.values()) for each in features))
        self.counters.set("context_unknown", sum(sum(each.unknown.values()) for each in features))
        self.counters.set("context_unexpected", sum(each.unexpected for each in features))
        self.counters.set("top_k_hits", self.node.top_k.hits)
        self.counters.set("top_k_misses", self.node.top_k.misses)
        self.counters.set("task_failures", self.tasks.failures)
        self.counters.set("store_away", float(self._faults.store_is_away))
        self.counters.set("chores_failed", 0 if self.keeper is None else self.keeper.failed)
        if self.courier is not None:
            for what in ("delivered", "failed", "given_up", "waiting"):
                self.counters.set(f"webhooks_{what}", getattr(self.courier, what))
        for what, made in ({} if self.overseer is None else self.overseer.made).items():
            self.counters.set(f"automatic_{what}", made)

    async def _count_files(self) -> None:
        """Counts open files in a thread: with thousands of connections it takes milliseconds."""
        while True:
            self.counters.set("open_files", await asyncio.to_thread(count_open_files))
            await asyncio.sleep(COUNT_FILES_EVERY_S)

    def _folded(self, owner: str) -> None:
        """Updates what depends on an experiment's record, if that changed. Rewards and exposures do not change it."""
        record = None if owner == COMMON else self.node.replica.experiments[owner].record
        if record is None or self._records.get(owner) is not record:
            self._records[owner] = record
            self._live_models.follow()
            self._follow_quickly_enough(owner)

    def _set_aside(self, owner: str, error: Exception | None = None) -> None:
        self._records.pop(owner, None)
        self._live_models.keep()

    def _deleted(self, experiment: str, uid: int | None) -> None:
        self._records.pop(experiment, None)
        self._live_models.keep()
        self._follow_quickly_enough(experiment)

    def _follow_quickly_enough(self, *changed: str) -> None:
        """Sets the tail's pause to at most half of the shortest `refresh`, or shares would be slower than that.

        `changed` are the experiments that are new, gone, or configured otherwise than before.
        """
        for name in changed:
            live = self.node.replica.experiments.get(name)
            if live is not None and live.record.status == "running":
                self._refresh_ms[name] = live.experiment.policy.refresh_ms
            else:
                self._refresh_ms.pop(name, None)
        quickest_ms = min(self._refresh_ms.values(), default=math.inf)
        self.node.tail.gather_s = min(GATHER_S, quickest_ms / 2000)

    async def _sweep_files(self) -> None:
        while True:
            try:
                await self.node.model_changes.sweep()
            except (BanditServeError, OSError) as error:
                log.warning("what uploads left is not swept: %s", in_full(error))
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _renew_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_READ_MS / 1000)
            try:
                self.decisions.keyring = self.rewards.keyring = await load_keyring(self.node.store)
            except StoreUnavailable:
                continue


def _new_card(incarnation: int) -> WorkerCard:
    return WorkerCard(incarnation, os.getpid(), socket.gethostname(), time.time_ns() // 1_000_000, build())
