"""Parts of all that a store keeps, as this build declares them, and as samples of stores have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
from stored_keys import content_of
from wire_parts import Part, declared_parts, written_parts

from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import ExperimentState, HistoryEntry
from bandit_serve.folds.unit_exposures import UnitExposuresState
from bandit_serve.log import events
from bandit_serve.log.fold import EXPOSURES_FOLD, POLICY_FOLD, REGISTRY_FOLD, RESULTS_FOLD
from bandit_serve.log.snapshot import Codec
from bandit_serve.notices.notice import Delivery
from bandit_serve.registry import registry
from bandit_serve.results.state import CODEC as RESULTS_CODEC
from bandit_serve.store.keys import COMMON

EVENTS: dict[bytes, Any] = {
    events.CHANGED: events.Changed,
    events.EXPOSED: events.NamedExposed,
    events.COVARIATES: events.Covariates,
    events.CENSUS: events.Census,
}
"""Events of an experiment that are MessagePack; the others are rows, or empty."""
ROWS = {events.REWARDED: events.Rewarded, events.REVISED: events.Revised, events.TICK: events.Tick}
REGISTRY_EVENTS: dict[bytes, Any] = {
    registry.ANNOUNCED: registry.ExperimentAnnounced,
    registry.MODEL: registry.ModelChanged,
    registry.LAYER: registry.LayerChanged,
    registry.DEFINED: registry.MetricDefined,
    registry.KEY_CREATED: registry.KeyCreated,
    registry.KEY_REVOKED: registry.KeyRevoked,
    registry.PROMOTION: registry.PromotionMoved,
    registry.REPAIRED: registry.Repaired,
}
STATES: dict[str, Any] = {
    POLICY_FOLD: ExperimentState,
    EXPOSURES_FOLD: UnitExposuresState,
    REGISTRY_FOLD: registry.RegistryState,
}
INSIDE = {"record": Record, "history": HistoryEntry}
"""Fields of states that are MessagePack of their own."""


class StoredKey(NamedTuple):
    """Key of a sample: its owner's name, which `COMMON` is, what it is of the owner's, and what it holds."""

    owner: str
    what: str
    held: Any


def declared() -> set[Part]:
    """Parts that this build may write."""
    kinds = (*EVENTS.values(), *REGISTRY_EVENTS.values(), *STATES.values(), *INSIDE.values(), Delivery)
    parts = set().union(*(declared_parts(kind) for kind in kinds))
    kinds = (*get_args(events.Event), *get_args(registry.RegistryEvent))
    # One without names is as one with them, and shorter.
    return parts | {each.__name__ for each in kinds if each is not events.Exposed}


def written(path: Path) -> set[Part]:
    """Parts that a sample has."""
    return set().union(*(_of_key(key) for key in keys_in(path)))


def keys_in(path: Path) -> Iterator[StoredKey]:
    for key, _, held in content_of(path)["keys"]:
        name, _, rest = key.decode().partition("{")[2].partition("}")
        mark, _, what = rest.partition(":")
        yield StoredKey(name + mark, what, held)


def changes_in(path: Path) -> set[str]:
    """Names of the changes, of experiments and of models, that a sample has."""
    found = set()
    for key in keys_in(path):
        for kind, data in _entries(key):
            if (kind, key.owner == COMMON) in ((events.CHANGED, False), (registry.MODEL, True)):
                content = msgspec.msgpack.decode(data)
                found.add(content["what"] if key.owner == COMMON else content["change"]["what"])
    return found


def result_parts_in(path: Path) -> set[str]:
    """Parts of the states of results that a sample has."""
    states = (state for key in keys_in(path) for state in _states(key, RESULTS_FOLD))
    return set().union(*(RESULTS_CODEC.content(state)[1] for state in states if state[:1] == b"\x78"))


def _entries(key: StoredKey) -> Iterator[tuple[bytes, bytes]]:
    if key.what == "log":
        for _, fields in key.held:
            yield from fields


def _states(key: StoredKey, fold: str) -> Iterator[bytes]:
    if key.what == f"snapshots:{fold}":
        for _, state in key.held:
            yield state


def _of_key(key: StoredKey) -> set[Part]:
    found: set[Part] = set()
    of_owner = REGISTRY_EVENTS if key.owner == COMMON else EVENTS
    for kind, data in _entries(key):
        if kind in of_owner:
            found |= {of_owner[kind].__name__} | _decoded_parts(of_owner[kind], data)
        elif key.owner != COMMON and kind in ROWS:
            found.add(ROWS[kind].__name__)
    for fold, kind in STATES.items():
        for state in _states(key, fold):
            content = Codec(kind, "a sample").content(state)
            found |= written_parts(kind, content)
            for name, within in INSIDE.items():
                each = content.get(name, [])
                for data in [each] if isinstance(each, bytes) else each:
                    found |= _decoded_parts(within, data)
    if key.what == "notices":
        for _, notice in key.held:
            found |= _decoded_parts(Delivery, notice)
    return found


def _decoded_parts(kind: Any, data: bytes) -> set[Part]:
    try:
        return written_parts(kind, msgspec.msgpack.decode(data))
    except msgspec.DecodeError:
        return set()  # a bad entry, which the sample has a repair of
