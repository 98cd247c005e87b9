"""Tail of all logs: one task and one connection apply every entry once and in order to this process's replica."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from bandit_serve.base.turns import Turn
from bandit_serve.errors import LogLost, StoreUnavailable
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import POLICY_FOLD, REGISTRY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.reader import pages
from bandit_serve.log.times import LAPSE_MS
from bandit_serve.registry.registry import Registry
from bandit_serve.replication.beginnings import newest_record, newest_state
from bandit_serve.replication.local_snapshots import LocalState
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Beginning, Store

log = logging.getLogger(__name__)

READ_COUNT = 200
GATHER_S = 0.02
LOADED_AT_ONCE, MANY = 100, 8
RETRY_S = 0.1
REACH_S = 5.0
LOOK_S = 1.0
LOOK_COUNT = 64
"""A store that lost all, or the end of one of few logs, is noticed within seconds; of 10,000 within minutes."""


class Tail:
    """Keeps a replica up to date. `available` says whether the store answered the last read.

    `gather_s` is the time between two reads, in which entries collect so that a busy log costs few reads.

    `wait_for…` raise `StoreUnavailable` while the store is away. `refresh…` then return at once with nothing new: they
    serve callers that would rather answer from memory.
    """

    def __init__(self, store: Store, replica: Replica) -> None:
        self._store = store
        self._replica = replica
        self._waiting: list[tuple[str, Offset, asyncio.Future[None]]] = []
        self._hurry = asyncio.Event()
        self._refreshing = asyncio.Semaphore(2)
        self._complete_s: dict[str, float] = {}
        self.available = False
        self.gather_s = GATHER_S
        self.identity: bytes | None = None
        """Identity of the store that was read."""
        self._looked_s = -math.inf
        self._to_look_at: list[str] = []
        self._current_s = time.monotonic()
        self._asked_for: set[str] = set()

    @property
    def lag_s(self) -> float:
        """Seconds since the replica had all that the logs had."""
        return time.monotonic() - self._current_s

    async def load(self) -> None:
        """Restores the newest snapshots and applies all later entries that the logs have now."""
        self.identity = await self._store.identity()
        await self.load_registry()
        owners = list(self._replica.registry.experiments)
        for start in range(0, len(owners), LOADED_AT_ONCE):
            await self._take_up_some(owners[start : start + LOADED_AT_ONCE])
        self._replica.repaired.clear()
        self.available = True

    def start_from(self, local: LocalState) -> None:
        """Loads the snapshot files of this host instead, while the store is away; `run` goes on from their offsets.

        A state that this build can not read is skipped: its log is read when the store is there.
        """
        self.identity = local.identity
        registry = Registry.from_state(*local.states[COMMON])
        self._replica.restore_registry(registry)
        for owner in registry.experiments:
            if owner not in local.states:
                if owner in registry.repairs.given_up:
                    self._replica.give_up(owner, None)
            else:
                try:
                    live = LiveExperiment.from_state(*local.states[owner])
                except Exception:
                    log.exception("the snapshot file of %s can not be read and is passed over", owner)
                    continue
                if owner in registry.repairs.given_up:
                    self._replica.give_up(owner, live.record)
                elif live.omitted == registry.repairs.omitted_before(owner, live.offset):
                    with self._replica.island(name_of(owner)):
                        self._replica.restore(live)

    async def load_registry(self) -> None:
        await self._restore_registry()
        await self._read_to_end(COMMON)

    async def _take_up_some(self, owners: list[str]) -> None:
        """Loads experiments. Of many, those with little to read are read in one go."""
        asked_s = time.monotonic()
        many = len(owners) >= MANY
        beginnings = await self._store.read_beginnings(owners, POLICY_FOLD) if many else {}
        turn = Turn()
        for owner in owners:
            if turn.over:
                await turn.give_way()
            begun = beginnings.get(owner)
            if begun is not None and await self._begin_with(owner, begun):
                self._complete_s[owner] = asked_s
            else:
                await self._take_up(owner)

    async def _begin_with(self, owner: str, begun: Beginning) -> bool:
        """Loads an experiment from what was read of it; False where that is not enough, or it is set aside."""
        replica, snapshot = self._replica, begun.snapshot
        if owner in replica.registry.repairs.given_up or (snapshot is None and begun.trimmed > START):
            return False
        with replica.island(name_of(owner)):
            if snapshot is None:
                replica.begin_anew(owner)
            else:
                try:
                    live = LiveExperiment.from_state(*snapshot)
                except Exception:  # whatever bytes can cause: others are tried, and it is logged then
                    return False
                if live.omitted != replica.registry.repairs.omitted_before(owner, snapshot.offset):
                    return False
                replica.restore(live)
            await self._apply({owner: begun.entries})
        return name_of(owner) not in replica.aside

    async def _take_up(self, owner: str) -> None:
        """Loads an experiment from its snapshot and log. If that fails, sets it aside with its record."""
        replica, name = self._replica, name_of(owner)
        if owner in replica.registry.repairs.given_up:
            replica.give_up(owner, await self._newest_record(owner))
            replica.positions[owner] = await self._store.last_offset(owner)
            return
        with replica.island(name):
            await self._restore(owner)
            await self._read_to_end(owner)
        if name in replica.aside and replica.aside[name].record is None:
            replica.recognise(name, await self._newest_record(owner))

    async def _newest_record(self, owner: str) -> Record | None:
        try:
            return await newest_record(self._store, owner)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("nothing of %s can be read", owner)
            return None

    async def _recognise_new(self) -> None:
        """Searches the logs, once each, for the records of experiments that were set aside before any was in memory."""
        for name, aside in list(self._replica.aside.items()):
            if aside.record is None and name != COMMON and name not in self._asked_for:
                owner = self._replica.registry.owner(name)
                self._replica.recognise(name, await self._newest_record(owner))
                self._asked_for.add(name)

    async def _take_up_repaired(self) -> None:
        """Loads again the experiments that a repair event in the common log names."""
        for owner in list(self._replica.repaired):
            await self._take_up(owner)
            self._replica.repaired.discard(owner)

    async def run(self) -> None:
        """Follows the logs until cancelled; while the store is away it keeps trying.

        Raises `LogLost` when the store no longer has entries that were applied here.
        """
        while True:
            try:
                await self._look_after_losses()
                await self._take_up_repaired()
                await self._recognise_new()
                asked_s = time.monotonic()
                news = await self._read_news()
            except StoreUnavailable as error:
                self._store.outages.failed("read", error)
                self.available = False
                await asyncio.sleep(RETRY_S)
                continue
            self._store.outages.passed("read")
            self.available = True
            await self._apply(news)
            self._wake()
            if all(len(entries) < READ_COUNT for entries in news.values()):
                self._current_s = asked_s if news else time.monotonic()
            if not self._waiting:
                await self._gather()

    async def _look_after_losses(self) -> None:
        """Raises `LogLost` where the store has lost entries that were applied here.

        That happens to a store that was emptied, was given an older file, or took over from another. After an outage
        all logs are checked; at other times some of them, in turn.
        """
        now_s = time.monotonic()
        if self.available and now_s - self._looked_s < LOOK_S:
            return
        await self._compare_identity()
        positions = {owner: at for owner, at in self._replica.positions.items() if at > START}
        if not self.available or not self._to_look_at:
            self._to_look_at = list(positions)
        while self._to_look_at:
            some, self._to_look_at = self._to_look_at[:LOOK_COUNT], self._to_look_at[LOOK_COUNT:]
            await self._look_at([(owner, positions[owner]) for owner in some if owner in positions])
            if self.available:
                break
        self._looked_s = now_s

    async def _look_before(self, news: dict[str, list[Entry]]) -> None:
        """Raises `LogLost` where an entry before the new ones is missing: after they are applied, it would not show."""
        before = [(owner, self._replica.positions[owner]) for owner in news]
        await self._look_at([(owner, at) for owner, at in before if at > START][:LOOK_COUNT])

    async def _look_at(self, positions: list[tuple[str, Offset]]) -> None:
        for owner in await self._store.find_lost(positions) if positions else ():
            at = dict(positions)[owner]
            raise LogLost(f"The store has lost the end of the log of {owner}, from {at} backwards.")

    async def _compare_identity(self) -> None:
        identity = await self._store.identity()
        if self.identity is None:
            # One that takes no writes now is read all the same, and gets its identity later.
            with contextlib.suppress(StoreUnavailable):
                self.identity = identity or await self._store.make_identity()
        elif identity != self.identity:
            raise LogLost(
                "The store has lost everything."
                if identity is None
                else "The store holds the data of another."
            )

    async def _apply(self, news: dict[str, list[Entry]]) -> None:
        """Applies each log's entries in order, the longest log last. Requests run in between."""
        turn = Turn()
        for owner in sorted(news, key=lambda owner: sum(len(entry.data) for entry in news[owner])):
            for entry in news[owner]:
                for heavy in self._replica.steps(owner, entry):
                    if heavy is not None:
                        await asyncio.to_thread(heavy.do)
                    elif turn.over:
                        await turn.give_way()
                if turn.over or self._replica.awaited:
                    await turn.give_way()
            self._wake()

    async def _read_news(self) -> dict[str, list[Entry]]:
        """Reads new entries. Logs that were trimmed past their position are left out."""
        asked_s = time.monotonic()
        news, read, unbroken = await self._store.read_any(self._replica.positions, READ_COUNT)
        await self._look_before(news)
        # A log that was read to its end a moment ago cannot have been trimmed past that end since.
        since_s = time.monotonic() - LAPSE_MS / 1000
        lapsed = [
            owner
            for owner in read
            if self._complete_s.get(owner, -math.inf) < since_s and owner not in unbroken
        ]
        behind = await self._behind(lapsed)
        for owner in read:
            if owner in behind:
                news.pop(owner, None)
            elif len(news.get(owner, ())) < READ_COUNT:
                self._complete_s[owner] = asked_s
        return news

    async def _gather(self) -> None:
        """Waits `gather_s`, so that one read gets many entries of a busy log. Ends early when somebody waits."""
        self._hurry.clear()
        try:
            async with asyncio.timeout(self.gather_s):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def wait_for(self, owner: str, offset: Offset) -> None:
        """Returns when the entry at `offset` has been applied; raises `StoreUnavailable` after `REACH_S`."""
        if self._has(owner, offset):
            return
        reached = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, offset, reached))
        self._hurry.set()
        self._store.expect(owner)
        try:
            async with asyncio.timeout(REACH_S):
                await reached
        except TimeoutError:
            raise StoreUnavailable(f"The log was not read up to {offset} within {REACH_S:g} s.") from None

    async def wait_for_end(self, owner: str) -> None:
        """Returns when all entries that the log has now have been applied."""
        await self.wait_for(owner, await self._store.last_offset(owner))

    async def refresh(self, name: str) -> None:
        """Applies what the common log and an experiment's log have now, before a caller is refused for its state.

        Two calls run at once: a flood of unknown names must not load the store. A call returns at once when the store
        is away: the last of a flood would else wait for the time-outs of all before it.
        """
        if self._answers:
            async with self._refreshing:
                await self._refresh(lambda: self._owners_of(name))

    def _owners_of(self, name: str) -> list[str]:
        owner = self._replica.registry.owner(name)
        return [owner] if owner in self._replica.positions else []

    async def refresh_all(self) -> None:
        """Does as `refresh` for all experiments, before a caller gets a list of them."""
        if self._answers:
            async with self._refreshing:
                await self._refresh(lambda: list(self._replica.registry.experiments))

    async def refresh_new(self) -> None:
        """Does as `refresh` for the experiments that are announced and not in this worker's memory yet."""
        if self._answers:
            async with self._refreshing:
                await self._refresh(lambda: self._new)

    @property
    def _new(self) -> list[str]:
        """Owners of logs that the common log announces and that are not in memory yet."""
        replica = self._replica
        return [owner for owner in replica.registry.experiments if name_of(owner) not in replica.experiments]

    async def wait_for_new_experiments(self) -> None:
        """Returns when the common log, and the logs that it announces and that are new here, have been applied."""
        await self.wait_for_end(COMMON)
        for owner in self._new:
            await self.wait_for_end(owner)

    async def _refresh(self, owners: Callable[[], list[str]]) -> None:
        if not self._answers:
            return
        await self.wait_for_end(COMMON)
        for owner in owners():
            await self.wait_for_end(owner)

    @property
    def _answers(self) -> bool:
        return self.available and self._store.outages.readable

    def _has(self, owner: str, offset: Offset) -> bool:
        """Whether the entry at `offset` was applied. A deleted experiment's log counts as applied to any offset."""
        replica = self._replica
        return replica.positions.get(owner, START) >= offset or replica.registry.repairs.is_deleted(owner)

    def _wake(self) -> None:
        for item in list(self._waiting):
            owner, offset, reached = item
            if reached.done():
                self._waiting.remove(item)
            elif self._has(owner, offset):
                reached.set_result(None)
                self._waiting.remove(item)

    async def _restore_registry(self) -> None:
        snapshot = await self._store.read_snapshot(COMMON, REGISTRY_FOLD)
        if snapshot is not None:
            self._replica.restore_registry(Registry.from_state(snapshot.offset, snapshot.state))

    async def _restore(self, owner: str) -> None:
        live = await newest_state(self._store, owner, self._replica.registry.repairs)
        if live is None:
            self._replica.begin_anew(owner)
        else:
            self._replica.restore(live)

    async def _read_to_end(self, owner: str) -> None:
        """Applies a log from its position to its end. Where it was trimmed past that, starts from its snapshot."""
        positions = self._replica.positions
        at_end = False
        while not at_end and owner in positions:
            at_end = True
            async for page in pages(self._store, owner, positions[owner], count=READ_COUNT):
                if page.gap is not None and await self._start_over(owner, page.gap):
                    at_end = False
                    break
                await self._apply({owner: page.entries})

    async def _behind(self, owners: list[str]) -> set[str]:
        """Returns those of which entries are missing between the applied ones and those just read, which then must not
        be applied.
        """
        trimmed = await self._store.trimmed_of(owners) if owners else {}
        behind = {owner for owner in owners if owner not in self._replica.positions}  # deleted meanwhile
        for owner, through in trimmed.items():
            if owner not in behind and await self._start_over(owner, through):
                behind.add(owner)
        return behind

    async def _start_over(self, owner: str, trimmed: Offset) -> bool:
        """Restores the snapshot of a log that was trimmed past its position; False where it needs none."""
        if owner not in self._replica.positions:  # it was deleted meanwhile
            return True
        if trimmed <= self._replica.positions[owner] or name_of(owner) in self._replica.aside:
            return False
        log.warning("%s was trimmed past this worker's position; starting over from its snapshot", owner)
        if owner == COMMON:
            await self._restore_registry()
            if trimmed > self._replica.positions[owner]:
                raise StoreUnavailable(
                    f"The log of {owner} is trimmed through {trimmed}, and no snapshot reaches that."
                )
        else:
            with self._replica.island(name_of(owner)):
                await self._restore(owner)
        return True
