"""A worker's memory: the registry and all experiments, as their logs say they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from bandit_serve import events
from bandit_serve.errors import NotFound
from bandit_serve.events import Census, Changed
from bandit_serve.live import LiveExperiment
from bandit_serve.models.registry import Registry, decode_registry_event
from bandit_serve.store.keys import COMMON
from bandit_serve.store.offset import START, Offset
from bandit_serve.store.store import Entry
from bandit_serve.turn import Step


class Replica:
    """`apply` is the only way in. It is called with each entry of each log once, in the log's order."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.experiments: dict[str, LiveExperiment] = {}
        self.by_uid: dict[int, LiveExperiment] = {}
        self._positions: dict[str, Offset] = {COMMON: START}
        self._listeners: list[Callable[[str], None]] = []
        self._census_listener: Callable[[str, Census], None] | None = None
        self._configured_listener: Callable[[str, Offset], None] | None = None
        self._resting: list[asyncio.Future[None]] = []

    @property
    def positions(self) -> dict[str, Offset]:
        """How far each log has been applied: the common one, and one for each experiment that was announced."""
        return self._positions

    def on_change(self, listener: Callable[[str], None]) -> None:
        """`listener(owner)` is called after each entry, with the experiment's id or `COMMON`."""
        self._listeners.append(listener)

    def on_configured(self, listener: Callable[[str, Offset], None]) -> None:
        """`listener(owner, offset)` is called when a configuration change has been applied."""
        self._configured_listener = listener

    def on_census(self, listener: Callable[[str, Census], None]) -> None:
        """`listener(owner, census)` is called at the offset at which a census was asked for."""
        self._census_listener = listener

    def apply(self, owner: str, entry: Entry) -> None:
        for heavy in self.steps(owner, entry):
            if heavy is not None:
                heavy.do()

    def steps(self, owner: str, entry: Entry) -> Iterator[Step]:
        """`apply` in pieces, to be run to its end before the next entry."""
        if owner == COMMON:
            self.registry.apply(entry.offset, decode_registry_event(entry.kind, entry.data))
            for name in self.registry.experiments:
                self._positions.setdefault(name, START)
        else:
            yield from self._experiment_steps(owner, entry)
        self._positions[owner] = entry.offset
        for listener in self._listeners:
            listener(owner)
        if self._configured_listener is not None and (owner == COMMON or entry.kind == events.CHANGED):
            self._configured_listener(owner, entry.offset)
        for rest in self._resting:
            if not rest.done():
                rest.set_result(None)
        self._resting.clear()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for an experiment to be `at_rest`, and should have a turn after this entry."""
        return bool(self._resting)

    async def at_rest(self, name: str) -> LiveExperiment:
        """The experiment when no entry of its log is half applied; so it stays until the caller gives way."""
        while (live := self.experiment(name)).midway:
            rest = asyncio.get_running_loop().create_future()
            self._resting.append(rest)
            await rest
        return live

    def _experiment_steps(self, owner: str, entry: Entry) -> Iterator[Step]:
        live = self.experiments.get(owner)
        event = events.decode(entry.kind, entry.data, 0 if live is None else live.n_features)
        if live is None:
            if not isinstance(event, Changed):
                raise ValueError(
                    f"the log of {owner} does not begin with its creation; its snapshot is missing"
                )
            live = LiveExperiment(event)
        yield from live.steps(entry.offset, event)
        # Not before: what is there is followed by all listeners.
        if owner not in self.experiments:
            self._keep(live)
        if isinstance(event, Census) and self._census_listener is not None:
            self._census_listener(owner, event)

    def restore(self, live: LiveExperiment) -> None:
        """Takes over a snapshot; its log is to be applied from its offset on."""
        self._keep(live)
        self._positions[live.experiment.id] = live.offset
        for listener in self._listeners:
            listener(live.experiment.id)

    def restore_registry(self, registry: Registry) -> None:
        self.registry = registry
        self._positions[COMMON] = registry.offset
        for name in registry.experiments:
            self._positions.setdefault(name, START)
        for listener in self._listeners:
            listener(COMMON)

    def _keep(self, live: LiveExperiment) -> None:
        self.experiments[live.experiment.id] = live
        self.by_uid[live.record.uid] = live

    def experiment(self, name: str) -> LiveExperiment:
        try:
            return self.experiments[name]
        except KeyError:
            raise NotFound(f"There is no experiment {name[:128]!r}.") from None
