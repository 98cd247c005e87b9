"""Commands `bandit-serve backup` and `bandit-serve restore`: a service in one file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from bandit_serve.backup.restoring import CheckedBackup, Restored, Restoring
from bandit_serve.backup.taking import Taken, take_backup
from bandit_serve.base.clock import rfc3339
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.base.private_files import open_own, own_folder, translating_disk_full
from bandit_serve.cli.access import connected, store_name, store_url
from bandit_serve.cli.command import WHERE, AsJson
from bandit_serve.cli.data_directory import require_data_directory
from bandit_serve.cli.output import print_json, say
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.errors import Conflict, UsageError
from bandit_serve.node import Node
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer
from bandit_serve.store.private_server import RESTORING

STORE_TIMEOUT = "30s"
STORE_FILES = ("store", "store.lock", "store.sock", "snapshots", "tenants")


@takes_settings(*WHERE)
def backup(
    settings: Settings,
    out: Annotated[
        Path, typer.Option("--out", help="File to write; it may be there already.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Writes all of a service and its tenants into one file: logs, state, keys and model files.

    The service may go on meanwhile. The file holds secrets, and only you may read it (mode 0600).
    """
    require_data_directory(settings)
    began_s = time.monotonic()
    with store_url(settings) as url, _written_whole(out) as file:
        taken = asyncio.run(_take(_patient(settings), url, file))
    if as_json:
        print_json(taken)
        return
    say(f"{out}: {_content(taken)}, {taken.bytes:,} bytes in {time.monotonic() - began_s:.1f} s.")
    _say_missing(taken.missing)
    say("It holds the keys that sign decisions: keep it as you keep a password.")


@takes_settings(*WHERE)
def restore(
    settings: Settings,
    file: Annotated[Path, typer.Argument(help="The backup.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Writes a backup into an empty data directory, or with --store into an empty store.

    Nothing is written unless the whole file is as it was made. A restore that was interrupted is run again.
    """
    began_s = time.monotonic()
    try:
        opened = file.open("rb")
    except OSError as error:
        raise UsageError(f"The file {file} can not be read: {error.strerror}.") from None
    with opened as content:
        checked = CheckedBackup(content)
        with _store_to_fill(settings, checked) as url:
            restored = asyncio.run(_restore(_patient(settings), url, checked))
    if as_json:
        print_json(restored)
        return
    say(
        f"{store_name(settings)} is as it was at {rfc3339(restored.ended_ms)}: {_content(restored)}, in "
        f"{time.monotonic() - began_s:.1f} s."
    )
    _say_missing(restored.missing)
    say("Start the service, and compare with `bandit-serve replay`.")


def _patient(settings: Settings) -> Settings:
    """Same settings with a longer wait for the store: nobody waits for an answer, and pieces of a log are large."""
    given_ms, longer_ms = (parse_duration_ms(each) for each in (settings.store_timeout, STORE_TIMEOUT))
    return (
        settings if given_ms > longer_ms else msgspec.structs.replace(settings, store_timeout=STORE_TIMEOUT)
    )


async def _take(settings: Settings, url: str, file: BinaryIO) -> Taken:
    async with connected(settings, url) as node:
        return await take_backup(node, file)


async def _restore(settings: Settings, url: str, backup: CheckedBackup) -> Restored:
    node = Node(settings, url)
    try:
        # Not whether a restore has finished, as a node that serves does.
        await node.store.check_facts()
        return await Restoring(node, backup).run()
    finally:
        await node.store.close()


@contextlib.contextmanager
def _store_to_fill(settings: Settings, backup: CheckedBackup) -> Iterator[str]:
    """Yields the URL of the store to be filled. Raises `Conflict` where a data directory has a store."""
    if settings.store is not None:
        yield settings.store
        return
    data = own_folder(settings.data_dir)
    mark, name = data / RESTORING, backup.name.hex()
    if os.path.lexists(mark):
        if mark.read_text() != name:
            raise Conflict(
                f"A restore of another backup into {data} has not finished: restore that one again, or remove the "
                "directory."
            )
        say(f"A restore of this backup into {data} has not finished; it begins again.")
    elif any(os.path.lexists(data / each) for each in STORE_FILES):
        raise Conflict(f"The data directory {data} has a store already: name another with --data.")
    else:
        with _written_whole(mark) as file:
            file.write(name.encode())
    with PrivateServer.start_or_adopt(settings.data_dir, restores=True) as server:
        yield server.url
    mark.unlink()
    _sync(data)


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a file (0600) that gets its name once it is whole and on disk."""
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {path.parent}.")
    if path.is_dir():
        raise UsageError(f"{path} is a directory: name a file in it.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with (
            translating_disk_full(),
            os.fdopen(open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file,
        ):
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(of: Taken | Restored) -> str:
    entries = _counted(of.entries, "entry", "entries")
    logs = f"{_counted(of.logs, 'log', 'logs')} with {entries}"
    tenants = f", those of {_counted(of.tenants, 'tenant', 'tenants')} among them" if of.tenants else ""
    return f"{logs}, {_counted(of.artifacts, 'model file', 'model files')}{tenants}"


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _say_missing(missing: list[str]) -> None:
    if missing:
        say(f"Without the files of {', '.join(missing)}, which were not to be found.")
