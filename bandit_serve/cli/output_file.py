"""File that a command writes what it computes to."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bandit_serve.errors import UsageError


class OutputFile:
    """Open file whose content is replaced by each `write`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.is_written = False
        self._file = file
        # A pipe or a device has no content to replace.
        self._is_plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)

    def write(self, content: str | bytes) -> None:
        if self._is_plain:
            self._file.truncate(0)
        self.is_written = True
        self._file.write(content.encode() if isinstance(content, str) else content)
        self._file.flush()


@contextlib.contextmanager
def output_file(path: Path | None) -> Iterator[OutputFile | None]:
    """Opens a file before what it is for is computed; None for none.

    A file that was there keeps its content until another is written, and one that was not is removed where none is.
    Raises `UsageError` where it can not be opened.
    """
    if path is None:
        yield None
        return
    was_there = os.path.lexists(path)
    try:
        # At the end of the file, so that a write after its truncation begins it.
        opened = path.open("ab")
    except OSError as error:
        raise UsageError(f"The file {path} can not be written: {error.strerror}.") from None
    output = None
    try:
        with opened as file:
            output = OutputFile(path, file)
            yield output
    finally:
        if not was_there and (output is None or not output.is_written):
            path.unlink(missing_ok=True)
