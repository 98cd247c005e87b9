"""Scoring of one partition of rows: what each task of dask, Spark or ray does with its part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

from bandit_serve.base._names import first_refused
from bandit_serve.base.extras import require
from bandit_serve.base.names import OUTSIDE
from bandit_serve.errors import InvalidInput
from bandit_serve.export.tables import EXTRA
from bandit_serve.scoring.model_source import of_file
from bandit_serve.scoring.question import EXCLUDE, BatchQuestion
from bandit_serve.scoring.row_files import Chunk
from bandit_serve.scoring.scorer import Scorer

MAX_OPEN = 4


def score_table(
    table: Any,
    model: str | os.PathLike[str],
    *,
    k: int | None = None,
    items: Sequence[str | int] | None = None,
    features: Sequence[str] = (),
    confidence: bool = False,
) -> Any:
    """Scores an Arrow table of n rows with a model file, as `bandit-serve score` scores a file of them.

    table: `user_id` and, without `k` or `items`, `item_id`: texts or whole numbers; `exclude` (lists, with `k`) and
    `features`. Returns an Arrow table in the order of the rows: `user_id`, `item_id`, `prediction` float64 (and
    `confidence`); with `k`, `user_id`, `rank` int32 from 1, `item_id`, `score` float64. It depends on the arguments
    and the model file alone, which stays open in the process until another is at its path. Raises `InvalidInput` for
    the first row that can not be scored, counted from 1.
    """
    question = BatchQuestion(k, None if items is None else _names(items), tuple(features), confidence)
    scorer = _scorer(os.fspath(model), _identity(model), question)
    pa = require("pyarrow", EXTRA)
    wanted = [name for name in table.column_names if name in scorer.columns]
    tables, first = [], 1
    n = question.chunk_rows(with_features=True, with_excluded=EXCLUDE in table.column_names)
    for batch in table.select(wanted).combine_chunks().to_batches(max_chunksize=n):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        lines = range(first, first + batch.num_rows)
        scored = scorer.score(Chunk("the table", lines, sink.getvalue().to_pybytes(), []))
        if scored.faults:
            fault = scored.faults[0]
            raise InvalidInput(f"Row {fault.line} of the table: {fault.detail}.")
        tables.append(scored.table)
        first += batch.num_rows
    return pa.concat_tables([scorer.schema.empty_table(), *tables])


def _names(items: Sequence[Any]) -> tuple[str, ...]:
    """Names of items, of which whole numbers, NumPy's too, are their decimal texts. Raises `InvalidInput`."""
    names: list[Any] = [item if isinstance(item, bool) else _decimal(item) for item in items]
    if any(not isinstance(name, str) for name in names) or first_refused(names) >= 0:
        raise InvalidInput(f"items: of each, {OUTSIDE}, or a whole number.")
    return tuple(names)


def _decimal(item: Any) -> Any:
    return str(item) if isinstance(item, Integral) else item


def _identity(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Inode, size and time of change of a file; None where there is none, which its opening refuses."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(MAX_OPEN)
def _scorer(path: str, identity: tuple[int, int, int] | None, question: BatchQuestion) -> Scorer:
    return Scorer(of_file(path), question)
