"""Catalogue of metric definitions in the registry: one for each name, the latest."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from bandit_serve.base.names import Name
from bandit_serve.errors import Conflict, NotFound, UnreadableEntry
from bandit_serve.experiments.definition import MetricDefinition

MAX_DEFINITIONS = 1_000


class Defined(Struct, frozen=True, forbid_unknown_fields=True):
    """Definition since the Unix time `updated_ms`, by `who`. `revision`, the registry's of that change, is its ETag."""

    definition: MetricDefinition
    revision: int
    updated_ms: int
    who: str


class MetricDefined(Struct, frozen=True, forbid_unknown_fields=True):
    """Definition that the catalogue has for a name from now on; with None it has none."""

    metric: Name
    definition: MetricDefinition | None
    who: str


Catalogue = dict[Name, Defined]
"""Definitions by the names of the metrics."""


def applied(catalogue: Mapping[str, Defined], event: MetricDefined, revision: int, at_ms: int) -> Catalogue:
    """Catalogue after an event. Raises `UnreadableEntry` where that removes what is not there."""
    others = {name: each for name, each in catalogue.items() if name != event.metric}
    if event.definition is not None:
        return {**others, event.metric: Defined(event.definition, revision, at_ms, event.who)}
    if event.metric not in catalogue:
        raise UnreadableEntry(
            f"The log holds the removal of a metric that was not defined: {event.metric!r}."
        )
    return others


def require_sound(catalogue: Catalogue, revision: int) -> None:
    """Raises `ValueError` for a catalogue that no events lead to by this revision of the registry."""
    revisions = [each.revision for each in catalogue.values()]
    if len(set(revisions)) < len(revisions) or not all(0 < each <= revision for each in revisions):
        raise ValueError("a definition of a metric came with no change, or with that of another")


def definition_in(catalogue: Mapping[str, Defined], name: str) -> Defined:
    """Definition of a metric; raises `NotFound`."""
    try:
        return catalogue[name]
    except KeyError:
        raise NotFound(f"The catalogue has no metric {name[:128]!r}.") from None


def definition_change(
    catalogue: Mapping[str, Defined], name: str, definition: MetricDefinition, who: str
) -> MetricDefined | None:
    """Event that gives a metric this definition; None if it has that already.

    Raises `Conflict` where there is no room.
    """
    known = catalogue.get(name)
    if known is None and len(catalogue) >= MAX_DEFINITIONS:
        raise Conflict(
            f"The catalogue has {MAX_DEFINITIONS} metrics already, and no room for more; remove one first."
        )
    if known is not None and known.definition == definition:
        return None
    return MetricDefined(name, definition, who)


def removal(catalogue: Mapping[str, Defined], name: str, who: str) -> MetricDefined:
    """Event that takes a metric out of the catalogue. Raises `NotFound`."""
    definition_in(catalogue, name)
    return MetricDefined(name, None, who)
