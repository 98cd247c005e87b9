"""Files of covariates by unit: a column `unit` and one for each covariate."""

from __future__ import annotations

import csv
import io
from array import array
from typing import Any

import numpy as np

from bandit_serve.base.extras import require
from bandit_serve.base.names import MAX_OUTSIDE_BYTES
from bandit_serve.changes.covariates import CovariateColumns
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.covariates import MAX_UPLOADED_UNITS
from bandit_serve.experiments.spec import MAX_METRICS

UNIT = "unit"
MAX_PARQUET_BYTES = MAX_UPLOADED_UNITS * (MAX_OUTSIDE_BYTES + 8 * MAX_METRICS)
"""Bytes of a Parquet file once it is uncompressed: units of full length, with a number for each covariate."""


def from_csv(body: bytes) -> CovariateColumns:
    """Columns of a CSV file with a header, in UTF-8; an empty cell is 0. `InvalidInput` for anything else."""
    try:
        rows = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(rows, [])
        place = _place_of_unit(header)
        units: list[str] = []
        cells = array("d")
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise _refused(f"line {rows.line_num}", f"expected {len(header)} cells, not {len(row)}")
            _require_room(len(units) + 1)
            units.append(row.pop(place))
            cells.extend(_number(cell, rows.line_num) for cell in row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused("", f"this is no CSV file in UTF-8 ({error})") from None
    names = tuple(name for i, name in enumerate(header) if i != place)
    return CovariateColumns(units, names, np.array(cells).reshape(len(units), len(names)))


def from_parquet(body: bytes) -> CovariateColumns:
    """Columns of a Parquet file; a null is 0. `InvalidInput` for anything else, `NotInstalled` without pyarrow.

    A few bytes of such a file can stand for many. Its rows, columns, types and size are looked at before it is read,
    and the lengths of its units while each different one is there once.
    """
    parquet = require("pyarrow.parquet", "train")
    try:
        file = parquet.ParquetFile(io.BytesIO(body), read_dictionary=[UNIT])
        schema, groups = file.schema_arrow, [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        _place_of_unit(schema.names)
        _require_types(schema)
        _require_room(sum(group.num_rows for group in groups))
        if sum(group.total_byte_size for group in groups) > MAX_PARQUET_BYTES:
            raise _refused("", f"expected at most {MAX_PARQUET_BYTES:,} bytes, uncompressed")
        table = file.read()
        columns = {name: table.column(name) for name in schema.names}
        units = _texts(columns.pop(UNIT))
        values = np.zeros((len(units), len(columns)))
        for place, column in enumerate(columns.values()):
            values[:, place] = column.cast("float64").fill_null(0.0).to_numpy()
    except InvalidInput:
        raise
    except Exception as error:  # pyarrow's errors have no common class but ValueError and OSError
        raise _refused("", f"this is no Parquet file that can be read ({type(error).__name__})") from None
    return CovariateColumns(units, tuple(columns), values)


def _require_types(schema: Any) -> None:
    types = require("pyarrow.types", "train")
    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
        if field.name == UNIT:
            if not (types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind)):
                raise _refused(UNIT, f"expected texts, not {kind}")
        elif not (number or types.is_boolean(kind) or types.is_null(kind)):
            raise _refused(field.name, f"expected numbers, not {kind}")


def _texts(column: Any) -> list[str]:
    """Units; a null is an empty one. Raises `InvalidInput` for one that is too long, before it stands for each row."""
    compute = require("pyarrow.compute", "train")
    for chunk in column.chunks:
        different = getattr(chunk, "dictionary", ())
        if len(different) and compute.max(compute.binary_length(different)).as_py() > MAX_OUTSIDE_BYTES:
            raise _refused(UNIT, f"expected texts of at most {MAX_OUTSIDE_BYTES} bytes")
    texts: list[str] = column.cast("large_string").fill_null("").to_pylist()
    return texts


def _require_room(n_units: int) -> None:
    if n_units > MAX_UPLOADED_UNITS:
        raise _refused(UNIT, f"expected at most {MAX_UPLOADED_UNITS:,} units")


def _place_of_unit(header: list[str]) -> int:
    if len(header) > 1 + MAX_METRICS:
        raise _refused(
            "", f"expected a column of units and at most {MAX_METRICS} of covariates, not {len(header)}"
        )
    if len(set(header)) < len(header):
        raise _refused("", "a column comes twice")
    if UNIT not in header:
        raise _refused(UNIT, "expected a column of this name")
    return header.index(UNIT)


def _number(cell: str, line: int) -> float:
    try:
        return float(cell) if cell else 0.0
    except ValueError:
        raise _refused(f"line {line}", f"expected a number, not {cell[:40]!r}") from None


def _refused(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at or 'The body'}: {detail}.", [FieldError(at, detail)])
