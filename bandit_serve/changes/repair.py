"""Repair of an experiment that was set aside: a diagnosis of its log, and the remedies."""

from __future__ import annotations

import asyncio
from typing import Literal, NamedTuple

from msgspec import Struct

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import Conflict, InvalidInput, NotFound, Unfoldable
from bandit_serve.experiments.logged import n_logged
from bandit_serve.folds.experiment import LiveExperiment, folded
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.reader import pages
from bandit_serve.log.repairs import Omission, Repaired, Repairs, Way
from bandit_serve.registry.registry import REPAIRED, Registry, decode_registry_event
from bandit_serve.replication.acknowledgements import wait_for_acknowledgements
from bandit_serve.replication.beginnings import newest_record, newest_state
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.second_folds import SecondSetAside
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

MAX_FAULTS = 100
"""With more bad entries than this, the remedy is an older snapshot."""

LogCondition = Literal["well", "set_aside", "given_up"]


class Fault(Struct, frozen=True):
    """Entry that can not be folded: the `kind` of its event, its `size` in bytes, the `fold` that fails and why."""

    offset: str
    at: str
    kind: str
    size: int
    fold: Literal["policy", "results", "registry"]
    reason: str


class KeptSnapshot(Struct, frozen=True):
    """Snapshot from which this build can go on."""

    offset: str
    at: str


class Diagnosis(Struct, frozen=True):
    """State of an experiment's log as this build sees it. `faults` are the entries that would have to be left out.

    `lost` says why leaving them out would not help; it is null where it would. `snapshots` are newest first.
    """

    experiment: str
    condition: LogCondition
    faults: list[Fault]
    lost: str | None
    snapshots: list[KeptSnapshot]
    omissions: list[Omission]


class Cost(Struct, frozen=True):
    """Loss by leaving entries out: decisions and rewards, as far as they can be read, and changes."""

    entries: int = 0
    decisions: int = 0
    rewards: int = 0
    changes: int = 0


class _Refold(NamedTuple):
    live: LiveExperiment | None
    faults: list[Fault]
    lost: str | None


async def diagnose(store: Store, registry: Registry, owner: str) -> Diagnosis:
    """Folds the log of an owner and reports what fails; raises `NotFound` where there is no such experiment."""
    name, omissions = name_of(owner), registry.repairs.omissions.get(owner, [])
    if name == COMMON:
        faults = await _common_faults(store, registry)
        return Diagnosis(name, "set_aside" if faults else "well", faults, None, [], omissions)
    if owner not in registry.experiments:
        raise NotFound(f"There is no experiment {name[:128]!r}.")
    refold = await _refold(store, registry.repairs, owner)
    condition: LogCondition = "set_aside" if refold.faults or refold.lost else "well"
    if owner in registry.repairs.given_up:
        condition = "given_up"
    snapshots = await _usable_snapshots(store, owner)
    return Diagnosis(name, condition, refold.faults, refold.lost, snapshots, omissions)


async def _refold(store: Store, repairs: Repairs, name: str) -> _Refold:
    """Folds the whole log. On an entry that can not be folded it starts over without that entry."""
    faults: list[Fault] = []
    while len(faults) <= MAX_FAULTS:
        try:
            live, fault = await _fold(store, repairs, name)
        except Unfoldable as error:
            return _Refold(None, faults, str(error))
        if fault is None and live is not None:
            fault = await _fold_results(store, repairs, name, live)
        if fault is None:
            return _Refold(live, faults, await asyncio.to_thread(_why_unkept, live))
        faults.append(fault)
        if live is None:
            return _Refold(None, faults, "The log does not begin with the experiment's creation.")
        repairs = repairs.leaving_out(name, ((fault.offset, fault.offset),))
    return _Refold(None, faults, f"More than {MAX_FAULTS} entries can not be folded.")


async def _fold(store: Store, repairs: Repairs, name: str) -> tuple[LiveExperiment | None, Fault | None]:
    """Folds the log to its end, or to the first entry that can not be folded, which is returned as a fault."""
    live = await newest_state(store, name, repairs)
    async for page in pages(store, name, START if live is None else live.offset):
        for entry in page.entries:
            try:
                live = folded(live, name, entry, repairs)
            except Exception as error:
                return live, _fault(entry, "policy", error)
        await asyncio.sleep(0)
    return live, None


async def _fold_results(store: Store, repairs: Repairs, name: str, live: LiveExperiment) -> Fault | None:
    replica = Replica()
    replica.registry.repairs = repairs
    try:
        await ResultsLog(store, replica).reach(live)
    except SecondSetAside as error:
        entries = await store.read(name, error.offset.former, 1)
        if not entries or entries[0].offset != error.offset:
            raise Unfoldable(str(error)) from error
        return _fault(entries[0], "results", error.__cause__ or error)
    return None


def _why_unkept(live: LiveExperiment | None) -> str | None:
    """Says why a snapshot of the state could not be read back; None if it can."""
    if live is None:
        return "The log is empty."
    try:
        state = live.state()
        if LiveExperiment.from_state(live.offset, state).state() == state:
            return None
    except Exception as error:
        return f"A snapshot of the log's state can not be written and read: {_one_line(error)}."
    return "A snapshot of the log's state is another state when it is read."


