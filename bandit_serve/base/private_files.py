"""Files and directories that only this user may read, write or create.

In a folder that others can write to, somebody may have put a link in place of a file that we are about to open. So
nothing is opened through a link, an existing file must belong to this user, and new files are for this user alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bandit_serve.errors import DiskFull, UsageError

FOLDER_MODE, FILE_MODE = 0o700, 0o600
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_RETRY_S = 30.0


def own_folder(path: Path) -> Path:
    """Creates a folder (0700) and its missing parents; returns `path`.

    Raises `UsageError` where the folder exists and is a link or a file, belongs to another user, or may be written to
    by others.
    """
    try:
        for missing in reversed([each for each in (path, *path.parents) if not os.path.lexists(each)]):
            missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise UsageError(f"The folder {path} can not be used: {error.strerror}.") from error
    if stat.S_ISLNK(status.st_mode):
        raise UsageError(f"{path} is a symbolic link: name the folder that it leads to.")
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"The folder {path} can not be used: it is a file.")
    if status.st_uid != os.geteuid():
        raise UsageError(f"The folder {path} belongs to another user: choose another, or change its owner.")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"Others may write in the folder {path}: run `chmod go-w {path}`.")
    return path


def open_own(path: Path, flags: int) -> int:
    """Opens a file and returns its descriptor; with O_CREAT in `flags`, a missing file is created (0600).

    Raises `UsageError` for a link, for anything but a regular file, and for a file that belongs to another user or
    has a second hard link; OSError for all else.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise _refusal(path, path.lstat()) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        os.close(descriptor)
        raise _refusal(path, status)
    return descriptor


def _refusal(path: Path, status: os.stat_result) -> UsageError:
    if stat.S_ISLNK(status.st_mode):
        fault = "is a symbolic link"
    elif not stat.S_ISREG(status.st_mode):
        fault = "is not a plain file"
    elif status.st_uid != os.geteuid():
        fault = "belongs to another user"
    else:
        fault = "has a second hard link"
    return UsageError(f"{path} {fault}: remove it.")


def truncated(path: Path) -> BinaryIO:
    """Opens a file for writing from its start; errors are those of `open_own`."""
    descriptor = open_own(path, os.O_WRONLY | os.O_CREAT)
    os.ftruncate(descriptor, 0)
    return os.fdopen(descriptor, "wb")


@contextlib.contextmanager
def translating_disk_full() -> Iterator[None]:
    """Turns OSError for a full disk, an exhausted quota or a file that is too large into `DiskFull`."""
    try:
        yield
    except OSError as error:
        full = disk_full(error)
        if full is None:
            raise
        raise full from error


def disk_full(error: OSError) -> DiskFull | None:
    """`DiskFull` for an error that says that there is no room; None for any other."""
    if error.errno not in DISK_FULL_ERRNOS:
        return None
    return DiskFull("There is no room left on the disk.", FULL_RETRY_S).noted(str(error))
