"""Following all logs: one task, one connection, every entry once and in order."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from bandit_serve.errors import LogLost, StoreUnavailable, in_full
from bandit_serve.live import LiveExperiment
from bandit_serve.models.registry import Registry
from bandit_serve.replica import Replica
from bandit_serve.store.keys import COMMON
from bandit_serve.store.offset import START, Offset
from bandit_serve.store.store import Entry, Store
from bandit_serve.turn import Turn

log = logging.getLogger(__name__)

READ_COUNT = 200
GATHER_S = 0.02
RETRY_S = 0.1
LAPSE_S = 3.0
"""More than two reads that find nothing, and less than `keeper.UNTRIMMED_MS`."""
REACH_S = 5.0
POLICY_FOLD = "policy"
REGISTRY_FOLD = "registry"


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

    async def load(self) -> None:
        """Restores the newest snapshots and applies what came after them, up to now."""
        await self.load_registry()
        for name in list(self._replica.registry.experiments):
            await self._restore(name)
            await self._read_to_end(name)
        self.available = True

    async def load_registry(self) -> None:
        await self._restore(COMMON)
        await self._read_to_end(COMMON)

    async def run(self) -> None:
        """Follows the logs until cancelled; while the store is away it keeps trying.

        `LogLost` when it came back without what had been read from it.
        """
        while True:
            try:
                if not self.available:
                    await self._check_positions()
                found = await self._read_news()
            except StoreUnavailable as error:
                if self.available:
                    log.warning("the store is away: %s", in_full(error))
                self.available = False
                await asyncio.sleep(RETRY_S)
                continue
            self.available = True
            await self._apply(found)
            self._wake()
            if not self._waiting:
                await self._gather()

    async def _check_positions(self) -> None:
        """A store without an append-only file, or one that took over, may have forgotten what is in our memory."""
        for owner, offset in list(self._replica.positions.items()):
            if offset > START and not await self._store.holds(owner, offset):
                if await self._store.trimmed(owner) >= offset:
                    continue
                raise LogLost(f"The store has lost the end of the log of {owner}, from {offset} backwards.")

    async def _apply(self, found: dict[str, list[Entry]]) -> None:
        """Applies entries in their order; requests have their turn meanwhile."""
        turn = Turn()
        for owner, entries in found.items():
            for entry in entries:
                self._replica.apply(owner, entry)
                if turn.over:
                    await turn.give_way()

    async def _read_news(self) -> dict[str, list[Entry]]:
        """What came since, of logs of which nothing is missing before it."""
        owners = list(self._replica.positions)
        asked_s = time.monotonic()
        found = await self._store.read_any(self._replica.positions, READ_COUNT)
        answered_s = time.monotonic()
        for owner in owners:
            # A log that was read to its end a moment ago cannot have been trimmed past that end since.
            if answered_s - self._complete_s.get(owner, -math.inf) > LAPSE_S and await self._start_over(
                owner
            ):
                found.pop(owner, None)
            elif len(found.get(owner, ())) < READ_COUNT:
                self._complete_s[owner] = asked_s
        return found

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

    async def hear_news(self, owner: str) -> None:
        """`catch_up` on the common log and then on `owner`, before a caller is told that something is unknown.

        Few at a time, so that a flood of unknown names does not keep the store from what matters; and none once the
        store is known to be away, or the last of the flood would wait for as many time-outs as it is long.
        """
        if self.available:
            async with self._hearing:
                await self._hear(lambda: [owner] if owner in self._replica.positions else [])

    async def hear_all_news(self) -> None:
        """`hear_news` of every experiment, before a caller is given a list of them."""
        if self.available:
            async with self._hearing:
                await self._hear(lambda: list(self._replica.registry.experiments))

    async def hear_of_new(self) -> None:
        """`hear_news` of the experiments that this worker has not heard of yet."""
        if self.available:
            async with self._hearing:
                await self._hear(
                    lambda: [
                        n for n in self._replica.registry.experiments if n not in self._replica.experiments
                    ]
                )

    async def _hear(self, owners: Callable[[], list[str]]) -> None:
        if not self.available:
            return
        await self.catch_up(COMMON)
        for owner in owners():
            await self.catch_up(owner)

    def _has(self, owner: str, offset: Offset) -> bool:
        return self._replica.positions.get(owner, START) >= offset

    def _wake(self) -> None:
        for item in list(self._waiting):
            owner, offset, reached = item
            if reached.done():
                self._waiting.remove(item)
            elif self._has(owner, offset):
                reached.set_result(None)
                self._waiting.remove(item)

    async def _restore(self, owner: str) -> None:
        snapshot = await self._store.read_snapshot(owner, REGISTRY_FOLD if owner == COMMON else POLICY_FOLD)
        if snapshot is None:
            return
        if owner == COMMON:
            self._replica.restore_registry(Registry.from_state(snapshot.offset, snapshot.state))
        else:
            self._replica.restore(LiveExperiment.from_state(snapshot.offset, snapshot.state))

    async def _read_to_end(self, owner: str) -> None:
        while True:
            entries = await self._store.read(owner, self._replica.positions[owner], READ_COUNT)
            if await self._start_over(owner):
                continue
            if not entries:
                return
            for entry in entries:
                self._replica.apply(owner, entry)
            await asyncio.sleep(0)

    async def _start_over(self, owner: str) -> bool:
        """Whether a log was trimmed past what this worker has read of it: then its snapshot is taken instead.

        To be asked after a read and before its entries are applied: the trim may have come in between.
        """
        trimmed = await self._store.trimmed(owner)
        if trimmed <= self._replica.positions[owner]:
            return False
        log.warning("%s was trimmed past this worker's position; starting over from its snapshot", owner)
        await self._restore(owner)
        if trimmed > self._replica.positions[owner]:
            raise StoreUnavailable(
                f"The log of {owner} is trimmed through {trimmed}, and no snapshot reaches that."
            )
        return True