async def _common_faults(store: Store, registry: Registry) -> list[Fault]:
    faults = []
    async for page in pages(store, COMMON, START):
        for entry in page.entries:
            try:
                decode_registry_event(entry.kind, entry.data)
            except Exception as error:
                if registry.repairs.omission(COMMON, entry.offset) is None:
                    faults.append(_fault(entry, "registry", error))
    return faults


def _fault(entry: Entry, fold: Literal["policy", "results", "registry"], error: BaseException) -> Fault:
    kind = entry.kind.decode("ascii", "backslashreplace")
    at = rfc3339(entry.offset.time_ms)
    return Fault(str(entry.offset), at, kind, len(entry.data), fold, _one_line(error))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:300]


async def _usable_snapshots(store: Store, name: str) -> list[KeptSnapshot]:
    """Snapshots of the policy's fold that this build can read, newest first."""
    usable = []
    async for offset, state in store.newest_snapshots(name, POLICY_FOLD, await store.trimmed(name)):
        try:
            await asyncio.to_thread(LiveExperiment.from_state, offset, state)
        except Exception:
            continue
        usable.append(KeptSnapshot(str(offset), rfc3339(offset.time_ms)))
    return usable


class Repair:
    """Remedies. Each appends an event to the common log, which every worker and every fold obeys from then on.

    A `name` here is the owner of a log; `who` and `reason` go into the history. Methods return the loss, when every
    live worker has applied the event.
    """

    def __init__(self, store: Store, registry: Registry, who: str, reason: str | None) -> None:
        self._store = store
        self._registry = registry
        self._who = who
        self._reason = reason

    async def try_again(self, name: str) -> Cost:
        """Has the running builds read the log again."""
        await self._append_repair(name, "try_again")
        return Cost()

    async def leave_out(self, name: str) -> Cost:
        """Leaves out the entries that can not be folded. Raises `Conflict` where that does not help."""
        diagnosis = await diagnose(self._store, self._registry, name)
        if diagnosis.lost is not None:
            raise Conflict(f"Leaving entries out does not help: {diagnosis.lost}")
        ranges = [(fault.offset, fault.offset) for fault in diagnosis.faults]
        return await self._leave_out(name, ranges)

    async def from_snapshot(self, name: str, offset: str | None) -> Cost:
        """Goes back to a snapshot, by default the newest usable one, and leaves out all later entries."""
        usable = [kept.offset for kept in await _usable_snapshots(self._store, name)]
        if not usable or (offset is not None and offset not in usable):
            known = f"expected one of {', '.join(usable)}" if usable else "there is none that can be used"
            raise InvalidInput(f"The experiment can not go back to the snapshot {offset or ''}: {known}.")
        start = Offset.parse(offset or usable[0])
        end = await self._store.last_offset(name)
        if end <= start:
            return await self.try_again(name)
        return await self._leave_out(name, [(str(start.next), str(end))])

    async def stop(self, name: str) -> Cost:
        """Gives the experiment up for good: everyone gets control, and rewards are unknown."""
        await self._append_repair(name, "stop")
        return Cost()

    async def _leave_out(self, name: str, ranges: list[tuple[str, str]]) -> Cost:
        cost = Cost()
        record = None if name == COMMON else await newest_record(self._store, name)
        n_features = 0 if record is None else n_logged(record.experiment)
        for first, last in ranges:
            cost = await self._cost(name, Offset.parse(first), Offset.parse(last), n_features, cost)
        omitted = tuple(ranges)
        if cost.changes and name != COMMON:
            await self._set_head_back(name, omitted)
        await self._append_repair(name, "leave_out", omitted)
        return cost

    async def _set_head_back(self, name: str, omitted: tuple[tuple[str, str], ...]) -> None:
        """Sets the head to the fold's revision, which changes that are left out no longer raise."""
        repairs = self._registry.repairs.leaving_out(name, omitted)
        live, fault = await _fold(self._store, repairs, name)
        if live is None or fault is not None:
            raise Conflict(
                f"Leaving these entries out does not help: {'' if fault is None else fault.reason}."
            )
        await self._store.set_head(name, live.record.revision)

    async def _cost(self, name: str, first: Offset, last: Offset, n_features: int, cost: Cost) -> Cost:
        async for page in pages(self._store, name, first.former, last):
            for entry in page.entries:
                cost = _with(cost, entry, n_features)
        return cost

    async def _append_repair(self, name: str, way: Way, omitted: tuple[tuple[str, str], ...] = ()) -> None:
        event = Repaired(name, way, self._who, self._reason, omitted)
        offset = await self._store.append(COMMON, REPAIRED, events.encode(event))
        await wait_for_acknowledgements(self._store, COMMON, offset)


def _with(cost: Cost, entry: Entry, n_features: int) -> Cost:
    decisions = rewards = 0
    try:
        event = events.decode(entry.kind, entry.data, n_features)
    except Exception:
        event = None
    if isinstance(event, events.Exposed):
        decisions = len(event.arms) // 2
    elif isinstance(event, events.Rewarded | events.Revised):
        rewards = len(event.rows)
    return Cost(
        cost.entries + 1,
        cost.decisions + decisions,
        cost.rewards + rewards,
        cost.changes + (entry.kind == events.CHANGED),
    )
