"""File that a batch becomes, whole or not at all, and the file of what it could not do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput
from bandit_serve.export.formats import Format, TableWriter, open_writer
from bandit_serve.export.places import Place
from bandit_serve.export.tables import EXTRA
from bandit_serve.scoring.asked import RowFault
from bandit_serve.scoring.question import CHUNK_ROWS
from bandit_serve.scoring.scorer import ScoredChunk


class BatchReport(Struct, frozen=True):
    """Numbers of rows that were read, of those written, of those rejected, and of the file's bytes."""

    rows: int
    written: int
    rejected: int
    bytes: int


class BatchFile:
    """File that chunks are added to. `done` puts it, and what was rejected, where they are to be.

    Without a `told` file the first row that has no answer is an error.
    """

    def __init__(
        self, scratch: Path, out: Place, writer: TableWriter, told: BinaryIO | None, rejects: Place | None
    ) -> None:
        self._scratch = scratch
        self._out = out
        self._writer = writer
        self._told = told
        self._rejects = rejects
        self._held: list[Any] = []
        self._held_rows = 0
        self._rows = self._written = self._rejected = 0

    def add(self, scored: ScoredChunk) -> None:
        """Writes a chunk. Raises `InvalidInput` for a row that has no answer, where such rows are not told."""
        for fault in scored.faults:
            if self._told is None:
                raise refusal(fault)
            self._told.write(msgspec.json.encode(fault) + b"\n")
        if scored.table.num_rows:
            self._held.append(scored.table)
            self._held_rows += scored.table.num_rows
        if self._held_rows >= CHUNK_ROWS:
            self._write_held()
        self._rows += scored.n_rows
        self._written += scored.table.num_rows
        self._rejected += len(scored.faults)

    def _write_held(self) -> None:
        """Writes what chunks have left, as one group of rows."""
        if self._held:
            self._writer.write(require("pyarrow", EXTRA).concat_tables(self._held))
            self._held.clear()
            self._held_rows = 0

    def done(self) -> BatchReport:
        """Ends the files and puts them in place."""
        self._write_held()
        self._writer.close()
        nbytes = (self._scratch / "rows").stat().st_size
        if self._rejects is not None and self._told is not None:
            self._told.close()
            told = Path(self._told.name)
            self._rejects.replace(told.parent, {"": told})
        self._out.replace(self._scratch, {"": self._scratch / "rows"})
        return BatchReport(self._rows, self._written, self._rejected, nbytes)


@contextlib.contextmanager
def batch_file(
    out: Place, form: Format, schema: Any, plain: Collection[str], rejects: Place | None
) -> Iterator[BatchFile]:
    """Begins a file beside its place, and one of rejected rows where they have one; removes what is not done."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch(out))
        told = None
        if rejects is not None:
            folder = stack.enter_context(_scratch(rejects))
            told = stack.enter_context((folder / "rejects").open("wb"))
        writer = open_writer(scratch / "rows", schema, form, plain)
        stack.callback(writer.close)
        yield BatchFile(scratch, out, writer, told, rejects)


@contextlib.contextmanager
def _scratch(place: Place) -> Iterator[Path]:
    folder = place.scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refusal(fault: RowFault) -> InvalidInput:
    """Error for a row that ends a batch."""
    return InvalidInput(
        f"{fault.file}, line {fault.line}: {fault.detail}. Nothing was written; with --rejects FILE such rows are "
        "left out, and told there."
    )
