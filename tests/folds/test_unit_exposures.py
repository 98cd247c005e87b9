"""Exposures in force for units: against a model that keeps all of them in lists, and their bounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, record
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import scaled

from bandit_serve.errors import UnreadableEntry
from bandit_serve.folds import unit_exposures
from bandit_serve.folds._kept_exposures import KeptExposures
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log.events import HELD_OUT, REWARD, Change, Changed, Exposed
from bandit_serve.log.offset import Offset
from bandit_serve.log.times import GRACE_MS

WINDOW_MS = 1_600
APART_MS = WINDOW_MS // 16
MAX_OF_UNIT = 32
N_FEATURES = 2
VECTORS = np.array([[0.25, 0.75], [0.5, 0.5]])


class Row(NamedTuple):
    unit: int
    incarnation: int
    counter: int
    time_ms: int
    arm: int
    held_out: bool
    propensity: float
    x: tuple[float, float]


class Lists:
    """Every exposure in the order of the log, with None for those that are gone."""

    def __init__(self, max_rows: int) -> None:
        self.rows: list[Row | None] = []
        self.max_rows = max_rows
        self.dropped = 0

    def of_unit(self, unit: int) -> list[int]:
        """Places of a unit's exposures, the earliest decision first."""
        places = [i for i, row in enumerate(self.rows) if row is not None and row.unit == unit]
        return sorted(places, key=lambda i: self.time_ms(i))

    def time_ms(self, place: int) -> int:
        row = self.rows[place]
        assert row is not None
        return row.time_ms

    def in_force(self, unit: int, at_ms: int) -> Row | None:
        before = [i for i in self.of_unit(unit) if self.time_ms(i) <= at_ms]
        return self.rows[before[-1]] if before else None

    def expose(self, row: Row, closed_ms: int) -> None:
        if row.time_ms < closed_ms:
            return
        former = self.in_force(row.unit, row.time_ms)
        if (
            former is not None
            and (former.arm, former.held_out) == (row.arm, row.held_out)
            and row.time_ms - former.time_ms < APART_MS
        ):
            return
        if len(self.rows) == self.max_rows:
            self.dropped += self.rows.pop(0) is not None
        self.rows.append(row)
        chain = self.of_unit(row.unit)
        if len(chain) > MAX_OF_UNIT:
            self.rows[chain[0]] = None
            self.dropped += 1

    def close(self, closed_ms: int) -> None:
        while self.rows and (self.rows[0] is None or self.rows[0].time_ms < closed_ms):
            self.rows.pop(0)


def checked(kept: KeptExposures, lists: Lists, units: list[int], times_ms: list[int]) -> None:
    asked = [(unit, at_ms) for unit in units for at_ms in times_ms]
    rows, x = np.zeros(len(asked), REWARD), np.zeros((len(asked), N_FEATURES), np.float32)
    columns = np.array(asked, np.int64).reshape(-1, 2)
    matched = kept.in_force(columns[:, 0].astype(np.uint64), columns[:, 1].copy(), rows, x)
    for (unit, at_ms), is_there, row, features in zip(asked, matched, rows, x, strict=True):
        expected = lists.in_force(unit, at_ms)
        assert is_there == (expected is not None)
        if expected is not None:
            assert row["unit"] == unit
            assert row["incarnation"] == expected.incarnation
            assert row["counter"] == expected.counter
            assert row["time_ms"] == expected.time_ms <= at_ms
            assert row["arm"] == expected.arm
            assert row["propensity"] == expected.propensity
            assert row["flags"] == (HELD_OUT if expected.held_out else 0)
            assert tuple(features) == expected.x
    assert kept.dropped == lists.dropped
    assert len(kept) == len(lists.rows)


def restored(kept: KeptExposures, max_rows: int) -> KeptExposures:
    again = KeptExposures(WINDOW_MS, N_FEATURES, max_rows)
    again.restore(kept.state(), kept.dropped)
    for name, column in again.state().items():
        assert np.array_equal(column, kept.state()[name]), name
    return again


