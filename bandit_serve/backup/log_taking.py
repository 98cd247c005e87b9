"""Taking of one log, with its marks and snapshots, while it is written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bandit_serve.backup.file import BackupWriter
from bandit_serve.backup.parts import MAX_PIECE_BYTES, EndOfLog, LoggedEntries, Marks, OfLog, SnapshotPiece
from bandit_serve.errors import Unavailable
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import EXPOSURES_FOLD, POLICY_FOLD, REGISTRY_FOLD, RESULTS_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import name_of
from bandit_serve.log.row_form import NO_ROWS, RowForm
from bandit_serve.replication.beginnings import newest_record
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store
from bandit_serve.store.transfer import (
    ENTRIES_ALONE,
    MAX_LAST_MARK_BYTES,
    MAX_MARK_BYTES,
    LogEnd,
    LogTransfer,
    Mark,
    ReadOn,
)

MAX_ROUNDS = 1_000
MAX_FORMS = 20
"""Times that the form of a log's rows is looked up in one round: changes of an experiment are rare."""
CALM_ROUNDS = 8
"""Rounds that read on in small pieces; in later ones the end of a log is read however much it marks at once."""
FOLDS = (POLICY_FOLD, RESULTS_FOLD, EXPOSURES_FOLD)


class LogTaking:
    """One log as far as it is in the backup: through `position`, with the marks of all entries up to there."""

    def __init__(self, store: Store, owner: str, out: BackupWriter) -> None:
        self._store = store
        self._transfer = LogTransfer(store, owner)
        self._out = out
        self._owner = owner
        self._folds = (REGISTRY_FOLD,) if owner == COMMON else FOLDS
        self._snapshots: dict[str, Offset] = {}
        self._form: RowForm | None = NO_ROWS if owner == COMMON else None
        self.position = START
        self.entries = 0

    async def take_bulk(self) -> None:
        """Takes what there is by now: the marks first, so that none is newer than the entries that follow."""
        self._out.write(OfLog(self._owner))
        begun = await self._store.last_offset(self._owner)
        async for marks in self._transfer.marks():
            self._write_marks(marks)
        while self.position < begun:
            entries = [each for each in await self._transfer.entries(self.position) if each.offset <= begun]
            if not entries:
                break
            self._write_entries(entries)
        await self._take_snapshots()

    async def take_end(self) -> LogEnd:
        """Takes what has come since, up to one moment; returns the log's facts at that moment."""
        self._out.write(OfLog(self._owner))
        for _ in range(MAX_ROUNDS):
            end = await self._read_on()
            if await self._has_beginnings(end.trimmed):
                self._out.write(EndOfLog(str(end.last), str(end.trimmed), end.head))
                return end
            # It was trimmed past the snapshots that were taken, to newer ones.
            await self._take_snapshots()
        raise self._too_quick()

    async def last_offset(self) -> Offset | None:
        """Offset that was given last in the log; None where much of it is still to be read."""
        read = await self._transfer.read_on(self.position, NO_ROWS, ENTRIES_ALONE)
        return None if read is None or read.end is None else read.end.last

    async def _read_on(self) -> LogEnd:
        for n in range(MAX_ROUNDS):
            read = await self._read(MAX_MARK_BYTES if n < CALM_ROUNDS else MAX_LAST_MARK_BYTES)
            self._write_entries(read.entries)
            self._write_marks(read.marks)
            async for marks in self._transfer.named(read.names):
                self._write_marks(marks)
            if read.end is not None:
                return read.end
        raise self._too_quick()

    async def _read(self, max_mark_bytes: int) -> ReadOn:
        """Reads on with the form that the rows have; a change of the experiment may be among the entries."""
        if self._owner == COMMON:
            max_mark_bytes = ENTRIES_ALONE
        for _ in range(MAX_FORMS):
            form = self._form or await self._newest_form()
            read = await self._transfer.read_on(self.position, form, max_mark_bytes)
            changed = read is None or any(entry.kind == events.CHANGED for entry in read.entries)
            self._form = form if self._owner == COMMON or not changed else await self._newest_form()
            if read is not None and self._form == form:
                return read
        raise self._too_quick()

    async def _newest_form(self) -> RowForm:
        record = await newest_record(self._store, self._owner)
        return NO_ROWS if record is None else RowForm.of(record.experiment)

    def _too_quick(self) -> Unavailable:
        name = name_of(self._owner)
        return Unavailable(
            f"The log of {name} changes more quickly than it is read: back up at a quieter time."
        )

    def _write_entries(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._out.write(LoggedEntries([(str(entry.offset), entry.kind, entry.data) for entry in entries]))
            self.position = entries[-1].offset
            self.entries += len(entries)

    def _write_marks(self, marks: Sequence[Mark]) -> None:
        if marks:
            self._out.write(Marks([(mark.name, mark.until, mark.content) for mark in marks]))

    async def _has_beginnings(self, trimmed: Offset) -> bool:
        """Whether each fold that has a snapshot can begin where the log does, with one of those that were taken."""
        if trimmed == START:
            return True
        for fold in self._folds:
            if self._snapshots.get(fold, START) < trimmed and await self._store.snapshot_offsets(
                self._owner, fold
            ):
                return False
        return True

    async def _take_snapshots(self) -> None:
        """Takes of each fold the snapshot that a replay begins at, and the newest."""
        trimmed = await self._store.trimmed(self._owner)
        for fold in self._folds:
            offsets = [
                each for each in await self._store.snapshot_offsets(self._owner, fold) if each >= trimmed
            ]
            for offset in sorted({*offsets[:1], *offsets[-1:]}):
                snapshot = await self._store.read_snapshot(self._owner, fold, offset)
                if snapshot is None:
                    continue
                for piece, left in in_pieces(snapshot.state):
                    self._out.write(SnapshotPiece(fold, str(offset), piece, left))
                self._snapshots[fold] = max(self._snapshots.get(fold, START), offset)


def in_pieces(content: bytes | memoryview) -> Iterator[tuple[bytes, int]]:
    """Pieces of a content, at least one, each with the number of bytes behind it."""
    for start in range(0, max(len(content), 1), MAX_PIECE_BYTES):
        piece = bytes(content[start : start + MAX_PIECE_BYTES])
        yield piece, len(content) - start - len(piece)
