"""Results of each experiment from its log. A fold is made when first asked for, and continues from its own snapshot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from bandit_serve.errors import SetAside, UnreadableEntry, of_our_state
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Changed
from bandit_serve.log.fold import RESULTS_FOLD, readable
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.reader import event_of, gap_behind, pages
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.results import ResultsFold
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Folded:
    """Results fold in memory. `omissions` is the number of omissions that were known when it began."""

    def __init__(self, uid: int, omissions: int, fold: ResultsFold) -> None:
        self.uid = uid
        self.omissions = omissions
        self.fold = fold
        self.lock = asyncio.Lock()


class ResultsSetAside(SetAside):
    """Results can not be folded because of the entry at `offset`; `__cause__` has the reason."""

    def __init__(self, name: str, offset: Offset) -> None:
        super().__init__(
            f"The results of {name!r} can not be made at {offset}: see bandit-serve repair {name}."
        )
        self.offset = offset


class ResultsLog:
    """Results folds of experiments. Methods raise `ResultsSetAside` for a bad entry, until it is repaired."""

    def __init__(self, store: Store, replica: Replica) -> None:
        self._store = store
        self._replica = replica
        self._folded: dict[str, _Folded] = {}
        self._logged: dict[str, Offset] = {}
        replica.on_deleted(self._forget)

    def _forget(self, name: str, uid: int | None) -> None:
        self._folded.pop(name, None)

    async def up_to_now(self, live: LiveExperiment, read: Callable[[ResultsFold], T]) -> T:
        """Returns `read(fold)` when all entries that the log has now are folded.

        If a window has closed since the last entry, a tick is appended first, so that it counts. `read` runs in a
        thread; the fold does not change meanwhile.
        """
        name, owner = live.experiment.id, live.owner
        end = await self._store.last_offset(owner)
        due_ms = live.next_close_ms()
        if due_ms is not None and max(due_ms, end.time_ms + 1) <= await self._store.time_ms():
            end = await self._store.append(owner, events.TICK, b"")
        folded = await self._reach(live, end)
        async with folded.lock:
            with of_our_state(f"What is known of {name}"):
                return await asyncio.to_thread(read, folded.fold)

    async def snapshot(self, live: LiveExperiment) -> None:
        """Writes the fold at the experiment's offset, to which its log may then be trimmed."""
        owner = live.owner
        folded = await self._reach(live, live.offset)
        async with folded.lock:
            fold = folded.fold
            offset = fold.offset
            state = await asyncio.to_thread(lambda: readable(ResultsFold.from_state, offset, fold.state()))
        older = await self._store.snapshot_offsets(owner, RESULTS_FOLD)
        # One at the same place may be from before a repair.
        if offset not in older or self._replica.registry.repairs.omissions.get(owner):
            await self._store.write_snapshot(owner, RESULTS_FOLD, Snapshot(offset, state))
            await self._store.drop_snapshots(owner, RESULTS_FOLD, [at for at in older if at < offset])

    async def reach(self, live: LiveExperiment) -> None:
        """Folds the log up to the offset of `live`."""
        await self._reach(live, live.offset)

    async def _reach(self, live: LiveExperiment, end: Offset) -> _Folded:
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

    async def _fold_to(self, end: Offset, live: LiveExperiment, folded: _Folded) -> None:
        owner = live.owner
        end = max(end, await self._store.trimmed(owner))
        while folded.fold.offset < end:
            async for page in pages(self._store, owner, folded.fold.offset, end):
                if page.gap is not None:
                    folded.fold = (await self._start(live)).fold
                    if folded.fold.offset < page.gap:
                        raise ResultsSetAside(live.experiment.id, page.gap)
                    break
                await asyncio.to_thread(self._apply, live, folded, page.entries)
            else:
                return

    def _is_of(self, folded: _Folded | None, live: LiveExperiment) -> bool:
        omissions = self._replica.registry.repairs.omissions.get(live.owner, ())
        return folded is not None and (folded.uid, folded.omissions) == (live.record.uid, len(omissions))

    async def _start(self, live: LiveExperiment) -> _Folded:
        name, owner, uid = live.experiment.id, live.owner, live.record.uid
        repairs = self._replica.registry.repairs
        omissions = len(repairs.omissions.get(owner, ()))
        superset: _Folded | None = None
        async for offset, state in self._store.newest_snapshots(owner, RESULTS_FOLD):
            try:
                fold = await asyncio.to_thread(ResultsFold.from_state, offset, state)
            except Exception as error:
                self._log_once(name, offset, error)
                continue
            if fold.omitted == repairs.omitted_before(owner, offset):
                return _Folded(uid, omissions, fold)
            if superset is None and fold.omitted >= repairs.omitted_through(owner, offset):
                superset = _Folded(uid, omissions, fold)
        # Where the log is not whole any more, some of what a repair left out is better than no results.
        if superset is not None and await self._store.trimmed(owner) > START:
            return superset
        return _Folded(uid, omissions, ResultsFold(await self._first_record(live)))

    async def _first_record(self, live: LiveExperiment) -> Record:
        """Record with which the log begins: later ones have arms and revisions that were not there yet."""
        name = live.experiment.id
        entries = await self._store.read(live.owner, START, 1)
        gap = await gap_behind(self._store, live.owner, START)
        if gap is not None or not entries:
            raise ResultsSetAside(name, gap or START)
        (first,) = entries
        try:
            event = events.decode(first.kind, first.data)
        except UnreadableEntry as error:
            self._log_once(name, first.offset, error)
            raise ResultsSetAside(name, first.offset) from error
        if not isinstance(event, Changed):
            raise ResultsSetAside(name, first.offset)
        return event.record

    def _apply(self, live: LiveExperiment, folded: _Folded, entries: list[Entry]) -> None:
        """Applies entries in a thread. A fold that failed in the middle of an entry is not used again."""
        name, owner = live.experiment.id, live.owner
        fold, repairs = folded.fold, self._replica.registry.repairs
        for entry in entries:
            try:
                fold.apply(entry.offset, event_of(entry, owner, repairs, fold.n_features))
            except Exception as error:
                self._folded.pop(name, None)
                self._log_once(name, entry.offset, error)
                raise ResultsSetAside(name, entry.offset) from error

    def _log_once(self, name: str, offset: Offset, error: Exception) -> None:
        if self._logged.get(name) != offset:
            self._logged[name] = offset
            log.error("the results of %s can not be made at %s", name, offset, exc_info=error)
