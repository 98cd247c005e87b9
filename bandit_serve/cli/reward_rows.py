"""Rows of files with rewards, as people have them: CSV, JSON lines, gzipped or not, and Parquet."""

from __future__ import annotations

import contextlib
import gzip
import math
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput
from bandit_serve.training.json_lines import JSON_ENDINGS, json_rows
from bandit_serve.training.tables import GZIP, PARQUET, PARQUET_ENDINGS, TextTable, tables

WHOSE = "unit", "decision_id"
FIELDS = (*WHOSE, "value", "metric", "event_id", "at")
TICKS_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
RETRACTED = "null"
"""Value that takes an event back, in a text."""
WHOLE_SECOND = timedelta(milliseconds=999)
"""A text with whole seconds means an instant of that second, the last of them: it came after exposures in it."""


class RewardRow(NamedTuple):
    """One reward, of a unit or of a decision, by its token. `event_id` is None where the file has no such column."""

    unit: str | None
    decision_id: str | None
    value: float | bool | None
    metric: str | None
    event_id: str | None
    at: datetime | None


Numbered = tuple[int, RewardRow | str]
"""Number of its line, or of its row in Parquet, counted from 1; and the reward, or why there is none."""


class RewardFile:
    """File of rewards. `columns` has, by field, the name of its column, where that is another.

    With `retract_nulls` a value that is null takes its event back; otherwise its row is invalid, as tables have nulls
    where a number is missing.

    Raises `InvalidInput` for what is no such file.
    """

    def __init__(self, path: Path, columns: Mapping[str, str], *, retract_nulls: bool = False) -> None:
        if path.is_dir():
            raise InvalidInput(f"{path.name} is a directory; name the files in it.")
        self.name = path.name
        self._retract_nulls = retract_nulls
        self._reader = _reader(path)
        self._names = {field: columns.get(field, field) for field in FIELDS}
        # Whoever says where the one is does not mean the other.
        self._whose = [field for field in WHOSE if field in columns] or list(WHOSE)
        names = self._reader.names
        if names is None:
            return
        for needed in (*columns, "value"):
            self._require([needed], names)
        self._require(self._whose, names)
        for name in self._names.values():
            if names.count(name) > 1:
                raise InvalidInput(f"{self.name} has {names.count(name)} columns {name!r}; expected one.")

    def _require(self, fields: Sequence[str], names: Sequence[str]) -> None:
        if not any(self._names[field] in names for field in fields):
            wanted = " or ".join(repr(self._names[field]) for field in fields)
            has = ", ".join(map(repr, names)) or "none"
            raise InvalidInput(
                f"{self.name} has no column {wanted}; it has {has}. Say which it is, such as "
                f"--columns {fields[0]}=NAME."
            )

    def rows(self) -> Iterator[Numbered]:
        """Rewards, in the order of the file. Raises `InvalidInput` where the file can not be read any further."""
        for number, cells in self._reader.rows():
            if isinstance(cells, str):
                yield number, cells
                continue
            try:
                yield number, self._row(cells)
            except ValueError as error:
                yield number, str(error)

    def _row(self, cells: Mapping[str, Any]) -> RewardRow:
        there = {field: cells[name] for field, name in self._names.items() if name in cells}
        whose = {field: there[field] for field in self._whose if there.get(field) not in (None, "")}
        if len(whose) != 1:
            raise ValueError(f"expected either {' or '.join(self._whose)}")
        value = _value(there.get("value", ""))
        if value is None and not self._retract_nulls:
            raise ValueError(
                "value: expected a number, not null; with --retract-nulls it takes the event back"
            )
        if value is None and "event_id" not in there:
            raise ValueError("value: null takes an event back, and needs its event_id")
        metric, at = there.get("metric"), there.get("at")
        return RewardRow(
            _text(whose["unit"], "unit") if "unit" in whose else None,
            _text(whose["decision_id"], "decision_id") if "decision_id" in whose else None,
            value,
            None if metric in (None, "") else _text(metric, "metric"),
            _text(there["event_id"], "event_id") if "event_id" in there else None,
            None if at in (None, "") else _time(at),
        )


