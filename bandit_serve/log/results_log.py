"""The results fold of each experiment: made when asked, caught up from its own snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from bandit_serve import events
from bandit_serve.errors import StoreUnavailable, of_our_state
from bandit_serve.live import LiveExperiment
from bandit_serve.policies.serving import features_of
from bandit_serve.results import ResultsFold
from bandit_serve.store.offset import START, Offset
from bandit_serve.store.store import Entry, Snapshot, Store

RESULTS_FOLD = "results"
READ_COUNT = 500

T = TypeVar("T")


class _Folded:
    def __init__(self, uid: int, fold: ResultsFold, offset: Offset) -> None:
        self.uid = uid
        self.fold = fold
        self.offset = offset
        self.lock = asyncio.Lock()


class ResultsLog:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._folded: dict[str, _Folded] = {}

    async def up_to_now(self, live: LiveExperiment, read: Callable[[ResultsFold], T]) -> T:
        """What `read` makes of everything that is in the log when this is called; where a window has closed
        since, of that too.

        `read` runs in a thread, and nothing is applied to the fold meanwhile.
        """
        name = live.experiment.id
        end = await self._store.last_offset(name)
        due_ms = live.next_close_ms()
        if due_ms is not None and max(due_ms, end.time_ms + 1) <= await self._store.time_ms():
            end = await self._store.append(name, events.TICK, b"")
        folded = await self._reach(live, end)
        async with folded.lock:
            with of_our_state(f"What is known of {name}"):
                return await asyncio.to_thread(read, folded.fold)

    async def snapshot(self, live: LiveExperiment) -> None:
        """Writes the fold at the experiment's offset, which its log may then be trimmed to."""
        name = live.experiment.id
        folded = await self._reach(live, live.offset)
        async with folded.lock:
            offset, state = folded.offset, await asyncio.to_thread(folded.fold.state)
        older = await self._store.snapshot_offsets(name, RESULTS_FOLD)
        if offset not in older:
            await self._store.write_snapshot(name, RESULTS_FOLD, Snapshot(offset, state))
            await self._store.drop_snapshots(name, RESULTS_FOLD, [at for at in older if at < offset])

    async def _reach(self, live: LiveExperiment, end: Offset) -> _Folded:
        name = live.experiment.id
        folded = self._folded.get(name)
        if folded is None or folded.uid != live.record.uid:
            started = await self._start(live)
            folded = self._folded.get(name)
            if folded is None or folded.uid != started.uid:
                folded = self._folded[name] = started
        async with folded.lock:
            trimmed = await self._store.trimmed(name)
            while folded.offset < max(end, trimmed):
                entries = await self._store.read(name, folded.offset, READ_COUNT)
                # Asked after the read: a trim may have come in between.
                trimmed = await self._store.trimmed(name)
                if folded.offset < trimmed:
                    restarted = await self._start(live)
                    if restarted.offset < trimmed:
                        raise StoreUnavailable(
                            f"The results of {name} can not be read now: its log was trimmed."
                        )
                    folded.fold, folded.offset = restarted.fold, restarted.offset
                    continue
                if not entries:
                    break
                with of_our_state(f"The log of {name}"):
                    await asyncio.to_thread(_apply, folded.fold, entries)
                folded.offset = entries[-1].offset
        return folded

    async def _start(self, live: LiveExperiment) -> _Folded:
        snapshot = await self._store.read_snapshot(live.experiment.id, RESULTS_FOLD)
        if snapshot is None:
            return _Folded(live.record.uid, ResultsFold(live.record), START)
        with of_our_state(f"The results of {live.experiment.id}"):
            fold = await asyncio.to_thread(ResultsFold.from_state, snapshot.state)
        return _Folded(live.record.uid, fold, snapshot.offset)


def _apply(fold: ResultsFold, entries: list[Entry]) -> None:
    features = features_of(fold.record.experiment)
    n_features = 0 if features is None else features.n_features
    for entry in entries:
        fold.apply(entry.offset.time_ms, events.decode(entry.kind, entry.data, n_features))
