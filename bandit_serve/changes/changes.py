"""Configuration changes: read the state, decide, append unless it has changed since, wait until all have applied it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from bandit_serve.errors import Conflict, InvalidInput, PreconditionFailed
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica, set_aside
from bandit_serve.log import events
from bandit_serve.log.events import Changed
from bandit_serve.log.offset import Offset
from bandit_serve.log.repairs import deletion
from bandit_serve.registry.api_keys import KeyCreated, KeyRevoked
from bandit_serve.registry.definitions import MetricDefined
from bandit_serve.registry.layers import LayerChanged
from bandit_serve.registry.registry import (
    ANNOUNCED,
    DEFINED,
    KEY_CREATED,
    KEY_REVOKED,
    LAYER,
    MODEL,
    PROMOTION,
    REPAIRED,
    ExperimentAnnounced,
    ModelChanged,
    PromotionMoved,
    Registry,
)
from bandit_serve.replication.acknowledgements import wait_for_acknowledgements
from bandit_serve.replication.tail import Tail
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

MAX_ATTEMPTS = 16
E = TypeVar("E", ModelChanged, LayerChanged, MetricDefined, KeyCreated, KeyRevoked, PromotionMoved)


class Changes:
    """Appends changes to the logs. Each is appended only if the revision that it was decided on is still the last.

    Methods return when this process and every live worker have applied the change.
    """

    def __init__(self, store: Store, replica: Replica, tail: Tail) -> None:
        self._store = store
        self._replica = replica
        self._tail = tail

    async def create(self, event: Changed) -> LiveExperiment:
        """Creates an experiment; raises `Conflict` when its name is taken.

        Its log is announced before it begins: an announcement without a log is harmless, a log without readers is not.
        """
        name = event.record.experiment.id
        self.require_free(name)
        owner = self._replica.registry.owner(name)
        announcement, creation = _encoded(ExperimentAnnounced(owner)), _encoded(event)
        await self._store.append(COMMON, ANNOUNCED, announcement)
        offset = await self._store.append_change(owner, 0, events.CHANGED, creation)
        if offset is None:
            raise Conflict(f"There is already an experiment {name!r}.")
        await self._settle(owner, offset)
        return self._replica.experiment(name)

    def require_free(self, name: str) -> None:
        """Raises `Conflict` where an experiment has this name."""
        if name in self._replica.experiments:
            raise Conflict(f"There is already an experiment {name!r}.")

    async def delete(self, owner: str, who: str, reason: str | None) -> None:
        """Deletes an experiment for good. The lease holder frees its log and other keys later."""
        event = _encoded(deletion(owner, who, reason))
        await self._settle(COMMON, await self._store.append(COMMON, REPAIRED, event))

    async def change_experiment(
        self, name: str, decide: Callable[[LiveExperiment], Changed], if_match: int | None = None
    ) -> LiveExperiment:
        """Appends the event that `decide` returns for the present state; it runs again if another change came first.

        Raises `PreconditionFailed` unless `if_match`, the ETag that the caller knows, is None or the present one, and
        `Conflict` after `MAX_ATTEMPTS` tries.
        """
        for _ in range(MAX_ATTEMPTS):
            owner = self._replica.registry.owner(name)
            await self._tail.wait_for_end(owner)
            live = self._replica.experiment(name)
            require_etag(live, if_match)
            event = _encoded(decide(live).without(live.record))
            offset = await self._store.append_change(owner, live.record.revision, events.CHANGED, event)
            if offset is not None:
                await self._settle(owner, offset)
                return self._replica.experiment(name)
        raise Conflict(f"The experiment {name!r} is being changed by others; try again.")

    async def change_models(self, decide: Callable[[Registry], ModelChanged | None]) -> ModelChanged | None:
        """Appends the event that `decide` returns for the registry, as `change_experiment`; None if there is nothing to
        do.
        """
        return await self._change_registry(MODEL, decide)

    async def change_layer(self, decide: Callable[[Registry], LayerChanged | None]) -> LayerChanged | None:
        """As `change_models`, for the slots of a layer."""
        return await self._change_registry(LAYER, decide)

    async def change_catalogue(
        self, decide: Callable[[Registry], MetricDefined | None]
    ) -> MetricDefined | None:
        """As `change_models`, for the catalogue of metrics."""
        return await self._change_registry(DEFINED, decide)

    async def create_key(self, decide: Callable[[Registry], KeyCreated]) -> KeyCreated | None:
        """As `change_models`, for a new key of a caller."""
        return await self._change_registry(KEY_CREATED, decide)

    async def revoke_key(self, decide: Callable[[Registry], KeyRevoked | None]) -> KeyRevoked | None:
        """As `change_models`, for a key that ends."""
        return await self._change_registry(KEY_REVOKED, decide)

    async def move_promotion(
        self, decide: Callable[[Registry], PromotionMoved | None]
    ) -> PromotionMoved | None:
        """As `change_models`, for a promotion."""
        return await self._change_registry(PROMOTION, decide)

    async def _change_registry(self, kind: bytes, decide: Callable[[Registry], E | None]) -> E | None:
        for _ in range(MAX_ATTEMPTS):
            await self._tail.wait_for_end(COMMON)
            if COMMON in self._replica.aside:
                raise set_aside(COMMON, self._replica.aside[COMMON])
            registry = self._replica.registry
            change = decide(registry)
            if change is None:
                return None
            offset = await self._store.append_change(COMMON, registry.revision, kind, _encoded(change))
            if offset is not None:
                await self._settle(COMMON, offset)
                return change
        raise Conflict("The registry is being changed by others; try again.")

    async def catch_up(self, owner: str) -> None:
        """Returns when this process has applied what the log of an experiment has now, if that was announced."""
        if owner in self._replica.positions:
            await self._tail.wait_for_end(owner)

    async def _settle(self, owner: str, offset: Offset) -> None:
        """Returns when this process and every live worker have applied the entry at `offset`."""
        await self._tail.wait_for(owner, offset)
        await wait_for_acknowledgements(self._store, owner, offset)


def require_etag(live: LiveExperiment, if_match: int | None) -> None:
    """Raises `PreconditionFailed` unless `if_match` is None or the experiment's ETag."""
    if if_match is not None and if_match != live.etag:
        raise PreconditionFailed(
            f"The experiment {live.experiment.id!r} is at revision {live.record.revision}, not at what If-Match "
            "names; read it again."
        )


def _encoded(event: Struct) -> bytes:
    """Encodes an event. Raises `InvalidInput` where a model's metadata has an integer too large for MessagePack."""
    try:
        return events.encode(event)
    except OverflowError:
        raise InvalidInput("Expected whole numbers of at most 64 bits.") from None
