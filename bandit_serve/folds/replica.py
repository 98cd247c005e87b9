"""Replica of the logs: a worker's memory of the registry and of all experiments."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bandit_serve.base.clock import now_ms
from bandit_serve.base.turns import Step
from bandit_serve.errors import NotFound, SetAside, StoreUnavailable
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment, folding
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Census
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.repairs import Repaired
from bandit_serve.registry.registry import (
    REVISIONS,
    ExperimentAnnounced,
    Registry,
    decode_registry_event,
)
from bandit_serve.store.keys import COMMON

log = logging.getLogger(__name__)

MAX_REASON = 300
RETRY_S = 10.0


class Aside(NamedTuple):
    """Experiment that is set aside: the reason, the time (Unix), and the offset of the bad entry or snapshot, if any.

    `record` is the newest known one. One that was `given_up` is over, and nothing is wrong with it any more. While it
    is `reading`, its log is applied again from the first entry, after which it is no longer set aside.
    """

    since_ms: int
    offset: Offset | None
    reason: str
    record: Record | None
    given_up: bool = False
    reading: bool = False


class Replica:
    """State that the logs make. `apply` is the only way in: call it once for each entry of each log, in the log's
    order.

    Keys are the experiments' names; only `positions` and `repaired` (the logs to load again) have owners of logs as
    keys.

    A known name is either in `experiments` or in `aside`. An experiment is set aside when an entry of it can not be
    folded, or its state can not be used: its further entries are skipped, and all other experiments go on.
    """

    def __init__(self) -> None:
        self.registry = Registry()
        self.experiments: dict[str, LiveExperiment] = {}
        self.by_uid: dict[int, LiveExperiment] = {}
        self.aside: dict[str, Aside] = {}
        self.repaired: set[str] = set()
        self._positions: dict[str, Offset] = {COMMON: START}
        self._listeners: list[Callable[[str], None]] = []
        self._aside_listeners: list[Callable[[str, Exception | None], None]] = []
        self._deletion_listeners: list[Callable[[str, int | None], None]] = []
        self._census_listener: Callable[[str, Census], None] | None = None
        self._configured_listener: Callable[[str, Offset], None] | None = None
        self._resting: list[asyncio.Future[None]] = []

    @property
    def positions(self) -> dict[str, Offset]:
        """Offsets through which the common log and that of each announced experiment have been applied."""
        return self._positions

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Has `listener(name)` called after each entry, with the experiment's name or `COMMON`."""
        self._listeners.append(listener)

    def on_set_aside(self, listener: Callable[[str, Exception | None], None]) -> None:
        """Has `listener(name, error)` called when an experiment or `COMMON` is set aside, or more of it is known."""
        self._aside_listeners.append(listener)

    def on_deleted(self, listener: Callable[[str, int | None], None]) -> None:
        """Has `listener(name, uid)` called when an experiment is deleted; `uid` is None where it is unknown."""
        self._deletion_listeners.append(listener)

    def on_configured(self, listener: Callable[[str, Offset], None]) -> None:
        """Has `listener(owner, offset)` called when a configuration change has been applied."""
        self._configured_listener = listener

    def on_census(self, listener: Callable[[str, Census], None]) -> None:
        """Has `listener(owner, census)` called at the offset of a census."""
        self._census_listener = listener

    def apply(self, owner: str, entry: Entry) -> None:
        for heavy in self.steps(owner, entry):
            if heavy is not None:
                heavy.do()

    def steps(self, owner: str, entry: Entry) -> Iterator[Step]:
        """Does as `apply` in pieces; run the iterator to its end before the next entry."""
        if self.registry.repairs.is_deleted(owner):
            return
        name = name_of(owner)
        with self.island(name, entry.offset):
            if owner == COMMON:
                self._apply_common(entry)
            elif self._is_folded(name):
                yield from self._experiment_steps(owner, entry)
            self._positions[owner] = entry.offset
            # Whoever counts the workers' states is to know, too, that this one has none.
            if entry.kind == events.CENSUS:
                self._answer_census(owner, entry)
            if name not in self.aside or owner == COMMON:
                self._notify(name)
        self._positions[owner] = entry.offset
        if self._configured_listener is not None and (owner == COMMON or entry.kind == events.CHANGED):
            self._configured_listener(owner, entry.offset)
        for rest in self._resting:
            if not rest.done():
                rest.set_result(None)
        self._resting.clear()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits in `at_rest`, and should have a turn after this entry."""
        return bool(self._resting)

    async def at_rest(self, name: str) -> LiveExperiment:
        """Returns an experiment when none of its entries is half applied. That holds until the caller gives way."""
        while (live := self.experiment(name)).midway:
            rest = asyncio.get_running_loop().create_future()
            self._resting.append(rest)
            await rest
        return live

    @contextlib.contextmanager
    def island(self, name: str, offset: Offset | None = None) -> Iterator[None]:
        """Context of work on one experiment: an exception sets it aside and is not raised further.

        Exceptions that mean an outage of the store are raised, as no experiment is to blame.
        """
        try:
            yield
        except StoreUnavailable:
            raise
        except Exception as error:
            self.put_aside(name, error, offset)

    def put_aside(
        self, name: str, error: Exception, offset: Offset | None = None, record: Record | None = None
    ) -> None:
        """Sets an experiment aside because of its log or snapshot at `offset`.

        `record` is what is known of it, where none is in memory. Of the common log only the entry is skipped; models
        can not be changed until it is repaired.
        """
        owner = self.registry.owner(name)
        if owner != name and owner not in self.registry.experiments:
            return  # it was deleted while somebody worked on it
        live, former = self._forget(name), self.aside.get(name)
        if name == COMMON and former is not None:
            return
        if live is not None:
            record = live.record
        elif record is None and former is not None:
            record = former.record
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]
        since_ms = now_ms() if offset is None else offset.time_ms
        self.aside[name] = Aside(since_ms, offset, reason, record)
        self._notify_aside(name, error)

    def recognise(self, name: str, record: Record | None) -> None:
        """Adds the record of an experiment that was set aside without one."""
        self.aside[name] = self.aside[name]._replace(record=record)
        self._notify_aside(name)

    def give_up(self, owner: str, record: Record | None = None) -> None:
        """Sets an experiment aside for good, after somebody decided so. `record` is the newest in its log, if asked."""
        name = name_of(owner)
        live, former = self._forget(name), self.aside.get(name)
        if live is not None:
            record = live.record
        elif record is None and former is not None:
            record = former.record
        since_ms = self.registry.repairs.given_up[owner]
        self.aside[name] = Aside(since_ms, None, "It was given up by bandit-serve repair.", record, True)
        self._notify_aside(name)

    def _apply_common(self, entry: Entry) -> None:
        try:
            event = decode_registry_event(entry.kind, entry.data)
        except Exception:
            # Its writer has counted it, and the next change is compared with that.
            self.registry.revision += entry.kind in REVISIONS
            raise
        was_there = isinstance(event, Repaired) and not self.registry.repairs.is_deleted(event.experiment)
        self.registry.apply(entry.offset, event)
        if isinstance(event, Repaired) and was_there:
            self._repair(event)
        if isinstance(event, ExperimentAnnounced) and event.experiment in self.registry.experiments:
            self._positions.setdefault(event.experiment, START)

    def _repair(self, event: Repaired) -> None:
        if self.registry.repairs.is_deleted(event.experiment):
            self._delete(event.experiment)
            return
        if event.experiment != COMMON:
            if event.way == "stop":
                # Before the event is acknowledged. What else is known of it is read after that.
                self.give_up(event.experiment)
            self.repaired.add(event.experiment)
            return
        aside = self.aside.get(COMMON)
        omission = self.registry.repairs.omission
        if aside is not None and aside.offset is not None and omission(COMMON, aside.offset) is not None:
            del self.aside[COMMON]

    def _delete(self, owner: str) -> None:
        """Removes an experiment for good; its log is no longer followed."""
        name = name_of(owner)
        aside = self.aside.pop(name, None)
        live = self._forget(name)
        self._positions.pop(owner, None)
        self.repaired.discard(owner)
        record = live.record if live is not None else None if aside is None else aside.record
        for listener in self._deletion_listeners:
            listener(name, None if record is None else record.uid)

    def _experiment_steps(self, owner: str, entry: Entry) -> Iterator[Step]:
        name = name_of(owner)
        live, steps = folding(self.experiments.get(name), owner, entry, self.registry.repairs)
        yield from steps
        # Not before: what is there is followed by all listeners.
        if name not in self.experiments and self._is_folded(name):
            self._keep(live)

    def _is_folded(self, name: str) -> bool:
        """Whether the entries of an experiment's log are applied, and not skipped."""
        aside = self.aside.get(name)
        return aside is None or aside.reading

    def _answer_census(self, owner: str, entry: Entry) -> None:
        event = events.decode(entry.kind, entry.data)
        assert isinstance(event, Census)
        if self._census_listener is not None:
            self._census_listener(owner, event)

    def restore(self, live: LiveExperiment) -> None:
        """Takes over a snapshot; the log is then applied from its offset on."""
        self._keep(live)
        self._positions[live.owner] = live.offset
        self._notify(live.experiment.id)

    def begin_anew(self, owner: str) -> None:
        """Drops the state of an experiment; its log is then applied from its first entry on."""
        name = name_of(owner)
        live, aside = self._forget(name), self.aside.get(name)
        if live is not None:
            aside = Aside(now_ms(), None, "It is being read from its log.", live.record)
        if aside is not None:
            self.aside[name] = aside._replace(reading=True)
        self._positions[owner] = START

    def restore_registry(self, registry: Registry) -> None:
        self.registry = registry
        self._positions[COMMON] = registry.offset
        for owner in [owner for owner in self._positions if registry.repairs.is_deleted(owner)]:
            self._delete(owner)
        for owner in registry.experiments:
            self._positions.setdefault(owner, START)
        self._notify(COMMON)

    def _keep(self, live: LiveExperiment) -> None:
        self.experiments[live.experiment.id] = live
        self.by_uid[live.record.uid] = live
        self.aside.pop(live.experiment.id, None)

    def _forget(self, name: str) -> LiveExperiment | None:
        live = self.experiments.pop(name, None)
        if live is not None:
            self.by_uid.pop(live.record.uid, None)
        return live

    def _notify(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)

    def _notify_aside(self, name: str, error: Exception | None = None) -> None:
        for listener in self._aside_listeners:
            try:
                listener(name, error)
            except Exception:
                log.exception("%s is set aside, and that can not be followed everywhere", name)

    def experiment(self, name: str) -> LiveExperiment:
        live = self.experiments.get(name)
        if live is None:
            aside = self.aside.get(name)
            if aside is not None:
                raise set_aside(name, aside)
            raise NotFound(f"There is no experiment {name[:128]!r}.")
        return live

    def records(self) -> dict[str, Record]:
        """Records of all known experiments, with those that are set aside."""
        aside = {name: each.record for name, each in self.aside.items() if each.record is not None}
        return {**aside, **{name: live.record for name, live in self.experiments.items()}}

    def aside_of(self, uid: int) -> tuple[str, Aside] | None:
        """Experiment that is set aside and has this uid; failing that, one whose uid is unknown, as it may be that."""
        if uid in self.by_uid:
            return None
        unknown = None
        for name, aside in self.aside.items():
            if aside.record is not None and aside.record.uid == uid:
                return name, aside
            if aside.record is None and name != COMMON and not aside.given_up:
                unknown = name, aside
        return unknown


def set_aside(name: str, aside: Aside) -> SetAside:
    """Error for a caller who asks for an experiment that is set aside."""
    if aside.reading:
        return SetAside(f"The experiment {name!r} is being read from its log.")
    if aside.given_up:
        return SetAside(f"The experiment {name!r} was given up by bandit-serve repair.", RETRY_S)
    at = "" if aside.offset is None else f" at {aside.offset}"
    return SetAside(f"The experiment {name!r} is set aside{at}: see bandit-serve repair {name}.", RETRY_S)
