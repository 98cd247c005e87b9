"""Snapshot files of this host: the newest states, for workers that start while the store is away."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bandit_serve.base.private_files import own_folder
from bandit_serve.errors import UnreadableEntry
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.snapshot import Codec
from bandit_serve.store.keys import COMMON

log = logging.getLogger(__name__)

TOKEN_KEYS = ".token-keys"
"""Beside the owners of logs, whose names begin otherwise."""
SUFFIX = ".snapshot"
MAX_BYTES = 2**30
_DIGEST_BYTES = hashlib.sha256().digest_size


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    namespace: str
    identity: bytes
    owner: str
    offset: str
    state: bytes


_CODEC = Codec(_File, "this host")
_KEYS = msgspec.msgpack.Decoder(dict[int, bytes]).decode


class LocalState(NamedTuple):
    """Content of the files: states of the registry and experiments by owner, the keys, and their store's identity."""

    identity: bytes
    states: dict[str, tuple[Offset, bytes]]
    token_keys: dict[int, bytes]


class LocalSnapshots:
    """Directory of snapshot files (0700) for one namespace, with one file (0600) for each owner. All calls block.

    A file is written under another name, then renamed, and has a checksum. One that is torn, damaged or of another
    store is skipped. All together take at most `MAX_BYTES`.
    """

    def __init__(self, data_dir: Path, namespace: str) -> None:
        self._namespace = namespace
        self._directory = data_dir / "snapshots" / namespace
        self._lock_fd: int | None = None
        self._sizes: dict[Path, int] = {}
        self._nbytes = 0

    @property
    def locked(self) -> bool:
        """Whether `is_mine` has found that this process writes."""
        return self._lock_fd is not None

    def is_mine(self) -> bool:
        """Whether this process is the one on this host that writes; it remains so until it ends."""
        if self._lock_fd is None:
            own_folder(self._directory)
            fd = os.open(
                self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            self._lock_fd = fd
            self._sizes = {path: path.stat().st_size for path in self._paths()}
            self._nbytes = sum(self._sizes.values())
        return True

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def write(self, identity: bytes, owner: str, offset: Offset, state: bytes) -> None:
        """Writes one file. Raises OSError if the disk is full or all files would be too large."""
        path = self._path(owner)
        body = _CODEC.pack(_File(self._namespace, identity, owner, str(offset), state))
        more = len(body) - self._sizes.get(path, 0)
        if self._nbytes + more > MAX_BYTES:
            raise OSError(f"they would take more than {MAX_BYTES} bytes")
        fd, temporary = tempfile.mkstemp(dir=self._directory, prefix=".writing-")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(hashlib.sha256(body).digest())
                file.write(body)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, path)
            self._sizes[path] = len(body)
            self._nbytes += more
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        self._sync_directory()

    def write_token_keys(self, identity: bytes, keys: dict[int, bytes]) -> None:
        self.write(identity, TOKEN_KEYS, START, msgspec.msgpack.encode(keys))

    def sweep(self, owners: Collection[str]) -> None:
        """Removes the files of all other owners, and unfinished ones of processes that were killed."""
        kept = {self._path(owner) for owner in (*owners, COMMON, TOKEN_KEYS)}
        for path in (*self._paths(), *self._directory.glob(".writing-*")):
            if path not in kept:
                path.unlink(missing_ok=True)
                self._nbytes -= self._sizes.pop(path, 0)

    def exist(self) -> bool:
        return self._path(COMMON).exists() and self._path(TOKEN_KEYS).exists()

    def read(self) -> LocalState | None:
        """Reads all files; None unless a registry and keys of the same store are among them."""
        files = {file.owner: file for path in self._paths() if (file := self._read(path)) is not None}
        registry, keys = files.pop(COMMON, None), files.pop(TOKEN_KEYS, None)
        if registry is None or keys is None or keys.identity != registry.identity:
            return None
        states = {COMMON: (Offset.parse(registry.offset), registry.state)}
        for owner, file in files.items():
            if file.identity == registry.identity:
                states[owner] = Offset.parse(file.offset), file.state
            else:
                log.warning("the snapshot file of %s is of another store and is passed over", owner)
        return LocalState(registry.identity, states, _KEYS(keys.state))

    def _read(self, path: Path) -> _File | None:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
                if os.fstat(file.fileno()).st_uid != os.geteuid():
                    raise ValueError("it belongs to another user")
                content = file.read(MAX_BYTES + _DIGEST_BYTES)
            digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(body).digest() != digest:
                raise ValueError("it is torn or damaged")
            snapshot = _CODEC.unpack(body)
            if snapshot.namespace != self._namespace or self._path(snapshot.owner) != path:
                raise ValueError("it is of something else")
        except (OSError, ValueError, UnreadableEntry) as error:
            log.warning("the snapshot file %s is passed over: %s", path.name, error)
            return None
        return snapshot

    def _path(self, owner: str) -> Path:
        return self._directory / f"{owner}{SUFFIX}"

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{SUFFIX}"))

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
