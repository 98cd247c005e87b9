"""Reading of an experiment's log into a spool."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Record
from bandit_serve.experiments.withholding import withheld_arms
from bandit_serve.export.layout import RecordLayout, Records
from bandit_serve.export.rows import ExportRows, joined
from bandit_serve.export.spool import Spool
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Changed, Exposed, Revised, Rewarded, Shape
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.reader import LogPage, event_of, gap_behind
from bandit_serve.log.repairs import LeftOut
from bandit_serve.node import Node

MAX_ENTRIES = 500
MAX_PAGE_BYTES = 8 * 2**20
"""Bytes of a page, by the size of the entries of the page before."""
MAX_ROWS = 131_072
"""Rows that are joined at once, and that a group of a Parquet file has."""
MAX_SHARES_BYTES = 64 * 2**20
MAX_MARKS = 4_096
MARGIN_MS = 3_600_000
"""Log time before and after a decision's own in which its exposure is looked for."""


class TimeSpan(Struct, frozen=True):
    """Times of decisions, Unix ms: from `since_ms` on and before `until_ms`; None: from the first, and to the last."""

    since_ms: int | None = None
    until_ms: int | None = None

    def chosen(self, rows: ExportRows) -> ExportRows:
        kept = self.mask(rows.decisions["time_ms"])
        return rows if kept.all() else rows.those(kept)

    def mask(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask, bool (n,), of the times, Unix ms (n,), that are in it."""
        kept = np.ones(len(times), np.bool_)
        if self.since_ms is not None:
            kept &= times >= self.since_ms
        if self.until_ms is not None:
            kept &= times < self.until_ms
        return kept


class LogPart(NamedTuple):
    """Part of a log: the offset of its first entry, and the latest time of a decision that it has something of."""

    first: Offset
    latest_ms: int


class LogReading:
    """What was read of an experiment's log: `record` as it is by then, and `spool` with all decisions and rewards.

    `offset` is that of the last entry read. `trimmed_ms` is the log time through which entries were missing, None where
    none were: decisions of before are there only as far as their entries are, so rewards without one are left out.
    `marks` say of consecutive parts of what was read which decisions are in them. `withheld` has by revision, of those
    whose records were there, the arms that `withheld_arms` says.
    """

    def __init__(self, live: LiveExperiment, folder: Path, start: Offset = START) -> None:
        self.live = live
        self.record: Record = live.record
        self.withheld = {self.record.revision: withheld_arms(self.record)}
        self.offset = start
        self.trimmed_ms: int | None = None
        self.marks: list[LogPart] = []
        experiment = live.experiment
        self.layout = RecordLayout(live.n_logged)
        self._shape = Shape(experiment, live.n_logged)
        width = 8 * len(experiment.arms) + self.layout.decision.itemsize
        self.spool = Spool(folder, self.layout, max(1_024, min(MAX_ROWS, MAX_SHARES_BYTES // width)))

    async def read(self, node: Node, through: Offset) -> None:
        """Reads on, up to and with `through`."""
        following: asyncio.Task[LogPage] | None = None
        count = 16
        try:
            while self.offset < through:
                page = await (following or self._page(node, self.offset, count))
                following = None
                entries = [entry for entry in page.entries if entry.offset <= through]
                if page.gap is not None:
                    self.trimmed_ms = page.gap.time_ms
                    self.offset = max(self.offset, page.gap)
                elif not entries:
                    break
                if entries:
                    self.offset = entries[-1].offset
                    nbytes = sum(len(entry.data) for entry in entries)
                    count = max(1, min(MAX_ENTRIES, MAX_PAGE_BYTES * len(entries) // max(nbytes, 1)))
                    # Of the next page, while this one is taken in.
                    if self.offset < through:
                        following = asyncio.create_task(self._page(node, self.offset, count))
                    await asyncio.to_thread(self._take, node, entries)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _page(self, node: Node, after: Offset, count: int) -> LogPage:
        entries = await node.store.read(self.live.owner, after, count)
        gap = await gap_behind(node.store, self.live.owner, after)
        return LogPage([entry for entry in entries if gap is None or entry.offset > gap], gap)

    def _take(self, node: Node, entries: list[Entry]) -> None:
        self.marks.append(LogPart(entries[0].offset, 0))
        for entry in entries:
            self.take(
                entry, event_of(entry, self.live.owner, node.replica.registry.repairs, self.layout.n_features)
            )

    def take(self, entry: Entry, event: object) -> None:
        """Takes one entry's event. Raises `UnreadableEntry` where it does not fit the experiment."""
        match event:
            case LeftOut():
                return
            case Exposed():
                records, shares = self.layout.decisions(event, self._shape.columns(event))
                self._mark(records)
                self.spool.decide(records, shares)
            case Rewarded() | Revised():
                self._shape.check(event)
                records = self.layout.rewards(event, entry.offset.time_ms)
                self._mark(records)
                self.spool.reward(records)
            case Changed():
                self.withheld[event.record.revision] = withheld_arms(event.record)
                if event.record.revision > self.record.revision:
                    self.record = event.whole(self.record).record
                    self._shape = Shape(self.record.experiment, self.layout.n_features)

    def _mark(self, records: Records) -> None:
        if len(records):
            first, latest_ms = self.marks[-1]
            self.marks[-1] = LogPart(first, max(latest_ms, int(records["time_ms"].max())))

    def open_from(self, closed_ms: int) -> Offset:
        """Offset of the first part that has something of a decision after `closed_ms`; forgets the parts before.

        It is that of the entry behind the last one where there is none.
        """
        open_marks = [mark.latest_ms > closed_ms for mark in self.marks]
        self.marks = self.marks[open_marks.index(True) :] if any(open_marks) else []
        if len(self.marks) > MAX_MARKS:
            pairs = itertools.zip_longest(self.marks[::2], self.marks[1::2])
            self.marks = [
                a if b is None else LogPart(a.first, max(a.latest_ms, b.latest_ms)) for a, b in pairs
            ]
        return self.marks[0].first if self.marks else self.offset.next

    def rows(self, before_ms: int, span: TimeSpan) -> Iterator[ExportRows]:
        """Takes out the rows of what was decided before a time, in the order of time."""
        n_metrics = len(self.record.experiment.metrics)
        for batch in self.spool.take(before_ms):
            rows = joined(batch, self.layout, n_metrics)
            if self.trimmed_ms is not None:
                rows = rows.those(rows.exposed | (rows.decisions["time_ms"] > self.trimmed_ms))
            rows = span.chosen(rows)
            if len(rows.decisions):
                yield rows


async def rows_of(
    node: Node, live: LiveExperiment, folder: Path, span: TimeSpan, end: Offset
) -> AsyncIterator[tuple[LogReading, ExportRows]]:
    """Reads an experiment's log through `end` and yields its rows, in the order of time.

    What has to wait is kept in files of `folder`.
    """
    window_ms = live.experiment.attribution.window_ms
    start = START if span.since_ms is None else Offset(max(0, span.since_ms - MARGIN_MS), 0)
    last = end
    if span.until_ms is not None:
        last = min(end, Offset(span.until_ms + window_ms + MARGIN_MS, 0))
    reading = LogReading(live, folder, start)
    await reading.read(node, last)
    if reading.trimmed_ms is not None and span.since_ms is not None and span.since_ms > reading.trimmed_ms:
        reading.trimmed_ms = None
    every = reading.rows(2**62, span)
    while (rows := await asyncio.to_thread(next, every, None)) is not None:
        yield reading, rows
