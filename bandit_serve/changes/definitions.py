"""Changes of the catalogue of metrics: defining and removing one. No experiment is changed by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bandit_serve.changes.changes import Changes
from bandit_serve.changes.models import require_name
from bandit_serve.errors import PreconditionFailed
from bandit_serve.experiments.definition import MetricDefinition, checked
from bandit_serve.folds.replica import Replica
from bandit_serve.registry.definitions import (
    Catalogue,
    Defined,
    MetricDefined,
    definition_change,
    definition_in,
    removal,
)
from bandit_serve.registry.registry import Registry
from bandit_serve.replication.tail import Tail
from bandit_serve.store.keys import COMMON


class Definition(NamedTuple):
    """Definition after a change of it: whether it is new, and whether anything was changed."""

    defined: Defined
    is_new: bool
    is_changed: bool


class DefinitionChanges:
    """Changes of the catalogue. `if_match` is the ETag that the caller knows.

    Methods raise `NotFound`, `InvalidInput`, `PreconditionFailed`, and `Conflict` where there is no room.
    """

    def __init__(self, replica: Replica, tail: Tail, changes: Changes) -> None:
        self._replica = replica
        self._tail = tail
        self._changes = changes

    async def known(self) -> Catalogue:
        """Returns the catalogue, up to date with its log."""
        await self._tail.refresh(COMMON)
        return self._replica.registry.metrics

    def definitions(self) -> Mapping[str, MetricDefinition]:
        """Definitions by name, as this process knows them now."""
        return {name: each.definition for name, each in self._replica.registry.metrics.items()}

    async def define(
        self, name: str, definition: MetricDefinition, who: str, *, if_match: int | None = None
    ) -> Definition:
        """Gives a metric its definition, whether it has one or not. One that it has already is not logged again."""
        require_name("name", name)
        definition = checked(name, definition)
        is_new = False

        def decide(registry: Registry) -> MetricDefined | None:
            nonlocal is_new
            is_new = name not in registry.metrics
            _require_etag(registry.metrics, name, if_match)
            return definition_change(registry.metrics, name, definition, who)

        change = await self._changes.change_catalogue(decide)
        defined = definition_in(self._replica.registry.metrics, name)
        return Definition(defined, is_new, change is not None)

    async def remove(self, name: str, who: str, *, if_match: int | None = None) -> None:
        """Takes a metric out of the catalogue."""

        def decide(registry: Registry) -> MetricDefined:
            change = removal(registry.metrics, name, who)
            _require_etag(registry.metrics, name, if_match)
            return change

        await self._changes.change_catalogue(decide)


def _require_etag(catalogue: Catalogue, name: str, if_match: int | None) -> None:
    if if_match is None:
        return
    if name not in catalogue:
        raise PreconditionFailed(f"The catalogue has no metric {name!r} that If-Match could name.")
    revision = catalogue[name].revision
    if if_match != revision:
        raise PreconditionFailed(
            f"The definition of {name!r} is at revision {revision}, not at what If-Match names; read it again."
        )
