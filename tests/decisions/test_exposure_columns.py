"""Columns of the open batch, beside lists that grow row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.decisions._exposure_columns import ExposureColumns

EVEN, TILTED = np.array([0.5, 0.5]), np.array([0.25, 0.75])
BEGUN_MS = 1_700_000_000_000
MAX_AGE_MS = 2**32 - 1

row = st.tuples(
    st.sampled_from([0, 1, 2**16 - 1]),
    st.sampled_from([0, 7, 2**63, 2**64 - 1]),
    st.sampled_from([EVEN, TILTED]),
    st.sampled_from([1, 2, 2**32 - 1]),
    st.sampled_from([0, 1, MAX_AGE_MS, MAX_AGE_MS + 1, -1]),
    st.booleans(),
)


class Expected:
    def __init__(self) -> None:
        self.next = self.first = 0
        self.begin(1)

    def begin(self, revision: int) -> None:
        self.first, self.revision = self.next, revision
        self.rows: list[tuple[int, int, int, bool]] = []
        self.runs: list[int] = []
        self.vector: Any = None

    def check(self, columns: ExposureColumns) -> None:
        arms, ages, units, flags = zip(*self.rows, strict=True) if self.rows else ((), (), (), ())
        assert (columns.first, columns.next) == (self.first, self.next)
        assert np.frombuffer(columns.arms, np.uint16).tolist() == list(arms)
        assert np.frombuffer(columns.ages_ms, np.uint32).tolist() == list(ages)
        assert np.frombuffer(columns.units, np.uint64).tolist() == [unit for unit in units if unit]
        assert list(columns.held_out) == list(flags)
        assert np.frombuffer(columns.runs, np.uint32).tolist() == self.runs


@given(rows=st.lists(row, max_size=300), most_rows=st.sampled_from([1, 2, 70, 10_000]))
def test_a_plain_row_is_added_where_it_goes_on_and_nowhere_else(rows: list[Any], most_rows: int) -> None:
    columns, expected = ExposureColumns(), Expected()
    columns.begin(BEGUN_MS, 1, most_rows)
    for arm, unit, vector, revision, age_ms, held_out in rows:
        time_ms = BEGUN_MS + age_ms
        in_time = revision == expected.revision and 0 <= age_ms <= MAX_AGE_MS
        goes_on = in_time and vector is expected.vector
        assert columns.takes(revision, time_ms) == in_time
        assert columns.goes_on(vector, revision, time_ms) == goes_on
        added = columns.add_plain(arm, unit, vector, revision, time_ms, held_out)
        assert added == (goes_on and len(expected.rows) + 1 < most_rows)
        if not added:
            expected.check(columns)
            if not in_time:
                columns.begin(BEGUN_MS, revision, most_rows)
                expected.begin(revision)
                continue
            if not goes_on:
                columns.begin_run(vector)
                expected.vector = vector
                expected.runs.append(0)
            columns.add_row(arm, unit, time_ms, held_out)
        expected.rows.append((arm, age_ms, unit, held_out))
        expected.runs[-1] += 1
        expected.next += 1
    expected.check(columns)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 100),
            st.booleans(),
            st.sampled_from([0, 1, MAX_AGE_MS]),
            st.sampled_from([None, 0, 1]),
        ),
        max_size=20,
    )
)
def test_many_rows_are_added_as_one_by_one(batches: list[tuple[int, bool, int, int | None]]) -> None:
    many, one_by_one = ExposureColumns(), ExposureColumns()
    for columns in (many, one_by_one):
        columns.begin(BEGUN_MS, 1, 10**6)
        columns.begin_run(EVEN)
    for n, with_units, age_ms, flag in batches:
        arms = (np.arange(n) % 7).astype(np.uint16)
        units = np.arange(1, n + 1, dtype=np.uint64) if with_units else np.zeros(0, np.uint64)
        held_out = None if flag is None else np.full(n, flag, np.uint8)
        many.add_rows(arms, units, BEGUN_MS + age_ms, held_out)
        for i in range(n):
            one_by_one.add_row(
                int(arms[i]), int(units[i]) if with_units else 0, BEGUN_MS + age_ms, bool(flag)
            )
    for name in ("first", "next", "arms", "ages_ms", "units", "held_out", "runs"):
        assert getattr(many, name) == getattr(one_by_one, name)


@pytest.mark.parametrize(
    ("n_units", "n_flags"), [(1, None), (3, None), (2, 1), (0, 3), (2, 0)], ids=lambda n: str(n)
)
def test_columns_of_other_lengths_are_refused(n_units: int, n_flags: int | None) -> None:
    columns = ExposureColumns()
    columns.begin(BEGUN_MS, 1, 10)
    columns.begin_run(EVEN)
    flags = None if n_flags is None else np.zeros(n_flags, np.uint8)
    with pytest.raises(ValueError, match="one length"):
        columns.add_rows(np.zeros(2, np.uint16), np.ones(n_units, np.uint64), BEGUN_MS, flags)
    assert (columns.next, columns.arms, columns.units, columns.held_out) == (0, b"", b"", b"")


def test_rows_without_a_run_are_refused() -> None:
    columns = ExposureColumns()
    columns.begin(BEGUN_MS, 0, 10)
    calls = [
        lambda: columns.add_row(1, 1, BEGUN_MS, False),
        lambda: columns.add_rows(np.zeros(2, np.uint16), np.zeros(0, np.uint64), BEGUN_MS),
        lambda: columns.begin_run(None),  # type: ignore[arg-type]
        lambda: columns.goes_on(None, 0, BEGUN_MS),  # type: ignore[arg-type]
        lambda: columns.add_plain(1, 1, None, 0, BEGUN_MS, False),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError)):
            call()
    assert (columns.next, columns.arms, columns.runs) == (0, b"", b"")