BATCHES = st.lists(
    st.tuples(
        st.integers(1, 3),  # worker
        st.integers(-400, 400),  # milliseconds since the batch before
        st.lists(
            st.tuples(
                st.integers(1, 4), st.integers(0, 1), st.sampled_from([0, 1, 50, 100, 700]), st.booleans()
            ),
            max_size=12,
        ),
        st.booleans(),  # restored after it
    ),
    max_size=25,
)


@given(batches=BATCHES, max_rows=st.sampled_from([1, 3, 7, 500]))
@settings(max_examples=scaled(150, 3_000), deadline=None)
def test_the_exposure_in_force_is_that_of_a_list_of_all(batches: Any, max_rows: int) -> None:
    kept, lists = KeptExposures(WINDOW_MS, N_FEATURES, max_rows), Lists(max_rows)
    now_ms, latest_ms, counters = 10_000, 0, {}
    for worker, gap_ms, decisions, cut in batches:
        now_ms += gap_ms
        latest_ms = max(latest_ms, now_ms)
        closed_ms = latest_ms - WINDOW_MS
        first = counters.get(worker, 0)
        counters[worker] = first + len(decisions)
        n_first = len(decisions) // 2
        x = np.arange(2 * len(decisions), dtype=np.float32).reshape(-1, 2) + first
        for i, (unit, arm, age_ms, held_out) in enumerate(decisions):
            propensity = VECTORS[int(i >= n_first), arm]
            at_ms = now_ms + age_ms
            row = Row(unit, worker, first + i, at_ms, arm, held_out, propensity, tuple(x[i].tolist()))
            lists.expose(row, closed_ms)
        kept.expose(
            worker,
            first,
            1,
            now_ms,
            np.array([arm for _, arm, _, _ in decisions], np.uint16),
            np.array([age_ms for _, _, age_ms, _ in decisions], np.uint32),
            np.array([unit for unit, _, _, _ in decisions], np.uint64),
            VECTORS,
            np.array([n_first, len(decisions) - n_first], np.uint32),
            np.array([held_out for _, _, _, held_out in decisions], np.uint8),
            x,
            closed_ms,
        )
        kept.close(closed_ms)
        lists.close(closed_ms)
        if cut:
            kept = restored(kept, max_rows)
        times_ms = [now_ms + offset_ms for offset_ms in (-1700, -400, -100, -99, 0, 1, 50, 699, 700, 5000)]
        checked(kept, lists, [1, 2, 3, 4, 5], times_ms)


def test_a_unit_that_is_moved_back_and_forth_keeps_its_latest() -> None:
    kept, lists = KeptExposures(WINDOW_MS, N_FEATURES, 1_000), Lists(1_000)
    one = np.array([1], np.uint32)
    for i in range(200):
        at_ms, arm = 10_000 + i, i % 2
        row = Row(7, 1, i, at_ms, arm, False, float(VECTORS[0, arm]), (0.0, 0.0))
        lists.expose(row, 0)
        arms, zero, unit = np.array([arm], np.uint16), np.array([0], np.uint32), np.array([7], np.uint64)
        x = np.zeros((1, 2), np.float32)
        kept.expose(1, i, 1, at_ms, arms, zero, unit, VECTORS[:1], one, None, x, 0)
    checked(kept, lists, [7], [9_999, 10_000, 10_100, 10_168, 10_199, 20_000])
    assert kept.dropped == 200 - MAX_OF_UNIT
    checked(restored(kept, 1_000), lists, [7], [10_168, 10_199])


# The fold


def user_experiment(**fields: Any) -> Any:
    return experiment(unit="user", **fields)


def of_units(event: Exposed, units: list[int]) -> Exposed:
    return msgspec.structs.replace(event, units=np.array(units, np.uint64).tobytes())


def number_in_force(fold: UnitExposures, unit: int, at_ms: int) -> int | None:
    rows, _, matched = fold.in_force(np.array([unit], np.uint64), np.array([at_ms], np.int64))
    return int(rows["counter"][0]) if matched[0] else None


