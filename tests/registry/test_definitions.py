"""Catalogue of metrics in the registry: the latest definition of each name, as a fold of the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import Conflict, NotFound, UnreadableEntry
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.folds.replica import Replica
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import encode
from bandit_serve.log.offset import Offset
from bandit_serve.registry.definitions import (
    MAX_DEFINITIONS,
    MetricDefined,
    definition_change,
    definition_in,
    removal,
)
from bandit_serve.registry.registry import DEFINED, REVISIONS, Registry, decode_registry_event
from bandit_serve.store.keys import COMMON

BINARY, COUNT = MetricDefinition("binary", owner="us"), MetricDefinition("count", cap=9.0)


class Kept:
    """Registry, and what is asked of its catalogue."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.entries = 0

    def apply(self, event: MetricDefined | None) -> bool:
        if event is None:
            return False
        self.entries += 1
        decoded = decode_registry_event(DEFINED, encode(event))
        self.registry.apply(Offset(1_000 + self.entries, 0), decoded)
        return True

    def define(self, name: str, definition: MetricDefinition) -> bool:
        return self.apply(definition_change(self.registry.metrics, name, definition, "test"))

    def remove(self, name: str) -> None:
        self.apply(removal(self.registry.metrics, name, "test"))


def test_a_definition_from_its_first_to_its_last_change() -> None:
    kept = Kept()
    assert kept.define("paid", BINARY)
    first = definition_in(kept.registry.metrics, "paid")
    assert (first.definition, first.revision, first.updated_ms, first.who) == (BINARY, 1, 1_001, "test")
    assert not kept.define("paid", BINARY), "it is that already"
    assert kept.define("stars", COUNT)
    assert kept.define("paid", COUNT)
    second = definition_in(kept.registry.metrics, "paid")
    assert (second.definition, second.revision, second.updated_ms) == (COUNT, 3, 1_003)
    kept.remove("paid")
    with pytest.raises(NotFound, match="has no metric 'paid'"):
        definition_in(kept.registry.metrics, "paid")
    with pytest.raises(NotFound):
        kept.remove("paid")
    assert kept.define("paid", COUNT)
    again = definition_in(kept.registry.metrics, "paid")
    assert again.revision == 5, "no ETag of before is that of a namesake"
    assert DEFINED in REVISIONS
    assert kept.registry.revision == 5


def test_a_change_leaves_what_readers_hold_as_it_was() -> None:
    kept = Kept()
    kept.define("paid", BINARY)
    held = kept.registry.metrics
    kept.define("paid", COUNT)
    kept.remove("paid")
    assert held["paid"].definition == BINARY


def test_there_is_room_for_so_many_and_one_that_is_there_can_be_changed() -> None:
    kept = Kept()
    for i in range(MAX_DEFINITIONS):
        kept.define(f"m{i}", BINARY)
    with pytest.raises(Conflict, match="no room for more; remove one first"):
        kept.define("more", BINARY)
    assert kept.define("m7", COUNT)
    kept.remove("m8")
    assert kept.define("more", BINARY)


def test_a_registry_without_definitions_is_written_as_before() -> None:
    kept = Kept()
    before = Registry().state()
    assert b"metrics" not in before
    kept.define("paid", BINARY)
    assert b"metrics" in kept.registry.state()
    kept.remove("paid")
    content = msgspec.msgpack.decode(kept.registry.state())
    assert content == msgspec.msgpack.decode(before) | {"revision": 2}


NAMES = st.sampled_from(["paid", "stars", "a.b-c"])
DEFINITIONS = st.sampled_from(
    [BINARY, COUNT, MetricDefinition("bounded", low=0.0, high=0.1, description="ü")]
)


@given(st.lists(st.tuples(NAMES, st.none() | DEFINITIONS), max_size=20))
def test_any_history_is_the_same_from_any_snapshot_on(history: list[tuple[str, Any]]) -> None:
    kept, latest = Kept(), dict[str, MetricDefinition]()
    for name, definition in history:
        if definition is not None:
            assert kept.define(name, definition) == (latest.get(name) != definition)
            latest[name] = definition
        elif name in latest:
            kept.remove(name)
            del latest[name]
        else:
            with pytest.raises(NotFound):
                kept.remove(name)
        state = kept.registry.state()
        restored = Registry.from_state(kept.registry.offset, state)
        assert restored.metrics == kept.registry.metrics
        assert restored.state() == state
        kept.registry = restored
    assert {name: each.definition for name, each in kept.registry.metrics.items()} == latest
    assert kept.registry.revision == kept.entries


def changed(**fields: Any) -> bytes:
    event = {"metric": "paid", "definition": {"kind": "binary"}, "who": "test", **fields}
    return msgspec.msgpack.encode(event)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\x80",
        changed(metric="no name!"),
        changed(definition={"kind": "percentage"}),
        changed(definition={"goal": "minimize"}),
        changed(definition={"kind": "binary", "forecast": 1}),
        changed(more=1),
        changed(definition=None, metric="other"),
    ],
)
def test_an_entry_that_can_not_be_read_sets_the_log_aside_and_changes_nothing(data: bytes) -> None:
    replica = Replica()
    replica.apply(COMMON, Entry(Offset(1, 0), DEFINED, changed()))
    before = replica.registry.metrics
    assert "paid" in before
    replica.apply(COMMON, Entry(Offset(2, 0), DEFINED, data))
    assert replica.aside[COMMON].offset == Offset(2, 0)
    assert replica.registry.metrics == before
    assert replica.registry.revision == 2, "its writer has counted it"


def test_a_removal_of_what_is_not_there_is_unreadable() -> None:
    with pytest.raises(UnreadableEntry, match="not defined: 'paid'"):
        Registry().apply(Offset(1, 0), MetricDefined("paid", None, "test"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"revision": 0},
        {"revision": 3},
        {"revision": 2},
        {"revision": None},
        {"definition": None},
        {"definition": {"kind": "percentage"}},
        {"more": 1},
    ],
)
def test_a_state_that_can_not_be_is_refused(wrong: dict[str, Any]) -> None:
    kept = Kept()
    kept.define("paid", BINARY)
    kept.define("stars", COUNT)
    content = msgspec.msgpack.decode(kept.registry.state())
    Registry.from_state(Offset(2, 0), msgspec.msgpack.encode(content))
    content["metrics"]["paid"] |= wrong
    with pytest.raises(UnreadableEntry):
        Registry.from_state(Offset(2, 0), msgspec.msgpack.encode(content))


def test_a_state_with_a_name_that_is_none_is_refused() -> None:
    kept = Kept()
    kept.define("paid", BINARY)
    content = msgspec.msgpack.decode(kept.registry.state())
    content["metrics"]["no name!"] = content["metrics"].pop("paid")
    with pytest.raises(UnreadableEntry):
        Registry.from_state(Offset(1, 0), msgspec.msgpack.encode(content))