class Unreadable:
    """Cell that Python has no object for, such as a time after the year 9999: no field takes it."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


class Occurrences:
    """Ids for events that have none: a digest of the row, and how often it came before in its file.

    So a file gives the same ids whenever it is read, and equal rows in it are as many events. The counts are in a
    temporary file of SQLite, so that memory does not grow with the rows.
    """

    def __init__(self) -> None:
        # One thread after another, never two at once.
        self._counts = sqlite3.connect("", check_same_thread=False)
        self._counts.execute("create table counts (digest blob primary key, n integer) without rowid")

    def event_id(self, row: RewardRow) -> str:
        at = None if row.at is None else row.at.isoformat()
        value = None if row.value is None else float(row.value).hex()
        content = msgspec.json.encode([row.unit, row.decision_id, row.metric, value, at])
        digest = blake2b(content, digest_size=16).digest()
        ((n,),) = self._counts.execute(
            "insert into counts values (?, 1) on conflict do update set n = n + 1 returning n", (digest,)
        ).fetchall()
        return f"row-{digest.hex()}-{n}"

    def close(self) -> None:
        self._counts.close()


Cells = tuple[int, Mapping[str, Any] | str]


class _TextRows:
    def __init__(self, table: TextTable) -> None:
        self.names: list[str] | None = [name.strip() for name in table.head]
        self._table = table

    def rows(self) -> Iterator[Cells]:
        names = self.names
        assert names is not None
        records = self._table.records()
        next(records, None)
        for number, fields in records:
            if len(fields) != len(names):
                yield number, f"expected {len(names)} fields, not {len(fields)}"
            else:
                yield number, dict(zip(names, fields, strict=True))


class _JsonLines:
    names: list[str] | None = None

    def __init__(self, path: Path, *, zipped: bool) -> None:
        self._path = path
        self._zipped = zipped

    def rows(self) -> Iterator[Cells]:
        with cast(BinaryIO, gzip.open(self._path)) if self._zipped else self._path.open("rb") as file:
            yield from json_rows(file, self._path.name)


class _ParquetRows:
    def __init__(self, path: Path) -> None:
        self._arrow = require("pyarrow", "train")
        self._path = path
        try:
            self._file = require("pyarrow.parquet", "train").ParquetFile(path)
        except Exception as error:  # pyarrow's errors have no common class but ValueError and OSError
            raise self._fault(error) from None
        self.names: list[str] | None = self._file.schema_arrow.names

    def rows(self) -> Iterator[Cells]:
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=4_096):
                names = batch.schema.names
                for cells in zip(*map(self._cells, batch.columns), strict=True):
                    number += 1
                    yield number, dict(zip(names, cells, strict=True))
        except Exception as error:
            raise self._fault(error) from None

    def _cells(self, column: Any) -> list[Any]:
        if self._arrow.types.is_timestamp(column.type):
            second = TICKS_A_SECOND[column.type.unit]
            return [_of_ticks(each, second) for each in column.cast(self._arrow.int64()).to_pylist()]
        try:
            cells: list[Any] = column.to_pylist()
        except (ValueError, ArithmeticError):
            return [_cell(each) for each in column]
        return cells

    def _fault(self, error: Exception) -> InvalidInput:
        reason = " ".join(str(error).split())[:200]
        return InvalidInput(f"{self._path.name} can not be read as Parquet: {reason}")


def _reader(path: Path) -> _TextRows | _JsonLines | _ParquetRows:
    try:
        with path.open("rb") as file:
            start = file.read(4)
        zipped = start[:2] == GZIP
        if zipped:
            with gzip.open(path) as file:
                start = file.read(4)
    except OSError as error:
        raise InvalidInput(f"{path.name} can not be read: {error.strerror or error}.") from None
    except (EOFError, zlib.error):
        raise InvalidInput(f"{path.name} is not a whole gzip file.") from None
    endings = {ending.lower() for ending in path.suffixes[-2:]}
    if PARQUET_ENDINGS & endings or start == PARQUET:
        return _ParquetRows(path)
    if JSON_ENDINGS & endings or start[:1] == b"{":
        return _JsonLines(path, zipped=zipped)
    (table,) = tables(path)
    assert isinstance(table, TextTable)
    return _TextRows(table)


def _of_ticks(ticks: int | None, second: int) -> datetime | Unreadable | None:
    """Time of a count of ticks since 1970, of which a second has `second`, to the millisecond."""
    if ticks is None:
        return None
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ticks * 1000 // second)
    except OverflowError:
        return Unreadable(f"{ticks} / {second} s")


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, ArithmeticError):
        return Unreadable(str(scalar.type))


def _text(cell: Any, name: str) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if not isinstance(cell, str) or not cell:
        raise ValueError(f"{name}: expected a text, not {_shown(cell)}")
    return cell


def _value(cell: Any) -> float | bool | None:
    match cell:
        case None:
            return None
        case bool():
            return cell
        case int() | float() | Decimal():
            with contextlib.suppress(OverflowError, ValueError):
                if math.isfinite(value := float(cell)):
                    return value
        case str():
            text = cell.strip()
            if text == RETRACTED:
                return None
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            try:
                value = math.nan if "_" in text else float(text)
            except ValueError:
                value = math.nan
            if math.isfinite(value):
                return value
    raise ValueError(f"value: expected a number, not {_shown(cell)}")


def _time(cell: Any) -> datetime:
    try:
        match cell:
            case datetime():
                return cell
            case int() | float() if not isinstance(cell, bool):
                return _of_seconds(float(cell))
            case str():
                text = cell.strip()
                if text.replace(".", "", 1).isdecimal():
                    return _of_seconds(float(text))
                time = datetime.fromisoformat(text)
                if ":" in text:
                    time = time.replace(tzinfo=time.tzinfo or UTC)
                    return time if "." in text else time + WHOLE_SECOND
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"at: expected a time such as 2026-01-31T12:00:00.000Z, or in seconds, not {_shown(cell)}"
    )


def _of_seconds(seconds: float) -> datetime:
    time = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=math.floor(seconds * 1000))
    return time + WHOLE_SECOND if seconds.is_integer() else time


def _shown(cell: Any) -> str:
    try:
        return repr(cell)[:60]
    except ValueError:  # Python writes no integers of over 4,300 digits
        return f"a {type(cell).__name__}"
