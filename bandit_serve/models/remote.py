"""Remote storage of model files, for several machines: any place that fsspec opens."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from bandit_serve.base.extras import require
from bandit_serve.base.private_files import disk_full
from bandit_serve.base.secrets import concealed, know_secrets_of, shown_url
from bandit_serve.errors import BanditServeError, FilesUnavailable, UsageError


class Remote(Protocol):
    """Files by their SHA-256. What it can not do at present it says by raising `Unavailable`."""

    def has(self, sha256: str) -> bool: ...

    def send(self, sha256: str, path: Path) -> None:
        """Puts a file there, whole or not at all; one that is there already stays."""
        ...

    def fetch(self, sha256: str, into: BinaryIO) -> bool:
        """Writes a file's content; whether there is one. Who asks checks what came."""
        ...

    def delete(self, sha256: str) -> None:
        """Removes a file, if it is there."""
        ...


class FsspecRemote:
    """Files `<sha256>.safetensors` below a URL such as s3://bucket/models or file:///mnt/models."""

    def __init__(self, url: str) -> None:
        know_secrets_of(url)
        fsspec = require("fsspec", "fsspec")
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
            self._files.makedirs(self._root, exist_ok=True)
        except Exception as error:  # each kind of place has errors of its own
            raise UsageError(
                f"Model files can not be kept at {shown_url(url)}: {concealed(' '.join(str(error).split()))}"
            ) from None
        # A file system has one transaction at a time, and threads share it.
        self._sending = threading.Lock()

    def _place(self, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{sha256}.safetensors"

    def has(self, sha256: str) -> bool:
        with _translated():
            # Others send files, too: what a listing said before is not asked.
            self._files.invalidate_cache()
            return bool(self._files.exists(self._place(sha256)))

    def send(self, sha256: str, path: Path) -> None:
        with open(path, "rb") as source, _translated(), self._sending:
            if not self.has(sha256):
                with self._files.transaction, self._files.open(self._place(sha256), "wb") as target:
                    shutil.copyfileobj(source, target, 2**20)

    def fetch(self, sha256: str, into: BinaryIO) -> bool:
        with _translated():
            try:
                source = self._files.open(self._place(sha256), "rb")
            except FileNotFoundError:
                return False
        with source:
            while chunk := _read_from(source):
                into.write(chunk)
        return True

    def delete(self, sha256: str) -> None:
        with _translated(), contextlib.suppress(FileNotFoundError):  # also of what another removes at once
            if self.has(sha256):
                self._files.rm(self._place(sha256))


def _read_from(source: BinaryIO) -> bytes:
    with _translated():
        return source.read(2**20)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Whatever a kind of place raises means that it does nothing for us now."""
    try:
        yield
    except BanditServeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (full := disk_full(error)) is not None:
            raise full from error
        raise FilesUnavailable("The place where model files are kept does not answer now.").noted(
            " ".join(f"{type(error).__name__}: {error}".split())
        ) from error
