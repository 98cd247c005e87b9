"""Layers in the registry: no slot is of two experiments, and nobody is moved by another's share."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit_serve.errors import Conflict, UnreadableEntry
from bandit_serve.experiments.layer import N_SLOTS, Layer
from bandit_serve.log.events import encode
from bandit_serve.log.offset import Offset
from bandit_serve.log.repairs import Repaired, deletion
from bandit_serve.registry.layers import Holding, LayerChanged, allotment, mask_of, release
from bandit_serve.registry.registry import LAYER, Registry, decode_registry_event


class Allotted:
    """Registry, and what is asked of it."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.entries = 0

    def apply(self, event: Any) -> None:
        self.entries += 1
        if isinstance(event, LayerChanged):
            event = decode_registry_event(LAYER, encode(event))
        self.registry.apply(Offset(self.entries, 0), event)

    def ask(self, uid: int, share: float, layer: str = "page") -> bool:
        event = allotment(self.registry.layers, Layer(layer, share), f"e{uid}", uid, "test")
        if event is not None:
            self.apply(event)
        return event is not None

    def leave(self, uid: int) -> None:
        event = release(self.registry.layers, "page", uid, "test")
        if event is not None:
            self.apply(event)

    def slots(self, uid: int, layer: str = "page") -> set[int]:
        holding = self.registry.layers.get(layer, {}).get(uid)
        return set() if holding is None else set(np.flatnonzero(mask_of(holding.spans)).tolist())


def test_shares_are_disjoint_and_growth_takes_only_what_is_free() -> None:
    asked = Allotted()
    assert asked.ask(1, 0.2)
    assert asked.ask(2, 0.3)
    assert asked.ask(3, 0.1)
    before = {uid: asked.slots(uid) for uid in (1, 2, 3)}
    assert [len(slots) for slots in before.values()] == [2_000, 3_000, 1_000]
    assert asked.ask(1, 0.4)
    assert asked.slots(1) > before[1], "whoever was in it stays"
    assert (asked.slots(2), asked.slots(3)) == (before[2], before[3])
    assert len(asked.slots(1)) == 4_000
    assert not asked.ask(1, 0.4), "nothing is left to do"
    with pytest.raises(
        Conflict, match=r"has 60 % of its units left, and 61 % are asked for: 'e2' has 30 %, 'e3' has 10 %"
    ):
        asked.ask(1, 0.61)
    with pytest.raises(Conflict, match="has 20 % of its units left"):
        asked.ask(4, 0.3)
    asked.leave(2)
    assert asked.ask(4, 0.5)
    assert asked.ask(4, 1.0, "another layer")
    assert asked.ask(1, 0.1)
    assert asked.slots(1) < before[1]


def test_any_history_keeps_them_disjoint() -> None:
    rng, asked, refused = random.Random(5), Allotted(), 0
    for _ in range(400):
        uid = rng.randint(1, 8)
        former = {other: asked.slots(other) for other in range(1, 9)}
        try:
            if rng.random() < 0.2:
                asked.leave(uid)
            else:
                asked.ask(uid, rng.choice([1 / N_SLOTS, 0.05, 0.15, 0.3, 0.6]))
        except Conflict:
            refused += 1
        now = {other: asked.slots(other) for other in range(1, 9)}
        assert sum(map(len, now.values())) == len(set().union(*now.values()))
        assert all(now[other] == former[other] for other in now if other != uid)
        assert now[uid] >= former[uid] or now[uid] <= former[uid], "nobody leaves by growth"
        state = asked.registry.state()
        again = Registry.from_state(asked.registry.offset, state)
        assert again.layers == asked.registry.layers
        assert again.state() == state
    assert 20 < refused < 300


def test_a_registry_without_layers_is_as_it_was() -> None:
    registry = Registry()
    assert b"layers" not in registry.state()
    asked = Allotted()
    asked.ask(1, 0.5)
    assert asked.registry.revision == 1
    asked.leave(1)
    assert asked.registry.layers == {}
    assert b"layers" not in asked.registry.state()


@pytest.mark.parametrize("end", [deletion("e1", "test", None), Repaired("e1", "stop", "test")])
def test_who_is_deleted_or_given_up_has_nothing(end: Repaired) -> None:
    asked = Allotted()
    asked.ask(1, 0.5)
    asked.ask(2, 0.5)
    asked.apply(end)
    assert asked.slots(1) == set()
    assert len(asked.slots(2)) == 5_000


@pytest.mark.parametrize("spans", [((0, 10),), ((20, 20),), ((30, 29),), ((-1, 3),), ((9_999, 10_001),)])
def test_an_event_that_can_not_be_is_refused(spans: Any) -> None:
    asked = Allotted()
    asked.apply(LayerChanged("page", "e1", 1, ((5, 15),), "test"))
    before = asked.registry.layers
    with pytest.raises(UnreadableEntry, match="a slot of a layer"):
        asked.apply(LayerChanged("page", "e2", 2, spans, "test"))
    assert asked.registry.layers == before


def test_a_state_that_can_not_be_is_refused() -> None:
    asked = Allotted()
    asked.ask(1, 0.5)
    asked.registry.layers["page"][2] = Holding("e2", ((10, 20),), 1)
    with pytest.raises(UnreadableEntry):
        Registry.from_state(Offset(1, 0), asked.registry.state())


def test_a_share_is_of_ten_thousand_slots() -> None:
    assert [Layer("l", share).n_slots for share in (0.0001, 0.00014, 0.3333, 1.0)] == [1, 1, 3_333, 10_000]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "l", "share": 0.00009}, Layer)
