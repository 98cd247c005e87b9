"""Batch: files of rows become one file of answers, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bandit_serve.api.inference import ITEM, USER
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.export.formats import Format
from bandit_serve.export.places import Place
from bandit_serve.scoring.asked import RowFault, asked_rows
from bandit_serve.scoring.batch_file import BatchReport, batch_file, refusal
from bandit_serve.scoring.in_order import in_order
from bandit_serve.scoring.model_source import ModelSource
from bandit_serve.scoring.question import CHUNK_ROWS, MAX_ITEMS, BatchQuestion
from bandit_serve.scoring.row_files import Chunk, RowFile
from bandit_serve.scoring.scorer import PLAIN, Scorer


def score_files(
    files: Sequence[RowFile],
    source: ModelSource,
    question: BatchQuestion,
    out: Place,
    form: Format,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    rejects: Place | None = None,
) -> BatchReport:
    """Scores the rows of files into one file, which appears whole, at the end.

    It has the same bytes for any number of `workers`, and on any cluster, by the address of its dask `scheduler`.

    rejects: where rows that can not be scored are told, a JSON line each. Without it the first of them is an
    `InvalidInput`, and nothing is written. Raises `UsageError` where a file lacks a column that every row needs.
    """
    scorer = Scorer(source, question)
    if scorer.needs_names:
        for file in files:
            _require_columns(file, question)
    with batch_file(out, form, scorer.schema, PLAIN, rejects) as batch:
        for scored in in_order(
            scorer, source, question, _chunks(files, scorer), workers=workers, scheduler=scheduler
        ):
            batch.add(scored)
        return batch.done()


def items_of(files: Sequence[RowFile]) -> tuple[str, ...]:
    """Items in files, each once, in their order. Raises `InvalidInput` for a row without one, and for too many."""
    question = BatchQuestion()
    items: dict[str, None] = {}
    for file in files:
        _require(file, ITEM)
        for chunk in file.chunks(CHUNK_ROWS, {ITEM}):
            asked, faults = asked_rows(chunk, question, needs_names=False)
            missing = [place for place, item in enumerate(asked.items or ()) if item is None]
            faults += [
                RowFault(chunk.file, asked.lines[place], f"{ITEM} is missing") for place in missing[:1]
            ]
            if faults:
                raise refusal(faults[0])
            items.update(dict.fromkeys(asked.items or ()))
            if len(items) > MAX_ITEMS:
                raise InvalidInput(f"--items: expected at most {MAX_ITEMS:,} items.")
    if not items:
        raise InvalidInput("--items: expected one item at least.")
    return tuple(items)


def _chunks(files: Sequence[RowFile], scorer: Scorer) -> Iterator[Chunk]:
    n = scorer.chunk_rows(files)
    for file in files:
        yield from file.chunks(n, scorer.columns)


def _require_columns(file: RowFile, question: BatchQuestion) -> None:
    _require(file, USER)
    if question.of_pairs:
        _require(file, ITEM, "; for the best items of each user add --k, for all of a list --items")
    for name in question.features:
        _require(file, name)


def _require(file: RowFile, column: str, hint: str = "") -> None:
    if not file.has(column):
        has = ", ".join(map(repr, file.names or ())) or "none"
        raise UsageError(f"{file.name} has no column {column!r}; it has {has}{hint}.")
