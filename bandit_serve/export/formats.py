"""Formats of an export's files: Parquet, JSON lines, CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from bandit_serve.base.extras import require
from bandit_serve.export.tables import EXTRA

Format = Literal["parquet", "jsonl", "csv"]
_RFC3339 = "%Y-%m-%dT%H:%M:%SZ"


class TableWriter(Protocol):
    """Open file that tables of one schema are written to."""

    def write(self, table: Any) -> None: ...

    def close(self) -> None: ...


def open_writer(path: Path, schema: Any, form: Format, plain: Collection[str]) -> TableWriter:
    """Begins a file of a format. Raises `NotInstalled` without pyarrow.

    plain: columns whose values hardly repeat, which Parquet keeps without a dictionary.
    """
    writers: dict[Format, Callable[[Path, Any], TableWriter]] = {
        "parquet": partial(_Parquet, plain=plain),
        "jsonl": _JsonLines,
        "csv": _Csv,
    }
    return writers[form](path, schema)


class _Parquet:
    """Parquet with zstd; each table is a group of rows."""

    def __init__(self, path: Path, schema: Any, plain: Collection[str]) -> None:
        parquet = require("pyarrow.parquet", EXTRA)
        worded = [field.name for field in schema if field.name not in plain]
        # Without Arrow's own schema words are read as texts, whatever they are in memory here.
        self._writer = parquet.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=worded, version="2.6", store_schema=False
        )
        if schema.metadata:
            self._writer.add_key_value_metadata(schema.metadata)

    def write(self, table: Any) -> None:
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def close(self) -> None:
        self._writer.close()


class _JsonLines:
    """A JSON object a line; times are RFC 3339, maps are objects."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, table: Any) -> None:
        encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode
        columns = {name: _listed(_plain(table.column(name))) for name in table.column_names}
        for values in zip(*columns.values(), strict=True):
            self._file.write(encode(dict(zip(columns, values, strict=True))) + "\n")

    def close(self) -> None:
        self._file.close()


class _Csv:
    """CSV with a header; times are RFC 3339, lists and maps are JSON, and what is not there is empty."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._pa, self._csv = require("pyarrow", EXTRA), require("pyarrow.csv", EXTRA)
        self._names = schema.names
        self._file = path.open("wb")
        self._has_header = False

    def write(self, table: Any) -> None:
        columns = [self._flat(table.column(name)) for name in self._names]
        flat = self._pa.Table.from_arrays(columns, names=self._names)
        options = self._csv.WriteOptions(include_header=not self._has_header)
        self._csv.write_csv(flat, self._file, options)
        self._has_header = True

    def _flat(self, column: Any) -> Any:
        if self._pa.types.is_nested(column.type):
            texts = [None if each is None else json.dumps(each) for each in _listed(column)]
            return self._pa.array(texts, self._pa.string())
        return _plain(column)

    def close(self) -> None:
        if not self._has_header:
            self._file.write((",".join(f'"{name}"' for name in self._names) + "\n").encode())
        self._file.close()


def _listed(column: Any) -> list[Any]:
    """Cells of a column, in which a map is a dict."""
    nested = require("pyarrow", EXTRA).types.is_nested(column.type)
    listed: list[Any] = column.to_pylist(**({"maps_as_pydicts": "strict"} if nested else {}))
    return listed


def _plain(column: Any) -> Any:
    """Column without times and dictionaries, which become text."""
    pa, compute = require("pyarrow", EXTRA), require("pyarrow.compute", EXTRA)
    if pa.types.is_timestamp(column.type):
        return compute.strftime(column, format=_RFC3339)
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
