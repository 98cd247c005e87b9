"""Contract of every fold: the same state however its log is cut, and no state that it half understands."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from histories import History, RandomChoices
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import scaled

from bandit_serve.errors import BanditServeError, UnreadableEntry
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.experiments.layer import Layer
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Changed, Exposed, Pair
from bandit_serve.log.fold import Fold, Restore
from bandit_serve.log.offset import Offset
from bandit_serve.log.reader import event_of
from bandit_serve.log.repairs import Repaired, Repairs
from bandit_serve.registry.definitions import definition_change, removal
from bandit_serve.registry.layers import allotment
from bandit_serve.registry.registry import ExperimentAnnounced, Registry, Version
from bandit_serve.results import ResultsFold
from bandit_serve.training.learning.reward_log import RewardLog
from bandit_serve.training.rating_rule import rule_of

N_ENTRIES = 24
SEEDS = range(scaled(40, 400))
DAMAGED_SEEDS = range(scaled(4, 40))
DAMAGES_IN = scaled(4, 1)
"""Of the damages to a state, each seed makes one in so many, another one than its neighbours."""

Events = list[tuple[Offset, Any]]


class Case(NamedTuple):
    """A fold that has applied nothing but the first of `events`, and the way back from its states."""

    fold: Fold
    restore: Restore[Fold]
    events: Events


def history(seed: int, *, trading: bool = False) -> tuple[Changed, Events]:
    """The first event of a log of one experiment, and all that follow; where the seed says so, some are left out."""
    written = History(
        RandomChoices(seed),
        former=seed % 10 == 0 and not trading,
        revising=seed % 2 == 1,
        analysed=seed % 4 < 2,
        trading=trading,
    )
    random = np.random.default_rng(seed)
    entries: list[Entry] = []
    for offset, kind, data in written.written(N_ENTRIES):
        event = events.decode(kind, data, written.live.n_logged)
        written.live.apply(offset, event)
        if isinstance(event, Exposed):
            places = range(0, len(event.arms) // 2, 2)
            pairs = tuple(Pair(i, f"u{i}", f"i{random.integers(9)}", {"a": i}) for i in places)
            data = events.encode(msgspec.structs.replace(event, pairs=pairs))
        entries.append(Entry(offset, kind, data))
    repairs = Repairs()
    if seed % 3 == 0:
        for entry in entries[5::7]:
            if entry.kind != events.CHANGED:
                at = str(entry.offset)
                repairs.apply(Offset(2**50, 0), Repaired("e", "leave_out", "test", None, ((at, at),)))
    first = events.decode(entries[0].kind, entries[0].data)
    assert isinstance(first, Changed)
    n_features = written.live.n_logged
    return first, [(each.offset, event_of(each, "e", repairs, n_features)) for each in entries]


def policy(seed: int) -> Case:
    first, entries = history(seed)
    return Case(LiveExperiment(first), LiveExperiment.from_state, entries)


def policy_of_several_metrics(seed: int) -> Case:
    first, entries = history(seed, trading=True)
    return Case(LiveExperiment(first), LiveExperiment.from_state, entries)


def results(seed: int) -> Case:
    first, entries = history(seed)
    return Case(ResultsFold(first.record), ResultsFold.from_state, entries)


def exposures(seed: int) -> Case:
    first, entries = history(seed)
    return Case(UnitExposures(first.record), UnitExposures.from_state, entries)


def rewards(seed: int) -> Case:
    first, entries = history(seed)
    made = first.record.experiment
    about = {"window_ms": made.attribution.window_ms, "rule": rule_of(made)}
    return Case(RewardLog(**about), partial(RewardLog.from_state, **about), entries)


def registry(seed: int) -> Case:
    random, made, entries = np.random.default_rng(seed), Registry(), []
    for i in range(N_ENTRIES):
        name, event = f"m{random.integers(3)}", None
        match random.integers(6):
            case 5:
                kind = ["binary", "count"][random.integers(2)]
                event = definition_change(made.metrics, name, MetricDefinition(kind, owner=f"o{i}"), "test")
                if name in made.metrics and random.integers(2):
                    event = removal(made.metrics, name, "test")
            case 4:
                layer, uid = Layer("page", 0.1 * random.integers(1, 4)), int(random.integers(1, 4))
                event = allotment(made.layers, layer, f"e{uid}", uid, "test")
            case 0:
                event = ExperimentAnnounced(f"e{i}")
            case 1:
                event = Repaired("e1", "stop", "test", None, (("1-0", f"{i}-0"),))
            case 2 if name in made.models:
                version = next(iter(made.models[name].versions.values()))
                if version.status in ("staged", "retired"):
                    to = "production" if version.status == "staged" else "staged"
                    event = made.move(
                        name, version.version, to, now_ms=i, who="test", reason=f"r{i}", because=f"e:{i}"
                    )
        if event is None:
            version = Version(
                name, f"v{i}", "staged", "00", i, "als", i, i, {"rmse": 0.5}, {"a": [1, None, {"b": "c"}]}
            )
            event = made.register(version, "test")
        made.apply(Offset(i + 1, 0), event)
        entries.append((Offset(i + 1, 0), event))
    return Case(Registry(), Registry.from_state, entries)


CASES = [policy, policy_of_several_metrics, results, exposures, rewards, registry]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_gives_the_same_bits_wherever_it_is_cut(case: Any, seed: int) -> None:
    whole, restore, entries = case(seed)
    cut = case(seed).fold
    for i, (offset, event) in enumerate(entries):
        assert whole.apply(offset, event) == cut.apply(offset, event)
        assert whole.offset == cut.offset == offset
        if i % (1 + seed % 4) == 0:
            cut = restore(offset, cut.state())
    assert cut.state() == whole.state()
    assert len(entries) > 5


# States of later and of broken builds


def content_of(state: bytes) -> Any:
    return msgspec.msgpack.decode(zlib.decompress(state) if state[:1] == b"\x78" else state)


def state_of(content: Any, like: bytes) -> bytes:
    packed = msgspec.msgpack.encode(content)
    return zlib.compress(packed) if like[:1] == b"\x78" else packed


Path = tuple[Any, ...]


def paths_in(content: Any, path: Path = ()) -> Iterator[Path]:
    """Where something stands in a state; of a long list the first and the last."""
    match content:
        case dict():
            keys = list(content)
        case list():
            keys = sorted({0, len(content) - 1} & set(range(len(content))))
        case _:
            return
    for key in keys:
        yield (*path, key)
        yield from paths_in(content[key], (*path, key))


def parent_of(content: Any, path: Path) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content


def dropped(parent: Any, key: Any) -> None:
    del parent[key]


def renamed(parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent[f"{key}_later"] = parent.pop(key)
    else:
        parent.insert(key, parent[key])


def retyped(value: Any, parent: Any, key: Any) -> None:
    parent[key] = value


def shortened(parent: Any, key: Any) -> None:
    """Text and bytes lack their end; an array lacks its last item, and is whole otherwise."""
    match parent[key]:
        case str() | bytes():
            parent[key] = parent[key][:-1]
        case [str() as dtype, [int() as n, *others], bytes() as items] if n:
            parent[key] = [dtype, [n - 1, *others], items[: len(items) // n * (n - 1)]]


VALUES = [None, True, -1, 2**63, 1.5, float("nan"), "text", b"bytes", [], [1, "a"], {}, {"a": 1}]
DAMAGES = [dropped, renamed, shortened, *(partial(retyped, value) for value in VALUES)]


def check_refused(case: Case, state: bytes, at: Offset, rest: Events) -> bool:
    """Whether a state is refused. One that is not makes a fold that goes on, and has a state that is read again."""
    try:
        fold = case.restore(at, state)
    except UnreadableEntry:
        return True
    try:
        for offset, event in rest:
            fold.apply(offset, event)
    except BanditServeError:
        return False
    again = case.restore(fold.offset, fold.state())
    assert again.state() == fold.state()
    return False


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", DAMAGED_SEEDS)
def test_a_state_with_another_part_is_refused_or_goes_on(case: Any, seed: int) -> None:
    made = case(seed)
    for offset, event in made.events[: N_ENTRIES // 2]:
        made.fold.apply(offset, event)
    state, rest = made.fold.state(), made.events[N_ENTRIES // 2 :]
    paths = list(paths_in(content_of(state)))
    n_refused = n = 0
    for path, damage in list(itertools.product(paths, DAMAGES))[seed % DAMAGES_IN :: DAMAGES_IN]:
        content = content_of(state)
        damage(parent_of(content, path), path[-1])
        try:
            n_refused += check_refused(made, state_of(content, state), made.fold.offset, rest)
            n += 1
        except Exception as error:
            error.add_note(f"{path} {damage}")
            raise
    assert n_refused > 0.5 * n
    content = content_of(state)
    if isinstance(content, dict):
        content["later"] = 1
    else:
        content.append(1)
    with pytest.raises(UnreadableEntry, match=r"can not be read by this build: .*\.$"):
        made.restore(made.fold.offset, state_of(content, state))


@pytest.mark.parametrize("case", CASES)
@given(data=st.binary(max_size=64), at=st.integers(0, 2**16), bit=st.integers(0, 7))
@settings(max_examples=scaled(50, 2_000), deadline=None)
def test_bytes_that_are_no_state_are_refused(case: Any, data: bytes, at: int, bit: int) -> None:
    made = case(1)
    for offset, event in made.events:
        made.fold.apply(offset, event)
    state = bytearray(made.fold.state())
    at %= len(state)
    state[at] ^= 1 << bit
    for damaged in (data, bytes(state), bytes(state[:at])):
        check_refused(made, damaged, made.fold.offset, [])
