"""Second folds of the logs: each is made when first asked for, continues from its own snapshot, and is caught up when
asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from bandit_serve.base.turns import ThreadTurn
from bandit_serve.errors import SetAside, UnreadableEntry, of_our_state
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Changed
from bandit_serve.log.fold import Fold, Restore, readable
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.reader import event_of, gap_behind, pages
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")


class SecondFold(Fold, Protocol):
    """Fold of an experiment's log besides that of the policy. `omitted` counts the omissions met (`repairs.py`)."""

    omitted: int
    n_features: int


F = TypeVar("F", bound=SecondFold)


class SecondSetAside(SetAside):
    """A second fold can not be made because of the entry at `offset`; `__cause__` has the reason."""

    def __init__(self, what: str, name: str, offset: Offset) -> None:
        super().__init__(
            f"The {what} of {name!r} can not be made at {offset}: see bandit-serve repair {name}."
        )
        self.offset = offset


class _Folded(Generic[F]):
    """Fold in memory. `omissions` is the number of omissions that were known when it began."""

    def __init__(self, uid: int, omissions: int, fold: F) -> None:
        self.uid = uid
        self.omissions = omissions
        self.fold = fold
        self.lock = asyncio.Lock()


class SecondFolds(Generic[F]):
    """Folds of one kind, by experiment. Methods raise `SecondSetAside` for a bad entry, until it is repaired.

    what: names them in sentences. kind: the name of their snapshots. make: the fold that has applied nothing, given the
    record that its log begins with. restore: the way back from a snapshot.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        what: str,
        kind: str,
        make: Callable[[Record], F],
        restore: Restore[F],
    ) -> None:
        self._store = store
        self._replica = replica
        self._what = what
        self._kind = kind
        self._make = make
        self._restore = restore
        self._folded: dict[str, _Folded[F]] = {}
        self._logged: dict[str, Offset] = {}
        replica.on_deleted(self._forget)

    def _forget(self, name: str, uid: int | None) -> None:
        self._folded.pop(name, None)

    def in_memory(self) -> list[F]:
        """Folds that have been asked for in this process."""
        return [folded.fold for folded in self._folded.values()]

    async def read(self, live: LiveExperiment, end: Offset, read: Callable[[F], T]) -> T:
        """Returns `read(fold)` when all entries up to `end` are folded. It runs in a thread, and nothing changes
        meanwhile.
        """
        folded = await self._reach(live, end)
        async with folded.lock:
            with of_our_state(f"The {self._what} of {live.experiment.id}"):
                return await asyncio.to_thread(read, folded.fold)

    async def snapshot(self, live: LiveExperiment) -> None:
        """Writes the fold at the experiment's offset, to which its log may then be trimmed."""
        owner = live.owner
        folded = await self._reach(live, live.offset)
        async with folded.lock:
            fold = folded.fold
            offset = fold.offset
            state = await asyncio.to_thread(lambda: readable(self._restore, offset, fold.state()))
        older = await self._store.snapshot_offsets(owner, self._kind)
        # One at the same place may be from before a repair.
        if offset not in older or self._replica.registry.repairs.omissions.get(owner):
            await self._store.write_snapshot(owner, self._kind, Snapshot(offset, state))
            await self._store.drop_snapshots(owner, self._kind, [at for at in older if at < offset])

    async def reach(self, live: LiveExperiment) -> None:
        """Folds the log up to the offset of `live`."""
        await self._reach(live, live.offset)

    async def _reach(self, live: LiveExperiment, end: Offset) -> _Folded[F]:
        name = live.experiment.id
        folded = self._folded.get(name)
        if not self._is_of(folded, live):
            started = await self._start(live)
            folded = self._folded.get(name)
            if not self._is_of(folded, live):
                folded = self._folded[name] = started
        assert folded is not None
        async with folded.lock:
            await self._fold_to(end, live, folded)
        return folded

    async def _fold_to(self, end: Offset, live: LiveExperiment, folded: _Folded[F]) -> None:
        if folded.fold.offset >= end:
            return
        owner = live.owner
        # What has come meanwhile, too: so those who wait for this look need none of their own.
        end = max(end, live.offset, await self._store.trimmed(owner))
        while folded.fold.offset < end:
            async for page in pages(self._store, owner, folded.fold.offset, end):
                if page.gap is not None:
                    folded.fold = (await self._start(live)).fold
                    if folded.fold.offset < page.gap:
                        folded.fold = self._behind(live, page.gap, folded.fold)
                    break
                await asyncio.to_thread(self._apply, live, folded, page.entries)
            else:
                return

    def _is_of(self, folded: _Folded[F] | None, live: LiveExperiment) -> bool:
        omissions = self._replica.registry.repairs.omissions.get(live.owner, ())
        return folded is not None and (folded.uid, folded.omissions) == (live.record.uid, len(omissions))

    async def _start(self, live: LiveExperiment) -> _Folded[F]:
        name, owner, uid = live.experiment.id, live.owner, live.record.uid
        repairs = self._replica.registry.repairs
        omissions = len(repairs.omissions.get(owner, ()))
        superset: _Folded[F] | None = None
        async for offset, state in self._store.newest_snapshots(owner, self._kind):
            try:
                fold = await asyncio.to_thread(self._restore, offset, state)
            except Exception as error:
                self._log_once(name, offset, error)
                continue
            if fold.omitted == repairs.omitted_before(owner, offset):
                return _Folded(uid, omissions, fold)
            if superset is None and fold.omitted >= repairs.omitted_through(owner, offset):
                superset = _Folded(uid, omissions, fold)
        # Where the log is not whole any more, some of what a repair left out is better than nothing.
        if superset is not None and await self._store.trimmed(owner) > START:
            return superset
        return _Folded(uid, omissions, await self._anew(live))

    async def _anew(self, live: LiveExperiment) -> F:
        """Fold that begins with the log's first record: later ones have arms and revisions that were not there yet."""
        name = live.experiment.id
        entries = await self._store.read(live.owner, START, 1)
        gap = await gap_behind(self._store, live.owner, START)
        if gap is not None or not entries:
            return self._behind(live, gap or START, None)
        (first,) = entries
        try:
            event = events.decode(first.kind, first.data)
        except UnreadableEntry as error:
            self._log_once(name, first.offset, error)
            raise SecondSetAside(self._what, name, first.offset) from error
        if not isinstance(event, Changed):
            raise SecondSetAside(self._what, name, first.offset)
        return self._make(event.record)

    def _behind(self, live: LiveExperiment, gap: Offset, former: F | None) -> F:
        """Fold for a log that was trimmed through `gap`, after the newest usable snapshot, `former`."""
        raise SecondSetAside(self._what, live.experiment.id, gap)

    def _apply(self, live: LiveExperiment, folded: _Folded[F], entries: list[Entry]) -> None:
        """Applies entries in a thread. A fold that failed in the middle of an entry is not used again."""
        name, owner = live.experiment.id, live.owner
        fold, repairs, turn = folded.fold, self._replica.registry.repairs, ThreadTurn()
        for entry in entries:
            turn.give_way()
            try:
                fold.apply(entry.offset, event_of(entry, owner, repairs, fold.n_features))
            except Exception as error:
                self._folded.pop(name, None)
                self._log_once(name, entry.offset, error)
                raise SecondSetAside(self._what, name, entry.offset) from error

    def _log_once(self, name: str, offset: Offset, error: Exception) -> None:
        if self._logged.get(name) != offset:
            self._logged[name] = offset
            log.error("the %s of %s can not be made at %s", self._what, name, offset, exc_info=error)
