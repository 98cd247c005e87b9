"""Parts: the files that rows become, a folder a day or all in one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from msgspec import Struct

from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.formats import Format, TableWriter, open_writer
from bandit_serve.export.rows import ExportRows
from bandit_serve.export.tables import Tables

DAY_MS = 86_400_000
MAX_PART_ROWS = 8_388_608
PLAIN = "number", "propensity", "decided_at"


class ExportPart(Struct, frozen=True):
    """File that is whole: where it is now, its name in the export, and its rows and bytes."""

    path: Path
    name: str
    rows: int
    nbytes: int


class Parts:
    """Writes rows, which come in the order of time, into files of a folder; calls `done` with each that is whole.

    first: number of the first part. alone: one file for all, whatever the day.
    """

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        form: Format,
        done: Callable[[ExportPart], None],
        *,
        first: int = 0,
        alone: bool = False,
    ) -> None:
        self._folder = folder
        self._experiment = experiment
        self._form: Format = form
        self._done = done
        self._alone = alone
        self.next = first
        self._tables = Tables(experiment)
        self._writer: TableWriter | None = None
        self._day = 0
        self._rows = 0

    def write(self, rows: ExportRows, experiment: Experiment, closed_before_ms: int) -> None:
        if self._writer is None and experiment is not self._experiment:
            self._experiment, self._tables = experiment, Tables(experiment)
        if self._alone:
            self._write(0, rows, closed_before_ms)
            return
        days = rows.decisions["time_ms"] // DAY_MS
        starts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for start, end in itertools.pairwise(starts):
            if end > start:
                self._write(int(days[start]), rows.those(slice(start, end)), closed_before_ms)

    def _write(self, day: int, rows: ExportRows, closed_before_ms: int) -> None:
        if self._writer is not None and (
            day != self._day or (self._rows >= MAX_PART_ROWS and not self._alone)
        ):
            self.close()
        if self._writer is None:
            self._writer = open_writer(self._path, self._tables.schema, self._form, PLAIN)
            self._day, self._rows = day, 0
        self._writer.write(self._tables.table(rows, closed_before_ms))
        self._rows += len(rows.decisions)

    @property
    def _path(self) -> Path:
        return self._folder / str(self.next)

    def close(self) -> None:
        """Ends the file that is being written; where one is to be there, one without rows, too."""
        if self._writer is None:
            if not self._alone:
                return
            self._writer = open_writer(self._path, self._tables.schema, self._form, PLAIN)
        self._writer.close()
        self._writer = None
        date = datetime.fromtimestamp(self._day * DAY_MS / 1000, UTC).date()
        name = "" if self._alone else f"date={date}/part-{self.next}.{self._form}"
        part = ExportPart(self._path, name, self._rows, self._path.stat().st_size)
        self.next += 1
        self._done(part)
