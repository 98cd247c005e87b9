"""Tail: it follows all logs in one task, by one connection, every entry once and in order."""

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
from bandit_serve.log.fold import REGISTRY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.reader import gap_behind, pages
from bandit_serve.log.times import LAPSE_MS
from bandit_serve.registry.registry import Registry
from bandit_serve.replication.beginnings import newest_record, newest_state
from bandit_serve.replication.local_snapshots import Found
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

READ_COUNT = 200
GATHER_S = 0.02
RETRY_S = 0.1
REACH_S = 5.0
LOOK_S = 1.0
LOOK_COUNT = 64
"""A store that lost all, or the end of one of few logs, is noticed within seconds; of 10,000 within minutes."""


class Tail:
    """Keeps a replica up to date. `available` says whether the store answered the last read.

    `gather_s` is how long entries may come together before they are read.
    """

    def __init__(self, store: Store, replica: Replica) -> None:
        self._store = store
        self._replica = replica
        self._waiting: list[tuple[str, Offset, asyncio.Future[None]]] = []
        self._hurry = asyncio.Event()
        self._hearing = asyncio.Semaphore(2)
        self._complete_s: dict[str, float] = {}
        self.available = False
        self.gather_s = GATHER_S
        self.identity: bytes | None = None
        """Identity of the store that was read."""
        self._looked_s = -math.inf
        self._to_look_at: list[str] = []
        self._asked_for: set[str] = set()

    async def load(self) -> None:
        """Restores the newest snapshots and applies what came after them, up to now."""
        self.identity = await self._store.identity()
        await self.load_registry()
        for owner in list(self._replica.registry.experiments):
            await self._take_up(owner)
        self._replica.repaired.clear()
        self.available = True

    def start_from(self, found: Found) -> None:
        """Takes the snapshots of this host instead, while the store is away; `run` goes on from there.

        A state that this build can not read is passed over: its log is read when the store is there.
        """
        self.identity = found.identity
        registry = Registry.from_state(*found.states[COMMON])
        self._replica.restore_registry(registry)
        for owner in registry.experiments:
            if owner not in found.states:
                if owner in registry.repairs.given_up:
                    self._replica.give_up(owner, None)
            else:
                try:
                    live = LiveExperiment.from_state(*found.states[owner])
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

    async def _take_up(self, owner: str) -> None:
        """An experiment as its snapshots and its log say that it is, or set aside with what is known of it."""
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
        """Looks once for what is known of those that were set aside before they were anything."""
        for name, aside in list(self._replica.aside.items()):
            if aside.record is None and name != COMMON and name not in self._asked_for:
                owner = self._replica.registry.owner(name)
                self._replica.recognise(name, await self._newest_record(owner))
                self._asked_for.add(name)

    async def _take_up_repaired(self) -> None:
        """Loads those anew of which the common log says that they were repaired."""
        for owner in list(self._replica.repaired):
            await self._take_up(owner)
            self._replica.repaired.discard(owner)

    async def run(self) -> None:
        """Follows the logs until cancelled; while the store is away it keeps trying.

        `LogLost` when it has no longer what had been read from it.
        """
        while True:
            try:
                await self._look_after_losses()
                await self._take_up_repaired()
                await self._recognise_new()
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
            if not self._waiting:
                await self._gather()

    async def _look_after_losses(self) -> None:
        """`LogLost` where the store has lost what is in our memory: one that was emptied, was given an older file, or
        took over from another.

        Of all logs after an outage; of some of them, in turn, while the store is there.
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
        """`LogLost` where an entry before the news is missing: once they are applied, nobody would notice."""
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
        """Applies entries in their order, the largest log last; requests have their turn meanwhile."""
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
        """New entries, of logs of which nothing is missing before them."""
        owners = list(self._replica.positions)
        asked_s = time.monotonic()
        news = await self._store.read_any(self._replica.positions, READ_COUNT)
        await self._look_before(news)
        answered_s = time.monotonic()
        for owner in owners:
            # A log that was read to its end a moment ago cannot have been trimmed past that end since.
            lapsed = answered_s - self._complete_s.get(owner, -math.inf) > LAPSE_MS / 1000
            if lapsed and await self._is_behind(owner):
                news.pop(owner, None)
            elif len(news.get(owner, ())) < READ_COUNT:
                self._complete_s[owner] = asked_s
        return news

    async def _gather(self) -> None:
        """Lets entries come together, so that a busy log costs one read for many; a waiter ends it."""
        self._hurry.clear()
        try:
            async with asyncio.timeout(self.gather_s):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def reach(self, owner: str, offset: Offset) -> None:
        """Returns when the entry at `offset` has been applied."""
        if self._has(owner, offset):
            return
        reached = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, offset, reached))
        self._hurry.set()
        try:
            async with asyncio.timeout(REACH_S):
                await reached
        except TimeoutError:
            raise StoreUnavailable(f"The log was not read up to {offset} within {REACH_S:g} s.") from None

    async def catch_up(self, owner: str) -> None:
        """Returns when everything that was in a log when this was called has been applied."""
        await self.reach(owner, await self._store.last_offset(owner))

    async def hear_news(self, name: str) -> None:
        """`catch_up` on the common log and on that of an experiment, before a caller is told that it is unknown.

        Few at a time, so that a flood of unknown names does not keep the store from what matters; and none once the
        store is known to be away, or the last of the flood would wait for as many time-outs as it is long.
        """
        if self._answers:
            async with self._hearing:
                await self._hear(lambda: self._owners_of(name))

    def _owners_of(self, name: str) -> list[str]:
        owner = self._replica.registry.owner(name)
        return [owner] if owner in self._replica.positions else []

    async def hear_all_news(self) -> None:
        """`hear_news` of every experiment, before a caller is given a list of them."""
        if self._answers:
            async with self._hearing:
                await self._hear(lambda: list(self._replica.registry.experiments))

    async def hear_of_new(self) -> None:
        """`hear_news` of the experiments that this worker has not heard of yet."""
        if self._answers:
            async with self._hearing:
                await self._hear(lambda: self._new)

    @property
    def _new(self) -> list[str]:
        """Owners of logs that were announced and are not folded here."""
        replica = self._replica
        return [owner for owner in replica.registry.experiments if name_of(owner) not in replica.experiments]

    async def catch_up_on_new(self) -> None:
        """`catch_up` on the common log, and then on those that it announces and this worker has not heard of yet."""
        await self.catch_up(COMMON)
        for owner in self._new:
            await self.catch_up(owner)

    async def _hear(self, owners: Callable[[], list[str]]) -> None:
        if not self._answers:
            return
        await self.catch_up(COMMON)
        for owner in owners():
            await self.catch_up(owner)

    @property
    def _answers(self) -> bool:
        return self.available and self._store.outages.readable

    def _has(self, owner: str, offset: Offset) -> bool:
        """One that was deleted has nothing more to say."""
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
        """Applies a log from its position on; where it was trimmed past that, from its snapshot on."""
        positions = self._replica.positions
        at_end = False
        while not at_end and owner in positions:
            at_end = True
            async for page in pages(self._store, owner, positions[owner], count=READ_COUNT):
                if page.gap is not None and await self._start_over(owner, page.gap):
                    at_end = False
                    break
                await self._apply({owner: page.entries})

    async def _is_behind(self, owner: str) -> bool:
        """Whether entries that were read do not follow those that were applied, and so are not to be applied."""
        position = self._replica.positions.get(owner)
        if position is None:  # it was deleted meanwhile
            return True
        gap = await gap_behind(self._store, owner, position)
        return gap is not None and await self._start_over(owner, gap)

    async def _start_over(self, owner: str, trimmed: Offset) -> bool:
        """Takes the snapshot of a log that was trimmed past its position; False where its entries are passed over."""
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
