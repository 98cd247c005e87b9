"""Where model files are kept for several machines: any place that fsspec opens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO, Protocol

from bandit_serve.errors import UsageError
from bandit_serve.extras import require


class Remote(Protocol):
    """Files by their SHA-256. What it can not do at present it says by raising `Unavailable`."""

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
        fsspec = require("fsspec", "fsspec")
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._root, exist_ok=True)
        except (ValueError, ImportError, OSError) as error:
            raise UsageError(
                f"Model files can not be kept at {url}: {' '.join(str(error).split())}"
            ) from None

    def _place(self, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{sha256}.safetensors"

    def send(self, sha256: str, path: Path) -> None:
        place = self._place(sha256)
        if not self._files.exists(place):
            with self._files.transaction, open(path, "rb") as source, self._files.open(place, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)

    def fetch(self, sha256: str, into: BinaryIO) -> bool:
        try:
            with self._files.open(self._place(sha256), "rb") as source:
                shutil.copyfileobj(source, into, 2**20)
        except FileNotFoundError:
            return False
        return True

    def delete(self, sha256: str) -> None:
        if self._files.exists(self._place(sha256)):
            self._files.rm(self._place(sha256))
