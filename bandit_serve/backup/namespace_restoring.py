"""Restoring of one namespace. Every write may be made again."""

from __future__ import annotations

import asyncio
import tempfile
from typing import IO, BinaryIO, cast

from bandit_serve.backup.parts import (
    AgreementSums,
    EndOfLog,
    FilePiece,
    LoggedEntries,
    Marks,
    OfLog,
    Part,
    SnapshotPiece,
    TokenKeys,
    Told,
    Waiting,
)
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.node import Node
from bandit_serve.store.outbox import Outbox
from bandit_serve.store.transfer import LogEnd, LogTransfer, Mark

MAX_WRITTEN_BYTES = 2**20
MAX_WRITTEN = 1_000
"""Bound of the entries of one script, beside that of their bytes."""
MAX_WORDS = 20_000
"""Strings, fields and values of the marks of one script, after which no further mark is added."""


class NamespaceRestoring:
    """Restoring of the namespace of `node`'s store, part by part.

    `logs`, `entries` and `files` count what was restored; `newest_ms` is the newest log time of it.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.store
        self._log: LogTransfer
        self._owner = ""
        self._owners: set[str] = set()
        self._snapshot: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.entries = self.files = self.newest_ms = 0

    @property
    def logs(self) -> int:
        return len(self._owners)

    async def restore(self, part: Part) -> None:
        """Restores one part."""
        match part:
            case OfLog(owner):
                self._owner, self._log = owner, LogTransfer(self._store, owner)
                self._owners.add(owner)
            case LoggedEntries(entries):
                await self._restore_entries(entries)
            case Marks(marks):
                await self._restore_marks(
                    [
                        Mark(name, until, "s" if isinstance(content, bytes) else "h", content)
                        for name, until, content in marks
                    ]
                )
            case SnapshotPiece(fold, offset, piece, left):
                self._snapshot.append(piece)
                if left == 0:
                    state = b"".join(self._snapshot)
                    self._snapshot = []
                    await self._store.write_snapshot(self._owner, fold, Snapshot(Offset.parse(offset), state))
            case EndOfLog(last, trimmed, head):
                end = LogEnd(Offset.parse(last), Offset.parse(trimmed), head)
                await self._log.finish(end)
                self.newest_ms = max(self.newest_ms, end.last.time_ms, end.trimmed.time_ms)
            case TokenKeys(keys):
                for key_id, key in keys.items():
                    await self._store.add_token_key(key_id, key)
            case AgreementSums(model, version, sums, lifetime_ms):
                await self._store.write_agreement_sums(model, version, sums, lifetime_ms)
            case Told(names):
                await Outbox(self._store).remember(names)
            case Waiting(notices):
                await Outbox(self._store).put_back(notices)
            case FilePiece(_, piece, left):
                await asyncio.to_thread(self._restore_file, piece, left)
            case _:
                pass

    async def _restore_entries(self, entries: list[tuple[str, bytes, bytes]]) -> None:
        some: list[Entry] = []
        size = 0
        for offset, kind, data in entries:
            some.append(Entry(Offset.parse(offset), kind, data))
            size += len(data)
            if size > MAX_WRITTEN_BYTES or len(some) >= MAX_WRITTEN:
                await self._log.write_entries(some)
                some, size = [], 0
        if some:
            await self._log.write_entries(some)
        self.entries += len(entries)

    async def _restore_marks(self, marks: list[Mark]) -> None:
        some: list[Mark] = []
        words = 0
        for mark in marks:
            some.append(mark)
            words += 1 if mark.kind == "s" else len(mark.content)
            if words > MAX_WORDS:
                await self._log.write_marks(some)
                some, words = [], 0
        if some:
            await self._log.write_marks(some)

    def _restore_file(self, piece: bytes, left: int) -> None:
        artifacts = self._node.artifacts
        if self._file is None:
            # Not where temporary files are: a model may be larger than that place.
            self._file = tempfile.TemporaryFile(dir=artifacts.root)  # noqa: SIM115
        self._file.write(piece)
        if left == 0:
            with self._file as file:
                file.seek(0)
                artifacts.put(cast(BinaryIO, file))
            self._file = None
            self.files += 1
