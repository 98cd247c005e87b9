"""Taking of a backup from a store that may be in use: of the service itself, then of one tenant after another.

All that is old is read first, piece by piece. Then each log is read on to its present end, in one moment with the marks
of what it counts: so each log is whole by itself. That is done again until the registry's log has not grown between the
first end and the last: so the registry fits every experiment. Nothing of an experiment depends on another's log, and
nothing of a tenant on another's.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO

from msgspec import Struct

from bandit_serve import __version__
from bandit_serve.backup.file import VERSION, BackupWriter
from bandit_serve.backup.log_taking import LogTaking
from bandit_serve.backup.namespaces import node_beside
from bandit_serve.backup.parts import (
    MAX_PIECE_BYTES,
    AgreementSums,
    End,
    EndOfLog,
    FilePiece,
    Header,
    OfLog,
    OfNamespace,
    TokenKeys,
    Told,
    Waiting,
)
from bandit_serve.errors import InvalidArtifact, NotFound, Unavailable
from bandit_serve.log.offset import Offset
from bandit_serve.node import Node
from bandit_serve.registry.registry import Registry, Version
from bandit_serve.store.keys import COMMON
from bandit_serve.store.outbox import Outbox
from bandit_serve.store.transfer import LogTransfer

MAX_ENDS = 50
"""Times that the ends of all logs are read until the registry rests."""


class Taken(Struct, frozen=True):
    """Content of a backup. `missing` are versions whose file was not to be found: `[tenant/]model/version`."""

    bytes: int
    tenants: int
    logs: int
    entries: int
    artifacts: int
    missing: list[str]


class NamespaceTaking:
    """One namespace of a backup: all that the store of `node` has in it, and its model files. `tenant` is whose it is,
    empty for the service itself.

    `entries`, `files` and `missing` are what was taken, and was not to be found.
    """

    def __init__(self, node: Node, tenant: str, out: BackupWriter) -> None:
        self._node = node
        self._store = node.store
        self._tenant = tenant
        self._out = out
        self._logs: dict[str, LogTaking] = {}
        self.files = 0
        self.missing: list[str] = []

    @property
    def logs(self) -> int:
        return len(self._logs)

    @property
    def entries(self) -> int:
        return sum(log.entries for log in self._logs.values())

    async def take(self) -> None:
        """Takes all of it. Raises `Unavailable` where its logs or its registry never rest."""
        self._out.write(OfNamespace(self._tenant))
        registry = await self._take_logs()
        await self._take_deleted(registry)
        # Later than the logs: a key that signed one of their decisions is among them.
        self._out.write(TokenKeys(await self._store.token_keys()))
        await self._take_agreements(registry)
        await self._take_notices()
        if self._keeps_files:
            await self._take_files(registry)

    @property
    def _keeps_files(self) -> bool:
        """Whether model files are in the data directory or the store. Another place has backups of its own."""
        return self._node.settings.artifacts in (None, "store")

    async def _take_logs(self) -> Registry:
        """Takes the registry's log and each experiment's; returns the registry that fits them all."""
        await self._begin(COMMON)
        for _ in range(MAX_ENDS):
            before = await self._end_of(COMMON)
            registry = await self._node.read_registry()
            for owner in registry.experiments:
                await self._end_of(owner)
            # Not the offset of its last entry, which may have been trimmed.
            if await self._logs[COMMON].last_offset() == before:
                return registry
        raise Unavailable("Models and experiments are being changed all the time: back up at a quieter time.")

    async def _begin(self, owner: str) -> LogTaking:
        taking = self._logs[owner] = LogTaking(self._store, owner, self._out)
        await taking.take_bulk()
        return taking

    async def _end_of(self, owner: str) -> Offset:
        """Takes the end of a log; returns the offset that was given last in it."""
        taking = self._logs.get(owner) or await self._begin(owner)
        return (await taking.take_end()).last

    async def _take_deleted(self, registry: Registry) -> None:
        """Takes what stays of deleted experiments: nobody may begin their logs again."""
        for owner, _ in registry.repairs.deleted():
            end = await LogTransfer(self._store, owner).end()
            self._out.write(OfLog(owner))
            self._out.write(EndOfLog(str(end.last), str(end.trimmed), end.head))

    async def _take_agreements(self, registry: Registry) -> None:
        for version in _versions(registry):
            sums, lifetime_ms = await self._store.agreement_sums(version.model, version.version)
            if sums and lifetime_ms:
                self._out.write(AgreementSums(version.model, version.version, sums, lifetime_ms))

    async def _take_notices(self) -> None:
        outbox = Outbox(self._store)
        async for names in outbox.told():
            if names:
                self._out.write(Told(names))
        cursor: int | None = None
        while cursor != 0:
            cursor, notices = await outbox.some(cursor or 0)
            if notices:
                self._out.write(Waiting(notices))

    async def _take_files(self, registry: Registry) -> None:
        """Takes each model file once."""
        taken = set()
        for version in _versions(registry):
            if not version.sha256 or version.pruned or version.sha256 in taken:
                continue
            try:
                await asyncio.to_thread(self._take_file, version.sha256)
            except (NotFound, InvalidArtifact):
                self.missing.append("/".join(filter(None, (self._tenant, version.model, version.version))))
            else:
                taken.add(version.sha256)
        self.files = len(taken)

    def _take_file(self, sha256: str) -> None:
        artifacts = self._node.artifacts
        artifacts.open(sha256)
        with open(artifacts.path(sha256), "rb") as file:
            left = file.seek(0, 2)
            file.seek(0)
            while left:
                piece = file.read(min(left, MAX_PIECE_BYTES))
                left -= len(piece)
                self._out.write(FilePiece(sha256, piece, left))


async def take_backup(node: Node, file: BinaryIO) -> Taken:
    """Writes a backup of a service and its tenants to `file`. Raises `Unavailable` where logs never rest."""
    header = Header(VERSION, __version__, node.settings.namespace, await node.store.time_ms())
    out = BackupWriter(file, header)
    taken = [await _taken(node, "", out)]
    for tenant in await node.store.tenants():
        async with node_beside(node, tenant) as own:
            taken.append(await _taken(own, tenant, out))
    missing = [version for each in taken for version in each.missing]
    out.write(End(await node.store.time_ms(), missing))
    return Taken(
        bytes=out.bytes_written,
        tenants=len(taken) - 1,
        logs=sum(each.logs for each in taken),
        entries=sum(each.entries for each in taken),
        artifacts=sum(each.files for each in taken),
        missing=missing,
    )


async def _taken(node: Node, tenant: str, out: BackupWriter) -> NamespaceTaking:
    taking = NamespaceTaking(node, tenant, out)
    await taking.take()
    return taking


def _versions(registry: Registry) -> list[Version]:
    return [version for model in registry.models.values() for version in model.versions.values()]