def test_an_exposure_is_in_force_until_its_window_has_closed() -> None:
    fold = UnitExposures(record(user_experiment()))
    hour_ms = 3_600_000
    fold.apply(Offset(1_000, 0), of_units(exposed(0, [0, 1], [900, 950]), [5, 6]))
    assert [number_in_force(fold, 5, at) for at in (899, 900, 950, hour_ms)] == [None, 0, 0, 0]
    fold.apply(Offset(hour_ms + 900 + GRACE_MS, 0), of_units(exposed(2, [1], [hour_ms]), [7]))
    assert [number_in_force(fold, unit, 2 * hour_ms) for unit in (5, 6, 7)] == [0, 1, 2]
    fold.apply(Offset(hour_ms + 901 + GRACE_MS, 0), of_units(exposed(3, [1], [hour_ms]), [8]))
    assert [number_in_force(fold, unit, 2 * hour_ms) for unit in (5, 6, 7)] == [None, 1, 2]
    assert fold.dropped == 0


def test_a_draft_that_is_put_anew_begins_without_exposures() -> None:
    first = created(user_experiment(), status="draft")
    fold = UnitExposures(first.record)
    fold.apply(Offset(1, 0), first)
    other = user_experiment(attribution={"window": "2h", "missing": "ignore"})
    put = Changed(record(other, status="draft", revision=2), Change("put", "test"))
    fold.apply(Offset(2, 0), put)
    assert fold.record.experiment.attribution.window_ms == 7_200_000
    assert fold.offset == Offset(2, 0)


def test_a_fold_that_began_with_a_later_record_reads_the_log_before_it() -> None:
    small = user_experiment()
    large = user_experiment(arms=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    fold = UnitExposures(record(large, revision=3))
    fold.apply(Offset(1, 0), created(small))
    fold.apply(Offset(2, 0), of_units(exposed(0, [1], [1]), [5]))
    fold.apply(Offset(3, 0), Changed(record(large, revision=3), Change("add_arm", "test", arm="c")))
    fold.apply(Offset(4, 0), of_units(exposed(1, [2], [3], n_arms=3), [5]))
    assert [number_in_force(fold, 5, at) for at in (2, 3)] == [0, 1]


def test_nothing_is_kept_of_requests_that_are_their_own_unit() -> None:
    fold = UnitExposures(record(experiment()))
    fold.apply(Offset(1, 0), exposed(0, [0, 1], [1, 1]))
    assert len(fold) == 0


def test_memory_has_a_bound_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_exposures, "MAX_BYTES", 1_000 * unit_exposures.ROW_BYTES)
    fold = UnitExposures(record(user_experiment()))
    n = 3_000
    event = of_units(exposed(0, [0] * n, list(range(n))), list(range(1, n + 1)))
    fold.apply(Offset(n, 0), event)
    assert len(fold) == 1_000
    assert fold.dropped == 2_000
    assert [number_in_force(fold, unit, n) for unit in (1, 2_000, 2_001, 3_000)] == [None, None, 2_000, 2_999]
    again = UnitExposures.from_state(fold.offset, fold.state())
    assert (len(again), again.dropped) == (1_000, 2_000)
    assert again.nbytes < 1_100 * 90


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arm", 2),
        ("propensity", 0.0),
        ("propensity", float("nan")),
        ("counter", 2**42),
        ("time_ms", -(2**63)),
        ("x", 1.0),
    ],
)
def test_a_state_whose_rows_could_not_be_logged_is_refused(name: str, value: float) -> None:
    fold = UnitExposures(record(user_experiment()))
    fold.apply(Offset(1, 0), of_units(exposed(0, [0, 1], [1, 1]), [5, 6]))
    state = unit_exposures._CODEC.unpack(fold.state())
    column = getattr(state, name).copy()
    if name == "x":
        column = np.full((2, 1), value, np.float32)
    else:
        column[1] = value
    damaged = unit_exposures._CODEC.pack(msgspec.structs.replace(state, **{name: column}))
    with pytest.raises(UnreadableEntry, match="can not be read by this build"):
        UnitExposures.from_state(fold.offset, damaged)
