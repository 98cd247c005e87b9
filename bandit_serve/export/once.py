"""Export of what a log has now."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType, field

from bandit_serve.base.clock import rfc3339
from bandit_serve.export.formats import Format
from bandit_serve.export.parts import ExportPart, Parts
from bandit_serve.export.places import Place, require_free
from bandit_serve.export.reading import TimeSpan, rows_of
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node


class Exported(Struct, frozen=True, kw_only=True):
    """Outcome of an export. `first` and `last` are the earliest and latest time of a decision in it (RFC 3339).

    trimmed: time through which the log was not there any more; UNSET where it was whole.
    """

    rows: int
    files: int
    bytes: int
    first: str | None = field(name="from")
    last: str | None = field(name="to")
    trimmed: str | UnsetType = UNSET


async def export(
    node: Node, live: LiveExperiment, place: Place, form: Format, span: TimeSpan, *, overwrite: bool = False
) -> Exported:
    """Writes an experiment's decisions to `place`: Parquet as a folder, the other formats as one file.

    It appears whole, at the end. Raises `UsageError` where something is there already, unless it is overwritten,
    and for one file where a folder is.
    """
    require_free(place, "--out", overwrite=overwrite, one_file=form != "parquet")
    scratch = place.scratch()
    try:
        return await _export(node, live, place, form, span, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def _export(
    node: Node, live: LiveExperiment, place: Place, form: Format, span: TimeSpan, scratch: Path
) -> Exported:
    spool, files = scratch / "spool", scratch / "files"
    spool.mkdir()
    files.mkdir()
    end = await node.results.end_of(live)
    closed_before_ms = end.time_ms - live.experiment.attribution.window_ms
    done: list[ExportPart] = []
    parts = Parts(files, live.experiment, form, done.append, alone=form != "parquet")
    n_rows, first_ms, last_ms, trimmed_ms = 0, None, None, None
    async for reading, rows in rows_of(node, live, spool, span, end):
        times = rows.decisions["time_ms"]
        first_ms = int(times[0]) if first_ms is None else first_ms
        last_ms, n_rows = int(times[-1]), n_rows + len(times)
        trimmed_ms = reading.trimmed_ms
        await asyncio.to_thread(parts.write, rows, reading.record.experiment, closed_before_ms)
    parts.close()
    await asyncio.to_thread(place.replace, scratch, {part.name: part.path for part in done})
    return Exported(
        rows=n_rows,
        files=len(done),
        bytes=sum(part.nbytes for part in done),
        first=None if first_ms is None else rfc3339(first_ms),
        last=None if last_ms is None else rfc3339(last_ms),
        trimmed=UNSET if trimmed_ms is None else rfc3339(trimmed_ms),
    )
