"""Replay of an experiment's log, and comparison of its state with every state that should be the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from bandit_serve.errors import BanditServeError, NotFound, Unavailable
from bandit_serve.folds.experiment import LiveExperiment, folded
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.reader import pages
from bandit_serve.log.repairs import Repairs
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.replication.census import Answers, WorkerCard, living, take
from bandit_serve.store.store import Store

ATTEMPTS = 5

Compared = Literal["equal", "different", "silent", "ended", "unreachable"]


class NotReplayable(BanditServeError):
    """No state can be made from what the store has of an experiment."""


class WorkerComparison(Struct, frozen=True):
    """Comparison with a worker's state. `silent`: it lives and did not answer. `ended`: it is gone, which is no
    difference.
    """

    id: str
    host: str
    pid: int
    result: Compared
    digest: str | None


class SnapshotComparison(Struct, frozen=True):
    """Comparison with a snapshot. `unreachable`: the log has no entry at its offset."""

    offset: str
    result: Compared


class Replayed(Struct, frozen=True):
    """Outcome of a replay of `entries` entries from the snapshot at `start`, or from nothing where that is null.

    `equal` is null where there was no state to compare with.
    """

    experiment: str
    start: str | None
    entries: int
    offset: str
    digest: str | None
    equal: bool | None
    reason: str
    workers: list[WorkerComparison]
    snapshots: list[SnapshotComparison]


class _Remake:
    """State that is folded from the log again, and compared with each snapshot at its offset."""

    def __init__(
        self, name: str, repairs: Repairs, start: Snapshot | None, snapshots: Mapping[Offset, bytes]
    ) -> None:
        self.live = None if start is None else LiveExperiment.from_state(start.offset, start.state)
        self._name = name
        self._repairs = repairs
        self.position = START if start is None else start.offset
        self.entries = 0
        self.compared: dict[Offset, Compared] = {}
        self.snapshots = snapshots

    def apply(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.live = folded(self.live, self._name, entry, self._repairs)
            self.entries += 1
            self.position = entry.offset
            state = self.snapshots.get(entry.offset)
            if state is not None:
                self.compared[entry.offset] = "equal" if self.live.state() == state else "different"


async def replay(store: Store, owner: str, repairs: Repairs) -> Replayed:
    """Folds the log again, to its end, and compares with every live worker and every snapshot.

    Entries that a repair left out are left out, and snapshots from before such a repair are skipped. Raises `NotFound`
    where the experiment has no log.
    """
    end = max([await store.last_offset(owner), *await store.snapshot_offsets(owner, POLICY_FOLD)])
    name = name_of(owner)
    if end == START:
        raise NotFound(f"There is no experiment {name[:128]!r}.")
    workers = await living(store)
    answers = None
    if workers:
        answers = await take(store, owner, workers)
        end = answers.offset
    try:
        start, fold = await _remade(store, owner, repairs, end)
    except NotReplayable as error:
        return Replayed(name, None, 0, str(end), None, False, str(error), [], [])
    assert fold.live is not None
    digest = fold.live.digest()
    compared = _compare_workers(workers, answers, digest)
    kept = [
        SnapshotComparison(str(offset), fold.compared.get(offset, "unreachable"))
        for offset in fold.snapshots
        if (start is None or offset > start) and offset <= end
    ]
    equal, reason = _verdict(compared, kept)
    return Replayed(
        experiment=name,
        start=None if start is None else str(start),
        entries=fold.entries,
        offset=str(fold.position),
        digest=digest,
        equal=equal,
        reason=reason,
        workers=compared,
        snapshots=kept,
    )


def _compare_workers(
    workers: list[WorkerCard], answers: Answers | None, digest: str
) -> list[WorkerComparison]:
    compared = []
    for worker in workers:
        assert answers is not None
        answer = answers.digests.get(worker.incarnation)
        result: Compared
        if answer is not None:
            result = "equal" if answer == digest else "different"
        else:
            result = "silent" if worker.incarnation in answers.silent else "ended"
        compared.append(
            WorkerComparison(f"{worker.incarnation:016x}", worker.host, worker.pid, result, answer)
        )
    return compared


def _verdict(workers: list[WorkerComparison], snapshots: list[SnapshotComparison]) -> tuple[bool | None, str]:
    wrong = [f"worker {each.pid} on {each.host} is {each.result}" for each in workers if _wrong(each.result)]
    wrong += [f"the snapshot at {each.offset} is {each.result}" for each in snapshots if _wrong(each.result)]
    if wrong:
        return False, ", ".join(wrong)
    if any(each.result == "equal" for each in workers):
        ended = [f"worker {each.pid} on {each.host}" for each in workers if each.result == "ended"]
        without = f" ({', '.join(ended)} ended meanwhile)" if ended else ""
        return True, f"the replayed state is every worker's, bit for bit{without}"
    if snapshots:
        at = snapshots[-1].offset
        return True, f"no worker runs; compared with the newest snapshot, at {at}, bit for bit"
    return None, "no worker runs and there is no snapshot behind the start: nothing to compare with"


def _wrong(result: Compared) -> bool:
    return result not in ("equal", "ended")


async def _snapshots(store: Store, name: str, repairs: Repairs) -> dict[Offset, bytes]:
    """Snapshots that are kept, oldest first."""
    newest = [each async for each in store.newest_snapshots(name, POLICY_FOLD) if _is_of(each, name, repairs)]
    return {snapshot.offset: snapshot.state for snapshot in reversed(newest)}


def _is_of(snapshot: Snapshot, name: str, repairs: Repairs) -> bool:
    """Whether a snapshot is of the log as it was repaired; True for one that can not be read, which fails later."""
    met = repairs.omitted_before(name, snapshot.offset)
    try:
        return LiveExperiment.omitted_in(snapshot.state) == met
    except Exception:
        return True


async def _remade(store: Store, name: str, repairs: Repairs, end: Offset) -> tuple[Offset | None, _Remake]:
    """Folds the log up to `end`, from its first entry or, where it was trimmed, from the oldest snapshot."""
    for _ in range(ATTEMPTS):
        trimmed = await store.trimmed(name)
        snapshots = await _snapshots(store, name, repairs)
        start = None
        if trimmed > START:
            at = min((offset for offset in snapshots if offset >= trimmed), default=None)
            if at is None:
                raise NotReplayable(f"the log is trimmed through {trimmed} and no snapshot is there")
            start = Snapshot(at, snapshots[at])
        try:
            fold = await asyncio.to_thread(_Remake, name, repairs, start, snapshots)
            if await _read(store, name, fold, end):
                return (None if start is None else start.offset), fold
        except (NotReplayable, Unavailable):
            raise
        except Exception as error:  # whatever bytes that somebody changed can cause
            raise NotReplayable(f"the log or its snapshot can not be read: {error}") from error
    raise Unavailable(f"The log of {name} is being trimmed again and again; try later.")


async def _read(store: Store, name: str, fold: _Remake, end: Offset) -> bool:
    """Applies the log up to `end`; False when it was trimmed past the fold meanwhile."""
    async for page in pages(store, name, fold.position, end):
        if page.gap is not None:
            return False
        await asyncio.to_thread(fold.apply, page.entries)
    if fold.live is None:
        raise NotReplayable("the log is empty")
    return True
