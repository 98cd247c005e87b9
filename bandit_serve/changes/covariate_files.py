"""Files of covariates by unit: a column `unit` and one for each covariate."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.extras import require
from bandit_serve.changes.covariates import CovariateColumns
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.covariates import MAX_UPLOADED_UNITS

UNIT = "unit"


def from_csv(body: bytes) -> CovariateColumns:
    """Columns of a CSV file with a header, in UTF-8; an empty cell is 0. `InvalidInput` for anything else."""
    try:
        rows = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(rows, [])
        place = _place_of_unit(header)
        units: list[str] = []
        cells: list[list[float]] = []
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise _refused(f"line {rows.line_num}", f"expected {len(header)} cells, not {len(row)}")
            if len(units) == MAX_UPLOADED_UNITS:
                raise _refused(UNIT, f"expected at most {MAX_UPLOADED_UNITS:,} units")
            units.append(row.pop(place))
            cells.append([_number(cell, rows.line_num) for cell in row])
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused("", f"this is no CSV file in UTF-8 ({error})") from None
    names = tuple(name for i, name in enumerate(header) if i != place)
    return CovariateColumns(units, names, np.array(cells, np.float64).reshape(len(units), len(names)))


def from_parquet(body: bytes) -> CovariateColumns:
    """Columns of a Parquet file; a null is 0. `InvalidInput` for anything else, `NotInstalled` without pyarrow."""
    parquet = require("pyarrow.parquet", "train")
    try:
        file = parquet.ParquetFile(io.BytesIO(body))
        if file.metadata.num_rows > MAX_UPLOADED_UNITS:
            raise _refused(UNIT, f"expected at most {MAX_UPLOADED_UNITS:,} units")
        table = file.read()
    except InvalidInput:
        raise
    except Exception as error:  # pyarrow's errors have no common class but ValueError and OSError
        raise _refused("", f"this is no Parquet file that can be read ({type(error).__name__})") from None
    header = list(table.column_names)
    _place_of_unit(header)
    units = [str(unit) if unit is not None else "" for unit in table.column(UNIT).to_pylist()]
    names = tuple(name for name in header if name != UNIT)
    columns = [_numbers(table.column(name), name) for name in names]
    return CovariateColumns(units, names, np.stack(columns, axis=1) if columns else np.zeros((len(units), 0)))


def _numbers(column: Any, name: str) -> NDArray[np.float64]:
    try:
        filled = column.cast("float64").fill_null(0.0)
        numbers: NDArray[np.float64] = filled.to_numpy()
    except Exception:  # of pyarrow, as above
        raise _refused(name, "expected numbers") from None
    return numbers


def _place_of_unit(header: list[str]) -> int:
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
