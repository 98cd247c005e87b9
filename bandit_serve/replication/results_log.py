"""The results fold of each experiment: made when asked, caught up from its own snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

from bandit_serve.errors import SetAside, UnreadableEntry, of_our_state
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.events import Changed
from bandit_serve.log.offset import START, Offset
from bandit_serve.policies.serving import features_of
from bandit_serve.results import ResultsFold
from bandit_serve.store.store import Entry, Snapshot, Store

log = logging.getLogger(__name__)

RESULTS_FOLD = "results"
READ_COUNT = 500

T = TypeVar("T")


class _Folded:
    """`omissions` is how many were known when it was begun."""

    def __init__(self, uid: int, omissions: int, fold: ResultsFold, offset: Offset) -> None:
        self.uid = uid
        self.omissions = omissions
        self.fold = fold
        self.offset = offset
        self.lock = asyncio.Lock()


class ResultsSetAside(SetAside):
    """An entry at `offset` that the results can not be made with; `__cause__` says why."""

    def __init__(self, name: str, offset: Offset) -> None:
        super().__init__(
            f"The results of {name!r} can not be made at {offset}: see bandit-serve repair {name}."
        )
        self.offset = offset


class ResultsLog:
    """`ResultsSetAside` where an entry can not be folded: until the experiment is repaired it has no results."""

    def __init__(self, store: Store, replica: Replica) -> None:
        self._store = store
        self._replica = replica
        self._folded: dict[str, _Folded] = {}
        self._said: dict[str, Offset] = {}
        replica.on_deleted(self._forget)

    def _forget(self, name: str, uid: int | None) -> None:
        self._folded.pop(name, None)

    async def up_to_now(self, live: LiveExperiment, read: Callable[[ResultsFold], T]) -> T:
        """What `read` makes of everything that is in the log when this is called; where a window has closed
        since, of that too.

        `read` runs in a thread, and nothing is applied to the fold meanwhile.
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
        """Writes the fold at the experiment's offset, which its log may then be trimmed to."""
        owner = live.owner
        folded = await self._reach(live, live.offset)
        async with folded.lock:
            offset, state = folded.offset, await asyncio.to_thread(_readable_state, folded.fold)
        older = await self._store.snapshot_offsets(owner, RESULTS_FOLD)
        # One at the same place may be from before a repair.
        if offset not in older or self._replica.registry.repairs.omissions.get(owner):
            await self._store.write_snapshot(owner, RESULTS_FOLD, Snapshot(offset, state))
            await self._store.drop_snapshots(owner, RESULTS_FOLD, [at for at in older if at < offset])

    async def reach(self, live: LiveExperiment) -> None:
        """Folds the log as far as `live` has come."""
        await self._reach(live, live.offset)

    async def _reach(self, live: LiveExperiment, end: Offset) -> _Folded:
        name, owner = live.experiment.id, live.owner
        folded = self._folded.get(name)
        if not self._is_of(folded, live):
            started = await self._start(live)
            folded = self._folded.get(name)
            if not self._is_of(folded, live):
                folded = self._folded[name] = started
        assert folded is not None
        async with folded.lock:
            trimmed = await self._store.trimmed(owner)
            while folded.offset < max(end, trimmed):
                entries = await self._store.read(owner, folded.offset, READ_COUNT)
                # Asked after the read: a trim may have come in between.
                trimmed = await self._store.trimmed(owner)
                if folded.offset < trimmed:
                    restarted = await self._start(live)
                    if restarted.offset < trimmed:
                        raise ResultsSetAside(name, trimmed)
                    folded.fold, folded.offset = restarted.fold, restarted.offset
                    continue
                if not entries:
                    break
                await asyncio.to_thread(self._apply, live, folded, entries)
        return folded

    def _is_of(self, folded: _Folded | None, live: LiveExperiment) -> bool:
        omissions = self._replica.registry.repairs.omissions.get(live.owner, ())
        return folded is not None and (folded.uid, folded.omissions) == (live.record.uid, len(omissions))

    async def _start(self, live: LiveExperiment) -> _Folded:
        name, owner, uid = live.experiment.id, live.owner, live.record.uid
        repairs = self._replica.registry.repairs
        omissions = len(repairs.omissions.get(owner, ()))
        superset: _Folded | None = None
        for offset in reversed(await self._store.snapshot_offsets(owner, RESULTS_FOLD)):
            snapshot = await self._store.read_snapshot(owner, RESULTS_FOLD, offset)
            if snapshot is None:
                continue
            try:
                fold = await asyncio.to_thread(ResultsFold.from_state, snapshot.state)
            except Exception as error:
                self._say(name, offset, error)
                continue
            if fold.omitted == repairs.omitted_before(owner, offset):
                return _Folded(uid, omissions, fold, offset)
            if superset is None and fold.omitted >= repairs.omitted_through(owner, offset):
                superset = _Folded(uid, omissions, fold, offset)
        # Where the log is not whole any more, some of what a repair left out is better than no results.
        if superset is not None and await self._store.trimmed(owner) > START:
            return superset
        return _Folded(uid, omissions, ResultsFold(await self._first_record(live)), START)

    async def _first_record(self, live: LiveExperiment) -> Record:
        """As the log begins with it: a later one knows arms and revisions that were not there yet."""
        entries = await self._store.read(live.owner, START, 1)
        trimmed = await self._store.trimmed(live.owner)
        if trimmed == START and entries and entries[0].kind == events.CHANGED:
            with contextlib.suppress(UnreadableEntry):
                event = events.decode(events.CHANGED, entries[0].data, 0)
                assert isinstance(event, Changed)
                return event.record
        raise ResultsSetAside(live.experiment.id, trimmed)

    def _apply(self, live: LiveExperiment, folded: _Folded, entries: list[Entry]) -> None:
        """In a thread. A fold that stopped in the middle of an entry is not used again."""
        name, owner = live.experiment.id, live.owner
        fold, repairs = folded.fold, self._replica.registry.repairs
        n_features = _n_features(fold)
        for entry in entries:
            if repairs.omission(owner, entry.offset) is not None:
                fold.omitted = repairs.omitted_before(owner, entry.offset)
            else:
                try:
                    fold.apply(entry.offset.time_ms, events.decode(entry.kind, entry.data, n_features))
                except Exception as error:
                    self._folded.pop(name, None)
                    self._say(name, entry.offset, error)
                    raise ResultsSetAside(name, entry.offset) from error
                if entry.kind == events.CHANGED:
                    n_features = _n_features(fold)
            folded.offset = entry.offset

    def _say(self, name: str, offset: Offset, error: Exception) -> None:
        if self._said.get(name) != offset:
            self._said[name] = offset
            log.error("the results of %s can not be made at %s", name, offset, exc_info=error)


def _n_features(fold: ResultsFold) -> int:
    features = features_of(fold.record.experiment)
    return 0 if features is None else features.n_features


def _readable_state(fold: ResultsFold) -> bytes:
    """What a reader of the snapshot refuses is not written."""
    state = fold.state()
    ResultsFold.from_state(state)
    return state
