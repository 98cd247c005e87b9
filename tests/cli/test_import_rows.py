"""Rows of files with rewards: what is read of each form, what is refused, and the ids of events without one."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bandit_serve.cli.reward_rows import Occurrences, RewardFile, RewardRow
from bandit_serve.errors import InvalidInput

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read(path: Path, *, retract_nulls: bool = False, **columns: str) -> list[tuple[int, Any]]:
    return list(RewardFile(path, columns, retract_nulls=retract_nulls).rows())


def written(path: Path, text: str, *, zipped: bool = False) -> Path:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def row(unit: str | None = "ada", value: Any = 1.0, **fields: Any) -> RewardRow:
    none = dict.fromkeys(("decision_id", "metric", "event_id", "at"))
    return RewardRow(**{**none, "unit": unit, "value": value, **fields})


@pytest.mark.parametrize("zipped", [False, True])
def test_csv_by_its_own_names_and_by_others(tmp_path: Path, zipped: bool) -> None:
    own = written(
        tmp_path / "own.csv",
        'unit,value,metric,event_id,at\r\nada,1,revenue,o-1,2026-01-31T12:00:00.250Z\r\n"b,o",2.5,,o-2,\r\n',
        zipped=zipped,
    )
    at = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
    assert read(own) == [
        (2, row(metric="revenue", event_id="o-1", at=at)),
        (3, row("b,o", 2.5, event_id="o-2")),
    ]
    others = written(tmp_path / "others.csv", "when;who;what\n1769860800.25;7;true\n", zipped=zipped)
    assert read(others, unit="who", value="what", at="when") == [(2, row("7", True, at=at))]


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {"unit": "ada", "value": 1, "event_id": 17, "at": "2026-01-31T13:00:00.5+01:00", "other": [1]},
        {"decision_id": "AAAA", "value": None, "event_id": "o"},
        {"unit": "ada", "value": None},
        {"unit": "ada", "decision_id": "AAAA", "value": 1},
        {"value": 1},
        {"unit": 1.5, "value": 1},
        {"unit": "ada"},
        [],
    ]
    path = written(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, lines)) + "\nno json")
    numbers, rows = zip(*read(path, retract_nulls=True), strict=True)
    assert numbers == (1, 3, 5, 7, 9, 11, 13, 15, 16)
    assert rows[0] == row(event_id="17", at=NOON.replace(microsecond=500_000))
    assert rows[1] == row(None, None, decision_id="AAAA", event_id="o")
    assert [each.partition(":")[0] for each in rows[2:]] == [
        "value",
        "expected either unit or decision_id",
        "expected either unit or decision_id",
        "unit",
        "value",
        "expected a JSON object",
        "expected a JSON object",
    ]


def test_parquet_with_its_own_types(tmp_path: Path) -> None:
    at = pa.array([1_769_860_800_250, None], pa.timestamp("ms"))
    table = pa.table(
        {
            "unit": ["ada", "bob"],
            "value": pa.array([1, None], pa.int64()),
            "event_id": pa.array([5, 6], pa.int64()),
            "at": at,
            "zoned": pa.array([1_769_860_800_000_001, 0], pa.timestamp("us", tz="Europe/Berlin")),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    expected = [
        (1, row(event_id="5", at=NOON.replace(microsecond=250_000))),
        (2, row("bob", None, event_id="6")),
    ]
    assert read(path, retract_nulls=True) == expected
    (_, first), _ = read(path, at="zoned")
    assert first.at == NOON


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-31T12:00:00Z", NOON.replace(microsecond=999_000)),
        ("2026-01-31 12:00:00", NOON.replace(microsecond=999_000)),
        ("2026-01-31T12:00:00.000Z", NOON),
        ("2026-01-31T12:00:00.123456Z", NOON.replace(microsecond=123_456)),
        ("1769860800", NOON.replace(microsecond=999_000)),
        ("1769860800.001", NOON.replace(microsecond=1_000)),
        ("2026-01-31", None),
        ("noon", None),
        ("99999999999999999999", None),
        ("nan", None),
    ],
)
def test_times(tmp_path: Path, text: str, at: datetime | None) -> None:
    """A time in whole seconds is the end of its second: an order is not before the page that it was made on."""
    ((_, made),) = read(written(tmp_path / "a.csv", f"unit,value,at\nada,1,{text}\n"))
    if at is None:
        assert made.startswith("at: expected a time")
    else:
        assert made.at == at


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", "one", "1;2"])
def test_values_that_are_none(tmp_path: Path, text: str) -> None:
    ((number, mistake),) = read(written(tmp_path / "a.csv", f"unit,value,event_id\nada,{text},o\n"))
    assert (number, mistake.partition(":")[0]) == (2, "value")


def test_a_row_of_another_width_is_one_mistake(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "unit,value\nada,1\nbob\neve,2,3\nbob,2\n")
    assert [number for number, made in read(path) if isinstance(made, str)] == [3, 4]
    assert [made.unit for _, made in read(path) if not isinstance(made, str)] == ["ada", "bob"]


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("who,value\na,1\n", {}, "has no column 'unit' or 'decision_id'; it has 'who', 'value'"),
        ("unit,amount\na,1\n", {}, "has no column 'value'"),
        ("unit,value\na,1\n", {"at": "when"}, "has no column 'when'"),
    ],
)
def test_a_column_that_is_missing_is_named(
    tmp_path: Path, text: str, columns: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        RewardFile(written(tmp_path / "a.csv", text), columns)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"unit": "ada", "value": 1}\n' * 9_999)[:-9])
    with pytest.raises(InvalidInput, match="not a whole gzip file"):
        read(torn)
    damaged = tmp_path / "a.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidInput, match="can not be read as Parquet"):
        read(damaged)
    with pytest.raises(InvalidInput, match="is a directory"):
        read(tmp_path)
    with pytest.raises(InvalidInput, match=r"can not be read: No such file"):
        read(tmp_path / "none.csv")


def ids_of(rows: list[RewardRow]) -> list[str]:
    occurrences = Occurrences()
    try:
        return [occurrences.event_id(each) for each in rows]
    finally:
        occurrences.close()


def test_ids_are_the_rows_own_and_equal_rows_are_told_apart() -> None:
    rows = [row(), row("bob"), row(), row(value=True), row(value=2.0), row(metric="m"), row(at=NOON)]
    ids = ids_of(rows)
    assert ids == ids_of(rows), "the same in every run"
    assert len(set(ids)) == len(rows)
    # The third and the fourth row equal the first.
    assert [each.rpartition("-")[2] for each in ids] == ["1", "1", "2", "3", "1", "1", "1"]
    assert sorted(ids_of(rows[::-1])) == sorted(ids), "in whatever order"
    assert all(len(each) <= 128 for each in ids)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "large.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("unit,value\n")
        for i in range(50_000):
            file.write(f"u{i},1\n")
    rows = RewardFile(path, {}).rows()
    assert next(rows)[0] == 2
    tracemalloc.start()
    try:
        occurrences = Occurrences()
        ids = (occurrences.event_id(each) for _, each in rows if isinstance(each, RewardRow))
        assert sum(1 for _ in ids) == 49_999
        assert tracemalloc.get_traced_memory()[1] < 2**20
        occurrences.close()
    finally:
        tracemalloc.stop()


NO_NULL = "value: expected a number, not null; with --retract-nulls it takes the event back"


def test_a_null_takes_back_only_where_that_is_asked_for(tmp_path: Path) -> None:
    parquet = tmp_path / "a.parquet"
    values = pa.array([None, float("nan"), 1.0], pa.float64())
    pq.write_table(pa.table({"unit": ["a", "b", "c"], "value": values, "event_id": ["o"] * 3}), parquet)
    lines = written(tmp_path / "a.jsonl", '{"unit": "a", "value": null, "event_id": "o"}\n')
    text = written(tmp_path / "a.csv", "unit,value,event_id\na,null,o\na,nan,o\na,,o\n")
    nan, none = "value: expected a number, not nan", "value: expected a number, not ''"
    counted = row("c", 1.0, event_id="o")
    assert read(parquet) == [(1, NO_NULL), (2, nan), (3, counted)]
    assert read(lines) == [(1, NO_NULL)]
    assert read(text) == [(2, NO_NULL), (3, "value: expected a number, not 'nan'"), (4, none)]
    taken_back = row("a", None, event_id="o")
    assert read(parquet, retract_nulls=True) == [(1, taken_back), (2, nan), (3, counted)]
    assert read(lines, retract_nulls=True) == [(1, taken_back)]
    assert read(text, retract_nulls=True)[0] == (2, taken_back)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"unit": "a", "value": 1' + b"0" * 400 + b"}",
        b'{"unit": "a", "value": 1' + b"0" * 5_000 + b"}",
        b'{"unit": 1' + b"0" * 400 + b', "value": [1' + b"0" * 400 + b"]}",
        b'{"unit": "a", "value": 1e400}',
        b'{"unit": "\xff", "value": 1}',
        b"[" * 100_000,
        b'{"unit": "' + b"a" * 2**21 + b'", "value": 1}',
    ],
    ids=["400 digits", "5,000 digits", "in a list", "infinity", "no UTF-8", "deep", "long"],
)
def test_one_bad_line_is_one_invalid_row(tmp_path: Path, bad: bytes) -> None:
    good = b'{"unit": "ada", "value": 1}'
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, bad, good, b"", good]))
    (_, first), (number, why), (third, second), (fifth, last) = read(path)
    assert (number, third, fifth) == (2, 3, 5)
    assert isinstance(why, str)
    assert first == second == last == row()


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_a_time_out_of_range_in_parquet_is_one_invalid_row(tmp_path: Path, unit: str) -> None:
    second = {"ms": 10**3, "us": 10**6}[unit]
    at = pa.array([2**62, 1_769_860_800 * second, -(2**62), None], pa.timestamp(unit))
    days = pa.array([2**31 - 1, 0, 0, 0], pa.int32()).cast(pa.date32())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"unit": ["ada"] * 4, "value": [1.0] * 4, "at": at, "day": days}), path)
    (_, first), (_, second_row), (_, third), (_, last) = read(path)
    assert first.startswith("at: expected a time")
    assert third.startswith("at: expected a time")
    assert (second_row, last) == (row(at=NOON), row())


def test_a_name_of_two_columns_is_refused(tmp_path: Path) -> None:
    for text in ("unit,unit,value\na,b,3\n", "unit,value,at,at\na,3,,\n"):
        with pytest.raises(InvalidInput, match=r"has 2 columns '(unit|at)'; expected one"):
            read(written(tmp_path / "a.csv", text))
    assert read(written(tmp_path / "b.csv", "unit,value,x,x\nada,1,2,3\n")) == [(2, row())]
    twice = tmp_path / "a.parquet"
    arrays = [pa.array(["a"]), pa.array([1.0]), pa.array([2.0])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["unit", "value", "value"]), twice)
    with pytest.raises(InvalidInput, match="2 columns 'value'"):
        read(twice)
