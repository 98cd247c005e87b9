"""Restore of a backup into an empty store.

The file is read to its end before anything is written. While it is written, the store is closed to services
(`Store.check`), and stays closed when the restore dies. Every write of a restore may be made again, so it then begins
anew with the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

from msgspec import Struct

from bandit_serve.backup.file import BackupReader, DamagedBackup
from bandit_serve.backup.namespace_restoring import NamespaceRestoring
from bandit_serve.backup.namespaces import node_beside
from bandit_serve.backup.parts import (
    End,
    EndOfLog,
    FilePiece,
    Header,
    LoggedEntries,
    Marks,
    OfLog,
    OfNamespace,
    Part,
    SnapshotPiece,
)
from bandit_serve.base.names import is_name
from bandit_serve.errors import Conflict, StoreUnavailable
from bandit_serve.node import Node

LEASE_MS = 10_000
RENEWED_S = 2.0
MAX_WAIT_S = 15.0
"""Longest wait for the lease, which a restore that died has for up to ten seconds."""


class Restored(Struct, frozen=True):
    """Content of a restored backup, and the versions whose files it lacks."""

    build: str
    began_ms: int
    ended_ms: int
    tenants: int
    logs: int
    entries: int
    artifacts: int
    missing: list[str]


class CheckedBackup:
    """Backup that was read to its end, and is whole. `name` tells it from others."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        reader = BackupReader(file)
        self.header: Header = reader.header
        self.end = End(0, [])
        order = _Order()
        for part in reader:
            order.check(part)
            if isinstance(part, End):
                self.end = part
        self.name = reader.checksum

    def parts(self) -> Iterator[Part]:
        """Reads the parts once more. Raises `DamagedBackup` where the file is another one by now."""
        reader = BackupReader(self._file)
        yield from reader
        if reader.checksum != self.name:
            raise DamagedBackup("The backup has changed while it was read.")


class _Order:
    """Order of the parts: the service before its tenants, logs within a namespace, pieces without others in between."""

    def __init__(self) -> None:
        self._namespaces: set[str] = set()
        self._in_log = False
        self._left = 0
        self._piece_of = ""

    def check(self, part: Part) -> None:
        """Raises `DamagedBackup` for a part that does not belong here."""
        match part:
            case SnapshotPiece(fold, offset, piece, left):
                fits = self._in_log and self._follows(f"{fold} {offset}", len(piece), left)
            case FilePiece(sha256, piece, left):
                fits = bool(self._namespaces) and self._follows(sha256, len(piece), left)
            case _ if self._left:
                fits = False
            case OfNamespace(below):
                is_next = is_name(below) if self._namespaces else below == ""
                fits = is_next and below not in self._namespaces
                self._namespaces.add(below)
                self._in_log = False
            case OfLog():
                fits = bool(self._namespaces)
                self._in_log = True
            case LoggedEntries() | Marks() | EndOfLog():
                fits = self._in_log
            case _:
                fits = bool(self._namespaces)
        if not fits:
            raise DamagedBackup("The backup has a part where none of its kind belongs.")

    def _follows(self, of: str, length: int, left: int) -> bool:
        fits = not self._left or (of == self._piece_of and length + left == self._left)
        self._piece_of, self._left = of, left
        return fits and left >= 0


class Restoring:
    """One restore of `backup` into the store of `node`, which nobody uses."""

    def __init__(self, node: Node, backup: CheckedBackup) -> None:
        self._node = node
        self._store = node.store
        self._backup = backup

    async def run(self) -> Restored:
        """Restores all. Raises `Conflict`, and writes nothing, where the store is in use or holds something."""
        async with self._alone():
            await self._claim()
            restored = await self._restore()
            newest_ms = max(each.newest_ms for each in restored)
            await self._store.begin_at(max(newest_ms, self._backup.end.ended_ms))
            await self._store.end_restoring()
        header, end = self._backup.header, self._backup.end
        return Restored(
            build=header.build,
            began_ms=header.began_ms,
            ended_ms=end.ended_ms,
            tenants=len(restored) - 1,
            logs=sum(each.logs for each in restored),
            entries=sum(each.entries for each in restored),
            artifacts=sum(each.files for each in restored),
            missing=end.missing,
        )

    async def _restore(self) -> list[NamespaceRestoring]:
        """Restores one namespace after another, that of the service first."""
        restored: list[NamespaceRestoring] = []
        async with contextlib.AsyncExitStack() as opened:
            for part in self._backup.parts():
                if isinstance(part, OfNamespace):
                    await opened.aclose()
                    node = self._node
                    if part.below:
                        node = await opened.enter_async_context(node_beside(node, part.below))
                        # It marks how the keys of the namespace are laid out, while there are none.
                        await node.store.check_facts()
                    restored.append(NamespaceRestoring(node))
                elif not isinstance(part, End):
                    await restored[-1].restore(part)
        return restored

    async def _claim(self) -> None:
        """Closes the store for this backup. Raises `Conflict` where it has something else."""
        restoring = await self._store.restoring()
        if restoring is None and (await self._store.is_used() or await self._store.tenants()):
            raise Conflict(
                f"The store has something in the namespace {self._node.settings.namespace!r} already: stop its "
                "services, and restore into an empty store or another --namespace."
            )
        if await self._store.begin_restoring(self._backup.name) != self._backup.name:
            raise Conflict(
                "The store holds a part of another backup, whose restore did not finish: restore that one again, or "
                "empty the store first."
            )

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Holds the lease meanwhile, so that no second restore writes."""
        holder, until_s = f"restore:{secrets.token_hex(8)}", time.monotonic() + MAX_WAIT_S
        while not await self._store.hold_lease(holder, LEASE_MS):
            if time.monotonic() > until_s:
                raise Conflict("A service or another restore is at work in this store: end it first.")
            await asyncio.sleep(0.5)
        work = asyncio.current_task()
        assert work is not None

        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEWED_S)
                with contextlib.suppress(StoreUnavailable):
                    if not await self._store.hold_lease(holder, LEASE_MS):
                        work.cancel()

        renewing = asyncio.create_task(renew())
        try:
            yield
        except asyncio.CancelledError:
            if renewing.done():
                raise Conflict("Another process took over the store meanwhile.") from None
            raise
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with contextlib.suppress(StoreUnavailable):
                await self._store.drop_lease(holder)
