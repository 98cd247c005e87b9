"""Units that keep their arms: the fold against a dictionary, its bounds, and states that it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from builders import created, experiment
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.checks import with_arm
from bandit_serve.experiments.spec import Arm
from bandit_serve.folds import experiment as folding
from bandit_serve.folds._kept_arms import KeptArms
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed, Exposed
from bandit_serve.log.offset import Offset

N_ARMS = 3
VECTORS = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3], [0.2, 0.2, 0.6]])
ROWS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, N_ARMS - 1), st.integers(0, len(VECTORS) - 1)), max_size=40
)


def columns(rows: list[tuple[int, int, int]]) -> tuple[Any, ...]:
    """Units, arms, vectors and runs, one for each row."""
    units = np.array([unit for unit, _, _ in rows], np.uint64)
    arms = np.array([arm for _, arm, _ in rows], np.uint16)
    vectors = VECTORS[[number for _, _, number in rows]] if rows else np.zeros((0, N_ARMS))
    return units, arms, np.ascontiguousarray(vectors), np.ones(len(rows), np.uint32)


def seen(kept: KeptArms, unit: int) -> tuple[int, list[float]] | None:
    place = kept.find(unit)
    return None if place < 0 else (place & 0xFFFF, kept.shares(place >> 16).tolist())


@settings(max_examples=200)
@given(
    rows=ROWS,
    removed=st.sets(st.integers(0, N_ARMS - 1)),
    most=st.integers(1, 12),
    n_vectors=st.integers(1, 4),
)
def test_against_a_dictionary(
    rows: list[tuple[int, int, int]], removed: set[int], most: int, n_vectors: int
) -> None:
    kept, expected = KeptArms(N_ARMS, most, n_vectors), dict[int, tuple[int, list[float]]]()
    numbers: list[int] = []
    missed = 0
    gone = np.array([k in removed for k in range(N_ARMS)], np.uint8)
    units, arms, vectors, runs = columns(rows)
    for low in range(0, len(rows), 7):
        kept.meet(units, arms, vectors, runs, gone, low, low + 7)
    for unit, arm, number in rows:
        if unit in expected and (expected[unit][0] == arm or expected[unit][0] not in removed):
            continue
        has_room = number in numbers or len(numbers) < n_vectors
        if has_room and number not in numbers:
            numbers.append(number)
        if not has_room or (unit not in expected and len(expected) >= most):
            missed += 1
            continue
        expected[unit] = arm, VECTORS[number].tolist()
    assert {unit: seen(kept, unit) for unit in range(1, 13)} == {
        unit: expected.get(unit) for unit in range(1, 13)
    }
    assert (len(kept), kept.missed) == (len(expected), missed)
    again = KeptArms.from_state(kept.state(), N_ARMS, most, n_vectors)
    assert same_state(again, kept)
    many = np.arange(1, 13, dtype=np.uint64)
    assert again.find_many(many).tolist() == [kept.find(unit) for unit in range(1, 13)]
    for grown in (kept, again):
        grown.grow(N_ARMS + 1)
        grown.meet(units, arms, vectors, runs, np.append(gone, np.uint8(0)), 0, len(rows))
    assert same_state(again, kept)


def same_state(one: KeptArms, other: KeptArms) -> bool:
    first, second = one.state(), other.state()
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_any_number_of_units() -> None:
    n = 5_000
    units = np.random.default_rng(3).permutation(np.arange(1, n + 1, dtype=np.uint64))
    arms = (units % 3).astype(np.uint16)
    kept = KeptArms(N_ARMS, n, 10)
    kept.meet(units, arms, VECTORS[:1], np.array([n], np.uint32), np.zeros(3, np.uint8), 0, n)
    assert (len(kept), kept.missed) == (n, 0)
    assert (kept.find_many(units) == arms).all()
    assert kept.find(n + 1) == -1


DAMAGE = {
    "unit": lambda column: column[:-1],
    "arm": lambda column: column + np.uint16(N_ARMS),
    "vector": lambda column: column - np.int32(1),
    "vectors": lambda column: column * np.nan,
    "missed": lambda column: -1 - column,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_state_is_refused(name: str) -> None:
    kept = KeptArms(N_ARMS, 10, 10)
    kept.meet(*columns([(1, 0, 0), (2, 2, 1)]), np.zeros(3, np.uint8), 0, 2)
    state = kept.state()
    KeptArms.from_state(state, N_ARMS, 10, 10)
    with pytest.raises(ValueError, match="expected"):
        KeptArms.from_state({**state, name: DAMAGE[name](state[name])}, N_ARMS, 10, 10)
    twice = {**state, "unit": np.array([1, 1], np.uint64)}
    with pytest.raises(ValueError, match="every unit once"):
        KeptArms.from_state(twice, N_ARMS, 10, 10)


def exposed(first: int, units: list[int], arms: list[int], vector: list[float]) -> Exposed:
    return Exposed(
        incarnation=1,
        first=first,
        revision=1,
        time_ms=10,
        arms=np.array(arms, "<u2").tobytes(),
        ages_ms=np.zeros(len(arms), "<u4").tobytes(),
        units=np.array(units, "<u8").tobytes(),
        vectors=np.array(vector, "<f8").tobytes(),
        runs=np.array([len(arms)], "<u4").tobytes(),
    )


def live(**fields: Any) -> LiveExperiment:
    first = created(experiment(unit="user", policy={"kind": "fixed_split"}, **fields))
    made = LiveExperiment(first)
    made.apply(Offset(1, 0), first)
    return made


def test_the_fold_keeps_them_through_snapshots_and_arms_that_come_and_go() -> None:
    one = live(keep_assigned=True)
    assert one.kept is not None
    one.apply(Offset(10, 0), exposed(0, [5, 6], [0, 1], [0.5, 0.5]))
    one.apply(Offset(11, 0), exposed(2, [5, 7], [1, 1], [0.1, 0.9]))
    assert [seen(one.kept, unit) for unit in (5, 6, 7, 8)] == [
        (0, [0.5, 0.5]),
        (1, [0.5, 0.5]),
        (1, [0.1, 0.9]),
        None,
    ]
    record = one.record
    added = msgspec.structs.replace(record, experiment=with_arm(record.experiment, Arm("c")), revision=2)
    one.apply(Offset(12, 0), Changed(added, Change("add_arm", "test", None, "c")))
    again = LiveExperiment.from_state(one.offset, one.state())
    gone = msgspec.structs.replace(
        added.with_standing(1, msgspec.structs.replace(added.standing(1), status="removed")), revision=3
    )
    for each in (one, again):
        each.apply(Offset(13, 0), Changed(gone, Change("remove_arm", "test", None, "b")))
        each.apply(Offset(14, 0), exposed(4, [5, 6, 7], [2, 2, 0], [0.4, 0.0, 0.6]))
        assert each.kept is not None
        kept = [seen(each.kept, unit) for unit in (5, 6, 7)]
        assert kept == [(0, [0.5, 0.5, 0.0]), (2, [0.4, 0.0, 0.6]), (0, [0.4, 0.0, 0.6])]
    assert again.state() == one.state()


def test_a_snapshot_of_an_experiment_without_it_has_nothing_of_it() -> None:
    one = live()
    one.apply(Offset(10, 0), exposed(0, [5, 6], [0, 1], [0.5, 0.5]))
    assert one.kept is None
    assert b"kept" not in one.state()


def test_a_state_with_arms_that_are_not_there_is_refused() -> None:
    one = live(keep_assigned=True)
    one.apply(Offset(10, 0), exposed(0, [5, 6], [0, 1], [0.5, 0.5]))
    fields = folding._CODEC.unpack(one.state())
    arm = np.array([0, 7], np.uint16)
    broken = msgspec.structs.replace(fields, kept={**fields.kept, "arm": arm})
    with pytest.raises(UnreadableEntry):
        LiveExperiment.from_state(one.offset, folding._CODEC.pack(broken))


def test_beyond_the_bound_units_are_missed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MAX_KEPT_UNITS", 2)
    one = live(keep_assigned=True)
    one.apply(Offset(10, 0), exposed(0, [5, 6, 7, 5], [0, 1, 1, 0], [0.5, 0.5]))
    assert one.kept is not None
    assert (len(one.kept), one.kept.missed) == (2, 1)
