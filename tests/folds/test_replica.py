"""Replica: the state of all experiments in a worker, entered one way."""

from __future__ import annotations

import pytest
from builders import created, experiment, rewards

from bandit_serve.errors import NotFound, SetAside
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Census
from bandit_serve.log.offset import START, Offset
from bandit_serve.registry.registry import ANNOUNCED, ExperimentAnnounced, Registry
from bandit_serve.store.keys import COMMON


def announced(replica: Replica, name: str, at_ms: int = 1) -> None:
    replica.apply(COMMON, Entry(Offset(at_ms, 0), ANNOUNCED, events.encode(ExperimentAnnounced(name))))


def creation(at_ms: int = 2, **fields: int) -> Entry:
    return Entry(Offset(at_ms, 0), events.CHANGED, events.encode(created(experiment(), **fields)))


def test_an_announced_experiment_is_followed_from_its_start() -> None:
    replica = Replica()
    assert replica.positions == {COMMON: START}
    announced(replica, "e", 5)
    assert replica.positions == {COMMON: Offset(5, 0), "e": START}
    with pytest.raises(NotFound, match="'e'"):
        replica.experiment("e")


def test_an_experiment_comes_with_its_creation_and_goes_on() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", creation())
    live = replica.experiment("e")
    assert replica.by_uid[7] is live
    assert [entry.what for entry in live.history] == ["create"]
    replica.apply("e", Entry(Offset(3, 1), events.REWARDED, rewards([0, 1]).tobytes()))
    assert replica.experiment("e") is live
    assert live.rewards.tolist() == [2, 0]
    assert replica.positions["e"] == live.offset == Offset(3, 1)


def test_announcing_again_does_not_start_over() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", creation())
    announced(replica, "e", 9)
    assert replica.positions["e"] == Offset(2, 0)


def test_listeners_hear_of_every_entry_when_it_is_in_force() -> None:
    replica = Replica()
    calls: list[tuple[str, Offset]] = []
    replica.on_change(lambda owner: calls.append((owner, replica.positions[owner])))
    announced(replica, "e")
    replica.apply("e", creation())
    assert calls == [(COMMON, Offset(1, 0)), ("e", Offset(2, 0))]


def test_a_census_is_heard_at_its_offset() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", creation())
    calls: list[tuple[str, Census, str]] = []
    replica.on_census(
        lambda owner, census: calls.append((owner, census, replica.experiments[owner].digest()))
    )
    before = replica.experiments["e"].digest()
    replica.apply("e", Entry(Offset(4, 0), events.CENSUS, events.encode(Census("key"))))
    assert calls == [("e", Census("key"), before)]


def test_a_snapshot_takes_the_place_of_what_was_there() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", creation())
    calls: list[str] = []
    replica.on_change(calls.append)
    snapshot = LiveExperiment(created(experiment()))
    snapshot.apply(Offset(50, 0), created(experiment()))
    replica.restore(snapshot)
    assert replica.experiment("e") is replica.by_uid[7] is snapshot
    assert replica.positions["e"] == Offset(50, 0)
    assert calls == ["e"]


def test_a_registry_brings_the_experiments_it_knows() -> None:
    replica, registry = Replica(), Registry()
    registry.apply(Offset(8, 0), ExperimentAnnounced("e"))
    replica.restore_registry(registry)
    assert replica.positions == {COMMON: Offset(8, 0), "e": START}


def test_a_log_that_does_not_begin_with_its_creation_is_set_aside() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", Entry(Offset(2, 0), events.TICK, b""))
    assert "does not begin with its creation" in replica.aside["e"].reason
    assert replica.aside["e"].offset == Offset(2, 0)
    with pytest.raises(SetAside):
        replica.experiment("e")


def test_an_experiment_that_is_read_from_its_log_again_waits_and_then_goes_on() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", creation())
    replica.begin_anew("e")
    assert replica.positions["e"] == START
    assert not replica.experiments
    assert replica.aside["e"].reading
    aside = replica.aside_of(7)
    assert aside is not None, "a reward is not refused for good"
    with pytest.raises(SetAside, match="is being read from its log"):
        replica.experiment("e")
    replica.apply("e", creation())
    assert not replica.aside
    assert replica.by_uid[7] is replica.experiment("e")


def test_one_that_is_set_aside_passes_its_entries_over_until_it_is_read_again() -> None:
    replica = Replica()
    announced(replica, "e")
    replica.apply("e", creation())
    replica.put_aside("e", ValueError("no"))
    replica.apply("e", creation(3))
    assert replica.aside["e"].reason == "ValueError: no"
    replica.begin_anew("e")
    replica.apply("e", Entry(Offset(2, 0), events.TICK, b""))
    assert not replica.aside["e"].reading, "what can not be folded sets it aside again"
    replica.apply("e", creation(3))
    assert not replica.experiments
    replica.begin_anew("e")
    replica.apply("e", creation())
    assert replica.experiment("e").offset == Offset(2, 0)
