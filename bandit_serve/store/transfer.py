"""Transfer of one log with its marks: read as it is at one moment while it is written to, and written anew elsewhere.

A mark says what of a log was counted. One that is older than the log would count a repeated reward twice; one that is
newer would refuse a reward that the log does not have. So the last entries and the marks that they have left are read
in one script (read_on.lua). All else was read before, in pieces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, NamedTuple

from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.row_form import NO_ROWS, RowForm
from bandit_serve.store import scripts
from bandit_serve.store.store import Store

MAX_MARKS_AT_ONCE = 200
MAX_MARK_BYTES = 2**20
MAX_ENTRY_BYTES = 2**20
"""Bytes of entries or marks after which a script ends; it goes on past them by one of their pieces at most."""
MAX_LAST_MARK_BYTES = 64 * 2**20
"""Bytes of marks that are read together with the end of a log."""
ENTRIES_ALONE = -1
"""In their place: no marks are read."""
N_FIELDS = 1_000

Kind = Literal["s", "h"]


class Mark(NamedTuple):
    """Mark of a log, or some fields of one. `name` is without the log's own prefix.

    until: log time, Unix ms, at which it may go; None for ever. content: a string, or fields and values in turn.
    """

    name: str
    until: int | None
    kind: Kind
    content: bytes | list[bytes]


class LogEnd(NamedTuple):
    """Facts of a log at one moment: the offset given last, the last one trimmed, and the revision of its head."""

    last: Offset
    trimmed: Offset
    head: str


class ReadOn(NamedTuple):
    """Entries that follow, and marks that they left. `end` is there where nothing was left at that moment."""

    entries: list[Entry]
    marks: list[Mark]
    names: list[str]
    end: LogEnd | None


class LogTransfer:
    """Reads and writes one log. Writing the same again changes nothing."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store = store
        self._keys = store.keys
        self._owner = owner

    async def marks(self) -> AsyncIterator[list[Mark]]:
        """Reads all marks, some at a time. One that changes meanwhile comes as it was at some time of the reading."""
        cursor, prefix = 0, self._keys.mark(self._owner, "")
        while True:
            cursor, scored = await self._store.scan_scores(
                self._keys.expiries(self._owner), cursor, MAX_MARKS_AT_ONCE
            )
            async for some in self.named([key.decode().removeprefix(prefix) for key, _ in scored]):
                yield some
            if cursor == 0:
                return

    async def named(self, names: Sequence[str]) -> AsyncIterator[list[Mark]]:
        """Reads the marks of these names, as far as they are there."""
        prefix = self._keys.mark(self._owner, "")
        keys, index = [f"{prefix}{name}" for name in names], self._keys.expiries(self._owner)
        at = 0
        while at < len(keys):
            some = keys[at : at + MAX_MARKS_AT_ONCE]
            read = await self._store.run(scripts.READ_MARKS, [index, *some], [prefix, MAX_MARK_BYTES])
            at += len(read)
            yield [mark for each in read if (mark := _mark(each)) is not None]
            for name, until, kind, _ in read:
                if kind == b"l":
                    async for fields in self._fields(prefix + name.decode()):
                        yield [Mark(name.decode(), _until(until), "h", fields)]

    async def _fields(self, key: str) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            cursor, fields = await self._store.scan_fields(key, cursor, N_FIELDS)
            if fields:
                yield fields
            if cursor == 0:
                return

    async def entries(self, after: Offset) -> list[Entry]:
        """Reads some entries behind an offset, without their marks; none at the end."""
        read = await self.read_on(after, NO_ROWS, ENTRIES_ALONE)
        return [] if read is None else read.entries

    async def read_on(
        self, after: Offset, form: RowForm, max_mark_bytes: int = MAX_MARK_BYTES
    ) -> ReadOn | None:
        """Reads behind an offset, with marks; None where a row is not of this form, which then is one of the past."""
        keys, owner = self._keys, self._owner
        reply = await self._store.run(
            scripts.READ_ON,
            [keys.log(owner), keys.expiries(owner), keys.trimmed(owner), keys.head(owner)],
            [
                str(after),
                MAX_ENTRY_BYTES,
                max_mark_bytes,
                keys.mark(owner, ""),
                form.reward_bytes,
                form.revision_bytes,
                form.period_ms,
                "".join("1" if each else "0" for each in form.two_valued),
                *form.metrics,
            ],
        )
        if reply == -1:
            return None
        entries, marks, names, whole, last, trimmed, head = reply
        return ReadOn(
            [Entry(Offset.parse(at), kind, data) for at, kind, data in entries],
            [mark for each in marks if (mark := _mark(each)) is not None],
            [name.decode() for name in names],
            LogEnd(_offset(last), _offset(trimmed), head.decode()) if whole else None,
        )

    async def end(self) -> LogEnd:
        """Facts of a log of which nothing else is read."""
        trimmed = await self._store.trimmed(self._owner)
        last = await self._store.last_offset(self._owner)
        head = await self._store.head(self._owner)
        return LogEnd(last, max(trimmed, last), "" if head is None else head)

    async def write_entries(self, entries: Sequence[Entry]) -> None:
        """Writes entries at their offsets, behind those that are there."""
        words = [word for entry in entries for word in (str(entry.offset), entry.kind, entry.data)]
        await self._store.run(scripts.WRITE_ENTRIES, [self._keys.log(self._owner)], words)

    async def write_marks(self, marks: Sequence[Mark]) -> None:
        """Writes marks, or some fields of them; what they had in these is replaced."""
        prefix = self._keys.mark(self._owner, "")
        words: list[scripts.Argument] = []
        for mark in marks:
            content = [mark.content] if isinstance(mark.content, bytes) else mark.content
            words += [mark.kind, "" if mark.until is None else str(mark.until), len(content), *content]
        keys = [self._keys.expiries(self._owner), *(f"{prefix}{mark.name}" for mark in marks)]
        await self._store.run(scripts.WRITE_MARKS, keys, words)

    async def finish(self, end: LogEnd) -> None:
        """Brings a log to its end: later entries get higher offsets, and readers know what was trimmed."""
        last, trimmed = (str(offset) if offset > START else "" for offset in (end.last, end.trimmed))
        keys = [self._keys.log(self._owner), self._keys.trimmed(self._owner), self._keys.head(self._owner)]
        await self._store.run(scripts.FINISH_LOG, keys, [last, trimmed, str(end.trimmed.next), end.head])


def _mark(read: Sequence[Any]) -> Mark | None:
    """Mark of a script's reply; None for one that is not there, or is read in pieces."""
    name, until, kind, content = read
    if kind == b"s":
        return Mark(name.decode(), _until(until), "s", content)
    return Mark(name.decode(), _until(until), "h", content) if kind == b"h" else None


def _until(score: bytes) -> int | None:
    return int(float(score)) if score else None


def _offset(text: bytes) -> Offset:
    return Offset.parse(text) if text else START
