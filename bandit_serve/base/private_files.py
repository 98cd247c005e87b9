"""Files and directories that nobody else may read, write or put in our way.

In a folder that others can write to, a name that we are about to use may be a link to a file of ours or of theirs.
So nothing is opened through a link, what is there must belong to this user, and what is made is for this user alone.
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
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_RETRY_S = 30.0


def own_folder(path: Path) -> Path:
    """Makes a folder (0700) and those above it that are missing; `UsageError` unless one that is there is ours alone
    to write."""
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
    """A file's descriptor; one that is missing is made (0600) where `flags` has O_CREAT.

    `UsageError` for a link, for what is no plain file, and for a file that belongs to another user or has a second
    name; OSError for all else.
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
        fault = "has a second name"
    return UsageError(f"{path} {fault}: remove it.")


def truncated(path: Path) -> BinaryIO:
    """A file of ours to be written anew."""
    descriptor = open_own(path, os.O_WRONLY | os.O_CREAT)
    os.ftruncate(descriptor, 0)
    return os.fdopen(descriptor, "wb")


@contextlib.contextmanager
def translating_disk_full() -> Iterator[None]:
    """Turns what the system says of a full disk, quota or file into `DiskFull`."""
    try:
        yield
    except OSError as error:
        full = disk_full(error)
        if full is None:
            raise
        raise full from error


def disk_full(error: OSError) -> DiskFull | None:
    """The error of ours where there was no room; None where something else is the matter."""
    if error.errno not in FULL:
        return None
    return DiskFull("There is no room left on the disk.", FULL_RETRY_S).noted(str(error))
