"""Places that files are written to: a path of this machine, or a URL that fsspec opens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bandit_serve.base.extras import require
from bandit_serve.base.secrets import know_secrets_of, shown_place
from bandit_serve.errors import Conflict, FilesUnavailable, UsageError
from bandit_serve.export.tables import EXTRA


class Place(Protocol):
    """Folder, or one file by the name "", that files appear in whole or not at all."""

    @property
    def location(self) -> str:
        """URL of the place, the same for all spellings of it."""
        ...

    def exists(self) -> bool: ...

    def is_folder(self) -> bool: ...

    def scratch(self, name: str = "") -> Path:
        """Makes a folder for files on their way, on this machine; with a name, in place of one that was left."""
        ...

    def claim(self, name: str) -> None:
        """Keeps others out, by a lock in a file of this name, until `release`. Raises `Conflict`."""
        ...

    def release(self) -> None: ...

    def put(self, local: Path, name: str) -> None:
        """Moves a file of the scratch folder here."""
        ...

    def replace(self, scratch: Path, files: Mapping[str, Path]) -> None:
        """Puts files of the scratch folder, by their names here, in place of all that was here before.

        Raises `UsageError` for one file in place of a folder.
        """
        ...

    def move(self, name: str, to: str) -> None:
        """Gives a file another name; one that is gone already has it."""
        ...

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it, by the name "" everything."""
        ...


def place_of(out: str) -> Place:
    """Place that a path or a URL names. Raises `UsageError` for a URL of a protocol that there is not."""
    if "://" not in out or out.startswith("file://"):
        return _Local(Path(out.removeprefix("file://")))
    return _Remote(out)


def require_free(place: Place, option: str, *, overwrite: bool, one_file: bool) -> None:
    """Raises `UsageError` where something is that may not be replaced, as one file never replaces a folder."""
    if one_file and place.is_folder():
        raise UsageError(f"There is a folder at {option}: name a file, such as one in it.")
    if not overwrite and place.exists():
        raise UsageError(f"There is something at {option} already: name another, or add --overwrite.")


class _Local:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        if not path.absolute().parent.is_dir():
            raise UsageError(f"There is no directory {path.parent}.")

    @property
    def location(self) -> str:
        path = self._path.absolute()
        return f"file://{path.parent.resolve() / path.name}"

    def exists(self) -> bool:
        return os.path.lexists(self._path)

    def is_folder(self) -> bool:
        return self._path.is_dir()

    def scratch(self, name: str = "") -> Path:
        parent = self._path.absolute().parent
        if not name:
            return Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", dir=parent))
        folder = parent / f".{self._path.name}.{name}"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        return folder

    def claim(self, name: str) -> None:
        descriptor = os.open(self._path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(f"Another process writes to {self._path}.") from None
        self._lock = descriptor

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def put(self, local: Path, name: str) -> None:
        target = self._path / name if name else self._path
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(local)
        local.replace(target)
        _sync(target.parent)

    def replace(self, scratch: Path, files: Mapping[str, Path]) -> None:
        whole, former = scratch / "whole", scratch / "former"
        for name, path in files.items():
            target = whole / name if name else whole
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(path)
            path.replace(target)
        if not files:
            whole.mkdir()
        if whole.is_dir() and self.exists():
            self._path.replace(former)
        try:
            whole.replace(self._path)
        except IsADirectoryError:
            raise UsageError(f"There is a folder at {self._path}, which a file does not replace.") from None
        _sync(self._path.absolute().parent)

    def move(self, name: str, to: str) -> None:
        source, target = self._path / name, self._path / to
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            _sync(target.parent)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        beside = self._path / f".{name}.{secrets.token_hex(8)}"
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        _sync(beside)
        beside.replace(self._path / name)
        _sync(self._path)

    def remove(self, name: str) -> None:
        path = self._path / name if name else self._path
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class _Remote:
    def __init__(self, url: str) -> None:
        fsspec = require("fsspec", EXTRA)
        know_secrets_of(url)
        self._url = shown_place(url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"The URL {self._url} can not be used: {error}.") from None

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else str(self._root)

    @property
    def location(self) -> str:
        return str(self._files.unstrip_protocol(self._root)).rstrip("/")

    def exists(self) -> bool:
        with self._translated():
            return bool(self._files.exists(self._root))

    def is_folder(self) -> bool:
        with self._translated():
            return bool(self._files.isdir(self._root))

    def scratch(self, name: str = "") -> Path:
        return Path(tempfile.mkdtemp(prefix="bandit-serve-export."))

    def claim(self, name: str) -> None:
        """Does nothing: storages have no locks."""

    def release(self) -> None:
        """Does nothing, as `claim`."""

    def put(self, local: Path, name: str) -> None:
        target = self._at(name)
        beside = f"{target}.{secrets.token_hex(8)}.part"
        with self._translated():
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(local), beside)
            self._files.mv(beside, target)
        local.unlink()

    def replace(self, scratch: Path, files: Mapping[str, Path]) -> None:
        if "" in files and self.is_folder():
            raise UsageError(f"There is a folder at {self._url}, which a file does not replace.")
        whole = f"{self._at('').rstrip('/')}.{secrets.token_hex(8)}.part"
        sent = {name: f"{whole}/{name}" if name else whole for name in files}
        try:
            with self._translated():
                for name, path in files.items():
                    self._files.makedirs(sent[name].rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(path), sent[name])
        except BaseException:
            self._forget(whole)
            raise
        try:
            self.remove("")
            with self._translated():
                for name, beside in sent.items():
                    self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                    self._files.mv(beside, self._at(name))
        except Exception as error:
            error.add_note(f"what could not be put in its place is at {whole}")
            raise
        self._forget(whole)

    def move(self, name: str, to: str) -> None:
        with self._translated():
            if self._files.exists(self._at(name)):
                self._files.makedirs(self._at(to).rpartition("/")[0], exist_ok=True)
                self._files.mv(self._at(name), self._at(to))

    def read(self, name: str) -> bytes | None:
        with self._translated():
            content = self._files.cat_file(self._at(name)) if self._files.exists(self._at(name)) else None
        return None if content is None else bytes(content)

    def write(self, name: str, content: bytes) -> None:
        beside = self._at(f"{name}.{secrets.token_hex(8)}.part")
        with self._translated():
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(beside, content)
            self._files.mv(beside, self._at(name))

    def remove(self, name: str) -> None:
        with self._translated():
            if self._files.exists(self._at(name)):
                self._files.rm(self._at(name), recursive=True)

    def _forget(self, path: str) -> None:
        """Removes what is left of files on their way; an error of before counts more than one of this."""
        with contextlib.suppress(OSError):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except OSError as error:
            raise FilesUnavailable(f"The files at {self._url} can not be used: {error}.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
